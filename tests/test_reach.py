"""What a comparison could have shown, and what it would take to show five percent."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from generated_trials import RULE, cell

from gpuqa.records import Trial
from gpuqa.selection.comparison import Known, by_speed
from gpuqa.selection.decision import decide
from gpuqa.selection.reach import reach_of
from gpuqa.selection.verdict import Outcome
from gpuqa.selection.wording import duration


def finalist(number: int, logs: list[float], engines: list[str] | None = None) -> Trial:
    """A trial whose passes take two seconds each, and its engine eight to start."""
    speeds = [10_000 * math.exp(log) for log in logs]
    same = {"first_round_chars_per_s": 10_000.0, "seconds": 2.0, "engine_start_s": 8.0, "warmup_s": 0.0}
    return cell(number, speeds, engine_ids=engines or ["one engine"] * len(logs), **same)


def noisy(count: int, sd: float, seed: int) -> list[float]:
    return np.random.default_rng(seed).normal(0, sd, count).tolist()


def test_as_many_rounds_as_are_named_show_a_lead_of_five_percent() -> None:
    first, other = finalist(1, noisy(20, 0.12, 1)), finalist(2, noisy(20, 0.12, 2))
    told = reach_of(first, by_speed(first, other, RULE, Known()))
    seen, more_rounds = r"At this noise 20 rounds can show leads above \d+\.\d%", r"(\d+) more rounds"
    found = re.fullmatch(rf"{seen}; {more_rounds}, about (.*), would show 5%(, but finalists get 32 at most.*)?\.", told)
    assert found is not None, told
    more = int(found[1])
    assert bool(found[3]) == (20 + more > 32)
    assert found[2] == duration(more * 4)
    longer = [finalist(number, noisy(20 + more, 0.12, 10 + number)) for number in (1, 2)]
    [comparison] = [by_speed(longer[0], longer[1], RULE, Known())]
    assert comparison.interval is not None
    width = math.log1p(comparison.interval.high) - math.log1p(comparison.interval.low)
    assert width / 2 == pytest.approx(math.log(1.05), rel=0.35)


def test_starts_of_engines_are_counted_with_the_time_that_they_take() -> None:
    engines = [[f"{name}{start}" for start in range(3) for _ in range(2)] for name in "ab"]
    logs = [0.05, 0.04, -0.06, -0.05, 0.02, 0.01]
    first, other = finalist(1, logs, engines[0]), finalist(2, logs[::-1], engines[1])
    told = reach_of(first, by_speed(first, other, RULE, Known()))
    found = re.search(
        r"At this noise 3 engine starts can show leads above .*; (\d+) more engine starts, about (.*), would", told
    )
    assert found is not None, told
    assert found[2] == duration(int(found[1]) * 2 * (8 + 2 * 2))


def test_what_is_narrow_enough_needs_no_more_and_what_is_hopeless_gets_other_advice() -> None:
    quiet = finalist(1, noisy(20, 0.01, 1)), finalist(2, noisy(20, 0.01, 2))
    assert re.fullmatch(
        r"At this noise 20 rounds can show leads above \d\.\d%\.", reach_of(quiet[0], by_speed(*quiet, RULE, Known()))
    )
    wild = finalist(1, noisy(20, 2.0, 1)), finalist(2, noisy(20, 2.0, 2))
    hopeless = (
        "At this noise 20 rounds can show no lead below a factor of two; for 5% find out first what disturbs the machine."
    )
    assert reach_of(wild[0], by_speed(*wild, RULE, Known())) == hopeless
    once = finalist(1, [0.0], ["x"]), finalist(2, [0.0], ["y"])
    assert reach_of(once[0], by_speed(*once, RULE, Known())) == "", "no test"


def test_a_verdict_that_is_open_says_so_and_one_that_is_not_does_not() -> None:
    open_one = decide([finalist(1, noisy(12, 0.2, 1)), finalist(2, noisy(12, 0.2, 2))], RULE)
    assert open_one.outcome is Outcome.INCONCLUSIVE
    assert "At this noise 12 rounds can show leads above" in open_one.reason
    decided = decide([finalist(1, noisy(12, 0.01, 1)), finalist(2, [log + 0.5 for log in noisy(12, 0.01, 2)])], RULE)
    assert decided.outcome is Outcome.WIN
    assert "At this noise" not in decided.reason


TIMES = {
    0.2: "1 s",
    3.9: "4 s",
    61: "1 min 1 s",
    120: "2 min",
    754: "12 min",
    3600: "1 h",
    6000: "1 h 40 min",
    90061: "1 d 1 h",
}


@pytest.mark.parametrize(("seconds", "text"), TIMES.items())
def test_a_time_is_told_in_the_units_that_people_take(seconds: float, text: str) -> None:
    assert duration(seconds) == text
