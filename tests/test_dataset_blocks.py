"""Text blocks: every way to mark a question and its answer, and files in which a block would be lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT
from question_files import pairs_of, refusal, written

MARKS = [  # of a question and its answer
    ("1. 问题：", "答案："),
    ("（1. 问题：", "答案："),
    ("(1) 问题：", "答案："),
    ("（1）问题：", "（1）答案："),
    ("1、问题: ", "答案: "),
    ("1）问题：", "答案："),
    ("问题1：", "答案1："),
    ("问题 1 ：", "答案 1 ："),
    ("第1题：问题：", "答案："),
    ("一、问题：", "答案："),
    ("**问题：**", "**答案：**"),
    ("**问题**：", "**答案**："),
    ("**1. 问题：** ", "**答案：** "),
    ("### 1. 问题：", "### 答案："),
    ("- 问题：", "- 答案："),
    ("问题：", "答："),
    ("问：", "答："),
    ("问题：", "回答："),
    ("1. 问：", "答："),
    ("Q:", "A:"),
    ("Q1：", "A1："),
    ("**Q:** ", "**A:** "),
    ("question: ", "ANSWER: "),
]


@pytest.mark.parametrize(("question", "answer"), MARKS)
def test_every_usual_mark_of_questions_and_answers_is_read(question: str, answer: str, tmp_path: Path) -> None:
    content = f"{question}甲\n第二行\n{answer}一\n（续）\n\n{question}乙\n\n{answer}\n二**粗**\n"
    assert pairs_of(written(tmp_path / "blocks.txt", content)) == [("甲\n第二行", "一\n（续）"), ("乙", "二**粗**")]


def test_the_example_of_the_page_about_question_files_is_read(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
    example = "".join(line[4:] + "\n" for line in page.splitlines() if line.startswith("    ") or not line)
    assert pairs_of(written(tmp_path / "blocks.txt", example)) == [
        ("什么是 warp？", "32 个线程，一起执行同一条指令。"),
        ("下面哪个是正确答案：A还是B？", "A"),
    ]


def test_a_bracket_or_bold_mark_that_a_mark_opens_is_no_part_of_the_text(tmp_path: Path) -> None:
    content = "（1. 问题：甲\n答案：一（见上）。）\n（2. 问题：乙\n答案：二（见上）\n**3. 问题：丙**\n答案：三\n"
    expected = [("甲", "一（见上）。"), ("乙", "二（见上）"), ("丙", "三")]
    assert pairs_of(written(tmp_path / "blocks.txt", content)) == expected


@pytest.mark.parametrize(
    "question",
    ["下面哪个是正确答案：A还是B？", "哪个词后面写答案：甲还是乙？\n请回答：", "请看以下问题：为什么慢？", "FAQ: A: 是什么？"],
)
def test_the_words_for_question_and_answer_are_text_where_no_line_begins_with_them(question: str, tmp_path: Path) -> None:
    assert pairs_of(written(tmp_path / "blocks.txt", f"1. 问题：{question}\n答案：A")) == [(question, "A")]


def test_a_file_keeps_to_the_words_of_its_first_block(tmp_path: Path) -> None:
    content = "1. 问题：选哪个？\nA: 甲\nB: 乙\n答案：A: 甲\n\nA：因为\n\nB：所以\n"
    assert pairs_of(written(tmp_path / "blocks.txt", content)) == [("选哪个？\nA: 甲\nB: 乙", "A: 甲\n\nA：因为\n\nB：所以")]


@pytest.mark.parametrize(
    ("content", "line", "stranger", "words"),
    [
        ("问题：a?\n答案：b\n问：c?\n答：d", 3, "问：", ("问题", "答案")),
        ("问题：a?\n答案：b\n问题：c?\n答：d", 4, "答：", ("问题", "答案")),
        ("问题：a?\n答案：b\nQ: c?\nA: d", 3, "Q:", ("问题", "答案")),
        ("问题：a?\n答案：b\nA: d", 3, "A:", ("问题", "答案")),
        ("Q: which?\nA: first option\nB: second\nAnswer: A\n", 4, "Answer:", ("Q", "A")),
        ("Question: a?\nAnswer: b\n\n**Q2:** c?\n**A2:** d", 4, "**Q2:**", ("Question", "Answer")),
        ("问：a?\n答：b\n【问题】c?\n【答案】d", 3, "【问题】", ("问", "答")),
        ("Answer: x\nQ: a?\nA: b", 1, "Answer:", ("Q", "A")),
    ],
)
def test_a_row_of_another_form_is_refused_and_not_swallowed(
    content: str, line: int, stranger: str, words: tuple[str, str], tmp_path: Path
) -> None:
    begin = (
        f"line {line}: {stranger!r} begins a line of a file whose rows begin with {words[0]}： and {words[1]}：; begin it with"
    )
    assert refusal(written(tmp_path / "blocks.txt", content)).startswith(begin)


@pytest.mark.parametrize(
    "content", ["【问题】a?\n【答案】b", "> 问：a?\n> 答：b", "① 问题：a?\n答案：b", "Some prose about GPUs."]
)
def test_a_text_without_a_mark_that_is_known_is_told_the_form_of_rows(content: str, tmp_path: Path) -> None:
    assert refusal(written(tmp_path / "blocks.txt", content)).startswith(
        "holds no questions: in a text file a row is a line that begins with 问题：, 问：, Question: or Q:, and below it one"
    )


def test_a_title_above_the_first_block_is_left_out(tmp_path: Path) -> None:
    assert pairs_of(written(tmp_path / "blocks.txt", "课程题目\n\n1、问题：甲\n答案：一")) == [("甲", "一")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "1. 问题：甲\n2. 问题：乙\n答案：二",
            "line 1: the question has no answer: the next question begins in line 2, and no line between",
        ),
        (
            "1. 问题：甲\n答案：一\n\n2. 问题：乙 答案：二",
            "line 4: the question has no answer: '答案：' stands within line 4, the question's own; begin a new",
        ),
        (
            "1. 问题：甲？答：一\n\n2. 问题：乙\n答案：二",
            "line 1: the question has no answer: '答：' stands within line 1, the question's own; begin a new",
        ),
        (
            "1. 问题：甲\n第二行 答案：一\n2. 问题：乙\n答案：二",
            "line 1: the question has no answer: '答案：' stands within line 2; begin a new line with it",
        ),
        ("Q: a? A: b", "line 1: the question has no answer: 'A:' stands within line 1, the question's own; begin"),
        ("Q: FAQA: a", "line 1: the question has no answer: the file ends, and no line below it begins with A："),
        ("1. 问题：甲", "line 1: the question has no answer: the file ends, and no line below it begins with 答案："),
        ("1. 问题：甲\n答案：一\n第二个问题：乙\n答案：二", "line 3: '问题：' stands where no question can begin"),
        ("1. 问题：甲\n答案：一。2. 问题：乙", "line 2: '问题：' stands where no question can begin"),
        ("1. 问题：甲\n题目 2 问题：乙\n答案：二", "line 2: '问题：' stands where no question can begin"),
        ("题目 1 问题：甲\n\n2. 问题：乙\n答案：二", "line 1: '问题：' stands where no question can begin"),
        ("甲\n答案：一\n2. 问题：乙\n答案：二", "line 2: the answer has no question"),
        ("1. 问题：甲\n答案：一\n答案：二", "line 3: a second 答案： below the question of line 1"),
        ("Q: which?\nA: x\nB: y\nA: x", "line 4: a second A： below the question of line 1"),
        ("Q: a\nA: b\nNo. 2 Q: c", "line 3: 'Q:' stands where no question can begin"),
        ("1. 问题：甲\n答案： \n2. 问题：乙\n答案：二", "row 1 (line 1): answer is blank; it must be text"),
        ("1. 问题：甲\n答案：一\n\n2. 问题：\n答案：二", "row 2 (line 4): question is blank; it must be text"),
    ],
)
def test_a_block_that_would_be_lost_is_refused_with_its_line(content: str, message: str, tmp_path: Path) -> None:
    assert refusal(written(tmp_path / "blocks.txt", content)).startswith(message)
    for ending in ("\r\n", "\r"):
        assert refusal(written(tmp_path / "ending.txt", content.replace("\n", ending))).startswith(message)
