"""Where the next measurement of a speed lies, if nothing changed: one more start of the engine, and passes on it.

No two starts of an engine are alike, and neither are two passes on one. So a measurement that is made again differs from the
first by both, twice: its own and the first one's. The starts that a study has of its finalists show how large that is.
"""

from __future__ import annotations

import math

from gpuqa.measure.speed_tests import SpeedNoise, StartNoise, speed_noise, starts_of
from gpuqa.measure.statistics import t_quantile
from gpuqa.records import Interval, Measurement

ENOUGH_PASSES = 6  # that are seldom all alike where passes are fast or slow by chance
WIDEST = 500.0  # of half an interval in log speed: the exponential of more is no number


def next_speed(speed: float, starts: int, noise: SpeedNoise, passes: int, confidence: float = 0.95) -> Interval:
    """The interval of the mean of the next `passes` passes on one more start.

    Args:
        speed: the geometric mean of what was measured on so many `starts`.
    """
    variance = noise.variance(passes) + noise.variance(noise.passes) / starts
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


def passes_again(repeats: int) -> int:
    """How many passes to compare with so many: both sides show how much passes vary, but a single one shows nothing."""
    return max(repeats, ENOUGH_PASSES - repeats) if repeats > 1 else repeats


def starts_in(measurement: Measurement) -> int:
    """How many starts of an engine a measurement is of."""
    return max(1, len(set(measurement.engine_ids)))


def passes_of_a_start(measurement: Measurement) -> int:
    """How many passes a measurement has on each of its starts."""
    return max(1, round(measurement.repeats / starts_in(measurement)))
