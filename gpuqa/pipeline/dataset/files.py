"""A file becomes rows: text in any usual encoding, then JSON, JSON lines, a table, Parquet or text blocks."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from gpuqa.config import UserError
from gpuqa.pipeline.dataset.blocks import FORM, parse_blocks
from gpuqa.pipeline.file_kinds import kind_of

SEPARATORS = ",;\t"
ONE_LIST = "a question file holds one list of rows: write the one that is to be asked into a file of its own, as a plain [...]"

ADVICE = {  # a word for a kind of file -> what to do with one where questions should be
    "git-LFS": "run `git lfs pull` in its folder",
    "HTML": "a web page came in place of the file: download the file itself",
    "Office": "save the sheet with the questions as CSV, in UTF-8",
    "archive": "unpack it and name the file in it",
    "Parquet": "give it the ending .parquet",
    "": "write its questions as CSV or JSON",
}


class Encoding(Enum):
    """How a file writes its characters, under Python's names."""

    utf_8 = "utf-8-sig"  # with or without a byte order mark
    utf_16 = "utf-16"
    utf_16_le = "utf-16-le"
    utf_16_be = "utf-16-be"
    gb18030 = "gb18030"  # GBK and GB2312 too
    parquet = "parquet"  # is no text


@dataclass(frozen=True, slots=True)
class Row:
    """One row before its fields are looked at."""

    place: str  # "row 3", with "(line 7)" in files of lines
    content: Any


def read_rows(path: Path) -> tuple[list[Row], Encoding]:
    """The rows of a file in any format.

    Raises:
        UserError: with the place in the file, without the file's name.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}") from error
    if path.suffix.lower() == ".parquet":
        return parse_parquet(data), Encoding.parquet
    refuse_other_kinds(data)
    text, encoding = decoded(data)
    if "\n" not in text:
        text = text.replace("\r", "\n")  # the ends of lines that Macs once had
    return BY_ENDING.get(path.suffix.lower(), by_content)(text), encoding


def refuse_other_kinds(data: bytes) -> None:
    """Raise a UserError for a file that is no text, or not the file that its name promises."""
    if (kind := kind_of(data)) is not None:
        raise UserError(f"is {kind}, not text; {next(advice for word, advice in ADVICE.items() if word in kind)}")


def decoded(data: bytes) -> tuple[str, Encoding]:
    """A file's text and its encoding: by its byte order mark, else UTF-8, else GB18030 unless it is damaged UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = [Encoding.utf_16]
    elif b"\0" in data[:2]:  # the first character is "[", "{", a digit or a letter: one of its two bytes is 0
        encodings = [Encoding.utf_16_be if data[:1] == b"\0" else Encoding.utf_16_le]
    else:
        encodings = [Encoding.utf_8] if mostly_utf_8(data) else [Encoding.utf_8, Encoding.gb18030]
    reason = "it holds characters of value 0"
    for encoding in encodings:
        try:
            text = data.decode(encoding.value)
        except UnicodeDecodeError as error:
            reason = f"byte {error.start + 1} is not {encoding.value.removesuffix('-sig').upper()}"
            continue
        if encoding is Encoding.gb18030 and not mostly_gb2312(text):
            reason = "as GB18030 most of its characters would be rare ones"
        elif "\0" not in text:
            return text, encoding
    raise UserError(
        f"is not text in UTF-8, UTF-16 or GB18030 ({reason}); save it as UTF-8: iconv -f ITS_ENCODING -t UTF-8 FILE > NEW_FILE"
    )


def mostly_utf_8(data: bytes) -> bool:
    """Whether Chinese is readable as UTF-8 but for some bytes: as GB18030 such a file would be other characters."""
    text = data.decode("utf-8", "replace")
    return sum("\u0800" <= char != "\ufffd" for char in text) > text.count("\ufffd")


def mostly_gb2312(text: str) -> bool:
    """Whether nine of ten characters beyond ASCII are usual ones; read so, text in Big5 and others has odd ones."""
    beyond = sum(not char.isascii() for char in text)
    return len(text) - len(text.encode("gb2312", "ignore").decode("gb2312")) <= beyond / 10


def by_content(text: str) -> list[Row]:
    """Rows of JSON, which begins with a bracket, or of text blocks."""
    if text.lstrip()[:1] in ("[", "{"):
        return parse_json(text)
    blocks = parse_blocks(text)
    if text.strip() and not blocks:
        raise UserError(f"holds no questions: {FORM}; other formats are JSON and CSV")
    return [Row(f"row {number} (line {line})", fields) for number, (line, fields) in enumerate(blocks, 1)]


def parse_json(text: str) -> list[Row]:
    """Rows of a JSON list, of such a list under "data", of one object, or of JSON lines."""
    try:
        whole = loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return parse_json_lines(text)
        raise UserError(f"is not valid JSON: {error}") from error
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        if len(lists := lists_of_rows(whole)) > 1:
            raise UserError(f"is a JSON object that holds {' and '.join(lists)}; {ONE_LIST}")
        whole = whole["data"]
    rows = whole if isinstance(whole, list) else [whole]
    return [Row(f"row {number}", content) for number, content in enumerate(rows, 1)]


