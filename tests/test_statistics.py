"""Medians, percentiles and bootstrap intervals against numbers that were worked by hand or come from theory."""

from __future__ import annotations

import statistics
from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuqa.records import Interval
from gpuqa.statistics import bootstrap_interval, median_and_mad, percentile, questions_needed

numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


@pytest.mark.parametrize(
    ("values", "median", "mad"),
    [
        ([7.0], 7.0, 0.0),
        ([1.0, 3.0], 2.0, 1.0),
        ([10.0, 1.0, 2.0], 2.0, 1.0),  # deviations 8, 1, 0
        ([1, 1, 2, 2, 4, 6, 9], 2.0, 1.0),  # the textbook case: deviations 1, 1, 0, 0, 2, 4, 7; no 1.4826 in it
        ([5.0, 5.0, 5.0, 1000.0], 5.0, 0.0),  # one wild value moves neither
    ],
)
def test_median_and_mad_are_as_worked_by_hand(values: list[float], median: float, mad: float) -> None:
    assert median_and_mad(values) == (median, mad)


@pytest.mark.parametrize(("percent", "needed"), [(50, 2), (90, 10), (95, 20), (99, 100)])
def test_a_percentile_needs_a_value_beyond_it(percent: int, needed: int) -> None:
    assert questions_needed(percent) == needed
    values = [float(value) for value in range(needed)]
    assert percentile(values, percent) is not None
    assert percentile(values[1:], percent) is None


def test_no_values_have_no_percentile() -> None:
    assert percentile([], 50) is None


@pytest.mark.parametrize(("percent", "expected"), [(50, 50.5), (95, 95.05), (99, 99.01)])
def test_percentiles_of_one_to_a_hundred_lie_between_neighbours(percent: int, expected: float) -> None:
    values = [float(value) for value in range(100, 0, -1)]  # descending: the order of the questions must not matter
    assert percentile(values, percent) == pytest.approx(expected)


@settings(deadline=None)
@given(st.lists(numbers, min_size=100, max_size=150), st.sampled_from([50, 95, 99]))
def test_percentiles_agree_with_the_standard_library(values: list[float], percent: int) -> None:
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    assert percentile(values, percent) == pytest.approx(cuts[percent - 1], rel=1e-9, abs=1e-6)


def test_an_interval_of_two_answers_is_as_worked_by_hand() -> None:
    # Means of two draws from {0, 1} are 0, 0.5 and 1 with probabilities 1/4, 1/2 and 1/4.
    assert bootstrap_interval([0.0, 1.0], confidence=0.95) == Interval(0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], confidence=0.40) == Interval(0.5, 0.5)


def test_equal_answers_leave_no_doubt() -> None:
    assert bootstrap_interval([0.25] * 7) == Interval(0.25, 0.25)


@pytest.mark.parametrize(("confidence", "normal_quantile"), [(0.95, 1.960), (0.80, 1.282)])
def test_intervals_of_many_answers_are_those_of_the_normal_law(confidence: float, normal_quantile: float) -> None:
    values = [((number * 37) % 100) / 100 for number in range(400)]
    half = normal_quantile * statistics.pstdev(values) / sqrt(len(values))
    found, mean = bootstrap_interval(values, confidence), statistics.fmean(values)
    assert found.low == pytest.approx(mean - half, abs=0.05 * half)
    assert found.high == pytest.approx(mean + half, abs=0.05 * half)


def test_an_interval_follows_the_skew_of_its_answers() -> None:
    found = bootstrap_interval([0.0] * 19 + [1.0])
    assert found.low == 0.0  # one in twenty is absent from 36% of the resamples
    assert found.high == pytest.approx(0.15)  # 4 or more of 20 in fewer than 2.5% of them


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_an_interval_is_ordered_and_stays_among_the_answers(values: list[float]) -> None:
    found = bootstrap_interval(values)
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


def test_the_same_answers_give_the_same_interval_and_another_seed_nearly_the_same() -> None:
    values = [number / 50 for number in range(50)]
    first = bootstrap_interval(values)
    assert bootstrap_interval(values) == first
    other = bootstrap_interval(values, seed=1)
    assert other != first
    assert (other.low, other.high) == pytest.approx((first.low, first.high), abs=0.01)
