"""Where the next measurement of a speed lies: by hand, and that nothing changed is seen as that."""

from __future__ import annotations

from math import exp, log, sqrt

import pytest

from gpuqa.measure.speed_prediction import SpeedNoise, lead_of_starts, next_speed, speed_noise
from gpuqa.measure.speed_tests import StartNoise
from gpuqa.measure.statistics import t_quantile

USUAL = StartNoise(sd=0.02, freedom=4.0)


def test_one_start_is_known_by_the_prior_and_its_passes_alone() -> None:
    noise = speed_noise([{"a": [7.0, 7.1, 7.2]}], USUAL)
    assert noise is not None
    assert noise.pass_variance == pytest.approx(0.01)
    assert noise.start_variance == pytest.approx(0.0004 + 6 / 3 * 0.01)  # six passes in a row tell as much as one
    assert noise.freedom == pytest.approx(0.0204**2 / (0.0004**2 / 4 + 0.02**2 / 2))  # neither is known better than it is
    assert noise.passes == pytest.approx(3)


def test_more_starts_draw_the_variance_to_what_they_had() -> None:
    cells = [{"a": [7.0, 7.0, 9.0], "b": [7.2, 7.2]}, {"c": [5.0, 5.0], "d": [5.2, 5.2]}]
    noise = speed_noise(cells, USUAL, passes=2)
    assert noise is not None
    within = (8 / 3) / 5  # of all passes, the third of the first start among them
    prior = 0.0004 + 6 * within / 2
    weight = prior**2 / (0.0004**2 / 4 + (6 * within / 2) ** 2 / 5)
    assert weight > 4, "so the prior counts as four"
    assert noise.pass_variance == pytest.approx(within)
    assert noise.start_variance == pytest.approx((4 * prior + 0.02 + 0.02) / (4 + 2))  # by the first two passes of each start
    assert noise.freedom == 6


def test_without_two_passes_on_a_start_nothing_is_known() -> None:
    assert speed_noise([{"a": [7.0], "b": [7.1]}], USUAL) is None


def test_the_interval_of_the_next_speed_holds_two_starts_and_fewer_passes_make_it_wider() -> None:
    noise = SpeedNoise(start_variance=0.0009, pass_variance=0.0006, freedom=6.0, passes=3.0)
    half = t_quantile(0.95, 6.0) * sqrt(2 * 0.0009)
    found = next_speed(1000.0, 1, noise, 3)
    assert (found.low, found.high) == pytest.approx((1000 * exp(-half), 1000 * exp(half)))
    assert next_speed(1000.0, 1, noise, 30) == found, "more passes on one start do not make it a second one"
    one = next_speed(1000.0, 1, noise, 1)
    assert log(one.high / 1000) == pytest.approx(t_quantile(0.95, 6.0) * sqrt(0.0009 + 0.0009 + 0.0006 * 2 / 3))
    assert next_speed(1000.0, 4, noise, 3).high < found.high


def test_the_lead_between_starts_is_that_of_their_means() -> None:
    first, other = {"a": [7.10, 7.12], "b": [7.14, 7.16]}, {"c": [7.00, 7.02]}
    lead = lead_of_starts(first, other, SpeedNoise(0.0009, 0.0006, 6.0, 2.0))
    assert (lead.difference, lead.freedom) == (pytest.approx(7.13 - 7.01), 6.0)
    assert lead.error == pytest.approx(sqrt(0.0009 / 2 + 0.0009))
    once = lead_of_starts(first, {"c": [7.01]}, SpeedNoise(0.0009, 0.0006, 6.0, 2.0))
    assert once.error == pytest.approx(sqrt(0.0009 / 2 + 0.0009 + 0.0006 / 2)), "a start of one pass is known less well"
