"""A question file becomes a list of questions. docs/questions.md has every format with an example.

`files` turns a file into rows, by its ending or its content, and `blocks` does so for plain text. `rows` turns a row into a
question, whatever its fields are called, and `chats` does so for a list of turns. `summary` says what a file holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuqa.config import UserError
from gpuqa.config.measurement import DatasetConfig, References
from gpuqa.config.paths import find
from gpuqa.pipeline.dataset.files import Encoding, read_rows
from gpuqa.pipeline.dataset.refusals import UNSENT
from gpuqa.pipeline.dataset.rows import ACCEPTED, Columns, to_question
from gpuqa.records import Question


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """What was read of a question file."""

    questions: list[Question]  # in the file's order
    encoding: Encoding
    unused: list[str]  # fields of its rows that nothing was made of


def load(config: DatasetConfig) -> list[Question]:
    """The questions of a dataset, in file order, at most `limit` of them."""
    return load_file(config).questions


def load_file(config: DatasetConfig) -> QuestionFile:
    """The same, with what was noticed while it was read."""
    return read_file(find(config.path, "dataset.path"), Columns.of(config), config.limit)


def digest(questions: Sequence[Question]) -> str:
    """sha256 over ids, texts, references and how several of them count, independent of the file's format."""
    rows = [[question.id, question.text, question.reference, *several(question)] for question in questions]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=True).encode()).hexdigest()


def several(question: Question) -> list[object]:
    """What a digest covers beyond the first reference; nothing where that is the only one."""
    return [list(question.other_references), question.mean_of_references] if question.other_references else []


def read_questions(path: Path) -> list[Question]:
    """All questions of a file that has no configuration, such as the one that a model is warmed up with.

    A system text or earlier turns do not matter there, nor which of several references counts.

    Raises:
        UserError: as `read_file`.
    """
    return read_file(path, Columns(references=References.best, ignore=tuple(UNSENT))).questions


def read_file(path: Path, columns: Columns, limit: int | None = None) -> QuestionFile:
    """The first `limit` questions of a file, or all.

    Raises:
        UserError: unreadable, no questions, a row that cannot be used in full, or two rows with one id; the message names
            the file and the row, for files of lines also the line.
    """
    try:
        rows, encoding = read_rows(path)
        if not rows:
            raise UserError(f"holds no questions; {ACCEPTED}")
        read = [to_question(row, number, columns) for number, row in enumerate(rows, 1)]
        refuse_equal_ids([question for question, _ in read])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return QuestionFile(
        [question for question, _ in read[:limit]], encoding, list(dict.fromkeys(name for _, unused in read for name in unused))
    )


def refuse_equal_ids(questions: Sequence[Question]) -> None:
    """Raise a UserError where two rows have one id."""
    seen: dict[str, int] = {}
    for number, question in enumerate(questions, 1):
        if question.id in seen:
            raise UserError(f"rows {seen[question.id]} and {number} have the same id {question.id!r}; ids must differ")
        seen[question.id] = number
