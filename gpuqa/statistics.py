"""Robust centres and honest intervals, numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gpuqa.records import Interval

RESAMPLES = 10_000


def median_and_mad(values: Sequence[float]) -> tuple[float, float]:
    """Median, and median absolute deviation from it (unscaled)."""
    array = np.asarray(values, dtype=float)
    middle = float(np.median(array))
    return middle, float(np.median(np.abs(array - middle)))


def bootstrap_interval(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of the mean over questions (Efron and Tibshirani, 1993, chapter 13)."""
    array = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).integers(0, len(array), size=(RESAMPLES, len(array)))
    low, high = np.quantile(array[draws].mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def questions_needed(percent: int) -> int:
    """The fewest values of which at least one lies beyond the percentile: 2 for p50, 20 for p95, 100 for p99."""
    return math.ceil(100 / (100 - percent))


def percentile(values: Sequence[float], percent: int) -> float | None:
    """A percentile (linear between neighbours), or None if the sample cannot support it."""
    return float(np.percentile(values, percent)) if len(values) >= questions_needed(percent) else None
