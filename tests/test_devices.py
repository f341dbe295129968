"""Speeds of several devices: cells are compared on each device, and what a device explains is no noise."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from generated_trials import RULE, cell

from gpuqa.measure.devices import DEVICE_SD, start_squares
from gpuqa.measure.speed_tests import SpeedNoise, StartNoise, lead_by_starts, speed_lead, speed_noise
from gpuqa.records import Device, Trial
from gpuqa.selection.comparison import by_speed
from gpuqa.selection.decision import decide, drift_of
from gpuqa.selection.verdict import Outcome
from gpuqa.study import finalists

sys.path.insert(0, str(ROOT / "experiments" / "verdict"))
import devices as simulated
import simulate

USUAL = StartNoise()
FAST, SLOW, OTHER = Device("a", "card", "GPU 0"), Device("a", "card", "GPU 1"), Device("b", "another card", "GPU 0")


def starts(cell: str, **levels: list[float]) -> tuple[dict[str, list[float]], dict[str, Device]]:
    """A start with two passes for each log speed, and what each start ran on; `fast`, `slow` and `other` are devices."""
    on = {"fast": FAST, "slow": SLOW, "other": OTHER}
    rows = {f"{cell} {name} {place}": (level, on[name]) for name, found in levels.items() for place, level in enumerate(found)}
    return {start: [level, level] for start, (level, _) in rows.items()}, {start: device for start, (_, device) in rows.items()}


def test_a_lead_is_formed_on_each_device_and_the_difference_between_devices_falls_out() -> None:
    first, where = starts("first", fast=[1.10, 1.11], slow=[0.60, 0.61])
    other, there = starts("other", fast=[1.00, 1.01], slow=[0.50, 0.51])
    apart = speed_lead(first, other, USUAL, devices={**where, **there})
    together = speed_lead(first, other, USUAL)
    assert apart is not None
    assert together is not None
    assert (apart.test.difference, apart.count) == (pytest.approx(0.1), 4)
    assert apart.test.p_value < 0.001, "it is the same on both"
    assert together.test.p_value > 0.3, "as one device the starts of each cell lie far apart"


def test_devices_with_more_starts_count_more_and_a_start_that_only_one_cell_has_there_does_not() -> None:
    first, where = starts("first", fast=[1.3, 1.3, 1.3, 1.3], slow=[0.6], other=[9.0])
    other, there = starts("other", fast=[1.0, 1.0, 1.0, 1.0], slow=[0.5])
    noise = SpeedNoise(0.02, 4.0, 0.001, 2, 0.0, 6, 2.0)
    lead = lead_by_starts(first, other, noise, {**where, **there})
    assert lead is not None
    assert lead.difference == pytest.approx((4 * 0.3 + 1 * 0.1) / 5)
    assert lead.error == pytest.approx(math.sqrt(noise.variance(2) * 2 / 5))


def test_starts_are_judged_by_what_neither_their_cell_nor_their_device_explains() -> None:
    first, where = starts("first", fast=[1.00, 1.02], slow=[0.50, 0.52])
    other, there = starts("other", fast=[2.00, 2.02], slow=[1.50, 1.52])
    squares, freedom = start_squares([first, other], {**where, **there})
    assert (squares, freedom) == (pytest.approx(8 * 0.01**2), 8 - 2 - 1), "a level less for the second device"
    first, where = starts("first", fast=[1.0], slow=[0.5], other=[1.0])
    other, there = starts("other", fast=[2.0], slow=[1.5], other=[2.3])
    squares, freedom = start_squares([first, other], {**where, **there})
    assert freedom == 6 - 2 - 2, "one start on each device tells by how much the lead varies between them"
    assert squares == pytest.approx((0.1**2 + 0.1**2 + 0.2**2) / 2), "the leads are 1, 1 and 1.3"


def test_one_device_is_judged_exactly_as_if_none_were_known() -> None:
    first, where = starts("first", fast=[1.00, 1.07, 1.02])
    other, there = starts("other", fast=[1.03, 0.98, 1.01])
    assert speed_lead(first, other, USUAL, devices={**where, **there}) == speed_lead(first, other, USUAL)
    assert speed_noise([first, other], USUAL, 1, {**where, **there}) == speed_noise([first, other], USUAL, 1)


def test_cells_on_two_cards_are_compared_with_what_cards_of_one_model_may_differ_by_and_on_unlike_cards_not_at_all() -> None:
    first, where = starts("first", fast=[1.10])
    near, there = starts("near", slow=[1.00])
    far, away = starts("far", slow=[0.50])
    unlike, elsewhere = starts("unlike", other=[0.10])
    devices = {**where, **there, **away, **elsewhere}
    lead = speed_lead(first, near, USUAL, devices=devices)
    assert lead is not None
    assert lead.test.interval().low < 0 < lead.test.difference
    noise = speed_noise([first, near], USUAL, devices=devices)
    assert noise is not None
    assert lead.test.error == pytest.approx(math.sqrt(2 * DEVICE_SD**2 + 2 * noise.variance(2)))  # type: ignore[union-attr]
    lead = speed_lead(first, far, USUAL, devices=devices)
    assert lead is not None
    assert lead.test.p_value < 0.05, "half as fast is more than cards of one model differ by"
    assert speed_lead(first, unlike, USUAL, devices=devices) is None


def trial(number: int, on: dict[Device, float], **numbers: Any) -> Trial:
    """A trial with a start of three quiet repeats on each device."""
    speeds = [speed * off for speed in on.values() for off in (0.999, 1.0, 1.001)]
    where = [device for device in on for _ in range(3)]
    engines = [f"engine {number} {device}" for device in where]
    return cell(number, speeds, engine_ids=engines, devices=where, **numbers)


def test_a_cell_that_another_one_leads_on_its_own_card_is_no_finalist_although_the_first_was_on_another_card() -> None:
    """Cells 0 and 1 are equal but for their cards; cell 2 is slower than cell 1, which ran on the same card."""
    trials = [trial(0, {FAST: 1100.0}), trial(1, {SLOW: 1000.0}), trial(2, {SLOW: 850.0})]
    choice = finalists.finalists(trials, RULE, {}, 3)
    assert ([one.axes["seqs"] for one in choice.finalists], choice.left_out) == (["0", "1"], 0)
    alone = [trial(0, {SLOW: 1100.0}), trial(1, {FAST: 1000.0}), trial(2, {SLOW: 980.0})]
    chosen = finalists.finalists(alone, RULE, {}, 3).finalists
    assert [one.axes["seqs"] for one in chosen] == ["0", "1"], "the first was on the same card itself"


def test_cells_on_unlike_cards_are_finalists_both_because_nothing_compares_them() -> None:
    trials = [trial(0, {FAST: 1000.0}), trial(1, {OTHER: 100.0}), trial(2, {OTHER: 80.0})]
    choice = finalists.finalists(trials, RULE, {}, 3)
    assert ([one.axes["seqs"] for one in choice.finalists], choice.left_out) == (["0", "1"], 0)
    assert by_speed(trials[0], trials[1], RULE, finalists.Known()).interval is None


def test_finalists_win_by_what_they_lead_on_every_card_and_the_verdict_names_the_cards() -> None:
    cards = [FAST, SLOW, OTHER, Device("c", "card", "GPU 0")]
    again = {"first_round_chars_per_s": 1.0}
    better = trial(0, {card: 1100.0 * 2**place for place, card in enumerate(cards)}, **again)
    worse = trial(1, {card: 1000.0 * 2**place for place, card in enumerate(cards)}, **again)
    verdict = decide([worse, better], RULE)
    assert (verdict.outcome, verdict.winner) == (Outcome.WIN, better)
    assert verdict.comparisons[0].difference == pytest.approx(0.1)
    told = (
        "Measured on 4 devices (card, GPU 0 of a; card, GPU 1 of a; another card, GPU 0 of b; card, GPU 0 of c), which are not"
    )
    assert f"{told} alike; speeds were compared on each of them only." in verdict.reason


def test_a_card_that_is_slower_is_no_drift() -> None:
    when = [float(place) for place in range(6)]
    rows = [trial(number, {FAST: 1000.0, SLOW: 500.0}, repeats_began_at=when) for number in range(4)]
    found = drift_of(rows)
    assert found is not None
    assert abs(found.change) < 0.01


@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.parametrize("noise", ["quiet (sd 1.6 %)", "AR(1), 0.7"])
def test_equal_cells_seldom_get_a_win_on_two_devices_that_differ_by_ten_percent(noise: str) -> None:
    """A slice of `experiments/verdict/devices.py`, whose whole is in docs/verdict_rates.md."""
    studies = 100
    equal = [simulated.on_devices(draw, simulate.NOISES[noise], 0.0, 0.03, 2).won for draw in simulate.draws(studies)]
    print(f"{noise}: false WIN {np.mean(equal):.1%} on two devices that differ by 10 %, at a start sd of 3 %")
    assert np.mean(equal) <= 0.05 + 3.1 * math.sqrt(0.05 * 0.95 / studies)


@pytest.mark.slow
@pytest.mark.no_cover
def test_devices_that_differ_by_ten_percent_do_not_hide_a_lead_of_five() -> None:
    ended = [simulated.on_devices(draw, simulate.quiet, 0.05, 0.01, 2) for draw in simulate.draws(100)]
    assert np.mean([study.right for study in ended]) >= 0.95
