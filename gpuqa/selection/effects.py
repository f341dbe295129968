"""What the values of a study's axes do: main effects and interactions, each with an interval.

A main effect compares all cells that have one value of an axis with those that have its reference value and are otherwise the
same: the mean over these pairs. An interaction is how much of that depends on the value of another axis: the mean over squares
of four cells of a difference of differences. Both are about the cells of this study, not about others.

Speeds are compared as logarithms. Cells of one engine took turns, so a slow minute, or a slow start of the engine, that hits
all of them alike is no effect: what counts is how rounds differ. Cells of two engines differ by the luck of both starts as well
(`gpuqa.measure.speed_tests`). Scores are compared question by question.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean

import numpy as np

from gpuqa.config.measurement import SelectionConfig
from gpuqa.measure.paired import moderated_mean
from gpuqa.measure.speed_tests import StartNoise, Starts, speed_noise, starts_of
from gpuqa.measure.statistics import Estimate, added, holm
from gpuqa.records import Answer, Interval, Trial
from gpuqa.selection.comparison import relative, relative_interval
from gpuqa.selection.pairing import Answers
from gpuqa.selection.ratios import USUAL_SD

CONFIDENCE = 0.95  # of each interval by itself; of all effects in one quantity together, whether they are shown
SCORES = ("rouge_l_f1", "rouge_l_f1_judge")
QUANTITIES = ("chars_per_s", *SCORES)


@dataclass(frozen=True, slots=True)
class Change:
    """One value of an axis against the axis's reference value."""

    axis: str
    value: str
    reference: str


@dataclass(frozen=True, slots=True)
class Tested:
    """An effect on one quantity, as a share: 0.12 is 12 % more. No interval where no test is possible."""

    share: float
    interval: Interval | None = None
    p_value: float | None = None  # by Holm's method for all effects of its kind on this quantity
    shown: bool = False


@dataclass(frozen=True, slots=True)
class Effect:
    """What one change does (a main effect), or what two do together beyond both alone (an interaction)."""

    changes: tuple[Change, ...]
    groups: int  # pairs of cells, or squares of four, that it is the mean of
    on: Mapping[str, Tested]  # quantity -> effect on it; none where a quantity is not known for all cells


