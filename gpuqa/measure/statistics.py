"""Robust centres, honest intervals and tests, numpy only."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from gpuqa.records import Interval

RESAMPLES = 10_000
PERMUTATIONS = 2_000
EXACT = 13  # up to so many different questions every sign pattern is tried: 8,192 of them
NODES, WEIGHTS = np.polynomial.legendre.leggauss(96)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A difference with its standard error and degrees of freedom: all that a t test needs."""

    difference: float
    error: float
    freedom: float

    @property
    def p_value(self) -> float:
        """Two-sided, against no difference."""
        if self.error == 0:
            return 1.0 if self.difference == 0 else 0.0
        return t_tails(abs(self.difference) / self.error, self.freedom)

    def interval(self, confidence: float = 0.95) -> Interval:
        """Two-sided t interval of the difference."""
        half = t_quantile(confidence, self.freedom) * self.error
        return Interval(self.difference - half, self.difference + half)


@dataclass(frozen=True, slots=True)
class Trend:
    """How speeds changed from the first pass of a cell to its last, as a share, and how often chance does as much."""

    change: float
    p_value: float


def median_and_mad(values: Sequence[float]) -> tuple[float, float]:
    """Median, and median absolute deviation from it (unscaled)."""
    array = np.asarray(values, dtype=float)
    middle = float(np.median(array))
    return middle, float(np.median(np.abs(array - middle)))


def geometric_mean(values: Sequence[float]) -> float:
    """exp of the mean of the logarithms; 0 where any value is 0."""
    return math.exp(fmean(map(math.log, values))) if min(values) > 0 else 0.0


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, seed: int = 0, clusters: Sequence[str] = ()
) -> Interval:
    """Percentile bootstrap interval of the mean over questions (Efron and Tibshirani, 1993, chapter 13).

    Args:
        clusters: of each value what it belongs to; values of one cluster are resampled together (Davison and Hinkley,
            Bootstrap Methods and their Application, 1997, section 3.8). A question that a file repeats gives nearly the same
            score each time, so that its rows tell little more than one. Without clusters every value is one of its own.
    """
    return interval_of_means(*clustered(values, clusters), confidence, seed)


