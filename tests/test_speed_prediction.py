"""Where the next measurement of a speed lies: by hand."""

from __future__ import annotations

from math import exp, log, sqrt

import pytest

from gpuqa.measure.speed_prediction import next_speed, passes_again
from gpuqa.measure.speed_tests import SpeedNoise
from gpuqa.measure.statistics import t_quantile


def test_the_interval_of_the_next_speed_holds_two_starts_and_fewer_passes_make_it_wider() -> None:
    noise = SpeedNoise(0.02, 4.0, 0.005, 6, 0.0006, 12, 3.0)
    half = t_quantile(0.95, noise.freedom) * sqrt(2 * noise.variance(3))
    found = next_speed(1000.0, 1, noise, 3)
    assert (found.low, found.high) == pytest.approx((1000 * exp(-half), 1000 * exp(half)))
    assert next_speed(1000.0, 1, noise, 30) == found, "more passes on one start do not make it a second one"
    one = next_speed(1000.0, 1, noise, 1)
    assert log(one.high / 1000) == pytest.approx(t_quantile(0.95, noise.freedom) * sqrt(noise.variance(1) + noise.variance(3)))
    assert next_speed(1000.0, 4, noise, 3).high < found.high


def test_what_is_measured_again_has_so_many_passes_that_both_show_how_much_they_vary() -> None:
    assert [passes_again(repeats) for repeats in (1, 2, 3, 5, 10)] == [1, 4, 3, 5, 10]
