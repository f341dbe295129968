"""Where things are: the package, the YAML that it came with, and files that a config names."""

from __future__ import annotations

import os
from pathlib import Path

from gpuqa.config import UserError
from gpuqa.config.command_line import command_line, override
from gpuqa.config.pipeline import ModelConfig

PACKAGE = Path(__file__).resolve().parent.parent


def find(path: str, key: str) -> Path:
    """A file or folder from the config: relative ones in the working folder first, then beside the installed package.

    Raises:
        UserError: it is in neither; the message names the key and both paths.
    """
    paths = [Path(os.path.expanduser(path))]  # pathlib's raises for an unknown user
    if not paths[0].is_absolute():
        paths.append(PACKAGE.parent / path)
    for candidate in paths:
        if os.path.exists(candidate):  # pathlib's raises for a name that is too long
            return candidate
    looked = " or ".join(dict.fromkeys(str(candidate.absolute()) for candidate in paths))  # once where both are the same
    raise UserError(f"{key}: {path!r} does not exist; looked for {looked}")


def find_model(model: ModelConfig) -> Path:
    """The folder of a model's weights and tokenizer, as `find` looks for it.

    Raises:
        UserError: it is not there; the message names the command that fetches it, where the model has a repository.
    """
    try:
        return find(model.path, "model.path")
    except UserError as error:
        if model.download.repository is None:
            raise
        fetch = command_line("download", override("model", model.name))
        raise UserError(f"{error}; fetch the weights with: {fetch}") from error


def conf_folder() -> Path:
    """Where the YAML lies: inside an installed wheel, or beside the package in a checkout."""
    in_wheel = PACKAGE / "conf"
    return in_wheel if in_wheel.is_dir() else PACKAGE.parent / "conf"
