"""Question files of every format, the mistakes in them, and the questions that ship with the project."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from question_files import json_lines, written
from small_study import prepared

from gpuqa.config import UserError
from gpuqa.config.measurement import DatasetConfig
from gpuqa.config.paths import find
from gpuqa.pipeline.dataset import digest, load, read_questions
from gpuqa.records import Question

Pairs = list[tuple[str, str]]

PAIRS: Pairs = [
    ("什么是 warp？", "warp 是 32 个线程。"),
    ("解释下面的代码：\nkernel<<<1, 32>>>();", '第一行："启动"。\n第二行：C:\\temp。\n\n1. 空行之后：答案还在继续。'),
    ("问题出在哪里？", "答案不止一个：先看 cudaGetLastError。"),
]


def alpaca(pairs: Pairs) -> str:
    """As the course's file: the second line of a question is its input."""
    rows = []
    for question, answer in pairs:
        instruction, _, extra = question.partition("\n")
        rows.append({"instruction": instruction, "input": extra, "output": answer})
    return json.dumps(rows, ensure_ascii=False, indent=1)


def chat_lines(pairs: Pairs) -> str:
    rows = []
    for question, answer in pairs:
        rows.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
    return json_lines(rows)


def question_lines(pairs: Pairs) -> str:
    return json_lines([{"question": question, "answer": answer} for question, answer in pairs])


def question_list(pairs: Pairs) -> str:
    return json.dumps([{"question": question, "answer": answer} for question, answer in pairs])


def text_blocks(pairs: Pairs) -> str:
    return "\n\n".join(f"{number}. 问题：{question}\n答案：{answer}" for number, (question, answer) in enumerate(pairs, 1))


JSON_FORMATS = [alpaca, chat_lines, question_lines, question_list]
FORMATS = [*JSON_FORMATS, text_blocks]


@pytest.mark.parametrize("to_text", FORMATS)
def test_every_format_gives_the_same_questions_and_digest(to_text: Callable[[Pairs], str], tmp_path: Path) -> None:
    expected = [Question(str(number), question, answer) for number, (question, answer) in enumerate(PAIRS, 1)]
    found = read_questions(written(tmp_path / "questions", to_text(PAIRS)))
    assert found == expected
    assert digest(found) == digest(expected)


@pytest.mark.parametrize("to_text", FORMATS)
@pytest.mark.parametrize(("encoding", "ending"), [("utf-8-sig", "\n"), ("utf-8", "\r\n"), ("utf-8", "\r"), ("utf-16", "\r")])
def test_files_from_windows_and_old_macs_are_read_alike(
    to_text: Callable[[Pairs], str], encoding: str, ending: str, tmp_path: Path
) -> None:
    content, plain = to_text(PAIRS), written(tmp_path / "plain", to_text(PAIRS))
    other = written(tmp_path / "other", content.replace("\n", ending), encoding)
    assert read_questions(other) == read_questions(plain)


sentences = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(str.strip).filter(bool)


