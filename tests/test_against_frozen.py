"""Numbers that were measured again beside frozen ones: which are inside, by which test, and what that could tell."""

from __future__ import annotations

import io
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from generated_trials import cell

from gpuqa.measure.speed_prediction import SpeedNoise, next_speed
from gpuqa.records import Answer, Interval
from gpuqa.reproduce import frozen_answers, tell
from gpuqa.selection.against_frozen import FrozenNumber, against_frozen, lines_of, paired_or_not
from gpuqa.selection.pairing import paired
from gpuqa.study.journal import Journal

NOISE = SpeedNoise(0.0004, 0.0009, 6.0, 3.0)
SPEED = {"chars_per_s": 1000.0, "chars_per_s_noise": asdict(NOISE), "chars_per_s_interval": {"low": 1.0, "high": 2.0}}


def answers(scores: list[float], questions: list[str] | None = None) -> list[Answer]:
    rows = zip(scores, questions or map(str, range(len(scores))), strict=True)
    return [Answer(str(place), text, "", "", score, score, "stop", 1, 0.1) for place, (score, text) in enumerate(rows)]


def again(before: list[float], now: list[float], questions: list[str] | None = None, **then: Any) -> list[FrozenNumber]:
    """Both scores measured again, with all answers at hand."""
    values = [dict.fromkeys(("rouge_l_f1_judge", "rouge_l_f1"), sum(scores) / len(scores)) for scores in (before, now)]
    pairs = list(zip(answers(now, questions), answers(before, questions), strict=True))
    return against_frozen({**values[0], **then}, values[1], 1, pairs)


@pytest.mark.parametrize("questions", [24, 80])
def test_a_machine_that_makes_every_answer_10_percent_worse_is_outside_and_the_same_answers_are_inside(questions: int) -> None:
    before = [0.1 + 0.8 * (place % 7) / 6 for place in range(questions)]
    mean = sum(before) / questions
    wide = {f"{name}_interval": {"low": 0.5 * mean, "high": 1.5 * mean} for name in ("rouge_l_f1_judge", "rouge_l_f1")}
    assert [number.inside for number in again(before, [0.9 * score for score in before], **wide)] == [False, False]
    assert [number.inside for number in again(before, before)] == [True, True]
    other = [score + 0.1 * (-1) ** place for place, score in enumerate(before)]
    assert [number.inside for number in again(before, other)] == [True, True], "as many better as worse"


def test_rows_that_repeat_a_question_count_once() -> None:
    questions = list("aaaaaabbbbbb")
    assert [number.p_value for number in again([0.5] * 12, [0.4] * 12, questions)] == [None, None], "two are too few"


def test_answers_that_the_frozen_score_is_not_of_are_not_paired_with() -> None:
    [_, number] = again([0.5] * 10, [0.4] * 10, rouge_l_f1=0.9, rouge_l_f1_interval={"low": 0.89, "high": 0.91})
    assert (number.p_value, number.inside) == (None, False)


def test_a_speed_is_compared_by_the_interval_for_as_many_passes_as_there_are_here() -> None:
    for passes in (1, 3):
        [number] = against_frozen(SPEED, {"chars_per_s": 950.0}, passes)
        assert number.interval == next_speed(1000.0, 1, NOISE, passes, 0.95)
    [number] = against_frozen({**SPEED, "engine_ids": ["a", "a", "b", "b"]}, {"chars_per_s": 950.0}, 3)
    assert number.interval == next_speed(1000.0, 2, NOISE, 3, 0.95)


@pytest.mark.parametrize(
    "noise", [None, 3, {}, {**asdict(NOISE), "freedom": 0.5}, {**asdict(NOISE), "passes": 0}, {**asdict(NOISE), "passes": "3"}]
)
def test_without_a_noise_that_can_be_the_interval_of_the_file_counts(noise: Any) -> None:
    [number] = against_frozen({**SPEED, "chars_per_s_noise": noise}, {"chars_per_s": 1.5}, 3)
    assert (number.interval, number.inside) == (Interval(1.0, 2.0), True)


def test_the_table_says_how_scores_were_compared_and_what_that_can_tell() -> None:
    paired = again([0.5] * 10, [0.4] * 10)
    assert paired_or_not(paired).startswith("scores: paired with the frozen answers, question by question")
    assert lines_of(paired)[2].split() == ["rouge_l_f1", "0.5000", "-0.1000", "to", "-0.1000", "0.4000", "OUTSIDE"]
    [speed, score] = against_frozen(
        {**SPEED, "rouge_l_f1": 0.5, "rouge_l_f1_interval": {"low": 0.3, "high": 0.7}},
        {"chars_per_s": 990.0, "rouge_l_f1": 0.45},
        3,
    )
    unpaired = (
        "scores: not paired (that takes the frozen answers to 7 different questions), so only a large fall would be OUTSIDE"
    )
    assert paired_or_not([speed, score]) == f"{unpaired}: rouge_l_f1 by 40%"
    assert score.inside, "which is what a fall by 10 % does to the interval of other questions"
    assert paired_or_not([speed]) == paired_or_not([replace(score, interval=None)]) == ""


def test_reproduce_pairs_with_the_answers_beside_the_file_and_says_where_there_are_none(tmp_path: Path) -> None:
    before, trial = answers([0.5] * 10), cell(64, [1000.0, 1010.0, 1020.0], rouge_l_f1=0.5, rouge_l_f1_judge=0.5)
    Journal(tmp_path).write(trial, before)
    content, file, out = {"trial": trial.key}, tmp_path / "frozen.yaml", io.StringIO()
    pairs = paired(answers([0.45] * 10), frozen_answers(content, file, out))
    then, now = asdict(trial.measurement), {"rouge_l_f1": 0.45, "rouge_l_f1_judge": 0.45}
    assert tell(then, against_frozen(then, now, 3, pairs), out) == 1
    assert "; not measured here: chars_per_s\nNOT reproduced\n" in out.getvalue()
    assert "outside: rouge_l_f1_judge, rouge_l_f1" in out.getvalue()
    assert "cannot be read" not in out.getvalue()
    assert frozen_answers(content, tmp_path / "elsewhere" / "frozen.yaml", out) == []
    assert "the frozen answers cannot be read beside the file (trials/64none.answers.jsonl)\n" in out.getvalue()
