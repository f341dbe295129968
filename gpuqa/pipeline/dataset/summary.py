"""What a question file holds, and what about it would mislead: for the terminal, `study.yaml`, the report and `evaluate`."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, get_args, get_origin, get_type_hints

from gpuqa.config.measurement import DatasetConfig
from gpuqa.pipeline import dataset
from gpuqa.pipeline.dataset import QuestionFile
from gpuqa.records import Question

SEEN_BY_JUDGE = re.compile("[a-z0-9]")
LONG = 10  # times the median length


@dataclass(frozen=True, slots=True)
class Summary:
    """A question file in numbers, at most `dataset.limit` rows of it. Lengths are in characters, of the longest reference."""

    name: str
    path: str
    encoding: str
    digest: str  # sha256, see `gpuqa.pipeline.dataset.digest`
    rows: int
    different_questions: int  # by their text
    question_chars_p50: int
    question_chars_p95: int
    question_chars_max: int
    reference_chars_p50: int
    reference_chars_p95: int
    reference_chars_max: int
    references_empty: int
    references_unseen_by_judge: int  # without a character of [a-z0-9]: every answer scores 0
    warmup_overlap: int | None  # different questions that the warm-up file holds too; None where there is no warm-up file
    long_references: list[str]  # ids of rows whose reference is more than LONG times as long as the median
    unused_fields: list[str]  # of the rows

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON; `of` is the inverse."""
        return asdict(self)

    @classmethod
    def of(cls, values: Any) -> Summary | None:
        """A summary that was written down; None if it is none, as in a folder of an older version or after an edit."""
        if not isinstance(values, Mapping) or set(values) != set(cls.__dataclass_fields__):
            return None
        types = get_type_hints(cls)
        typed = all(is_of(value, types[name]) for name, value in values.items())
        return cls(**values) if typed and values["rows"] > 0 else None

    def lines(self) -> list[str]:
        """What to tell a user: the file, lengths, then one sentence for each thing that may surprise."""
        unseen, lengths = self.references_unseen_by_judge, "characters (p50 / p95 / max):"
        return [
            f"{self.name}: {rows_text(self.rows, self.different_questions)} "
            f"({self.path}, {self.encoding}, sha256 {self.digest[:16]})",
            f"questions, {lengths} {self.question_chars_p50} / {self.question_chars_p95} / {self.question_chars_max}",
            f"references, {lengths} {self.reference_chars_p50} / {self.reference_chars_p95} / {self.reference_chars_max}; "
            f"{self.references_empty} empty; {unseen} ({unseen / self.rows:.1%}) without a word that the judge sees",
            *self.warnings(),
        ]

    def warnings(self) -> list[str]:
        """What may surprise, a sentence each."""
        sentences = []
        if repeats := self.rows - self.different_questions:
            sentences.append(
                f"{repeats} rows repeat a question: the prefix cache holds their prompts already, which makes them faster than "
                "new ones; intervals and tests count each question once"
            )
        if self.warmup_overlap:
            share = f"{self.warmup_overlap} of the {self.different_questions} different questions are"
            sentences.append(f"{share} in the model's warm-up file; a study does not warm up with them")
        if self.long_references:
            ids = ", ".join(map(repr, self.long_references[:5])) + (", ..." if len(self.long_references) > 5 else "")
            sentences.append(
                f"references more than {LONG} times as long as the median ({self.reference_chars_p50} characters): "
                f"{len(self.long_references)} (id {ids}); look whether they hold several answers"
            )
        if self.unused_fields:
            sentences.append(f"fields of the rows that are not used: {', '.join(map(repr, self.unused_fields))}")
        return sentences


def is_of(value: Any, kind: Any) -> bool:
    """Whether a plain value is of the type of a summary's field: a text, an integer or None, a list of texts."""
    if get_origin(kind) is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return type(value) in (get_args(kind) or (kind,))


def rows_text(rows: int, different: int) -> str:
    """How many questions: "358 rows, 92 different questions", or "80 questions" where none is repeated."""
    return f"{rows} rows, {different} different questions" if different < rows else f"{rows} question{'s' if rows > 1 else ''}"


def summary_of(config: DatasetConfig, warmup: Collection[str] | None, file: QuestionFile | None = None) -> Summary:
    """The summary of a dataset.

    Args:
        warmup: texts of the model's warm-up file, None without one.
        file: what was read of the dataset's file; None: it is read here.

    Raises:
        UserError: as `load`.
    """
    file = file or dataset.load_file(config)
    texts = {question.text for question in file.questions}
    references = [max(map(len, question.references)) for question in file.questions]
    return Summary(
        name=config.name,
        path=config.path,
        encoding=file.encoding.name.replace("_", "-").upper(),
        digest=dataset.digest(file.questions),
        rows=len(file.questions),
        different_questions=len(texts),
        **lengths("question", [len(question.text) for question in file.questions]),
        **lengths("reference", references),
        references_empty=references.count(0),
        references_unseen_by_judge=sum(map(unseen_by_judge, file.questions)),
        warmup_overlap=None if warmup is None else len(texts & set(warmup)),
        long_references=[
            question.id for question, chars in zip(file.questions, references, strict=True) if chars > LONG * median(references)
        ],
        unused_fields=file.unused,
    )


def lengths(what: str, chars: Sequence[int]) -> dict[str, int]:
    """Nearest-rank percentiles of all lengths."""
    ordered = sorted(chars)
    return {f"{what}_chars_p{percent}": ordered[math.ceil(len(chars) * percent / 100) - 1] for percent in (50, 95)} | {
        f"{what}_chars_max": ordered[-1]
    }


def unseen_by_judge(question: Question) -> bool:
    """Whether no reference holds a character of those that the judge's formula keeps (`gpuqa.measure.rouge`)."""
    return not any(SEEN_BY_JUDGE.search(reference.lower()) for reference in question.references)