@settings(max_examples=100, deadline=None)
@given(pairs=st.lists(st.tuples(sentences, sentences), min_size=1, max_size=4))
@example(pairs=[("a\u2028b", "c\u0085d\x0be")])
def test_json_formats_agree_whatever_the_texts_hold(pairs: Pairs, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    read = [
        read_questions(written(folder / "pairs", to_text(pairs))) for to_text in (question_list, chat_lines, question_lines)
    ]
    assert [(question.text, question.reference) for question in read[0]] == pairs
    assert read[1] == read[2] == read[0]


def test_blanks_around_a_text_are_no_part_of_it(tmp_path: Path) -> None:
    found = read_questions(written(tmp_path / "rows.json", json.dumps([{"question": "\n q\u3000", "answer": "\ta\n\nb \n"}])))
    assert found == [Question("1", "q", "a\n\nb")]


def test_ids_of_the_file_are_kept_and_missing_ones_are_row_numbers(tmp_path: Path) -> None:
    rows = [{"id": "memory-1", "question": "a", "answer": "b"}, {"question": "c", "answer": "d"}]
    found = read_questions(written(tmp_path / "rows.json", json.dumps([*rows, {"id": 70, "question": "e", "answer": "f"}])))
    assert [question.id for question in found] == ["memory-1", "2", "70"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda rows: [*rows[:1], Question("3", rows[1].text, rows[1].reference)], id="an id"),
        pytest.param(lambda rows: [*rows[:1], Question("2", "e", rows[1].reference)], id="a text"),
        pytest.param(lambda rows: [*rows[:1], Question("2", rows[1].text, "e")], id="a reference"),
        pytest.param(lambda rows: rows[::-1], id="the order"),
        pytest.param(lambda rows: rows[:1], id="a missing question"),
        pytest.param(lambda rows: [*rows[:1], Question("2", "cd", "")], id="text that moved into the next field"),
    ],
)
def test_the_digest_changes_with(change: Callable[[list[Question]], list[Question]]) -> None:
    rows = [Question("1", "a", "b"), Question("2", "c", "d")]
    assert digest(change(rows)) != digest(rows)


@pytest.mark.parametrize(("limit", "kept"), [(1, 1), (2, 2), (3, 3), (50, 3), (None, 3)])
def test_a_limit_keeps_the_first_questions(limit: int | None, kept: int, tmp_path: Path) -> None:
    path = written(tmp_path / "questions.jsonl", question_lines(PAIRS))
    found = load(DatasetConfig(name="mine", path=str(path), limit=limit))
    assert [question.text for question in found] == [question for question, _ in PAIRS[:kept]]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused_by_name(limit: int) -> None:
    with pytest.raises(UserError, match=rf"dataset\.limit: got {limit}"):
        DatasetConfig(name="mine", path="questions.json", limit=limit)


GOOD = {"question": "q", "answer": "a"}


@pytest.mark.parametrize("ids", [["x", "y", "x"], [7, "8", "7"], [3, "y", None]])
def test_two_rows_with_one_id_are_refused_and_both_are_named(ids: list[Any], tmp_path: Path) -> None:
    rows = [{"id": one, **GOOD} if one is not None else GOOD for one in ids]  # a row without an id is called by its number
    path = written(tmp_path / "twice.json", json.dumps(rows))
    with pytest.raises(UserError, match=rf"rows 1 and 3 have the same id '{ids[0]}'") as refused:
        read_questions(path)
    assert str(path) in str(refused.value)


def test_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read") as refused:
        read_questions(tmp_path)
    assert str(tmp_path) in str(refused.value)


def test_a_bad_question_file_is_told_before_a_model_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.json", json.dumps([{"question": "q", "answer": 2}]))
    with pytest.raises(UserError, match="row 1: answer is 2, a number"):
        prepared({"dataset__path": str(path), "model__path": str(tmp_path)})  # a folder without a model


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evaluate", "sweep"])
def test_a_command_ends_with_one_line_about_a_bad_question_file(name: str, command: Any, tmp_path: Path) -> None:
    written(tmp_path / "rows.csv", "question,answer\na,b,\n")
    words = ["url=http://127.0.0.1:1"] if name == "evaluate" else ["experiment=none"]
    run = command(name, *words, "dataset.name=mine", "dataset.path=rows.csv", cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.startswith("error: rows.csv: line 2: has 3 cells, the first line names 2 columns (question, answer)")
    assert run.stderr.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["rows.csv"]


def test_a_file_that_is_not_there_is_refused_with_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"dataset\.path: 'absent\.json' does not exist") as refused:
        load(DatasetConfig(name="mine", path="absent.json"))
    assert str(tmp_path / "absent.json") in str(refused.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.sampled_from(["", "q", "user", "assistant"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "id", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
fields = st.sampled_from(["id", "instruction", "input", "output", "question", "answer", "messages", "history", "Answer"])


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.dictionaries(fields, json_values, max_size=4) | json_values, min_size=1, max_size=3))
def test_any_json_is_either_read_or_refused(rows: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = written(tmp_path_factory.getbasetemp() / "any.json", json.dumps(rows))
    refusal = ""
    try:
        found = read_questions(path)
    except UserError as error:
        refusal = str(error)
    if refusal:
        assert str(path) in refusal
    else:
        assert len(found) == len(rows)
        assert all(question.text and question.reference for question in found)
        assert digest(found)


# The shipped questions

SPLITS = ["train", "test", "warmup"]


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, Any]]]:
    """The raw rows of each shipped split, with their paraphrases."""
    texts = {split: find(f"gpuqa/embedded/questions/{split}.json", "dataset.path").read_text("utf-8") for split in SPLITS}
    return {split: json.loads(text) for split, text in texts.items()}


