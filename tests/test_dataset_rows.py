"""From a row to a question: what its fields may be called, and that nothing of a question is left out without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from question_files import as_list, json_lines, pairs_of, read, refusal, written

from gpuqa.config import UserError
from gpuqa.config.app import compose_cell
from gpuqa.config.measurement import DatasetConfig, FieldsConfig, References
from gpuqa.pipeline.dataset import digest, read_questions
from gpuqa.pipeline.dataset.rows import KNOWN

GOOD = {"question": "q", "answer": "a"}


def chat(*roles: str, names: tuple[str, str, str] = ("messages", "role", "content")) -> dict[str, Any]:
    """A row of turns that say their role and their place."""
    return {names[0]: [{names[1]: role, names[2]: f"{role} {place}"} for place, role in enumerate(roles)]}


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "q", "input": "", "output": "a"},
        {"instruction": "q", "input": None, "output": "a"},
        {"instruction": "", "input": "q", "output": "a"},
        {"instruction": "q", "input": " ", "output": "a", "": "a field without a name"},
        {"instruction": "q", "output": "a", "history": [], "system": ""},
        {"question": "q", "answer": "a"},
        {"Question": "q", "ANSWER": "a"},
        {"prompt": "q", "completion": "a"},
        {"query": "q", "response": "a"},
        {"input": "q", "output": "a"},
        {"问题": "q", "答案": "a"},
        {"question": "q", "answer": ["a"]},
        {"question": "q", "answer": "a", "prompt": "unused", "response": "unused"},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {
            "messages": [
                {"role": "system", "content": ""},
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "a"},
            ]
        },
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"messages": [{"role": "User", "content": "q"}, {"role": "Assistant", "content": "a"}]},
        {"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    ],
)
def test_every_usual_name_of_question_and_answer_is_read(row: dict[str, Any], tmp_path: Path) -> None:
    assert pairs_of(written(tmp_path / "rows.json", as_list(row))) == [("q", "a")]


def test_other_names_are_configured(tmp_path: Path) -> None:
    rows = [{"Frage": "q", "antwort": "a", "nr": 7, "answer": "another", "system": ""}]
    fields = {"question": "frage", "answer": "Antwort", "id": "nr"}
    [question] = read(path := written(tmp_path / "rows.json", as_list(*rows)), fields=FieldsConfig(**fields))
    assert (question.id, question.text, question.reference) == ("7", "q", "a")
    message = refusal(path, fields=FieldsConfig(**{**fields, "answer": "antwrot"}))
    assert message.startswith(
        "row 1 has no field 'antwrot', which dataset.fields.answer names; its fields are 'frage', 'antwort'"
    )


@pytest.mark.parametrize(
    ("words", "dataset"),
    [
        (["dataset.fields={question: frage, answer: antwort}"], {"fields": FieldsConfig("frage", "antwort")}),
        (['dataset.fields={question: "题目", answer: "回答", id: nr}'], {"fields": FieldsConfig("题目", "回答", "nr")}),
        (["dataset.references=mean", "dataset.ignore=[system]"], {"references": References.mean, "ignore": ["system"]}),
    ],
)
def test_how_rows_are_read_is_said_on_the_command_line(words: list[str], dataset: dict[str, Any]) -> None:
    expected = DatasetConfig(name="mine", path="questions.json", limit=24, **dataset)
    assert compose_cell("dataset.name=mine", "dataset.path=questions.json", *words).dataset == expected


@pytest.mark.parametrize("words", ["{question: q}", "{id: i}", "{answer: a, id: i}"])
def test_names_that_are_not_complete_are_refused_by_their_key(words: str) -> None:
    with pytest.raises(UserError, match=r"dataset\.fields: got .*allowed is both question and answer"):
        compose_cell(f"dataset.fields={words}")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "answer": 2}, "row 2: answer is 2, a number; it must be text"),
        ({"instruction": "q", "output": None}, "row 2: output is null; it must be text"),
        ({"instruction": None, "input": "x", "output": "a"}, "row 2: instruction is null"),
        ({"instruction": "q", "input": ["x"], "output": "a"}, "row 2: input is a list of 1"),
        ({"question": True, "answer": "a"}, "row 2: question is true, a truth value"),
        ({"question": " \n", "answer": "a"}, "row 2: question is blank"),
        ({"question": "q", "answer": "\u3000"}, "row 2: answer is blank"),
        ({"question": "q", "answer": {"text": "a"}}, "row 2: answer is an object"),
        ({"question": "q", "answer": []}, "row 2: answer is an empty list"),
        ({"question": "q", "answer": ["a", 2]}, "row 2: answer[1] is 2, a number"),
        ({"question": "q", "answer": "half a pair: \ud83d"}, "row 2: answer holds half of a surrogate pair"),
        ({"question": "q", "answer": "a", "id": [1]}, "row 2: id is a list of 1; it must be text, a number or null"),
        ({"question": "q", "answer": "a", "id": True}, "row 2: id is true, a truth value"),
        ({"question": "q", "Question": "p", "answer": "a"}, "row 2 has the field 'question' twice, in upper and in lower case"),
        (
            {"question": "q"},
            "row 2 has 'question' and no answer: looked for 'answer'; its other fields are none; name the fields: '",
        ),
        (
            {"prompt": "q", "query": "q", "reply": "a"},
            "row 2 has 'prompt' and 'query' and no answer: looked for 'completion' or 'response'; its other fields are 'reply'",
        ),
        (
            {"output": "a"},
            "row 2 has 'output' and no question: looked for 'instruction' or 'input'; its other fields are none",
        ),
        (
            {"qestion": "q", "answer": "a"},
            "row 2 has 'answer' and no question: looked for 'question'; its other fields are 'qestion' (did you mean",
        ),
        (
            {"promt": "q", "reply": "a"},
            "row 2 has the fields 'promt' (did you mean 'prompt'?), 'reply', but a row needs \"instr",
        ),
        (
            {"question": "q", "answer": "a", "query": "p", "response": "b"},
            "row 2 can be read in 2 ways: by question and answer, or by query and response; name the fields: 'dataset.fields=",
        ),
        ({**chat("user", "assistant"), **GOOD}, "row 2 can be read in 2 ways: by messages, or by question and answer"),
    ],
)
def test_a_message_names_the_row_the_field_and_what_is_wrong_with_it(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert refusal(written(tmp_path / "rows.json", json.dumps([GOOD, row]))).startswith(message)


def test_files_of_lines_name_the_line_too(tmp_path: Path) -> None:
    content = "\n" + json_lines([GOOD, {"question": "q", "answer": 2}])
    assert refusal(written(tmp_path / "rows.jsonl", content)).startswith("row 2 (line 3): answer is 2, a number")


@pytest.mark.parametrize("beside", [{}, {"version": 1, "data": "here"}])
def test_an_object_of_several_lists_is_refused_with_their_names_and_what_to_do(beside: dict[str, Any], tmp_path: Path) -> None:
    content = json.dumps({**beside, "train": [GOOD, GOOD], "Test": [GOOD]})
    assert refusal(written(tmp_path / "splits.json", content)) == (
        "row 1 is an object that holds 'train' (2 rows) and 'Test' (1 row); a question file holds one list of rows: write the "
        "one that is to be asked into a file of its own, as a plain [...]"
    )


def test_a_list_beside_the_one_under_data_is_not_dropped(tmp_path: Path) -> None:
    message = refusal(written(tmp_path / "splits.json", json.dumps({"data": [GOOD], "test": [GOOD]})))
    assert message.startswith("is a JSON object that holds 'data' (1 row) and 'test' (1 row); a question file holds one list")


def test_of_very_many_fields_only_the_first_are_listed(tmp_path: Path) -> None:
    message = refusal(written(tmp_path / "rows.json", json.dumps({f"q{number}": GOOD for number in range(1000)})))
    assert "'q18', 'q19', ... (1000 in all), but a row needs" in message
    assert "'q20'" not in message


def test_the_message_about_a_row_without_a_known_name_lists_all_of_them(tmp_path: Path) -> None:
    message = refusal(written(tmp_path / "bad.json", as_list({"reply": "a", "ask": "q"})))
    for name in (
        "instruction",
        "output",
        "question",
        "answer",
        "prompt",
        "completion",
        "query",
        "response",
        "问题",
        "messages",
    ):
        assert f'"{name}"' in message


def test_the_page_about_question_files_lists_every_name_that_is_known() -> None:
    page = (ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
    assert [name for name in KNOWN if f"`{name}`" not in page] == []


# Chats


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (("user",), "messages must end with a user's turn and the assistant's answer, and ends with user"),
        (("assistant", "user"), "messages must end with"),
        (("user", "assistant", "user"), "messages must end with"),
        (("user", "user", "assistant", "assistant"), "messages must end with"),
        (("user", "system", "assistant"), "messages must end with"),
        (("user", "assistant", "system"), "messages must end with"),
        ((), "messages must end with a user's turn and the assistant's answer, and ends with nothing"),
        (
            ("user", "assistant", "user", "assistant"),
            "messages holds 2 turns before the last question, which would not be sent",
        ),
        (("system", "user", "assistant"), "messages[0].content is 'system 0', text, which would not be sent; write it into"),
        (
            ("user", "tool", "assistant"),
            "messages[1].role is 'tool', text; it must be one of system, developer, user, human, assistant, gpt",
        ),
    ],
)
def test_a_chat_is_one_question_and_its_answer_or_refused(roles: tuple[str, ...], message: str, tmp_path: Path) -> None:
    assert refusal(written(tmp_path / "rows.json", as_list(chat(*roles)))).startswith(f"row 1: {message}")


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ("q", "messages is 'q', text; it must be a list of turns"),
        (["q", None], "messages is a list of 2; it must be a list of turns"),
        ([{"role": ["user"], "content": "q"}], "messages[0].role is a list of 1"),
        (
            [{"role": "user", "content": [{"text": "q"}]}, {"role": "assistant", "content": "a"}],
            "messages[0].content is a list of 1",
        ),
        ([{"role": "user", "content": "q"}, {"role": "assistant"}], "messages[1].content is null"),
    ],
)
def test_turns_that_are_none_are_refused(turns: Any, message: str, tmp_path: Path) -> None:
    assert refusal(written(tmp_path / "rows.json", as_list({"messages": turns}))).startswith(f"row 1: {message}")


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({**GOOD, "history": [["earlier", "turn"]]}, "history"),
        ({**GOOD, "system": "be brief"}, "system"),
        ({"instruction": "q", "output": "a", "System": "be brief"}, "system"),
        ({**GOOD, "system_prompt": "be brief"}, "system"),
        ({"instruction": "q", "context": "needed", "output": "a"}, "context"),
        ({**GOOD, "Passage": "needed"}, "context"),
        ({**GOOD, "上下文": "needed"}, "context"),
        ({**GOOD, "options": ["x", "y"]}, "options"),
        ({**GOOD, "choices": {"A": "x"}}, "options"),
        (chat("developer", "user", "assistant"), "system"),
        (chat("system", "user", "assistant"), "system"),
        (chat("human", "gpt", "human", "gpt", names=("conversations", "from", "value")), "history"),
    ],
)
def test_what_belongs_to_a_question_is_left_out_only_if_that_is_said(row: dict[str, Any], name: str, tmp_path: Path) -> None:
    message = refusal(path := written(tmp_path / "rows.json", as_list(row)))
    assert "which would not be sent" in message
    assert f"'dataset.ignore=[{name}]'" in message
    assert len(read(path, ignore=[name])) == 1


def test_a_file_to_warm_up_with_needs_no_word_on_what_is_left_out(tmp_path: Path) -> None:
    row = {**chat("system", "user", "assistant", "user", "assistant"), "id": "x"}
    path = written(tmp_path / "rows.json", as_list(row, {"question": "q", "answer": ["a", "b"]}))
    assert [question.text for question in read_questions(path)] == ["user 3", "q"]


def test_only_what_may_be_ignored_can_be() -> None:
    with pytest.raises(
        UserError, match=r"dataset\.ignore: got \['answer'\], allowed is a list of some of system, history, context, options"
    ):
        DatasetConfig(name="mine", path="questions.json", ignore=["answer"])


# Ids and references


@pytest.mark.parametrize("none", [None, "", " "])
def test_an_id_that_says_nothing_is_none(none: str | None, tmp_path: Path) -> None:
    rows = [{"id": none, **GOOD}, {"id": none, **GOOD}, {"id": 70, **GOOD}, {"id": " x ", **GOOD}]
    assert [question.id for question in read(written(tmp_path / "rows.json", as_list(*rows)))] == ["1", "2", "70", "x"]


def test_several_references_need_a_word_on_how_they_count(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.json", as_list({"question": "q", "answer": ["a", " b ", "c"]}, GOOD))
    assert refusal(path) == "row 1: answer holds 3 references; say which score counts: dataset.references=best or mean"
    best, mean = (read(path, references=references) for references in References)
    assert [question.references for question in best] == [("a", "b", "c"), ("a",)]
    assert [question.mean_of_references for question in (*best, *mean)] == [False, False, True, False]
    assert len({digest(best), digest(mean), digest(read(written(path, as_list(GOOD, GOOD))))}) == 3
