"""What a few passes show of a cell: bounds on what it would reach with all questions and all repeats.

Scores of a slice are compared question by question with those of others. Speeds are compared in logs, and only like with
like. A batch of sixteen questions is not as fast as one of four hundred, and how much faster the whole is depends on the
engine's settings; so the speed of a slice says nothing beside another engine's. What is compared is a forecast: the slice's
speed times what cells on the same engine gained from that slice to all questions. The first cell of an engine that is
measured on all questions gives that gain (two on the first engine, or one pass that stalled would count against every other
cell); how far gains differ between cells is learnt from all cells that were measured both ways.

Bounds are one-sided t bounds. Few values know their own variance badly, so it is drawn towards what such values usually
have (`gpuqa.measure.paired`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from gpuqa.measure.paired import PRIOR_FREEDOM, moderated_mean
from gpuqa.measure.statistics import Estimate, added, t_quantile, times
from gpuqa.records import Answer, Measurement, Trial
from gpuqa.selection.pairing import paired, scores_of

USUAL_REPEAT_SD = 0.05  # of log speed between repeats
USUAL_GAIN_SD = 0.18  # of the log of the gain from a slice to all questions, between cells of one engine (tests/traces/wide)
USUAL_SCORE_SD = 0.15  # of an answer's score, and of the difference of two


@dataclass(frozen=True, slots=True)
class SlicePass:
    """One pass over a slice of the questions."""

    measurement: Measurement
    answers: Sequence[Answer]

    @property
    def log(self) -> float | None:
        """Log of its speed; None where nothing was answered."""
        return math.log(self.measurement.chars_per_s) if self.measurement.chars_per_s > 0 else None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One cell and all that is known of it."""

    trial: Trial  # its measurement holds the passes over all questions so far; None before the first
    engine: str
    questions: int  # of the whole dataset
    slice_passes: tuple[SlicePass, ...] = ()
    answers: Sequence[Answer] = field(default=())  # to all questions

    @property
    def key(self) -> str:
        """The trial's."""
        return self.trial.key

    @property
    def repeats(self) -> int:
        """How many passes over all questions it has."""
        return self.trial.measurement.repeats if self.trial.measurement else 0

    @property
    def logs(self) -> list[float]:
        """The logarithm of the speed (chars/s) of each pass over all questions; a pass without a character has none."""
        speeds = self.trial.measurement.chars_per_s_repeats if self.trial.measurement else []
        return [math.log(speed) for speed in speeds if speed > 0]

    @property
    def known(self) -> Sequence[Answer]:
        """The answers that are there: to all questions if it was asked them, else to those of its slices."""
        return self.answers or [answer for slice_pass in self.slice_passes for answer in slice_pass.answers]


@dataclass(frozen=True, slots=True)
class Spread:
    """A standard deviation and its degrees of freedom: how many values it rests on, less the means taken from them."""

    sd: float
    freedom: float


def spread(samples: Sequence[Sequence[float]], usual: float) -> Spread:
    """One standard deviation for several samples: how far their values lie from the mean of their own sample.

    A few values know their spread badly, so it is drawn towards the `usual` one (in the unit of the values).
    """
    squares = sum((value - mean) ** 2 for sample in samples for mean in [fmean(sample)] for value in sample)
    freedom = PRIOR_FREEDOM + sum(len(sample) - 1 for sample in samples)
    return Spread(math.sqrt((PRIOR_FREEDOM * usual**2 + squares) / freedom), freedom)


def mean_of(values: Sequence[float], questions: Sequence[str], population: float = math.inf) -> Estimate:
    """The mean of what a sample was drawn from: endless, or so many values of which these are some.

    Args:
        questions: of each value, its text; those of one question count together.
    """
    seen = moderated_mean(values, questions, USUAL_SCORE_SD)
    unseen = max(0.0, 1 - len(values) / population)  # W. G. Cochran, Sampling Techniques, 1977, section 2.6
    return replace(seen, error=seen.error * math.sqrt(unseen))