@pytest.mark.parametrize("split", SPLITS)
def test_shipped_questions_are_read_as_they_are(split: str, rows: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)  # as from an installed package: the file is found beside it
    found = load(DatasetConfig(name=split, path=f"gpuqa/embedded/questions/{split}.json"))
    assert [(one.id, one.text, one.reference) for one in found] == [
        (row["id"], row["instruction"], row["output"]) for row in rows[split]
    ]


def test_enough_questions_ship(rows: dict[str, Any]) -> None:
    assert sum(map(len, rows.values())) >= 240
    assert len(rows["test"]) >= 50  # a p95 needs 20 answers, a steady mean more
    assert len(rows["warmup"]) >= 16  # as many as the default workload asks for


def asked(row: dict[str, Any]) -> list[str]:
    """A row's question and its paraphrases, without what a reader would not call a difference."""
    return [re.sub(r"[\W_]+", "", text).casefold() for text in [row["instruction"], *row.get("paraphrases", [])]]


def test_no_question_and_no_answer_ships_twice(rows: dict[str, Any]) -> None:
    everything = [row for split in SPLITS for row in rows[split]]
    questions = [text for row in everything for text in asked(row)]
    assert sorted(set(questions)) == sorted(questions)
    for key in ("id", "output"):
        assert len({row[key] for row in everything}) == len(everything), key


def test_only_the_train_split_has_paraphrases(rows: dict[str, Any]) -> None:
    assert all(row["paraphrases"] for row in rows["train"])
    assert not any(row.get("paraphrases") for split in ("test", "warmup") for row in rows[split])


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_third_of_the_answers_each_is_short_medium_and_long(split: str, rows: dict[str, Any]) -> None:
    lengths = [len(row["output"]) for row in rows[split]]
    assert min(lengths) >= 60
    assert max(lengths) <= 1200
    short, long = sum(length < 160 for length in lengths), sum(length >= 320 for length in lengths)
    for count in (short, len(lengths) - short - long, long):
        assert 0.28 <= count / len(lengths) <= 0.39


@pytest.mark.parametrize("split", ["train", "test"])
def test_some_answers_have_several_lines(split: str, rows: dict[str, Any]) -> None:
    several = sum("\n" in row["output"].strip() for row in rows[split])
    assert 0.05 <= several / len(rows[split]) <= 0.30


@pytest.mark.parametrize("split", SPLITS)
def test_most_answers_hold_words_that_the_judge_can_see(split: str, rows: dict[str, Any]) -> None:
    visible = [len(re.findall("[a-z0-9]+", row["output"].lower())) for row in rows[split]]
    assert min(visible) >= 1
    assert sum(count >= 3 for count in visible) / len(visible) > 0.9


def test_every_topic_is_in_every_split(rows: dict[str, Any]) -> None:
    topics = {split: {row["id"].rpartition("-")[0] for row in rows[split]} for split in SPLITS}
    assert topics["train"] == topics["test"] == topics["warmup"]
    assert len(topics["train"]) >= 5
