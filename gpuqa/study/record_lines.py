"""Records as lines of JSON, and back: each line says its format and carries a digest of its own content.

The digest is the first 16 hexadecimal digits of the sha256 over the line's other keys, as JSON with sorted keys. A line that
cannot be read is a `Problem` with a reason that a user understands; a record is never taken from it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from gpuqa.config import UserError
from gpuqa.frozen import FORMAT
from gpuqa.measure import fingerprint
from gpuqa.selection.wording import counted

MAX_DEPTH = 32  # of nested values in a line; a trial needs eight, a configuration of an engine perhaps a few more
MAX_NAMED = 5  # reasons that a message gives in full
NEVER_FINISHED = "was never finished"

Record = TypeVar("Record")


class Unreadable(Exception):
    """A line is no record of this version; the message goes on from "line 3 ..."."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A line that cannot be read: its number from 1, and why, as a predicate."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Lines(Generic[Record]):
    """What a file of lines holds."""

    file: Path
    count: int  # of lines, without empty ones
    records: list[Record]  # of the lines that can be read, in their order
    problems: list[Problem]
    other_formats: list[dict[str, Any]]  # whole lines of another format; each is among the problems too
    torn: bool  # the last line was never finished, as a kill leaves it; it is among the problems too

    def explained(self) -> str | None:
        """One sentence about the lines that cannot be read, None if all can."""
        if not self.problems:
            return None
        if self.torn and len(self.problems) == 1:
            return f"{self.file.name}: the last line {NEVER_FINISHED}, as a kill leaves it; a sweep measures it again"
        by_reason: dict[str, list[str]] = defaultdict(list)
        for problem in self.problems:
            by_reason[problem.reason].append(str(problem.line))
        sentences = [
            f"line {numbers[0]} {reason}" if len(numbers) == 1 else f"lines {', '.join(numbers)}: each {reason}"
            for reason, numbers in list(by_reason.items())[:MAX_NAMED]
        ]
        sentences += [f"and {len(by_reason) - MAX_NAMED} more reasons"] if len(by_reason) > MAX_NAMED else []
        lines = f"{len(self.problems)} of {counted(self.count, 'line')}"
        return f"{self.file.name}: {lines} cannot be read: {'; '.join(sentences)}"


def to_line(record: Any) -> str:
    """A record as one line, without its end."""
    row = {"format": FORMAT, **asdict(record)}
    return json.dumps({**row, "digest": digest_of(row)}, ensure_ascii=False)


def digest_of(row: dict[str, Any]) -> str:
    """The digest that a line carries of its other keys."""
    return fingerprint.sha256_of({key: value for key, value in row.items() if key != "digest"})[:16]


def read_lines(file: Path, kind: type[Record]) -> Lines[Record]:
    """All records of a file; none where it does not exist.

    Raises:
        UserError: the operating system refuses to read the file.
    """
    try:
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        lines = []
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    read: Lines[Record] = Lines(file, sum(map(bool, lines)), [], [], [], torn=False)
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            row = row_of(line)
            if row.get("format") != FORMAT:
                read.other_formats.append(row)
            read.records.append(record_of(row, kind))
        except Unreadable as error:
            read.problems.append(Problem(number, str(error)))
    torn = bool(lines and lines[-1]) and read.problems[-1:] == [Problem(len(lines), NEVER_FINISHED)]
    return Lines(file, read.count, read.records, read.problems, read.other_formats, torn)


def row_of(line: bytes) -> dict[str, Any]:
    """The mapping that a line holds.

    Raises:
        Unreadable: the line is torn, is no JSON object, or is nested too deeply to be worked on.
    """
    try:
        row = json.loads(line)
    except RecursionError as error:
        raise Unreadable("is nested too deeply") from error
    except ValueError as error:
        begun = line.startswith(b"{") and not line.rstrip().endswith((b"}", b"]"))  # what a kill leaves of a line of ours
        raise Unreadable(NEVER_FINISHED if begun else "is not JSON") from error
    if not isinstance(row, dict):
        raise Unreadable("is not a JSON object")
    if deeper_than(row, MAX_DEPTH):
        raise Unreadable("is nested too deeply")
    return row