def chance_of(count: int, asked: int, limit: int, population: int) -> float:
    """How likely a sample of `asked` holds `count` or more of a kind of which the population has `limit`: hypergeometric."""
    ways = (math.comb(limit, kind) * math.comb(population - limit, asked - kind) for kind in range(count, asked + 1))
    return sum(ways) / math.comb(population, asked)


def speed_of(candidate: Candidate, candidates: Collection[Candidate]) -> Estimate | None:
    """Log of the speed over all questions, measured or forecast; None where nothing allows either."""
    noise = spread([logs for other in candidates if (logs := other.logs)], USUAL_REPEAT_SD)
    if candidate.logs:
        return Estimate(fmean(candidate.logs), noise.sd / math.sqrt(len(candidate.logs)), noise.freedom)
    place = len(candidate.slice_passes) - 1
    if place < 0 or (seen := candidate.slice_passes[place].log) is None:
        return None
    gains: dict[str, list[float]] = {}
    for other in candidates:
        if len(other.slice_passes) > place and (logs := other.logs) and (log := other.slice_passes[place].log) is not None:
            gains.setdefault(other.engine, []).append(fmean(logs) - log)
    if candidate.engine not in gains:
        return None
    two_passes = Spread(noise.sd * math.sqrt(2), noise.freedom)  # that of a slice is no surer than one over all questions
    ours, differ = gains[candidate.engine], max(spread(list(gains.values()), USUAL_GAIN_SD), two_passes, key=lambda one: one.sd)
    return Estimate(seen + fmean(ours), differ.sd * math.sqrt(1 + 1 / len(ours)), differ.freedom)


def speed_lag(candidate: Candidate, leader: Candidate, candidates: Collection[Candidate]) -> Estimate | None:
    """By how much a cell is behind in log speed."""
    ours, leading = speed_of(candidate, candidates), speed_of(leader, candidates)
    return None if ours is None or leading is None else added(leading, ours, -1.0)


def quality_lag(candidate: Candidate, leader: Candidate, factor: float = 1.0) -> Estimate | None:
    """By how much the mean rouge_l_f1 of a cell, times a factor, is behind, over the questions that both were asked."""
    pairs = scores_of(paired(candidate.known, leader.known, partly=True))
    questions = [pair.question for pair in pairs]
    lags = [pair.second - factor * pair.first for pair in pairs]
    return mean_of(lags, questions) if len(set(questions)) > 1 else None


def merit_lag(
    candidate: Candidate, leader: Candidate, candidates: Collection[Candidate], speed_weight: float
) -> Estimate | None:
    """By how much a cell is behind in the weighted rule's logs; a ratio of means by its first-order error."""
    fast, pairs = speed_lag(candidate, leader, candidates), scores_of(paired(candidate.known, leader.known, partly=True))
    questions = [pair.question for pair in pairs]
    if fast is None or len(set(questions)) < 2:
        return None
    ours, leading = fmean(pair.first for pair in pairs), fmean(pair.second for pair in pairs)
    if min(ours, leading) <= 0:
        return None
    good = mean_of([pair.second / leading - pair.first / ours for pair in pairs], questions)
    good = Estimate(math.log(leading / ours), good.error, good.freedom)
    return added(times(fast, speed_weight), good, 1 - speed_weight)


def at_least(estimate: Estimate, risk: float) -> float:
    """The one-sided lower bound that errs with that probability."""
    return estimate.difference - t_quantile(1 - 2 * risk, estimate.freedom) * estimate.error


def at_most(estimate: Estimate, risk: float) -> float:
    """The one-sided upper bound that errs with that probability."""
    return estimate.difference + t_quantile(1 - 2 * risk, estimate.freedom) * estimate.error


def shifted(estimate: Estimate | None, by: float) -> Estimate | None:
    """An estimate of the quantity plus a constant."""
    return None if estimate is None else Estimate(estimate.difference + by, estimate.error, estimate.freedom)
