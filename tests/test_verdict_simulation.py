"""How often a verdict is right, on generated studies whose truth is known; every number here is seeded.

A slice of the simulations that `make simulations` runs as a whole; docs/verdict.md has their tables. Run this file with `-s` to
see the rates of the slice.
"""

from __future__ import annotations

import functools
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from generated_trials import RULE, cell

from gpuqa.config.measurement import ConstraintTest
from gpuqa.config.paths import PACKAGE
from gpuqa.measure.rouge import cut, score
from gpuqa.measure.statistics import trend
from gpuqa.records import Answer
from gpuqa.selection.decision import decide
from gpuqa.selection.verdict import Outcome
from gpuqa.study.finals import MOST_ON_A_START

sys.path.insert(0, str(ROOT / "experiments" / "verdict"))
import simulate

pytestmark = [pytest.mark.slow, pytest.mark.no_cover]

NOISE = 0.08 * 1.4826  # standard deviation of log speed whose median absolute deviation is 8 %
STUDIES = 100  # in a slice; the whole has ten times as many
LATIN = re.compile("[a-zA-Z0-9]")


def binomial(share: float, studies: int = STUDIES) -> float:
    """What a share that holds on average is exceeded by in one of a thousand slices."""
    return share + 3.1 * math.sqrt(share * (1 - share) / studies)


@pytest.mark.parametrize("noise", simulate.NOISES)
def test_equal_cells_seldom_get_a_win_on_one_engine_and_on_two_however_their_starts_differ(noise: str) -> None:
    draws = simulate.draws
    one = [simulate.one_engine(draw, simulate.NOISES[noise], 0.0).won for draw in draws(STUDIES)]
    assert np.mean(one) <= binomial(0.03)
    for a_start in (simulate.FEW, MOST_ON_A_START):
        two = [simulate.two_engines(draw, simulate.NOISES[noise], 0.0, 0.03, a_start).won for draw in draws(STUDIES)]
        print(f"{noise}: false WIN {np.mean(one):.1%} on one engine, {np.mean(two):.1%} on two, starts of {a_start} passes")
        assert np.mean(two) <= binomial(0.05)


def test_slow_stretches_do_not_hide_a_lead_of_five_percent_on_one_engine() -> None:
    ended = [simulate.one_engine(draw, simulate.slow_stretches, 0.05) for draw in simulate.draws(STUDIES)]
    won, rounds = np.mean([study.right for study in ended]), np.mean([study.cost for study in ended])
    print(f"5 % faster, slow stretches: WIN {won:.1%} at {rounds:.1f} rounds")
    assert won >= 0.85
    assert rounds <= 18
    assert not any(study.won and not study.right for study in ended)


@pytest.mark.parametrize("noise", ["quiet (sd 1.6 %)", "normal (sd 12 %)", "bimodal, 50 % slow"])
def test_a_lead_of_ten_percent_between_engines_is_found_where_starts_differ_by_one(noise: str) -> None:
    ended = [simulate.two_engines(draw, simulate.NOISES[noise], 0.1, 0.01) for draw in simulate.draws(STUDIES)]
    print(f"10 % faster, two engines, start sd 1 %, {noise}: WIN {np.mean([study.right for study in ended]):.1%}")
    assert np.mean([study.right for study in ended]) >= 0.95


def test_the_frozen_speed_is_not_that_of_the_passes_that_chose_it() -> None:
    off = np.array([simulate.frozen_bias(draw, simulate.normal) for draw in simulate.draws(2 * STUDIES)])
    first_round, finals, frozen = off.mean(axis=0)
    error = off[:, 2].std() / math.sqrt(len(off))
    print(f"noise 12 %: the winner is {first_round:+.1%} off in the first round, {finals:+.1%} in the finals, ", end="")
    print(f"{frozen:+.1%} frozen")
    assert first_round > 0.05
    assert abs(frozen) <= 3 * error


@pytest.mark.parametrize("cells", [4, 8])
def test_more_equal_cells_in_the_first_round_get_no_more_wins(cells: int) -> None:
    generator, wins = np.random.default_rng(cells), 0
    for _ in range(STUDIES):
        speeds = np.exp(generator.normal(math.log(10_000), NOISE, size=(cells, 3)))
        wins += decide([cell(number, row.tolist()) for number, row in enumerate(speeds)], RULE).outcome is Outcome.WIN
    assert wins / STUDIES <= binomial(0.03)


def drifting(drift: float, noise: float, studies: int, engines: int = 1) -> float:
    """How often a verdict flags a drift in studies of 16 cells x 3 repeats that take turns on each engine."""
    generator, flagged = np.random.default_rng([round(abs(drift) * 1000), engines]), 0
    for _ in range(studies):
        when, rows, size = np.arange(48.0), [], 16 // engines
        for engine in range(engines):
            order = np.concatenate([engine * size * 3 + turn * size + generator.permutation(size) for turn in range(3)])
            rows += order.reshape(3, size).T.tolist()
        moments = [when[np.asarray(row, dtype=int)] for row in rows]
        level = np.exp(generator.normal(0, 0.3, size=16))
        speeds = [
            one * (1 + drift) ** (moment / 47) * np.exp(generator.normal(0, noise, size=3))
            for one, moment in zip(level, moments, strict=True)
        ]
        found = trend([moment.tolist() for moment in moments], [speed.tolist() for speed in speeds])
        assert found is not None
        flagged += found.p_value <= 1 - RULE.confidence
    return flagged / studies


