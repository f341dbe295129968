"""Numbers that were measured again beside frozen ones: which are inside, by which test, and what that could tell."""

from __future__ import annotations

import io
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from generated_trials import cell

from gpuqa.measure.speed_prediction import next_speed
from gpuqa.measure.speed_tests import SpeedNoise
from gpuqa.records import Answer, Interval
from gpuqa.reproduce import frozen_answers, tell
from gpuqa.selection.against_frozen import TOO_NOISY, FrozenNumber, against_frozen, lines_of, next_text, paired_or_not
from gpuqa.selection.pairing import paired
from gpuqa.study.journal import Journal

NOISE = SpeedNoise(0.02, 4.0, 0.0016, 4, 0.0009, 8, 3.0)
SPEED = {"chars_per_s": 1000.0, "chars_per_s_noise": asdict(NOISE), "chars_per_s_interval": {"low": 1.0, "high": 2.0}}


def answers(scores: list[float], questions: list[str] | None = None) -> list[Answer]:
    rows = zip(scores, questions or map(str, range(len(scores))), strict=True)
    return [Answer(str(place), text, "", "", score, score, "stop", 1, 0.1) for place, (score, text) in enumerate(rows)]


def again(before: list[float], now: list[float], questions: list[str] | None = None, **then: Any) -> list[FrozenNumber]:
    """Both scores measured again, with all answers at hand."""
    values = [dict.fromkeys(("rouge_l_f1_judge", "rouge_l_f1"), sum(scores) / len(scores)) for scores in (before, now)]
    pairs = list(zip(answers(now, questions), answers(before, questions), strict=True))
    return against_frozen({**values[0], **then}, values[1], pairs)


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


def test_a_speed_is_compared_by_the_interval_for_the_passes_here_which_show_how_much_passes_vary_too() -> None:
    [number] = against_frozen(SPEED, {"chars_per_s": 950.0})
    assert number.interval == next_speed(1000.0, 1, NOISE, 1, 0.95)
    for repeats in ([950.0, 950.0, 950.0], [950.0, 600.0, 1500.0]):
        [number] = against_frozen(SPEED, {"chars_per_s": 950.0, "chars_per_s_repeats": repeats})
        assert number.interval == next_speed(1000.0, 1, NOISE.with_passes([math.log(speed) for speed in repeats]), 3, 0.95)
    [number] = against_frozen({**SPEED, "engine_ids": ["a", "a", "b", "b"]}, {"chars_per_s": 950.0})
    assert number.interval == next_speed(1000.0, 2, NOISE, 1, 0.95)
    [number] = against_frozen(SPEED, {"chars_per_s": 0.0, "chars_per_s_repeats": [0.0, 950.0]})
    assert number.inside is False, "a pass without characters"


def test_an_interval_of_more_than_a_factor_of_two_is_no_result_and_a_speed_outside_of_it_is_one() -> None:
    wild = {**SPEED, "chars_per_s_noise": asdict(replace(NOISE, pass_variance=0.05))}
    [number] = against_frozen(wild, {"chars_per_s": 950.0})
    assert (number.noisy, number.inside, number.word, number.ends) == (True, None, "too noisy", "too noisy")
    out = io.StringIO()
    assert tell(wild, [number], out) == 0
    assert "inside:" not in out.getvalue()
    assert f"{TOO_NOISY}: chars_per_s\nreproduced, but for chars_per_s\n" in out.getvalue()
    [number] = against_frozen(wild, {"chars_per_s": 10.0})
    assert (number.inside, number.word, number.ends) == (False, "OUTSIDE", "too noisy")


ONE_START = replace(NOISE, start_squares=0.0, start_freedom=0, pass_variance=0.0001)
SURE = "Its next measurement lies within {} chars/s (95% interval)."
ALIKE = "84% where passes are fast or slow by chance, since 3 repeats on one start may all be alike"
NEXT = {  # speeds, what the study knows of their noise -> what is told
    ((1000.0, 1010.0, 1020.0), NOISE): SURE.format("909 to 1,123"),
    ((1000.0,), None): "Where its next measurement lies is not known: that takes two repeats (workload.repeats).",
    ((1000.0, 2000.0, 3000.0), None): f"Where its next measurement lies is {TOO_NOISY}.",
    ((1000.0, 1010.0, 1020.0), ONE_START): f"Its next measurement lies within 917 to 1,112 chars/s (95% interval; {ALIKE}).",
    ((1000.0, 1010.0) * 3, ONE_START): SURE.format("913 to 1,106"),
}


@pytest.mark.parametrize(("speeds", "noise"), NEXT)
def test_a_winner_says_where_its_next_measurement_lies_and_where_that_is_less_sure(
    speeds: tuple[float, ...], noise: SpeedNoise | None
) -> None:
    measurement = cell(64, list(speeds)).measurement
    assert measurement is not None
    assert next_text(measurement, noise) == NEXT[speeds, noise]


IMPOSSIBLE = {"pass_freedom": 0, "usual_freedom": 0.5, "passes": "3", "usual_sd": 0}


@pytest.mark.parametrize("noise", [None, 3, {}, *({**asdict(NOISE), name: value} for name, value in IMPOSSIBLE.items())])
def test_without_a_noise_that_can_be_the_interval_of_the_file_counts(noise: Any) -> None:
    [number] = against_frozen({**SPEED, "chars_per_s_noise": noise}, {"chars_per_s": 1.5})
    assert (number.interval, number.inside) == (Interval(1.0, 2.0), True)


def test_the_table_says_how_scores_were_compared_and_what_that_can_tell() -> None:
    paired = again([0.5] * 10, [0.4] * 10)
    assert paired_or_not(paired).startswith("scores: paired with the frozen answers, question by question")
    assert lines_of(paired)[2].split() == ["rouge_l_f1", "0.5000", "-0.1000", "to", "-0.1000", "0.4000", "OUTSIDE"]
    [speed, score] = against_frozen(
        {**SPEED, "rouge_l_f1": 0.5, "rouge_l_f1_interval": {"low": 0.3, "high": 0.7}},
        {"chars_per_s": 990.0, "rouge_l_f1": 0.45},
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
    assert tell(then, against_frozen(then, now, pairs), out) == 1
    assert "; not measured here: chars_per_s\nNOT reproduced\n" in out.getvalue()
    assert "outside: rouge_l_f1_judge, rouge_l_f1" in out.getvalue()
    assert "cannot be read" not in out.getvalue()
    assert frozen_answers(content, tmp_path / "elsewhere" / "frozen.yaml", out) == []
    assert "the frozen answers cannot be read beside the file (trials/64none.answers.jsonl)\n" in out.getvalue()
