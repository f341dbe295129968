"""The page of all keys: from the dataclasses of `gpuqa.config`, their comments, and the options in conf/."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

from comments import comments_of, docstring, row, table, text_of
from omegaconf import MISSING

from gpuqa.config.commands import COMMANDS
from gpuqa.config.paths import conf_folder

HEAD = """# Configuration reference

This page is generated from the dataclasses of `gpuqa/config/` and the files of `conf/`. How overrides are written, and what the
groups are for: [Configuration](configuration.md). A default of "from the option" means that the file in `conf/` says it.
"""


def page() -> str:
    """The page."""
    groups: dict[str, type] = {}
    lines = [
        HEAD,
        "## Commands",
        "",
        "The groups that each command reads, and its keys beside them.",
        *table("command", "groups", "other keys"),
    ]
    for name, schema in COMMANDS.items():
        kinds = get_type_hints(schema)
        of_groups = {field.name: kinds[field.name] for field in fields(schema) if is_dataclass(kinds[field.name])}
        groups |= of_groups
        others = [field.name for field in fields(schema) if field.name not in of_groups]
        lines.append(
            row(f"`{name}`", codes([f"[`{key}`](#{key})" for key in of_groups]), codes([f"`{key}`" for key in others]))
        )
    for name, schema in COMMANDS.items():
        if own := [key for key in keys_of(schema, "", nested=False) if key]:
            lines += ["", f"### Keys of `{name}` alone", "", *table("key", "type", "default", "what it is"), *own]
    for name, kind in groups.items():
        lines += [
            "",
            f"## `{name}`",
            "",
            docstring(kind),
            *table("key", "type", "default", "what it is"),
            *keys_of(kind, f"{name}."),
        ]
        lines += options_of(name)
    return "\n".join(lines) + "\n"


def codes(words: list[str]) -> str:
    """Words in one cell."""
    return ", ".join(words)


def keys_of(kind: type, start: str, nested: bool = True) -> Iterator[str]:
    """A row for each key; of a group in a group its keys."""
    kinds, said = get_type_hints(kind), comments_of(kind)
    for field in fields(kind):
        inner = [part for part in (kinds[field.name], *get_args(kinds[field.name])) if is_dataclass(part)]
        if inner and nested:
            yield from keys_of(inner[0], f"{start}{field.name}.")  # type: ignore[arg-type]
        elif not inner:
            yield row(
                f"`{start}{field.name}`",
                type_of(kinds[field.name], str(field.type)),
                default_of(field),
                text_of(said[field.name]),
            )


def type_of(kind: Any, written: str) -> str:
    """A type; of an enumeration its values."""
    enums = [part for part in (kind, *get_args(kind)) if isinstance(part, type) and issubclass(part, Enum)]
    if enums:
        return ", ".join(f"`{member.name}`" for member in enums[0]) + (" or null" if "None" in written else "")
    return f"`{text_of(written.replace('None', 'null'))}`"


def default_of(field: Field[Any]) -> str:
    """The default of a key."""
    value = field.default_factory() if field.default_factory is not NO_DEFAULT else field.default
    if value == MISSING or value is NO_DEFAULT:
        return "from the option"
    shown = {None: "null", True: "true", False: "false"}.get(value, value) if isinstance(value, bool | None) else value
    return f"`{shown.name if isinstance(shown, Enum) else shown}`" if shown != "" else '`""`'


def options_of(group: str) -> list[str]:
    """The files of a group in conf/, with what each says of itself first."""
    files = sorted((conf_folder() / group).glob("*.yaml"))
    rows = [row(f"`{group}={file.stem}`", text_of(first_comment(file))) for file in files]
    return [*table("option", "what its file says"), *rows] if rows else []


def first_comment(file: Path) -> str:
    """The comment at the top of a file, as one line."""
    lines = file.read_text(encoding="utf-8").splitlines()
    head = []
    for line in lines:
        if not line.startswith("#"):
            break
        head.append(line.lstrip("# "))
    return re.sub(r"@package _global_\s*", "", " ".join(head))
