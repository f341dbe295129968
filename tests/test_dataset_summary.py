"""What is said about a question file: on one of the form of the course's, and on one with everything that may surprise."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from question_files import COURSE_QUESTIONS, COURSE_ROWS, as_list, course_file, written

from gpuqa.config import UserError
from gpuqa.config.measurement import DatasetConfig, References
from gpuqa.measure import rouge
from gpuqa.pipeline.dataset import digest, load
from gpuqa.pipeline.dataset.summary import Summary, rows_text, summary_of, unseen_by_judge
from gpuqa.records import Question


def config(path: Path, **values: object) -> DatasetConfig:
    return DatasetConfig(name="mine", path=str(path), **values)  # type: ignore[arg-type]


def test_rows_and_different_questions_of_a_file_like_the_courses_are_told_apart(tmp_path: Path) -> None:
    dataset = config(course_file(tmp_path / "course.json"))
    summary = summary_of(dataset, None)
    assert (summary.rows, summary.different_questions) == (COURSE_ROWS, COURSE_QUESTIONS) == (358, 92)
    assert summary.digest == digest(load(dataset))
    first, *_, repeats = summary.lines()
    assert first == f"mine: 358 rows, 92 different questions ({dataset.path}, UTF-8, sha256 {summary.digest[:16]})"
    assert repeats.startswith("266 rows repeat a question: the prefix cache holds their prompts already")
    assert summary_of(config(Path(dataset.path), limit=50), None).lines()[0].startswith("mine: 50 questions (")


def test_lengths_are_those_of_the_texts_in_characters(tmp_path: Path) -> None:
    rows = [{"question": "问" * (number + 1), "answer": "答a" * (number + 1)} for number in range(100)]
    summary = summary_of(config(written(tmp_path / "rows.json", as_list(*rows))), None)
    assert (summary.question_chars_p50, summary.question_chars_p95, summary.question_chars_max) == (50, 95, 100)
    assert (summary.reference_chars_p50, summary.reference_chars_p95, summary.reference_chars_max) == (100, 190, 200)
    assert "questions, characters (p50 / p95 / max): 50 / 95 / 100" in summary.lines()


def test_what_may_surprise_is_said_and_nothing_else(tmp_path: Path) -> None:
    rows = [{"id": f"q{number}", "question": f"问题 {number}", "answer": "使用 32 个线程"} for number in range(8)]
    plain = summary_of(config(written(tmp_path / "plain.json", as_list(*rows))), ["另一个问题"])
    assert plain.warnings() == []
    rows += [
        {"id": "long", "question": "长", "answer": "字" * 91, "topic": "x"},
        {"id": "unseen", "question": "短", "answer": "无"},
    ]
    odd = summary_of(config(written(tmp_path / "odd.csv", table(rows), "gbk")), ["长", "问题 0", "另一个问题"])
    assert odd.encoding == "GB18030"
    assert odd.references_unseen_by_judge == 2
    assert "0 empty; 2 (20.0%) without a word that the judge sees" in odd.lines()[2]
    assert odd.warnings() == [
        "2 of the 10 different questions are in the model's warm-up file; a study does not warm up with them",
        "references more than 10 times as long as the median (9 characters): 1 (id 'long'); look whether they hold several "
        "answers",
        "fields of the rows that are not used: 'topic'",
    ]


def table(rows: list[dict[str, str]]) -> str:
    names = ["id", "question", "answer", "topic"]
    return "\n".join(";".join(row.get(name, "") for name in names) for row in [dict(zip(names, names, strict=True)), *rows])


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("ab Z9é线程K，\n"), max_size=6))
def test_the_judge_sees_no_word_of_a_reference_exactly_where_its_metric_cuts_it_into_none(text: str) -> None:
    assert unseen_by_judge(Question("1", "q", text)) == (not rouge.cut(text).judge)
    assert not unseen_by_judge(Question("1", "q", text, ("also warp",))), "one of several is enough"


@settings(max_examples=60, deadline=None)
@given(others=st.dictionaries(st.text(max_size=4), st.just("x"), max_size=3))
@example(others={"\ud83d": "x"})
def test_a_summary_can_be_printed_and_written_whatever_the_fields_are_called(
    others: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    row = {**others, "question": "q", "answer": "a", "system": "", "history": [], "id": None}
    path = written(tmp_path_factory.getbasetemp() / "names.json", json.dumps([row]))
    try:
        summary = summary_of(config(path), None)
    except UserError:  # two names that are one in lower case
        return
    assert Summary.of(yaml.safe_load(yaml.safe_dump(summary.as_dict()).encode())) == summary
    assert all(line.isprintable() and line.encode() for line in summary.lines())


def test_a_summary_survives_yaml_and_what_is_none_is_none(tmp_path: Path) -> None:
    summary = summary_of(config(course_file(tmp_path / "course.json"), references=References.best), ["q"])
    plain = yaml.safe_load(yaml.safe_dump(summary.as_dict()))
    assert Summary.of(plain) == summary
    assert set(plain) == {field.name for field in fields(Summary)}
    for other in (None, "text", {}, {**plain, "more": 1}):
        assert Summary.of(other) is None


def test_a_summary_that_was_edited_to_other_types_or_no_rows_is_none(tmp_path: Path) -> None:
    plain = summary_of(config(course_file(tmp_path / "course.json")), None).as_dict()
    assert Summary.of({**plain, "warmup_overlap": 3}) is not None
    edited = [dict.fromkeys(plain, 0), {**plain, "rows": 0}, {**plain, "rows": True}, {**plain, "rows": "9"}]
    edited += [{**plain, "unused_fields": [1]}, {**plain, "long_references": "1"}, {**plain, "warmup_overlap": 0.5}]
    assert [Summary.of(values) for values in edited] == [None] * len(edited)


@pytest.mark.parametrize(
    ("rows", "different", "text"),
    [(1, 1, "1 question"), (80, 80, "80 questions"), (358, 92, "358 rows, 92 different questions")],
)
def test_a_number_of_questions_says_how_many_are_different(rows: int, different: int, text: str) -> None:
    assert rows_text(rows, different) == text
