"""Every question of a study with its answers for the report: whose answers find room, and what stands out about each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from gpuqa.records import Answer, Trial
from gpuqa.selection.constraints import baseline_of
from gpuqa.selection.verdict import Standing
from gpuqa.study.page.result import Result

ROOM = 2_500_000  # bytes of answers: with 16 cells of 80 questions the whole page then stays below 3 MB
STRETCH, LEAST_NEW = 8, 0.6  # an answer repeats itself where fewer of its 8-character stretches are different ones


class Texts:
    """Texts, each kept once: cells that differ in an engine's setting mostly give the same answers."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def place(self, text: str) -> int:
        """Where a text is in the list of all."""
        return self.places.setdefault(text, len(self.places))


def answers_of(result: Result, room: int = ROOM) -> dict[str, Any]:
    """The questions, and of each cell its answers in their order.

    All cells where they find room; else only the winner, its baseline and the finalists, in this order and as far as they do.
    `elsewhere` says in which file the others' answers are.
    """
    standings = [standing for standing in result.verdict.standings if result.answers.get(standing.trial.key)]
    rows = questions_of([answer for one in standings for answer in result.answers[one.trial.key]])
    shown = within(standings, result, room)
    texts, order = Texts(), {question: place for place, question in enumerate(rows)}
    cells = {name_of(one): columns_of(result.answers[one.trial.key], order, texts) for one in shown}
    elsewhere = {name_of(one): f"trials/{one.trial.key[:16]}.answers.jsonl" for one in standings if one not in shown}
    return {"questions": list(rows.values()), "cells": cells, "texts": list(texts.places), "elsewhere": elsewhere}


def name_of(standing: Standing) -> str:
    """By which a cell's answers are found."""
    return standing.trial.name


def within(standings: Sequence[Standing], result: Result, room: int) -> list[Standing]:
    """The cells whose answers are shown."""
    sizes = {one.trial.key: size_of(result.answers[one.trial.key]) for one in standings}
    if sum(sizes.values()) <= room:
        return list(standings)
    baseline = baseline_of_winner(result)
    shown, used = list[Standing](), 0
    for one in sorted(standings, key=lambda one: (one.trial is not result.verdict.winner, one.trial is not baseline)):
        of_note = one.trial is result.verdict.winner or one.trial is baseline or one.trial in finalists_of(result)
        if of_note and used + sizes[one.trial.key] <= room:
            shown.append(one)
            used += sizes[one.trial.key]
    return [one for one in standings if one in shown]


def baseline_of_winner(result: Result) -> Trial | None:
    """The unquantized trial that is otherwise the winner; without a winner, of the first trial."""
    trials = [one.trial for one in result.verdict.standings]
    of = result.verdict.winner or next(iter(trials), None)
    return baseline_of(of, trials, result.rule) if of and result.rule else None


def finalists_of(result: Result) -> list[Trial]:
    """The trials that were measured again; where none were, those that the first was compared with."""
    verdict = result.verdict
    return [trial for trial in [verdict.first, *(comparison.other for comparison in verdict.comparisons)] if trial]


def size_of(answers: Sequence[Answer]) -> int:
    """Bytes that a cell's answers take in the page, about."""
    return sum(len(json.dumps(answer.answer, ensure_ascii=False).encode(errors="replace")) + 60 for answer in answers)


def questions_of(answers: Sequence[Answer]) -> dict[tuple[str, str], dict[str, Any]]:
    """Every question that any cell was asked, by its id and text, in the order of the first cell."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    texts: set[str] = set()
    for answer in answers:
        if (key := (answer.id, answer.question)) not in rows:
            references = [answer.reference, *answer.other_references]
            rows[key] = {"id": answer.id, "text": answer.question, "references": references, "again": answer.question in texts}
            texts.add(answer.question)
    return rows


def columns_of(answers: Sequence[Answer], order: dict[tuple[str, str], int], texts: Texts) -> dict[str, list[Any]]:
    """A cell's answers as columns over all questions; None where it was not asked one. A race may have asked one twice."""
    by_place: dict[int, Answer] = {order[answer.id, answer.question]: answer for answer in answers}
    rows = [by_place.get(place) for place in range(len(order))]
    columns: dict[str, Callable[[Answer], Any]] = {
        "text": lambda answer: texts.place(answer.answer),
        "rouge_l_f1_judge": lambda answer: rounded(answer.rouge_l_f1_judge),
        "rouge_l_f1": lambda answer: rounded(answer.rouge_l_f1),
        "tokens": lambda answer: answer.output_tokens,
        "ms": lambda answer: round(answer.latency_s * 1000, 1),
        "end": lambda answer: answer.finish_reason,
        "error": lambda answer: answer.error,
        "loops": lambda answer: repeats_itself(answer.answer),
    }
    return {name: [None if answer is None else value_of(answer) for answer in rows] for name, value_of in columns.items()}


def rounded(score: float | None) -> float | None:
    """A score with as many digits as anybody reads."""
    return None if score is None else round(score, 4)


def repeats_itself(text: str) -> bool:
    """Whether an answer says the same again and again, as small models do that do not find their end."""
    stretches = [text[place : place + STRETCH] for place in range(len(text) - STRETCH + 1)]
    return len(stretches) >= 2 * STRETCH and len(set(stretches)) < LEAST_NEW * len(stretches)
