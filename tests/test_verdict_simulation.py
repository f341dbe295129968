"""How often a verdict is right, on generated studies whose truth is known; every number here is seeded.

The noise is that of real machines: a MAD of 8 % between repeats, normal on the log scale. The rates stand in the README
and in experiments/LOG.md; run this file with `-s` to see them.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from generated_trials import RULE, cell

from gpuqa.config.measurement import ConstraintTest
from gpuqa.config.paths import PACKAGE
from gpuqa.measure.rouge import cut, score
from gpuqa.measure.statistics import trend
from gpuqa.records import Answer
from gpuqa.selection.comparison import speed
from gpuqa.selection.verdict import Outcome, decide
from gpuqa.study import finalists

pytestmark = [pytest.mark.slow, pytest.mark.no_cover]

NOISE = 0.08 * 1.4826  # standard deviation of log speed whose median absolute deviation is 8 %
STUDIES = 1000
LATIN = re.compile("[a-zA-Z0-9]")


def outcomes(cells: int, repeats: int, faster: float = 0.0, noise: float = NOISE) -> list[tuple[Outcome | None, bool]]:
    """Of many studies: the outcome, and whether the cell that is truly `faster` won (the last, so not the simplest)."""
    generator = np.random.default_rng([cells, repeats, round(faster * 1000)])
    found = []
    for _ in range(STUDIES):
        speeds = np.exp(generator.normal(math.log(10_000), noise, size=(cells, repeats)))
        speeds[-1] *= 1 + faster
        trials = [cell(number, row.tolist()) for number, row in enumerate(speeds)]
        verdict = decide(trials, RULE)
        found.append((verdict.outcome, verdict.winner is trials[-1]))
    return found


def rate(found: list[tuple[Outcome | None, bool]], holds: Callable[[Outcome | None, bool], bool]) -> float:
    return sum(holds(outcome, right) for outcome, right in found) / len(found)


@pytest.mark.parametrize(("cells", "repeats"), [(2, 2), (2, 3), (2, 5), (2, 10), (4, 3), (8, 3)])
def test_a_study_of_equal_cells_declares_a_win_in_at_most_one_of_twenty(cells: int, repeats: int) -> None:
    found = outcomes(cells, repeats)
    shares = {one.name: rate(found, lambda outcome, _, one=one: outcome is one) for one in Outcome}  # type: ignore[misc]
    print(f"A/A, {cells} cells, {repeats} repeats: {shares}")
    assert shares["WIN"] <= 0.05


@pytest.mark.parametrize(
    ("faster", "repeats", "least"),
    [(0.05, 3, 0.015), (0.05, 5, 0.03), (0.05, 10, 0.07), (0.2, 3, 0.12), (0.2, 5, 0.4), (0.2, 10, 0.8)],
)
def test_a_true_difference_is_found_at_a_known_rate(faster: float, repeats: int, least: float) -> None:
    found = outcomes(2, repeats, faster)
    won = rate(found, lambda outcome, right: outcome is Outcome.WIN and right)
    wrong = rate(found, lambda outcome, right: outcome is Outcome.WIN and not right)
    named = rate(found, lambda _, right: right)
    print(f"{faster:.0%} faster, {repeats} repeats: WIN {won:.1%}, WIN of the slower {wrong:.1%}, named anyhow {named:.1%}")
    assert won >= least
    assert wrong <= 0.025


def test_a_quiet_machine_finds_five_percent_with_three_repeats() -> None:
    found = outcomes(2, 3, 0.05, noise=0.01 * 1.4826)
    won = rate(found, lambda outcome, right: outcome is Outcome.WIN and right)
    print(f"5% faster, 3 repeats, MAD 1%: WIN {won:.1%}")
    assert won >= 0.55


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
    false, noisy, quiet = drifting(0, NOISE, 1000), drifting(-0.1, NOISE, 300), drifting(-0.1, 0.02 * 1.4826, 100)
    split = drifting(-0.1, 0.02 * 1.4826, 300, engines=4)
    print(f"drift flagged: none {false:.1%}; -10% over 16 x 3 passes, MAD 8% {noisy:.1%}, MAD 2% {quiet:.1%}, ", end="")
    print(f"on four engines, MAD 2% {split:.1%}")
    assert 0.015 <= false <= 0.045, "1 - selection.confidence"
    assert noisy >= 0.2
    assert quiet >= 0.95


@pytest.mark.parametrize(("cells", "spread"), [(8, 0.0), (16, 0.0), (16, 0.05)], ids=["8 equal", "16 equal", "16, sd 5 %"])
def test_the_winners_number_is_too_good_in_the_first_round_and_right_when_it_is_measured_again(
    cells: int, spread: float
) -> None:
    generator = np.random.default_rng([cells, round(spread * 100)])
    first_bias, fresh_bias, wins = [], [], 0
    for _ in range(STUDIES):
        truth = np.exp(generator.normal(math.log(10_000), spread, size=cells))
        rounds = truth[:, None] * np.exp(generator.normal(0, NOISE, size=(2, cells, 3)))
        trials = [cell(number, row.tolist()) for number, row in enumerate(rounds[0])]
        chosen = finalists.finalists(trials, RULE, {}, 3).finalists
        fresh = {one.key: cell(trials.index(one), rounds[1, trials.index(one)].tolist()) for one in chosen}
        assert chosen[0] is max(trials, key=speed)
        verdict = decide([finalists.replaced(one, fresh.get(one.key)) for one in trials], RULE)
        assert verdict.winner is not None
        assert verdict.winner.key in fresh, "whoever was measured once cannot win over whoever was measured again"
        best = trials.index(chosen[0])
        first_bias.append(math.log(speed(chosen[0]) / truth[best]))
        fresh_bias.append(math.log(speed(fresh[chosen[0].key]) / truth[best]))
        wins += verdict.outcome is Outcome.WIN and verdict.first.key == verdict.winner.key
    error = float(np.std(fresh_bias)) / math.sqrt(STUDIES)
    print(f"{cells} cells, sd {spread:.0%}: the first of the first round is {np.mean(first_bias):+.1%} off in it, ", end="")
    print(f"{np.mean(fresh_bias):+.1%} (error {error:.1%}) measured again; WIN {wins / STUDIES:.1%}")
    assert np.mean(first_bias) > 0.05
    assert abs(np.mean(fresh_bias)) < 3 * error
    if spread == 0:
        assert wins <= 0.05 * STUDIES


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
