"""Medians and bootstrap intervals against numbers that were worked by hand or come from theory."""

from __future__ import annotations

import statistics
from itertools import product
from math import exp, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuqa.measure.statistics import (
    Estimate,
    bootstrap_interval,
    holm,
    mean_estimate,
    median_and_mad,
    paired_interval,
    sign_flip_p_value,
    signs,
    t_quantile,
    t_tails,
    trend,
    welch,
)
from gpuqa.records import Interval

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


@pytest.mark.parametrize(  # any printed t table; 1 degree of freedom is Cauchy's law, 2 has a closed form
    ("confidence", "freedom", "t"),
    [(0.95, 1, 12.7062), (0.95, 2, 4.30265), (0.95, 4, 2.77645), (0.99, 10, 3.16927), (0.95, 30, 2.04227), (0.9, 999, 1.64638)],
)
def test_t_quantiles_and_tails_are_those_of_the_tables(confidence: float, freedom: float, t: float) -> None:
    assert t_quantile(confidence, freedom) == pytest.approx(t, rel=1e-4)
    assert t_tails(t, freedom) == pytest.approx(1 - confidence, rel=1e-4)


def test_t_tails_with_two_degrees_of_freedom_are_the_closed_form_far_out_too() -> None:
    for t in (0.0, 0.5, 3.0, 100.0):
        assert t_tails(t, 2) == pytest.approx(1 - t / sqrt(2 + t * t), rel=1e-6)


def test_welch_is_as_worked_by_hand() -> None:
    # Logs 1, 2, 3 (mean 2, variance 1) and 0, 4 (mean 2, variance 8): errors 1/3 and 4; freedom (13/3)^2 / (1/18 + 16).
    found = welch([exp(1), exp(2), exp(3)], [1.0, exp(4)])
    assert found is not None
    assert found.difference == pytest.approx(0.0, abs=1e-12)
    assert found.error == pytest.approx(sqrt(13 / 3))
    assert found.freedom == pytest.approx((13 / 3) ** 2 / (1 / 18 + 16))
    assert found.p_value == pytest.approx(1.0)


def test_welch_needs_two_repeats_a_side_and_characters_in_each() -> None:
    assert welch([1.0], [1.0, 2.0]) is None
    assert welch([1.0, 2.0], [1.0, 0.0]) is None


def test_repeats_without_any_noise_are_told_apart_by_any_difference() -> None:
    same, other = welch([5.0, 5.0], [5.0, 5.0]), welch([5.0, 5.0], [6.0, 6.0])
    assert (same.p_value, other.p_value) == (1.0, 0.0)  # type: ignore[union-attr]


def test_a_t_interval_leaves_out_zero_exactly_where_its_p_value_says_so() -> None:
    for difference in (0.1, 0.27, 0.28, 0.5):
        found = Estimate(difference, 0.1, 4)
        assert (found.interval(0.95).low > 0) == (found.p_value < 0.05)


def test_a_paired_interval_sees_what_two_separate_ones_would_hide() -> None:
    worse = [number / 100 for number in range(100)]
    found = paired_interval([value + 0.01 for value in worse], worse)
    assert (found.low, found.high) == pytest.approx((0.01, 0.01))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=1, max_size=8))
def test_a_sign_flip_test_counts_all_patterns(pairs: list[tuple[int, int]]) -> None:
    differences = [ours - theirs for ours, theirs in pairs]
    sums = [abs(sum(sign * value for sign, value in zip(signs, differences, strict=True)))
            for signs in product((1, -1), repeat=len(differences))]  # fmt: skip
    brute = sum(one >= abs(sum(differences)) for one in sums) / len(sums)
    ours, theirs = zip(*pairs, strict=True)
    assert sign_flip_p_value(ours, theirs) == pytest.approx(brute)


@pytest.mark.parametrize(("count", "patterns"), [(3, 8), (80, 10_000)])
def test_signs_are_drawn_once_for_all_comparisons_and_take_a_byte_each(count: int, patterns: int) -> None:
    drawn = signs(count, 0)
    assert (drawn.shape, drawn.nbytes, set(drawn.ravel().tolist())) == ((patterns, count), patterns * count, {-1, 1})
    assert signs(count, 0) is drawn


def test_a_sampled_sign_flip_test_is_near_the_normal_law_and_never_nought() -> None:
    noise = [((number * 37) % 100) / 100 - 0.495 for number in range(400)]
    shifted = [value + 0.03 for value in noise]
    error = sqrt(sum(value * value for value in shifted)) / len(shifted)
    expected = 2 * (1 - statistics.NormalDist().cdf(0.03 / error))
    assert sign_flip_p_value(shifted, [0.0] * 400) == pytest.approx(expected, abs=0.01)
    assert sign_flip_p_value([1.0] * 400, [0.0] * 400) == pytest.approx(1 / 10_001)
    assert sign_flip_p_value([1.0] * 3, [1.0] * 3) == 1.0


def repeated(values: np.ndarray, rows: int = 358) -> tuple[list[float], list[str]]:
    """Values of questions as a file has them that asks them in turn, again and again; and which row is which question."""
    places = [row % len(values) for row in range(rows)]
    return values[places].tolist(), [f"question {place}" for place in places]