def test_a_drift_is_flagged_where_there_is_one_and_elsewhere_at_the_stated_rate() -> None:
    false, noisy, quiet = drifting(0, NOISE, 300), drifting(-0.1, NOISE, 100), drifting(-0.1, 0.02 * 1.4826, 50)
    split = drifting(-0.1, 0.02 * 1.4826, 100, engines=4)
    print(f"drift flagged: none {false:.1%}; -10% over 16 x 3 passes, MAD 8% {noisy:.1%}, MAD 2% {quiet:.1%}, ", end="")
    print(f"on four engines, MAD 2% {split:.1%}")
    assert false <= binomial(0.03, 300), "1 - selection.confidence"
    assert noisy >= 0.2
    assert quiet >= 0.95


REFERENCES = [cut(row["output"]).chinese for row in json.loads((PACKAGE / "embedded/questions/test.json").read_text("utf-8"))]


def good_text(generator: np.random.Generator, reference: tuple[str, ...]) -> list[str]:
    """A reference of which half of the words came out differently: rouge_l_f1 near 0.5."""
    lost = generator.random(len(reference)) < 0.5
    return ["别的" if gone else word for word, gone in zip(reference, lost, strict=True)]


def cut_short(generator: np.random.Generator, reference: tuple[str, ...]) -> list[str]:
    """The first quarter of a good answer."""
    return good_text(generator, reference[: len(reference) // 4])


def nonsense(_: np.random.Generator, reference: tuple[str, ...]) -> list[str]:
    """Every API word of the reference in its order, and gibberish in between: the judge gives it full marks."""
    return [word if LATIN.search(word) else "啊" for word in reference]


@functools.cache
def answered(seed: int, write: Callable[[np.random.Generator, tuple[str, ...]], list[str]]) -> list[Answer]:
    """Answers of one kind to the shipped test questions, with their real scores."""
    generator, answers = np.random.default_rng(seed), []
    ends = "length" if write is cut_short else "stop"
    for number, words in enumerate(REFERENCES):
        reference, text = " ".join(words), " ".join(write(generator, words))
        scores = score(cut(reference), cut(text))
        answers.append(Answer(f"{number}", f"问 {number}", reference, text, scores.judge, scores.chinese, ends, 9, 0.1))
    return answers


def numbers_of(answers: list[Answer]) -> dict[str, Any]:
    """What a measurement says about answers."""
    return {
        "questions": len(answers),
        "rouge_l_f1_judge": float(np.mean([one.rouge_l_f1_judge for one in answers])),
        "rouge_l_f1": float(np.mean([one.rouge_l_f1 for one in answers])),
        "answer_chars_mean": float(np.mean([len(one.answer) for one in answers])),
        "truncated_fraction": float(np.mean([one.finish_reason == "length" for one in answers])),
        "answers_empty": sum(not one.answer for one in answers),
    }


@pytest.mark.parametrize("test", list(ConstraintTest), ids=lambda test: test.name)
@pytest.mark.parametrize("quantization", ["fp8", "none"])  # with an unquantized cell beside it, and without one
@pytest.mark.parametrize("write", [cut_short, nonsense])
def test_a_fast_but_broken_cell_never_wins(
    write: Callable[[np.random.Generator, tuple[str, ...]], list[str]], quantization: str, test: ConstraintTest
) -> None:
    for seed in range(5):
        good, bad = answered(seed, good_text), answered(seed, write)
        speeds = np.random.default_rng(seed).normal(10_000, 300, size=(2, 3))
        sound = cell(64, speeds[0].tolist(), **numbers_of(good))
        broken = cell(64 if quantization == "fp8" else 32, (3 * speeds[1]).tolist(), quantization, **numbers_of(bad))
        verdict = decide([broken, sound], replace(RULE, constraint_test=test), {sound.key: good, broken.key: bad})
        assert verdict.winner is sound, numbers_of(bad)
        if write is nonsense:
            assert numbers_of(bad)["rouge_l_f1_judge"] > numbers_of(good)["rouge_l_f1_judge"], "the judge would take it"


def test_a_quantized_cell_whose_answers_are_the_same_is_let_in_by_every_test() -> None:
    good = answered(0, good_text)
    sound, quick = cell(64, [1000, 1010, 1020], **numbers_of(good)), cell(64, [3000, 3010, 3020], "fp8", **numbers_of(good))
    for test in ConstraintTest:
        assert decide([sound, quick], replace(RULE, constraint_test=test), {sound.key: good, quick.key: good}).winner is quick
