"""Text blocks become rows: a line that begins with the word for a question, below it one that begins with the answer's.

Both may have a number, brackets and bold marks: `1. 问题：`, `（1. 问题：`, `(1) 问题：`, `1、问题：`, `问题1：`, `**问题：**`.
A file keeps to the words of its first question and answer; a line that begins with another pair's is refused.
"""

from __future__ import annotations

import re

from gpuqa.config import UserError

ANSWERS = {  # by the word for a question
    "问题": ("答案", "答", "回答"),
    "问": ("答", "答案", "回答"),
    "Question": ("Answer",),
    "Q": ("A",),
}
BLANK = r"[^\S\n]*+"  # takes all blanks at once: several of these in a row would try every way to share a long run of them
NUMBER = rf"[（(]?{BLANK}(?:第?{BLANK}[\d一二三四五六七八九十百]+{BLANK}题?{BLANK}[)）]?{BLANK}[.、．:：)）]?)?{BLANK}"
BRACKETED = re.compile(rf"^{BLANK}[【\[](?:问题|问|答案|答|回答|Question|Answer){BLANK}\d*{BLANK}[】\]]", re.M | re.I)
AS_JSON = "if it belongs to the text, write the file as JSON or CSV"

FORM = (
    "in a text file a row is a line that begins with 问题：, 问：, Question: or Q:, and below it one that "
    "begins with 答案：, 答：, 回答：, Answer: or A:; a number or ** may stand before the word, but no >, ① or 【"
)

Block = tuple[int, dict[str, str]]  # the line where it begins, and its fields


def parse_blocks(text: str) -> list[Block]:
    """The blocks of a text; none where no line begins with a question.

    Raises:
        UserError: a question without an answer or with two, or one that stands where no block begins, so that another block
            would swallow it. The message has the line.
    """
    text = text.replace("\r\n", "\n")
    words = words_of(text)
    if words is None:
        return []
    starts = list(mark(words[0]).finditer(text))
    if lost := mark(words[1]).search(text, 0, starts[0].start()):
        raise UserError(f"line {line_of(text, lost.end())}: the answer has no question: no line above begins with {words[0]}：")
    refuse_swallowed(words[0], text, 0, starts[0].start())
    refuse_other_marks(words, text)
    return [block(text, start, after, words) for start, after in zip(starts, [*starts[1:], None], strict=True)]


def words_of(text: str) -> tuple[str, str] | None:
    """The words for question and answer of the first marks in a text; None without a question."""
    first = {word: match.end() for word in ANSWERS if (match := mark(word).search(text))}
    if not first:
        return None
    question = min(first, key=first.__getitem__)
    places = {word: match.start() for word in ANSWERS[question] if (match := mark(word).search(text, first[question]))}
    return question, min(places, key=places.__getitem__, default=ANSWERS[question][0])


def mark(word: str) -> re.Pattern[str]:
    """The begin of a line with this word, such as `1. 问题：`."""
    numbered = rf"{NUMBER}{word}{BLANK}\d*{BLANK}"
    bold = rf"\*\*{numbered}(?:\*\*{BLANK}[:：]|[:：]{BLANK}(?:\*\*)?)"
    return re.compile(rf"^{BLANK}(?:#+{BLANK}|[-*+][^\S\n]+)?(?:{bold}|{numbered}[:：])", re.M | re.I)


def block(text: str, start: re.Match[str], after: re.Match[str] | None, words: tuple[str, str]) -> Block:
    """One block, from its mark to the mark `after` it, of the next one."""
    line, end = line_of(text, start.end()), after.start() if after else len(text)
    answers = list(mark(words[1]).finditer(text, start.end(), end))
    if not answers:
        raise UserError(f"line {line}: the question has no answer: {where_no_answer_is(text, start, after, words)}")
    answer = answers[0]
    refuse_swallowed(words[0], text, start.end(), answer.start())
    refuse_swallowed(words[0], text, answer.end(), end, everywhere=words[0] == "问题")
    if len(answers) > 1:
        second = line_of(text, answers[1].end())
        raise UserError(f"line {second}: a second {words[1]}： below the question of line {line}; {AS_JSON}")
    marks = start[0], start[0].replace("**", "") + answer[0]
    fields = {
        "question": closed(marks[0], text[start.end() : answer.start()].strip()),
        "answer": closed(marks[1], text[answer.end() : end].strip()),
    }
    return line, fields


