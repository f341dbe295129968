"""The page of the tables that `gpuqa.load_study` gives: from the columns that make them."""

from __future__ import annotations

from comments import row, table, text_of

from gpuqa.study import tables

HEAD = """# Tables of a study

`gpuqa.load_study(FOLDER)` gives a study as pandas tables ([from Python](python.md)). This page is generated from
`gpuqa/study/tables.py`. A table has all of its columns, with these types, whatever failed; a value that a study does not
have is missing.

Every table begins with these:

| column | type | what it is |
| --- | --- | --- |
| `trial` | string | the start of the cell's key, by which the tables are joined |
| `name` | string | the cell in words |
| one for each axis, such as `prompt` | string | the cell's value, as it is written on the command line |
"""


def page() -> str:
    """The page."""
    lines = [HEAD]
    for name, columns in tables.TABLES.items():
        lines += [f"## `{name}`", *table("column", "type", "what it is")]
        lines += [row(f"`{key}`", column.kind, text_of(column.meaning)) for key, column in columns.items()]
        lines.append("")
    return "\n".join(lines)