@dataclass(frozen=True, slots=True)
class Contrast:
    """Cells and how they are weighed."""

    changes: tuple[Change, ...]
    weights: dict[str, float]  # of each trial by its key; they add up to 0
    reference: list[Trial]  # the cells with all reference values
    groups: int


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells that were measured in full, and what they are compared by."""

    trials: dict[str, Trial]  # by key
    answers: Answers
    usual: StartNoise


def effects_of(
    first_round: Sequence[Trial], rule: SelectionConfig, answers: Answers, usual: StartNoise | None = None
) -> list[Effect]:
    """All main effects, then all interactions of two axes, in the order of the axes and their values.

    Args:
        first_round: the trials of the first round, where every cell had as many passes; failed and dropped ones have no part.
    """
    measured = [trial for trial in first_round if trial.measurement]
    cells = Cells({trial.key: trial for trial in measured}, answers, usual or StartNoise())
    changes = changes_of(measured, rule)
    pairs = [both for both in combinations(changes, 2) if both[0].axis != both[1].axis]
    effects = []
    for kind in ([(change,) for change in changes], pairs):
        contrasts = [contrast for both in kind if (contrast := contrast_of(both, measured))]
        effects += corrected([effect_of(contrast, cells) for contrast in contrasts])
    return effects


def changes_of(trials: Sequence[Trial], rule: SelectionConfig) -> list[Change]:
    """Every value of every axis but its reference: the unquantized baseline, else the value that the study names first."""
    values: dict[str, list[str]] = {}
    for axis, value in (item for trial in trials for item in trial.axes.items()):
        if value not in values.setdefault(axis, []):
            values[axis].append(value)
    references = {
        axis: rule.baseline_quantization if rule.baseline_quantization in of else of[0] for axis, of in values.items()
    }
    return [Change(axis, value, references[axis]) for axis, of in values.items() for value in of if value != references[axis]]


def contrast_of(changes: tuple[Change, ...], trials: Sequence[Trial]) -> Contrast | None:
    """The cells that tell an effect; None where there is no pair (or square) that differs in it alone."""
    by_axes = {frozenset(trial.axes.items()): trial for trial in trials}
    groups = []
    for trial in trials:
        if all(trial.axes.get(change.axis) == change.reference for change in changes):
            corners = [(trial.axes, 1.0)]
            for change in changes:
                corners = [
                    (axes | {change.axis: value}, sign * side)
                    for axes, sign in corners
                    for value, side in ((change.value, 1.0), (change.reference, -1.0))
                ]
            known = [(by_axes.get(frozenset(axes.items())), sign) for axes, sign in corners]
            if all(corner is not None for corner, _ in known):
                groups.append((trial, [(corner.key, sign) for corner, sign in known if corner]))
    if not groups:
        return None
    weights = {key: sign / len(groups) for _, corners in groups for key, sign in corners}
    return Contrast(changes, weights, [trial for trial, _ in groups], len(groups))


def effect_of(contrast: Contrast, cells: Cells) -> Effect:
    """An effect on every quantity that is known of all its cells; `p_value` as if there were no other effect."""
    on = {"chars_per_s": on_speed(contrast, cells), **{name: on_score(contrast, cells, name) for name in SCORES}}
    return Effect(contrast.changes, contrast.groups, {name: tested for name, tested in on.items() if tested})


def on_speed(contrast: Contrast, cells: Cells) -> Tested | None:
    """The effect on chars/s; None where a cell gave no characters."""
    numbers = {key: cells.trials[key].measurement for key in contrast.weights}
    starts = {key: found for key, one in numbers.items() if one and (found := starts_of(one, key))}
    if len(starts) < len(contrast.weights):
        return None
    logs = sum(weight * fmean(map(fmean, starts[key].values())) for key, weight in contrast.weights.items())
    error = error_of(contrast.weights, starts, cells.usual)
    if error is None:
        return Tested(relative(logs))
    estimate = replace(error, difference=logs)
    return Tested(relative(logs), relative_interval(estimate, CONFIDENCE), estimate.p_value)


def error_of(weights: Mapping[str, float], starts: Mapping[str, Starts], usual: StartNoise) -> Estimate | None:
    """The error of a weighted sum of log speeds, as an estimate of 0; None without two passes of each cell on its start.

    On one start the weights are split in two: their sum, which the luck of the start counts with, and the rest, in which all
    that hits the cells of a round alike cancels out.
    """
    noise = speed_noise(list(starts.values()), usual)
    if noise is None:
        return None
    between, rounds = 0.0, list[Estimate]()
    for engine in {engine for cell in starts.values() for engine in cell}:
        shares = {key: weights[key] / len(cell) for key, cell in starts.items() if engine in cell}
        whole, passes = sum(shares.values()), min(len(starts[key][engine]) for key in shares)
        between += whole**2 * noise.variance(passes)
        rest = {key: share - whole / len(shares) for key, share in shares.items()}
        if all(abs(share) < 1e-12 for share in rest.values()):
            continue
        if passes < 2:
            return None
        values = [sum(share * starts[key][engine][place] for key, share in rest.items()) for place in range(passes)]
        rounds.append(Estimate(0.0, float(np.std(values, ddof=1)) / math.sqrt(passes), passes - 1))
    whole_error = Estimate(0.0, math.sqrt(between), noise.freedom)
    for within in rounds:
        whole_error = added(whole_error, within)
    return whole_error


def on_score(contrast: Contrast, cells: Cells, name: str) -> Tested | None:
    """The effect on the mean of a score, over the questions that all its cells answered; None without any."""
    rows = {key: scores_of_trial(cells.answers.get(key, ()), name) for key in contrast.weights}
    questions = [question for question in next(iter(rows.values())) if all(question in row for row in rows.values())]
    scale = fmean([rows[trial.key][question] for trial in contrast.reference for question in questions] or [0.0])
    if not scale:
        return None
    values = [sum(weight * rows[key][question] for key, weight in contrast.weights.items()) for question in questions]
    texts = [text for _, text in questions]
    if len(set(texts)) < 2:
        return Tested(fmean(values) / scale)
    estimate = moderated_mean(values, texts, USUAL_SD["rouge_l_f1"] * scale)
    interval = estimate.interval(CONFIDENCE)
    return Tested(estimate.difference / scale, Interval(interval.low / scale, interval.high / scale), estimate.p_value)


def scores_of_trial(answers: Sequence[Answer], name: str) -> dict[tuple[str, str], float]:
    """A trial's scores by the id and the text of their questions."""
    rows = {(answer.id, answer.question): getattr(answer, name) for answer in answers}
    return {question: score for question, score in rows.items() if score is not None}


def corrected(effects: Sequence[Effect]) -> list[Effect]:
    """Effects of one kind, their p-values corrected for their number, and which of them are shown."""
    for name in QUANTITIES:
        tested = [effect.on[name] for effect in effects if name in effect.on and effect.on[name].p_value is not None]
        for one, p_value in zip(tested, holm([one.p_value or 0.0 for one in tested]), strict=True):
            shown = replace(one, p_value=p_value, shown=p_value <= 1 - CONFIDENCE)
            effects = [
                replace(effect, on={**effect.on, name: shown}) if effect.on.get(name) is one else effect for effect in effects
            ]
    return list(effects)
