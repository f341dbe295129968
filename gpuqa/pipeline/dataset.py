"""A question file becomes a list of questions.

Formats are recognised by content, tables by the ending of the file's name:

* Alpaca JSON: `[{"instruction": ..., "input": ..., "output": ...}, ...]`
* chat JSONL: `{"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}` a line
* question/answer JSONL or JSON: `{"question": ..., "answer": ...}`
* text blocks: `1. 问题：... 答案：...`
* CSV (`.csv`) and tab-separated (`.tsv`) tables with a header of these fields' names, an `id` if there is one
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

from gpuqa.config import UserError
from gpuqa.config.measurement import DatasetConfig
from gpuqa.config.paths import find
from gpuqa.records import Question

BLOCK_START = re.compile(r"^\s*(?:\d+\s*[.、．)）]\s*)?问题\s*[：:]", re.M)
BLOCK_ANSWER = re.compile(r"答案\s*[：:]")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
ACCEPTED = 'a row needs "instruction" and "output", or "question" and "answer", or "messages" of a user and an assistant'


def load(config: DatasetConfig) -> list[Question]:
    """The questions of a dataset, in file order, at most `limit` of them."""
    return read_questions(find(config.path, "dataset.path"))[: config.limit]


def digest(questions: list[Question]) -> str:
    """sha256 over ids, texts and references, independent of the file's format."""
    rows = [[question.id, question.text, question.reference] for question in questions]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=True).encode()).hexdigest()


def read_questions(path: Path) -> list[Question]:
    """All questions of a file.

    Raises:
        UserError: unreadable, no questions, a row without its fields, or two rows with one id; the message names
            the file and the row.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    if path.suffix.lower() in SEPARATORS:
        rows = parse_table(text, path)
    else:
        rows = parse_blocks(text) if text.lstrip()[:1] not in ("[", "{") else parse_json(text, path)
    if not rows:
        raise UserError(f"{path}: holds no questions; {ACCEPTED}")
    questions = [to_question(row, number, path) for number, row in enumerate(rows, 1)]
    seen: dict[str, int] = {}
    for number, question in enumerate(questions, 1):
        if question.id in seen:
            raise UserError(f"{path}: rows {seen[question.id]} and {number} have the same id {question.id!r}; ids must differ")
        seen[question.id] = number
    return questions


def parse_json(text: str, path: Path) -> list[Any]:
    """Rows of a JSON list, or of JSON lines."""
    try:
        if text.lstrip().startswith("["):
            rows: list[Any] = json.loads(text)
            return rows
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: is not valid JSON: {error}") from error
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UserError(f"{path}: line {number} is not valid JSON: {error}") from error
    return rows


def parse_table(text: str, path: Path) -> list[Any]:
    """Rows of a table; every cell is text, also one that says NA."""
    import pandas as pd  # a second to import

    try:
        table = pd.read_csv(io.StringIO(text), sep=SEPARATORS[path.suffix.lower()], dtype=str, keep_default_na=False)
    except pd.errors.ParserError as error:
        reason = str(error).strip()
        raise UserError(f"{path}: is not a valid table: {reason}; quote cells that hold separators or line breaks") from error
    except pd.errors.EmptyDataError:
        return []
    return table.to_dict("records")


def parse_blocks(text: str) -> list[dict[str, str]]:
    """Rows of a plain-text file of question and answer blocks; a block without an answer has an empty one."""
    halves = [BLOCK_ANSWER.split(block, maxsplit=1) for block in BLOCK_START.split(text)[1:]]
    return [{"question": half[0], "answer": half[1] if len(half) > 1 else ""} for half in halves]


def to_question(row: Any, number: int, path: Path) -> Question:
    """One row of any format."""
    if not isinstance(row, dict):
        raise UserError(f"{path}: row {number} is {row!r:.80}, not an object; {ACCEPTED}")
    text, reference = texts_of(row)
    if not is_text(text) or not is_text(reference):
        raise UserError(f"{path}: row {number} has the fields {sorted(row)}, but {ACCEPTED}, both non-empty text")
    return Question(id=str(row.get("id", number)), text=text.strip(), reference=reference.strip())


def texts_of(row: dict[str, Any]) -> tuple[Any, Any]:
    """Question and reference of a row, unchecked."""
    if "messages" in row:
        turns = row["messages"] if isinstance(row["messages"], list) else []
        by_role = {str(turn.get("role")): turn.get("content") for turn in turns if isinstance(turn, dict)}
        return by_role.get("user"), by_role.get("assistant")
    if "instruction" in row:
        parts = [part for part in (row["instruction"], row.get("input") or "") if part != ""]
        return "\n".join(parts) if all(map(is_text, parts)) else None, row.get("output")
    return row.get("question"), row.get("answer")


def is_text(value: Any) -> bool:
    """Whether a value is text that says something and can be sent: not blank, no half of a surrogate pair."""
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= char <= "\udfff" for char in value)