def clustered(values: Sequence[float], clusters: Sequence[str]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """The sum and the number of the values of each cluster, in the order of first appearance."""
    rows: dict[object, list[float]] = {}
    for cluster, value in zip(clusters or range(len(values)), values, strict=True):
        rows.setdefault(cluster, []).append(value)
    return tuple(sum(row) for row in rows.values()), tuple(map(len, rows.values()))


@functools.lru_cache(maxsize=256)
def interval_of_means(sums: tuple[float, ...], sizes: tuple[int, ...], confidence: float, seed: int) -> Interval:
    """The interval of `bootstrap_interval` for sums and sizes of clusters; kept, since a race asks for it after every round."""
    totals = resamples(len(sums), seed) @ np.column_stack([sums, sizes])
    low, high = np.quantile(totals[:, 0] / totals[:, 1], [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def mean_estimate(values: Sequence[float], clusters: Sequence[str] = ()) -> Estimate | None:
    """The mean of values with its standard error, by the spread of the sums of their clusters; None below two clusters.

    With clusters of one value each it is the usual one, sd / sqrt(count). Otherwise a cluster counts by the sum of its values'
    distances from the mean (W. G. Cochran, Sampling Techniques, 1977, section 9A.2).
    """
    mean = fmean(values)
    sums, _ = clustered([value - mean for value in values], clusters)
    if len(sums) < 2:
        return None
    error = math.sqrt(sum(value**2 for value in sums) * len(sums) / (len(sums) - 1)) / len(values)
    return Estimate(mean, error, len(sums) - 1)


@functools.lru_cache(maxsize=2)
def resamples(count: int, seed: int) -> Any:
    """How often each of `count` clusters is in each resample, (RESAMPLES, count): drawn once for all trials of a study."""
    draws = np.random.default_rng(seed).integers(0, count, size=(RESAMPLES, count))
    draws += np.arange(RESAMPLES)[:, None] * count
    return np.bincount(draws.ravel(), minlength=RESAMPLES * count).reshape(RESAMPLES, count).astype(np.uint8)


def welch(first: Sequence[float], second: Sequence[float]) -> Estimate | None:
    """Difference of mean log speed, for a t test without equal variances (B. L. Welch, Biometrika 34, 1947).

    None below two repeats on a side. A permutation test cannot reach 5 % with three repeats a side (its least p is 0.1),
    and cells of one study differ in noise, so neither that nor a pooled variance would do.
    """
    if min(len(first), len(second)) < 2 or min(*first, *second) <= 0:
        return None
    samples = np.log(first), np.log(second)
    means = [Estimate(float(logs.mean()), float(logs.std(ddof=1)) / math.sqrt(len(logs)), len(logs) - 1) for logs in samples]
    return added(means[0], means[1], -1.0)


def added(first: Estimate, second: Estimate, weight: float = 1.0) -> Estimate:
    """One estimate plus `weight` times another that is independent of it.

    Degrees of freedom by B. L. Welch and F. E. Satterthwaite (Biometrics Bulletin 2, 1946); where nothing is in doubt they do
    not matter.
    """
    parts = first.error, abs(weight) * second.error
    error = math.hypot(*parts)
    doubt = parts[0] ** 4 / first.freedom + parts[1] ** 4 / second.freedom
    freedom = error**4 / doubt if doubt > 0 else min(first.freedom, second.freedom)
    return Estimate(first.difference + weight * second.difference, error, freedom)


def times(estimate: Estimate, factor: float) -> Estimate:
    """An estimate of `factor` times the quantity."""
    return Estimate(factor * estimate.difference, abs(factor) * estimate.error, estimate.freedom)


def t_tails(t: float, freedom: float) -> float:
    """How likely a value of Student's distribution is below -t or above t.

    With t = sqrt(freedom) * tan(angle) the density is proportional to cos(angle) ** (freedom - 1). That is smooth from 0 to a
    right angle, so that 96 Gauss-Legendre nodes are enough (errors below 1e-6 for 1 to 1,000 degrees of freedom).
    """
    start = math.atan(t / math.sqrt(freedom))
    half = (math.pi / 2 - start) / 2
    tail = half * float(WEIGHTS @ np.cos(start + half * (NODES + 1)) ** (freedom - 1))
    return min(1.0, tail / area_above_0(freedom))


def area_above_0(freedom: float) -> float:
    """The integral of cos(angle) ** (freedom - 1) from 0 to a right angle: all positive t, so half of the probability."""
    return math.sqrt(math.pi) / 2 * math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2))


@functools.lru_cache(4096)  # a race asks for the same ones again and again: a seventh of its replays' time
def t_quantile(confidence: float, freedom: float) -> float:
    """The t for which that share of Student's distribution lies between -t and t: 12.7 for 95 % and one degree of freedom.

    Newton's method on the angle, from 0. The tails fall ever more slowly as the angle grows, so that no step goes too far; that
    needs one degree of freedom or more.
    """
    angle, whole = 0.0, area_above_0(freedom)
    for _ in range(100):  # 2 to 8 steps for 95 %
        t = math.sqrt(freedom) * math.tan(angle)
        step = (t_tails(t, freedom) - (1 - confidence)) * whole / math.cos(angle) ** (freedom - 1)
        angle += step
        if step < 1e-12:
            break
    return math.sqrt(freedom) * math.tan(angle)


def paired_interval(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95, clusters: Sequence[str] = ()
) -> Interval:
    """Bootstrap interval of the mean difference over the same questions; both values of one are drawn together.

    Args:
        clusters: as in `bootstrap_interval`.
    """
    return bootstrap_interval(np.subtract(first, second).tolist(), confidence, clusters=clusters)


def sign_flip_p_value(first: Sequence[float], second: Sequence[float], seed: int = 0, clusters: Sequence[str] = ()) -> float:
    """Two-sided paired permutation test of the mean difference (R. A. Fisher, The Design of Experiments, 1935).

    If neither side is better, each question's difference could as well have the other sign. Differences of one cluster, such as
    the rows that repeat a question, change it together. All patterns of signs are tried for few clusters; for many a seeded
    sample, counted so that p is never 0 (Phipson and Smyth, 2010).
    """
    differences = np.asarray(clustered(np.subtract(first, second).tolist(), clusters)[0])
    differences = differences[differences != 0]
    if len(differences) == 0:
        return 1.0
    flipped = np.abs(signs(len(differences), seed) @ differences)
    as_far = int((flipped >= abs(differences.sum()) * (1 - 1e-9)).sum())
    return as_far / len(flipped) if len(differences) <= EXACT else (as_far + 1) / (len(flipped) + 1)


@functools.lru_cache(maxsize=2)
def signs(count: int, seed: int) -> Any:
    """1 or -1 of each of `count` differences in each pattern, (patterns, count): drawn once for all comparisons of a study."""
    if count <= EXACT:
        patterns = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
    else:
        patterns = np.random.default_rng(seed).integers(0, 2, size=(RESAMPLES, count))
    return (1 - 2 * patterns).astype(np.int8)


def trend(moments: Sequence[Sequence[float]], speeds: Sequence[Sequence[float]], seed: int = 0) -> Trend | None:
    """Whether speeds, each relative to its cell's own median, rise or fall with time. Cells with one repeat say nothing.

    Spearman's correlation of time and relative speed over all passes; its p-value by permuting the speeds of each cell among
    that cell's own moments (Good, Permutation Tests, 2nd ed. 2000, on restricted permutations), because relative speeds of one
    cell depend on each other. Passes of one cell must be spread over the study for a drift to show.

    Args:
        moments: when the repeats of each cell began, s; a row a cell, as `speeds`.
    """
    rows = [pair for pair in zip(moments, speeds, strict=True) if len(pair[0]) == len(pair[1]) > 1 and min(pair[1]) > 0]
    if not rows:
        return None
    relative = [np.log(speed) - np.median(np.log(speed)) for _, speed in rows]
    moment_ranks, ranks = ranked(np.concatenate([moment for moment, _ in rows])), ranked(np.concatenate(relative))
    ends = np.cumsum([len(logs) for logs in relative])
    generator, shuffled = np.random.default_rng(seed), np.empty((PERMUTATIONS, len(ranks)))
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        shuffled[:, begin:end] = generator.permuted(np.tile(ranks[begin:end], (PERMUTATIONS, 1)), axis=1)
    correlation, chance = float(moment_ranks @ ranks), shuffled @ moment_ranks
    middle = float(chance.mean())  # not 0: a cell that is all fast and measured late is no drift
    as_far = int((np.abs(chance - middle) >= abs(correlation - middle) * (1 - 1e-9)).sum())
    return Trend(change_over(rows), (as_far + 1) / (PERMUTATIONS + 1))


def change_over(rows: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """The share by which speeds change while a cell is measured: the common slope of log speed within cells, over the time of
    the cell whose passes lie farthest apart. Nobody saw what the same slope would come to over a whole study: cells on engines
    of their own are each measured for a second of its minutes."""
    moments = [np.asarray(moment) for moment, _ in rows]
    within = np.concatenate([moment - moment.mean() for moment in moments])
    logs = np.concatenate([np.log(speed) - np.log(speed).mean() for _, speed in rows])
    square = float(within @ within)
    slope = float(within @ logs) / square if square else 0.0
    return math.expm1(slope * max(np.ptp(row) for row in moments))


def ranked(values: Any) -> Any:
    """Ranks around 0, ties at their mean."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks - ranks.mean()


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being several, in their order (S. Holm, Scandinavian Journal of Statistics 6, 1979)."""
    corrected, worst = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, min(1.0, p_values[place] * (len(p_values) - rank)))
        corrected[place] = worst
    return corrected