def where_no_answer_is(text: str, start: re.Match[str], after: re.Match[str] | None, words: tuple[str, str]) -> str:
    """What stands where the answer of a block should begin: its mark within a line, the next question, or nothing."""
    wanted = "|".join(sorted(ANSWERS[words[0]], key=len, reverse=True))
    before = "" if words[0] == "问题" else r"(?<![^\W\d_])"
    inside = re.compile(rf"{before}(?:{wanted}){BLANK}\d*{BLANK}[:：]", re.I)
    if found := inside.search(text, start.end(), after.start() if after else len(text)):
        own = "" if "\n" in text[start.end() : found.end()] else ", the question's own"
        return f"{found[0]!r} stands within line {line_of(text, found.end())}{own}; begin a new line with it"
    if after:
        return (
            f"the next question begins in line {line_of(text, after.end())}, and no line between them begins with {words[1]}："
        )
    return f"the file ends, and no line below it begins with {words[1]}："


def refuse_swallowed(word: str, text: str, start: int, end: int, everywhere: bool = False) -> None:
    """Raise a UserError for a question's mark between two places of a text, where none was recognised.

    Args:
        everywhere: also at the end of another word. Otherwise `以下问题：`, `请问：` and `FAQ:` are text.
    """
    before = "" if everywhere else r"(?<![^\W\d_])"
    if match := re.compile(rf"{before}{word}{BLANK}\d*{BLANK}[:：]", re.I).search(text, start, end):
        raise UserError(
            f"line {line_of(text, match.end())}: {match[0]!r} stands where no question can begin, so another row would swallow "
            f"this one; begin a line with it, or {AS_JSON}"
        )


def refuse_other_marks(words: tuple[str, str], text: str) -> None:
    """Raise a UserError for a line that begins with a word of another pair: it may be a row that another one would swallow."""
    pairs = [word for question, answers in ANSWERS.items() for word in (question, *answers)]
    others = "|".join(dict.fromkeys(word for word in pairs if word not in words))
    for match in (*mark(f"(?:{others})").finditer(text), *BRACKETED.finditer(text)):
        if not begins_options(match, text):
            raise UserError(
                f"line {line_of(text, match.end())}: {match[0].strip()!r} begins a line of a file whose rows begin with "
                f"{words[0]}： and {words[1]}：; begin it with one of these, or {AS_JSON}"
            )


def begins_options(match: re.Match[str], text: str) -> bool:
    """Whether a mark is the first of a list `A: ...`, `B: ...` and no answer."""
    rest_of_line = re.compile(rf".*\n(?:{BLANK}\n)*+").match(text, match.end())
    return match[0].strip(" \t:：") == "A" and rest_of_line is not None and bool(mark("B").match(text, rest_of_line.end()))


def closed(mark: str, text: str) -> str:
    """A text without the bracket or the bold mark at its end that its mark has opened: `（1. 问题：...）`."""
    if opened(mark) > 0 and opened(text) < 0 and text[-1] in "）)":
        text = text[:-1].rstrip()
    if mark.count("**") % 2 and text.count("**") % 2:
        text = text.removesuffix("**").rstrip()
    return text


def opened(text: str) -> int:
    """How many more brackets a text opens than it closes."""
    return sum(text.count(bracket) for bracket in "（(") - sum(text.count(bracket) for bracket in "）)")


def line_of(text: str, place: int) -> int:
    """The number of the line that holds the character before a place."""
    return text.count("\n", 0, place) + 1
