"""Where the next measurement of a speed lies, if nothing changed: one more start of the engine, and passes on it.

No two starts of an engine are alike, and neither are two passes on one. So a measurement that is made again differs from the
first by both, twice: its own and the first one's. The starts that a study has of its finalists show how large that is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpuqa.measure.speed_tests import StartNoise, Starts, pass_variance, starts_of
from gpuqa.measure.statistics import Estimate, t_quantile
from gpuqa.records import Interval, Measurement

NEIGHBOURS = 6  # so many passes in a row tell as much as one, where each has 0.7 of the slowness of the one before it
WIDEST = 500.0  # of half an interval in log speed: the exponential of more is no number


@dataclass(frozen=True, slots=True)
class SpeedNoise:
    """How much the log speed of one cell varies from start to start and from pass to pass."""

    start_variance: float  # of the mean of `passes` passes on one start
    pass_variance: float  # between the passes of one start
    freedom: float  # of the first: how many observations know it
    passes: float

    def variance(self, passes: int) -> float:
        """Of the mean of another number of passes on one start; more passes than were seen make it no smaller."""
        return self.start_variance + self.pass_variance * max(0.0, 1 / passes - 1 / self.passes)


def speed_noise(cells: Sequence[Starts], usual: StartNoise, passes: int | None = None) -> SpeedNoise | None:
    """The noise of cells by their starts; None where no start has two passes.

    Few starts know their variance badly, so it is drawn towards that of `usual` starts and of passes of which `NEIGHBOURS` tell
    as much as one, since what slows a machine lasts longer than a pass. This prior weighs as many observations as know it, at
    most `usual.freedom`.

    Args:
        passes: only so many, the first, make the mean of a start; all of them where it is None.
    """
    starts = [logs for cell in cells for logs in cell.values()]
    within = pass_variance(starts)
    if within is None:
        return None
    heads = [[logs[:passes] for logs in cell.values()] for cell in cells]
    share = float(np.mean([1 / len(logs) for cell in heads for logs in cell]))
    prior = usual.sd**2 + NEIGHBOURS * within * share
    doubt = usual.sd**4 / usual.freedom + (NEIGHBOURS * within * share) ** 2 / sum(len(logs) - 1 for logs in starts)
    weight = min(usual.freedom, prior**2 / doubt)
    means = [[float(np.mean(logs)) for logs in cell] for cell in heads]
    squares = sum(float(np.var(cell)) * len(cell) for cell in means)
    freedom = weight + sum(len(cell) - 1 for cell in means)
    return SpeedNoise((weight * prior + squares) / freedom, within, freedom, 1 / share)


def next_speed(speed: float, starts: int, noise: SpeedNoise, passes: int, confidence: float = 0.95) -> Interval:
    """The interval of the mean of the next `passes` passes on one more start.

    Args:
        speed: the geometric mean of what was measured on so many `starts`.
    """
    variance = noise.variance(passes) + noise.start_variance / starts
    half = min(WIDEST, t_quantile(confidence, noise.freedom) * math.sqrt(variance))
    return Interval(speed * math.exp(-half), speed * math.exp(half))


def next_of(measurement: Measurement, noise: SpeedNoise | None = None) -> Interval | None:
    """The interval of the speed of the next measurement like this one; None where nothing is known of the noise.

    Args:
        noise: as a study knows it; else the measurement's own is all there is.
    """
    noise = noise or own_noise(measurement)
    if noise is None:
        return None
    return next_speed(measurement.chars_per_s, starts_in(measurement), noise, passes_of_a_start(measurement))


def own_noise(measurement: Measurement) -> SpeedNoise | None:
    """The noise of one measurement by its own passes; None below two on one start, and where a pass gave no characters."""
    starts = starts_of(measurement, owner="its engine")
    return speed_noise([starts], StartNoise(), passes_of_a_start(measurement)) if starts else None


def starts_in(measurement: Measurement) -> int:
    """How many starts of an engine a measurement is of."""
    return max(1, len(set(measurement.engine_ids)))


def passes_of_a_start(measurement: Measurement) -> int:
    """How many passes a measurement has on each of its starts."""
    return max(1, round(measurement.repeats / starts_in(measurement)))


def lead_of_starts(first: Starts, other: Starts, noise: SpeedNoise) -> Estimate:
    """How far the first leads the other in log speed, where they share no start of an engine."""
    means = [float(np.mean([np.mean(logs) for logs in cell.values()])) for cell in (first, other)]
    variances = [noise.variance(len(logs)) / len(cell) ** 2 for cell in (first, other) for logs in cell.values()]
    return Estimate(means[0] - means[1], math.sqrt(sum(variances)), noise.freedom)
