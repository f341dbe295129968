"""What a command says about itself: the first sentence in the list of commands, all of it with `--help`."""

from __future__ import annotations

import ast

from gpuqa.config.commands import COMMANDS
from gpuqa.config.paths import PACKAGE, conf_folder
from gpuqa.config.wrong_overrides import keys_of


def docstring_of(command: str) -> str:
    """The docstring of a command's module, read without importing it, which may take seconds."""
    tree = ast.parse((PACKAGE / f"{command}.py").read_text(encoding="utf-8"))
    return ast.get_docstring(tree) or ""


def usage(command: str) -> str:
    """The text of `--help`."""
    return f"""{docstring_of(command)}

Keys: {", ".join(keys_of(command))}. Defaults: {conf_folder() / command}.yaml.
The options of a group GROUP are the files of {conf_folder()}/GROUP; --config-dir FOLDER adds a folder of yours.
--cfg job prints the configuration and runs nothing; docs/configuration.md explains all keys and flags."""


def listing() -> str:
    """One line for each command."""
    lines = [f"python -m gpuqa.{name:<10} {docstring_of(name).partition(chr(10))[0]}" for name in COMMANDS]
    return "\n".join([*lines, "", "`gpuqa NAME` is the same as `python -m gpuqa.NAME`. Each says more with --help."])