def record_of(row: dict[str, Any], kind: type[Record]) -> Record:
    """The record of a line's mapping.

    Raises:
        Unreadable: another format, an edited value, fields that this version does not have or that it misses, a wrong type.
    """
    if (number := row.get("format", 1)) != FORMAT:
        version = written_by(row)
        raise Unreadable(f"has format {number!r}" + (f", written by gpuqa {version}" if version else ""))
    if "digest" not in row:
        raise Unreadable("lacks its digest")
    if row["digest"] != digest_of(row):
        raise Unreadable("was edited (its digest differs)")
    content = {key: value for key, value in row.items() if key not in ("format", "digest")}
    return dataclass_of(content, kind, "")


def written_by(row: dict[str, Any]) -> str:
    """The version of gpuqa that wrote a trial's line, "" where it does not say."""
    known = row.get("fingerprint", row.get("identity"))  # format 1 called it the identity
    versions = known.get("versions") if isinstance(known, dict) else None
    return str(versions.get("gpuqa", "")) if isinstance(versions, dict) else ""


def dataclass_of(row: Any, kind: type[Record], place: str) -> Record:
    """A record from plain values. A field that is missing takes its default, where it has one."""
    if not isinstance(row, dict):
        raise wrong_type(place, row, "a mapping")
    prefix, known, types = f"{place}." if place else "", fields_of(kind), types_of(kind)  # type: ignore[arg-type]
    missing = [f"{prefix}{name}" for name, field in known.items() if name not in row and is_required(field)]
    if missing:
        raise Unreadable(f"lacks {', '.join(missing)}")
    unknown = [f"{prefix}{name}" for name in row if name not in known]
    if unknown:
        raise Unreadable(f"holds {', '.join(unknown)}, which this version does not know")
    return kind(**{name: value_of(value, types[name], f"{prefix}{name}") for name, value in row.items()})


def value_of(value: Any, kind: Any, place: str) -> Any:
    """A plain value as the annotation of its field says: a number, text, a list, a mapping, a record, or None."""
    if kind is Any:
        return value
    if is_dataclass(kind):
        return dataclass_of(value, kind, place)  # type: ignore[arg-type]
    arguments = get_args(kind)
    if type(None) in arguments:
        return None if value is None else value_of(value, arguments[0], place)
    plain_type = get_origin(kind) or kind
    if plain_type is float and type(value) is int:
        return value
    if plain_type is int and type(value) is float and value.is_integer():
        return value  # JSON has one kind of numbers
    if type(value) is not plain_type:
        raise wrong_type(place, value, plain_type.__name__)
    if plain_type is list:
        return [value_of(item, arguments[0], f"{place}[{number}]") for number, item in enumerate(value)]
    if plain_type is dict:
        return {key: value_of(item, arguments[1], f"{place}.{key}") for key, item in value.items()}
    return value


def wrong_type(place: str, value: Any, wanted: str) -> Unreadable:
    """The error about a value of another type than its field's."""
    return Unreadable(f"holds {str(value)!r:.40} as {place}, which should be {wanted}")


@cache
def fields_of(kind: Any) -> dict[str, Field[Any]]:
    """The fields of a record by their names."""
    return {field.name: field for field in fields(kind)}


@cache
def types_of(kind: Any) -> dict[str, Any]:
    """The annotations of a record's fields, as types."""
    return get_type_hints(kind)


def is_required(field: Field[Any]) -> bool:
    """Whether a record cannot be made without this field."""
    return field.default is MISSING and field.default_factory is MISSING


def deeper_than(value: Any, levels: int) -> bool:
    """Whether lists and mappings are nested in more than so many levels; looks no deeper than that."""
    if not isinstance(value, dict | list):
        return False
    items: Sequence[Any] = list(value.values()) if isinstance(value, dict) else value
    return levels == 0 or any(deeper_than(item, levels - 1) for item in items)
