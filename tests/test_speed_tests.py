"""Leads in speed by rounds, by ranks and by starts, against numbers worked by hand or by counting."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from generated_trials import measured

from gpuqa.measure.speed_tests import (
    SignedRank,
    SpeedLead,
    SpeedNoise,
    StartNoise,
    Unit,
    lead_by_starts,
    rounds_of,
    signed_rank_tail,
    speed_lead,
    speed_noise,
    starts_of,
)

USUAL = StartNoise(sd=0.02, freedom=4.0)


@pytest.mark.parametrize("count", [1, 4, 10])
def test_the_chance_of_a_sum_of_signed_ranks_is_the_share_of_all_patterns_of_signs(count: int) -> None:
    sums = [sum(rank for rank, sign in enumerate(signs, 1) if sign) for signs in product((0, 1), repeat=count)]
    tail = signed_rank_tail(count)
    assert len(tail) == count * (count + 1) // 2 + 1
    for least, chance in enumerate(tail):
        assert chance == pytest.approx(sum(total >= least for total in sums) / len(sums))


def test_a_signed_rank_test_gives_the_middle_of_the_pairs_means_and_an_interval_that_agrees_with_its_p_value() -> None:
    test = SignedRank((0.1, 0.2, 0.4, -0.1, 0.3, 0.25, 0.15, 0.05, 0.35, 0.12))
    assert test.difference == pytest.approx(
        np.median([(a + b) / 2 for n, a in enumerate(test.differences) for b in test.differences[n:]])
    )
    for confidence in (0.9, 0.95, 0.99, 0.999):
        interval = test.interval(confidence)
        assert (interval.low > 0) == (test.p_value <= 1 - confidence)
        assert interval.low <= test.difference <= interval.high
    assert SignedRank((0.1,) * 10).p_value == pytest.approx(2 / 2**10)
    assert SignedRank((0.0,) * 10).p_value == 1.0


def test_one_torn_round_moves_neither_the_lead_nor_its_interval_far() -> None:
    quiet = [0.05 + 0.001 * place for place in range(12)]
    torn = [*quiet[:-1], -3.0]
    assert SignedRank(tuple(torn)).difference == pytest.approx(SignedRank(tuple(quiet)).difference, abs=0.01)
    assert SignedRank(tuple(torn)).p_value < 0.04


def test_a_trial_is_split_by_the_starts_of_its_engine() -> None:
    starts = starts_of(measured([100.0, 200.0, 400.0], engine_ids=["a", "b", "a"]), "key")
    assert starts == {"a": [math.log(100), math.log(400)], "b": [math.log(200)]}
    assert starts_of(measured([100.0, 200.0], engine_ids=[]), "key") == {"key": [math.log(100), math.log(200)]}
    assert starts_of(measured([100.0, 0.0], engine_ids=["a", "a"]), "key") is None, "a pass without characters has no logarithm"


def test_rounds_are_the_passes_of_both_that_have_one_place_on_one_start() -> None:
    first, other = {"a": [1.0, 2.0, 3.0], "b": [5.0]}, {"b": [4.5], "a": [0.5, 1.0], "c": [9.0]}
    assert rounds_of(first, other) == [0.5, 1.0, 0.5]


@pytest.mark.parametrize(
    ("rounds", "unit"), [(2, Unit.passes), (3, Unit.passes), (4, Unit.rounds), (9, Unit.rounds), (32, Unit.rounds)]
)
def test_few_passes_of_one_engine_are_compared_as_they_are_and_more_by_rounds(rounds: int, unit: Unit) -> None:
    first = {"a": [1.0 + 0.01 * (place % 3) for place in range(rounds)]}
    other = {"a": [0.9 + 0.01 * (place % 2) for place in range(rounds)]}
    lead = speed_lead(first, other, USUAL)
    assert lead is not None
    assert (lead.unit, lead.count) == (unit, rounds)
    assert isinstance(lead.test, SignedRank) == (rounds >= 10)
    assert lead.test.difference == pytest.approx(0.1, abs=0.02)


def test_a_slow_minute_that_both_share_does_not_hide_a_lead() -> None:
    slow = [0.0, 0.0, -0.7, -0.7, 0.0, 0.0]
    lead = speed_lead(
        {"a": [loss + 0.05 for loss in slow]}, {"a": [loss + 0.001 * (n % 2) for n, loss in enumerate(slow)]}, USUAL
    )
    assert lead is not None
    assert lead.test.p_value < 1e-6


def test_between_engines_a_start_is_one_observation_however_many_passes_it_has() -> None:
    few = speed_lead({"a": [1.0, 1.01], "b": [1.0, 1.01]}, {"c": [0.9, 0.91], "d": [0.9, 0.91]}, USUAL)
    many = speed_lead({"a": [1.0, 1.01] * 50, "b": [1.0, 1.01] * 50}, {"c": [0.9, 0.91] * 50, "d": [0.9, 0.91] * 50}, USUAL)
    assert few is not None
    assert many is not None
    assert (few.unit, few.count, few.test.difference) == (Unit.starts, 2, pytest.approx(0.1))
    assert many.test.p_value > few.test.p_value / 3, "passes do not make up for starts"
    assert speed_lead({"a": [1.0]}, {"c": [0.9]}, USUAL) is None, "nothing is known of the noise of a pass"


def test_one_start_is_known_by_the_usual_one_and_its_passes_alone() -> None:
    noise = speed_noise([{"a": [7.0, 7.1, 7.2]}], USUAL)
    assert noise is not None
    assert (noise.pass_variance, noise.pass_freedom, noise.passes) == (pytest.approx(0.01), 2, pytest.approx(3))
    assert noise.variance(3) == pytest.approx(0.0004 + 6 / 3 * 0.01), "six passes in a row tell as much as one"
    assert noise.freedom == pytest.approx(0.0204**2 / (0.0004**2 / 4 + 0.02**2 / 2)), "neither is known better than it is"


def test_more_starts_draw_the_variance_to_what_they_had_and_assume_less_of_passes() -> None:
    cells = [{"a": [7.0, 7.0, 9.0], "b": [7.2, 7.2]}, {"c": [5.0, 5.0], "d": [5.2, 5.2]}]
    noise = speed_noise(cells, USUAL, passes=2)
    assert noise is not None
    assert noise.pass_variance == pytest.approx((8 / 3) / 5), "of all passes, the third of the first start among them"
    assert noise.start_squares == pytest.approx(0.02 + 0.02), "by the first two passes of each start"
    assert (noise.start_freedom, noise.passes) == (2, pytest.approx(2))
    usual = 0.0004 + (1 + 5 / (1 + 2 / 8)) * noise.pass_variance / 2
    assert noise.weight == 4, "the passes know more than four starts would, so the usual start counts as four"
    assert noise.variance(2) == pytest.approx((4 * usual + 0.04) / (4 + 2))
    assert noise.freedom == 6
    quiet = speed_noise([{"a": [1.0, 1.0], "b": [1.0, 1.0]}, {"c": [2.0, 2.0], "d": [2.0, 2.0]}], USUAL)
    assert quiet is not None
    assert quiet.variance(2) == pytest.approx(4 * 0.02**2 / 6), "starts that are alike are no proof that all are"


def test_without_two_passes_on_a_start_nothing_is_known_of_noise() -> None:
    assert speed_noise([{"a": [7.0], "b": [7.1]}], USUAL) is None


def test_fewer_passes_on_a_start_are_known_less_well_and_more_no_better() -> None:
    noise = SpeedNoise(0.02, 4.0, 0.0, 0, 0.0006, 6, 3.0)
    assert noise.variance(1) == pytest.approx(noise.variance(3) + 0.0006 * (1 - 1 / 3))
    assert noise.variance(30) == noise.variance(3), "more passes on one start do not make it a second one"


def test_passes_of_another_start_tell_how_much_passes_vary() -> None:
    noise = SpeedNoise(0.02, 4.0, 0.001, 2, 0.0, 2, 3.0)
    with_more = noise.with_passes([7.0, 7.1, 7.2])
    assert (with_more.pass_variance, with_more.pass_freedom) == (pytest.approx(0.02 / 4), 4)
    assert with_more.variance(3) > noise.variance(3)
    assert (with_more.start_squares, with_more.start_freedom) == (0.001, 2), "its own mean is what will be compared"


def test_the_lead_between_starts_is_that_of_their_means() -> None:
    first, other = {"a": [7.10, 7.12], "b": [7.14, 7.16]}, {"c": [7.00, 7.02]}
    noise = SpeedNoise(0.02, 4.0, 0.001, 2, 0.0006, 6, 2.0)
    lead = lead_by_starts(first, other, noise)
    assert (lead.difference, lead.freedom) == (pytest.approx(7.13 - 7.01), noise.freedom)
    assert lead.error == pytest.approx(math.sqrt(noise.variance(2) / 2 + noise.variance(2)))
    once = lead_by_starts(first, {"c": [7.01]}, noise)
    assert once.error == pytest.approx(math.sqrt(noise.variance(2) / 2 + noise.variance(1))), "a start of one pass"


def test_finals_and_compare_judge_starts_by_one_model() -> None:
    first, other = {"a": [1.0, 1.01], "b": [1.02, 1.03]}, {"c": [0.9, 0.91], "d": [0.89, 0.9]}
    noise = speed_noise([first, other], USUAL)
    assert noise is not None
    assert speed_lead(first, other, USUAL) == SpeedLead(lead_by_starts(first, other, noise), Unit.starts, 2)
    more = {**first, "e": [1.3, 1.3]}
    known = speed_noise([more, other], USUAL)
    assert known is not None
    assert speed_lead(first, other, USUAL, [more, other]) == SpeedLead(lead_by_starts(first, other, known), Unit.starts, 2)