def lists_of_rows(content: Mapping[str, Any]) -> list[str]:
    """Which values of a JSON object are lists of objects, as in `{"train": [...], "test": [...]}`: names and lengths."""
    lists = {name: value for name, value in content.items() if isinstance(value, list) and value}
    counts = {name: len(value) for name, value in lists.items() if all(isinstance(row, dict) for row in value)}
    return [f"{name!r} ({count} row{'s' if count > 1 else ''})" for name, count in counts.items()]


def parse_json_lines(text: str) -> list[Row]:
    """Rows of a file with one JSON object a line; blank lines are none."""
    rows: list[Row] = []
    for line, content in enumerate(text.split("\n"), 1):
        if content.strip():
            try:
                rows.append(Row(f"row {len(rows) + 1} (line {line})", loads(content)))
            except json.JSONDecodeError as error:
                raise UserError(f"line {line} is not valid JSON: {error.msg} at column {error.colno}") from error
            except UserError as error:
                raise UserError(f"line {line} {error}") from error
    return rows


def loads(text: str) -> Any:
    """JSON in which no object has a name twice; of two values Python would drop the first.

    Raises:
        json.JSONDecodeError: no JSON.
        UserError: JSON that Python does not read, or a name twice.
    """
    try:
        return json.loads(text, object_pairs_hook=with_each_name_once)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets thousands deep
        raise UserError(f"is JSON that cannot be read: {' '.join(str(error).split())}") from error


def with_each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON."""
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise UserError(f"holds an object with {name!r} twice; keep one of them")
        content[name] = value
    return content


def parse_table(text: str) -> list[Row]:
    """Rows of a table with the names of its columns in the first line; every cell is text, also one that says NA.

    The separator is the comma, semicolon or tab that cuts the first line into most columns.
    """
    lines = text.split("\n")
    first = next((line for line in lines if line.strip()), "")
    separator = max(SEPARATORS, key=lambda mark: columns_of(first, mark))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    names: list[str] = []
    rows: list[Row] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(f"line {line}: is not a valid table: {reason_of(error)}") from error
        if cells is None:
            return rows
        if not any(cell.strip() for cell in cells):
            continue
        if not names:
            names = column_names(cells, line)
        else:
            rows.append(Row(f"row {len(rows) + 1} (line {line})", dict(named_cells(names, cells, line, separator))))


def columns_of(line: str, separator: str) -> int:
    """Into how many cells a separator cuts a line; 0 where that is no line of a table, which is said when it is read."""
    try:
        return len(next(csv.reader([line], delimiter=separator), []))
    except csv.Error:
        return 0


def reason_of(error: csv.Error) -> str:
    """What is wrong with a table, and what to do."""
    if "field limit" in str(error):
        limit = f"a cell has more than {csv.field_size_limit():,} characters"
        return f"{limit}; close a quote that was left open, or write such long texts as JSON"
    return f"{error}; quote cells that hold separators or line breaks"


def column_names(cells: list[str], line: int) -> list[str]:
    """The names in the first line of a table; a column without a name has an empty one."""
    names = [cell.strip() for cell in cells]
    filled = [name for name in names if name]
    if filled[0].lower().startswith("sep="):
        raise UserError(
            f"line {line}: {filled[0]!r} is for spreadsheets alone; remove this line, the separator is found without it"
        )
    if len(filled) == 1:
        raise UserError(
            f"line {line}: {filled[0]!r:.40} is the name of one column, and a table has two at least, question and answer, "
            "with a comma, semicolon or tab between them; remove lines that stand above the names of the columns"
        )
    twice = [name for place, name in enumerate(names) if name and name.lower() in map(str.lower, names[:place])]
    if twice:
        raise UserError(f"line {line}: two columns are called {twice[0]!r}; rename or remove one")
    return names


def named_cells(names: list[str], cells: list[str], line: int, separator: str) -> list[tuple[str, str]]:
    """The cells of one row under the names of their columns."""
    called = ", ".join(filter(None, names))
    if len(cells) != len(names):
        raise UserError(
            f"line {line}: has {len(cells)} cells, the first line names {len(names)} columns ({called}); "
            f"put cells that hold {separator!r} in quotes, or remove a {separator!r} too many"
        )
    nameless = [cell for name, cell in zip(names, cells, strict=True) if not name and cell.strip()]
    if nameless:
        raise UserError(f"line {line}: {nameless[0]!r:.40} stands in a column without a name; the first line names {called}")
    return [(name, cell) for name, cell in zip(names, cells, strict=True) if name]


def parse_parquet(data: bytes) -> list[Row]:
    """Rows of a Parquet file."""
    try:
        from pyarrow import BufferReader, lib, parquet
    except ImportError as error:
        raise UserError("is a Parquet file, and the package that reads it is missing: pip install pyarrow") from error
    try:
        rows = parquet.read_table(BufferReader(data)).to_pylist()
    except (lib.ArrowException, OSError, ValueError) as error:
        raise UserError(f"is not a valid Parquet file: {' '.join(str(error).split())}") from error
    return [Row(f"row {number}", content) for number, content in enumerate(rows, 1)]


BY_ENDING: dict[str, Callable[[str], list[Row]]] = {".csv": parse_table, ".tsv": parse_table}  # others by their content
