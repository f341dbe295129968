"""A slice of the simulations of `reproduce` and `compare`; `make simulations` prints all of both tables."""

from __future__ import annotations

import sys
from math import sqrt
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "experiments" / "verdict"))
from compare_rates import passes
from reproduce_rates import CHANGES, NOISES, Row, covered_rate, outside_rate, outside_rates

from gpuqa.selection.against_frozen import COVERED

pytestmark = [pytest.mark.slow, pytest.mark.no_cover]

STUDIES = 300
SCORED = 100  # studies of answers, which take longer
JUDGED = ("nothing changed", "one answer in five is another", "all answers are others", "every answer 10 % worse")


def chance(rate: float, studies: int = STUDIES) -> float:
    """How far a true rate of a target may show beside it in so many studies: two standard errors."""
    return 2 * sqrt(rate * (1 - rate) / studies)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(("repeats", "start_sd"), [(2, 0.0), (3, 0.03), (10, 0.03)])
@pytest.mark.parametrize("design", ["two engines", "one start"])
def test_where_nothing_changed_the_next_speed_is_not_outside(noise: str, repeats: int, start_sd: float, design: str) -> None:
    rate = outside_rate(Row(noise, repeats, start_sd, design), STUDIES)
    print(f"{noise}, {design}, {repeats} repeats, start sd {start_sd:.0%}: OUTSIDE in {rate:.1%}")
    assert rate <= 0.07 + chance(0.07)


def test_a_single_cell_that_became_a_fifth_slower_is_outside_on_a_quiet_machine() -> None:
    rate = outside_rate(Row("normal 2 %", 3, 0.01), STUDIES, 0.8)
    print(f"one start, 3 repeats, sd 2 %, start sd 1 %, 20 % slower: OUTSIDE in {rate:.1%}")
    assert rate >= 0.9


@pytest.mark.parametrize("repeats", COVERED)
def test_what_a_winner_says_of_slow_passes_is_what_the_interval_of_one_start_covers_there(repeats: int) -> None:
    rates = [covered_rate(Row(noise, repeats, 0.01), STUDIES) for noise in NOISES if "bimodal" in noise]
    print(f"one start, {repeats} repeats, frozen interval, passes slow by chance: covers {rates}")
    assert abs(min(rates) - COVERED[repeats]) <= chance(COVERED[repeats])


@pytest.mark.parametrize("questions", [24, 80])
def test_scores_are_outside_where_every_answer_is_10_percent_worse_and_inside_where_few_are_others(questions: int) -> None:
    rates = {name: outside_rates(questions, CHANGES[name], SCORED) for name in JUDGED}
    print(f"{questions} questions, rouge_l_f1 and any score OUTSIDE: {rates}")
    assert rates["every answer 10 % worse"] == (1.0, 1.0)
    assert rates["nothing changed"] == (0.0, 0.0)
    assert rates["one answer in five is another"][1] <= 0.05 + chance(0.05, SCORED)
    assert rates["all answers are others"][1] <= 0.05 + chance(0.05, SCORED)


@pytest.mark.parametrize("noise", NOISES)
def test_a_trial_that_is_10_percent_slower_is_not_called_equal(noise: str) -> None:
    rates = {sides: passes(noise, 3, 0.03, sides, 0.9, STUDIES) for sides in ("one start", "three starts")}
    print(f"{noise}, 10 % slower, exit code 0: {rates}")
    assert max(rates.values()) <= 0.05 + chance(0.05)


def test_an_equal_trial_on_a_quiet_machine_is_shown_to_be_equal() -> None:
    rates = {sides: passes("normal 1 %", 3, 0.01, sides, 1.0, STUDIES) for sides in ("one start", "three starts")}
    print(f"normal 1 %, start sd 1 %, equal, exit code 0: {rates}")
    assert rates["one start"] >= 0.8
    assert rates["three starts"] >= 0.98
