"""Percentiles and their intervals against tables, the standard library and counted coverage."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuqa.measure.percentiles import order_statistics, percentile, percentile_interval, questions_needed
from gpuqa.records import Interval

numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


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


@pytest.mark.no_cover
@settings(deadline=None)
@given(st.lists(numbers, min_size=100, max_size=150), st.sampled_from([50, 95, 99]))
def test_percentiles_agree_with_the_standard_library(values: list[float], percent: int) -> None:
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    assert percentile(values, percent) == pytest.approx(cuts[percent - 1], rel=1e-9, abs=1e-6)


@pytest.mark.parametrize(("percent", "enough"), [(95, 20), (99, 100)])
def test_repeats_support_no_percentile_that_the_different_questions_do_not(percent: int, enough: int) -> None:
    few = [f"问 {number}" for number in range(enough - 1)] * 3
    values = [float(place) for place in range(len(few))]
    assert percentile(values, percent) is not None, "as values of their own there are enough"
    assert percentile(values, percent, few) is None
    assert percentile([*values, 0.0], percent, [*few, "another"]) == pytest.approx(np.percentile([*values, 0.0], percent))


@pytest.mark.parametrize(
    ("count", "percent", "ranks"),
    [
        (5, 50, None),
        (6, 50, (1, 6)),
        (100, 50, (40, 61)),  # as the tables of the sign test have it
        (71, 95, None),
        (72, 95, (64, 72)),
        (367, 99, None),
        (368, 99, (360, 368)),
        (0, 50, None),
    ],
)
def test_an_interval_lies_between_the_closest_order_statistics(count: int, percent: int, ranks: tuple[int, int] | None) -> None:
    assert order_statistics(count, percent / 100, 0.95) == ranks
    values = [float(value) for value in range(count, 0, -1)]
    assert percentile_interval(values, percent) == (None if ranks is None else Interval(*map(float, ranks)))


def test_equal_answers_to_the_same_questions_leave_the_interval_as_it_is() -> None:
    values, questions = [float(value) for value in range(100)], [f"问 {number}" for number in range(100)]
    alone = percentile_interval(values, 95)
    assert alone is not None
    assert percentile_interval(values * 3, 95, questions * 3) == alone
    narrower = percentile_interval(values * 3, 95)
    assert narrower is not None
    assert narrower.high - narrower.low < alone.high - alone.low, "three hundred questions would tell more"


def test_a_question_that_makes_up_a_fifth_of_the_answers_widens_the_interval() -> None:
    values = [float(value) for value in range(200)]
    different = percentile_interval(values, 50, [f"问 {number}" for number in range(200)])
    assert different is not None
    mostly_one = percentile_interval(values, 50, [f"问 {max(number, 40)}" for number in range(200)])
    assert mostly_one is not None
    assert mostly_one.high - mostly_one.low > 2 * (different.high - different.low)


@pytest.mark.parametrize("alike", [0.0, 0.7, 1.0], ids=["repeats differ", "repeats are alike", "repeats are equal"])
@pytest.mark.parametrize("percent", [50, 95])
def test_intervals_cover_the_true_percentile_however_alike_the_repeats_are(percent: int, alike: float) -> None:
    draw, repeats, count = np.random.default_rng(17), 3, 120
    questions = [f"问 {number}" for number in range(count)] * repeats
    true, covered, studies = statistics.NormalDist().inv_cdf(percent / 100), 0, 400
    for _ in range(studies):
        own, chance = draw.normal(size=count), draw.normal(size=(repeats, count))
        values = (np.sqrt(alike) * own + np.sqrt(1 - alike) * chance).ravel()
        interval = percentile_interval(np.exp(values).tolist(), percent, questions)
        assert interval is not None
        covered += interval.low <= np.exp(true) <= interval.high
    assert covered / studies >= 0.93, "95 % less twice the error of so many studies"
