"""Percentiles of what answers took, and their intervals, which assume no distribution. numpy only."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from gpuqa.records import Interval


def questions_needed(percent: int) -> int:
    """The fewest different questions of which at least one lies beyond the percentile: 2 for p50, 20 for p95, 100 for p99."""
    return math.ceil(100 / (100 - percent))


def percentile(values: Sequence[float], percent: int, questions: Sequence[str] = ()) -> float | None:
    """A percentile (linear between neighbours) over all values; None where there are too few different questions for it.

    All answers of all repeats count, since a stall in one repeat is among what clients see, and a median over the repeats
    would hide it. But the answers to one question resemble each other, so that only different questions support a percentile:
    34 questions that were asked three times say no more of the slowest percent than 34.

    Args:
        questions: of each value, the text of its question. Without them every value is one of its own.
    """
    different = len(set(questions)) if questions else len(values)
    return float(np.percentile(values, percent)) if different >= questions_needed(percent) else None


def percentile_interval(
    values: Sequence[float], percent: int, questions: Sequence[str] = (), confidence: float = 0.95
) -> Interval | None:
    """The interval of a percentile between two order statistics (H. A. David and H. N. Nagaraja, Order Statistics, 3rd ed.
    2003, section 7.1); None where the sample is too small for both ends: below 6 questions for p50, 72 for p95, 368 for p99.

    How many of n independent values lie below a percentile is binomial, whatever their distribution. Here n is the effective
    number of questions, sum(m) ** 2 / sum(m ** 2) for m answers to each (L. Kish, Survey Sampling, 1965, section 11.7): that of
    the different ones where all have as many answers. So the interval is exact where the answers to one question are equal,
    and wider than needed where they are not.

    Args:
        questions: as in `percentile`.
    """
    sizes = Counter(questions).values() if questions else [1] * len(values)
    count = len(values) ** 2 // sum(size**2 for size in sizes) if values else 0
    if (ranks := order_statistics(count, percent / 100, confidence)) is None:
        return None
    low, high = (rank * len(values) for rank in ranks)  # of the values, the first at the low rank and the last at the high one
    ordered = sorted(values)
    return Interval(ordered[(low - len(values)) // count], ordered[-(-high // count) - 1])


@functools.lru_cache(maxsize=256)
def order_statistics(count: int, share: float, confidence: float) -> tuple[int, int] | None:
    """The ranks, from 1, of the closest two of so many values between which a quantile lies with that confidence: each end errs
    in at most half of the rest. None where even the lowest or the highest value would err more often."""
    draws = np.arange(count + 1)
    logs = [math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(count + 1)]
    below = np.cumsum(np.exp(np.array(logs) + draws * math.log(share) + (count - draws) * math.log1p(-share)))
    risk = (1 - confidence) / 2
    low = int((below <= risk).sum())  # the largest rank whose value is too high with at most that risk
    high = int((below < 1 - risk).sum()) + 1  # the least one whose value is too low with at most that risk
    return (low, high) if low >= 1 and high <= count else None
