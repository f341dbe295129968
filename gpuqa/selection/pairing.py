"""The answers of two trials side by side, question by question, and the one test of a score over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gpuqa.measure.statistics import paired_interval, sign_flip_p_value
from gpuqa.records import Answer, Interval

Answers = Mapping[str, Sequence[Answer]]  # of each trial, by its key
AnswerPairs = list[tuple[Answer, Answer]]


class ScorePair(NamedTuple):
    """The values of two trials for one row of a question file."""

    first: float
    second: float
    question: str  # its text, which other rows may repeat


ScorePairs = list[ScorePair]


def paired(first: Sequence[Answer], second: Sequence[Answer], partly: bool = False) -> AnswerPairs:
    """The answers of two trials to the questions that both were asked, in the order of the first's.

    Args:
        partly: each may have been asked questions that the other was not, as in a race. Otherwise there are no pairs unless
            all questions are the same and in the same order, since means over all of them are compared.
    """
    if not partly and [(answer.id, answer.question) for answer in first] != [(answer.id, answer.question) for answer in second]:
        return []
    by_question = {(answer.id, answer.question): answer for answer in second}
    return [(answer, by_question[key]) for answer in first if (key := (answer.id, answer.question)) in by_question]


def scores_of(pairs: Sequence[tuple[Answer, Answer]], name: str = "rouge_l_f1") -> ScorePairs:
    """Both values of a score, where both answers have it."""
    scores = (ScorePair(getattr(first, name), getattr(second, name), first.question) for first, second in pairs)
    return [pair for pair in scores if pair.first is not None and pair.second is not None]


def paired_test(scores: Sequence[ScorePair], scale: float, confidence: float) -> tuple[Interval, float]:
    """How far the first's mean score leads the second's over the same rows: bootstrap interval and sign-flip p-value.

    Rows that repeat a question are resampled and flipped together: they are not so many independent questions.

    Args:
        scale: what the interval's ends are shares of, such as the second's mean; above 0.
    """
    first, second, questions = zip(*scores, strict=True)
    interval = paired_interval(first, second, confidence, questions)
    return Interval(interval.low / scale, interval.high / scale), sign_flip_p_value(first, second, clusters=questions)
