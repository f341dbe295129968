"""That no measured question and no reference answer is in a prompt: a prompt that holds an answer would be rated by it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from rapidfuzz import fuzz

from gpuqa.config.pipeline import ExampleConfig, PromptConfig
from gpuqa.records import Question

ALIKE = 85.0  # rapidfuzz's ratio, from which two texts count as one that was written down twice
PASSAGE = 32  # letters and digits in a row, that a prompt and a measured text have in common by no chance
SHORTEST = 8  # letters and digits; a shorter question, such as "warp?", is in any text about it


class Leaks:
    """The measured questions, in a form in which spelling and punctuation do not hide them."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.texts: list[tuple[str, str, str]] = []  # the id of a question, what it is, its letters
        for question in questions:
            self.texts.append((question.id, "question", letters(question.text)))
            self.texts += [(question.id, "reference answer", letters(answer)) for answer in question.references]
        self.known: dict[str, str] = {}  # what was found in a text before
        self.passages = {passage: (id_, kind) for id_, kind, text in self.texts for passage in passages_of(text)}

    def of_example(self, example: ExampleConfig) -> str:
        """Why a worked example would give a measured question or its answer away; "" if it does not."""
        place = f"{example.question}\0{example.answer}"
        if place not in self.known:
            self.known[place] = self._of_example(example)
        return self.known[place]

    def _of_example(self, example: ExampleConfig) -> str:
        mine = {"question": letters(example.question), "reference answer": letters(example.answer)}
        for id_, kind, text in self.texts:
            if text and fuzz.ratio(mine[kind], text, score_cutoff=ALIKE):
                return f"is like the {kind} of {id_!r}"
        return self.within(example.question) or self.within(example.answer)

    def within(self, text: str) -> str:
        """Why a text would; "" if it does not."""
        if text not in self.known:
            self.known[text] = self._question_in(letters(text)) or self.passage_in(text)
        return self.known[text]

    def _question_in(self, whole: str) -> str:
        for id_, kind, known in self.texts:
            if kind == "question" and SHORTEST <= len(known) <= len(whole) and fuzz.partial_ratio(known, whole) >= ALIKE:
                return f"holds the question of {id_!r}"
        return ""

    def passage_in(self, text: str) -> str:
        """Why a text would by what it has word for word; "" if it does not."""
        shared = next((self.passages[passage] for passage in passages_of(letters(text)) if passage in self.passages), None)
        return f"holds a part of the {shared[1]} of {shared[0]!r}" if shared else ""

    def of_prompt(self, prompt: PromptConfig, pieces: Sequence[str] = ()) -> str:
        """Why a prompt would; "" if it does not.

        Args:
            pieces: that its system text was joined of, if it was: each is looked through once in a search of many prompts.
        """
        for number, example in enumerate(prompt.examples, 1):
            if why := self.of_example(example):
                return f"example {number} {why}"
        system = prompt.system or ""
        within = next((why for piece in pieces or [system] if (why := self.within(piece))), "") or self.passage_in(system)
        reasons = {"the system text": within, "the user's turn": self.within(prompt.user)}
        return next((f"{where} {why}" for where, why in reasons.items() if why), "")


def passages_of(text: str) -> list[str]:
    """All parts of a text that are `PASSAGE` letters long."""
    return [text[begin : begin + PASSAGE] for begin in range(len(text) - PASSAGE + 1)]


def letters(text: str) -> str:
    """The letters and digits of a text, in lower case and of one width."""
    return "".join(character for character in unicodedata.normalize("NFKC", text).lower() if character.isalnum())