def test_the_interval_of_repeated_questions_is_that_of_the_questions() -> None:
    values = np.random.default_rng(0).uniform(0, 1, 92)
    once, (four_times, clusters) = bootstrap_interval(values.tolist()), repeated(values, 4 * 92)
    found = bootstrap_interval(four_times, clusters=clusters)
    assert (found.low, found.high) == pytest.approx((once.low, once.high))
    assert paired_interval(four_times, [0.0] * len(four_times), clusters=clusters) == found


@pytest.mark.slow
@pytest.mark.no_cover
def test_an_interval_over_repeated_questions_holds_the_truth_as_often_as_it_says() -> None:
    generator, truth, studies = np.random.default_rng(1), 0.4, 100
    held, widths = {"by question": 0, "by row": 0}, {"by question": 0.0, "by row": 0.0}
    for _ in range(studies):
        scores, clusters = repeated(generator.normal(truth, 0.13, 92))
        for name, found in {
            "by question": bootstrap_interval(scores, clusters=clusters),
            "by row": bootstrap_interval(scores),
        }.items():
            held[name] += found.low <= truth <= found.high
            widths[name] += (found.high - found.low) / studies
    shares = {name: count / studies for name, count in held.items()}
    print(f"358 rows, 92 different questions, 95 % intervals: hold the mean {shares}, mean width {widths}")
    assert 0.9 <= shares["by question"] <= 0.99
    assert shares["by row"] <= 0.8
    assert 1.8 <= widths["by question"] / widths["by row"] <= 2.1


def test_the_tests_of_repeated_questions_find_a_difference_no_easier_than_once() -> None:
    generator = np.random.default_rng(2)
    found: dict[str, int] = {"by question": 0, "by row": 0}
    for _ in range(40):  # two sides that are equally good
        differences, clusters = repeated(generator.normal(0, 0.1, 20), 80)
        nothing = [0.0] * len(differences)
        found["by question"] += sign_flip_p_value(differences, nothing, clusters=clusters) <= 0.05
        found["by row"] += sign_flip_p_value(differences, nothing) <= 0.05
    assert found["by question"] <= 5
    assert found["by row"] >= 8


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 3)), min_size=1, max_size=12))
def test_a_sign_flip_test_flips_the_rows_of_a_question_together(rows: list[tuple[int, int]]) -> None:
    sums = {place: sum(value for value, other in rows if other == place) for _, place in rows}
    values, clusters = [value for value, _ in rows], [str(place) for _, place in rows]
    expected = sign_flip_p_value(list(sums.values()), [0.0] * len(sums))
    assert sign_flip_p_value(values, [0] * len(values), clusters=clusters) == pytest.approx(expected)


def test_the_error_of_a_mean_is_the_usual_one_without_clusters_and_that_of_their_sums_with_them() -> None:
    values = [0.1, 0.4, 0.35, 0.8]
    alone = mean_estimate(values)
    assert alone is not None
    assert alone.difference == pytest.approx(statistics.fmean(values))
    assert (alone.error, alone.freedom) == (pytest.approx(statistics.stdev(values) / 2), 3)
    together = mean_estimate([*values, *values, *values], list("abcd") * 3)
    assert together is not None
    assert (together.error, together.freedom) == (pytest.approx(alone.error), 3), "three times the same tells no more"
    assert mean_estimate([0.1, 0.2], ["a", "a"]) is None


@pytest.mark.parametrize(
    ("raw", "corrected"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # Holm 1979's step-down, by hand
        ([0.9, 0.8], [1.0, 1.0]),
    ],
)
def test_holms_correction_is_as_worked_by_hand(raw: list[float], corrected: list[float]) -> None:
    assert holm(raw) == pytest.approx(corrected)


def test_a_trend_is_the_change_within_cells_however_different_the_cells_are() -> None:
    moments = [[0.0, 4.0, 8.0], [1.0, 5.0, 9.0], [2.0, 6.0, 10.0], [3.0, 7.0, 11.0]]
    falling = [[level * 0.9 ** (moment / 8) for moment in row] for level, row in zip((10, 1e4, 3, 500), moments, strict=True)]
    found = trend(moments, falling)
    assert found is not None
    assert found.change == pytest.approx(-0.1)
    assert found.p_value < 0.01
    again = trend([[1.7e9 + moment for moment in row] for row in moments], falling)
    assert again is not None
    assert again.change == pytest.approx(-0.1), "also in seconds since the epoch"


def test_a_trend_of_seconds_is_not_drawn_out_over_the_minutes_that_nobody_measured() -> None:
    moments = [[60.0 * cell, 60.0 * cell + 1, 60.0 * cell + 2] for cell in range(8)]
    found = trend(moments, [[100.0, 101.0, 102.0]] * 8)
    assert found is not None
    assert found.change == pytest.approx(0.02, rel=0.01)


def test_cells_that_are_faster_the_later_they_come_are_no_trend() -> None:
    moments = [[10.0 * cell, 10.0 * cell + 1] for cell in range(8)]
    found = trend(moments, [[2.0**cell, 2.0**cell] for cell in range(8)])
    assert found is not None
    assert (found.change, found.p_value) == (pytest.approx(0.0), 1.0)


def test_single_repeats_and_dead_cells_have_no_trend() -> None:
    assert trend([[1.0], []], [[5.0], []]) is None
    assert trend([[1.0, 2.0]], [[0.0, 5.0]]) is None
    assert trend([[]], [[5.0, 6.0]]) is None, "measured before moments were kept"
