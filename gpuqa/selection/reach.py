"""What a comparison of speeds could have shown at the noise that it met, and what it would take to show more."""

from __future__ import annotations

import math

from gpuqa.measure.speed_prediction import starts_in
from gpuqa.measure.speed_tests import LOOKS, Unit
from gpuqa.records import Trial
from gpuqa.selection.comparison import Comparison
from gpuqa.selection.wording import counted, duration

LEAD = 0.05  # that a user may want to see shown
FEWEST = {Unit.passes: 4, Unit.rounds: 4, Unit.starts: 3}  # of each; fewer are not compared as finalists
MOST = 1000  # of more observations no advice is given


def reach_of(first: Trial, comparison: Comparison) -> str:
    """A sentence about the smallest lead that could be shown, and about the rounds or starts that would show `LEAD`; "" where
    the speeds were not tested."""
    lead, interval = comparison.speed, comparison.interval
    if lead is None or interval is None or interval.low <= -1:
        return ""
    half = (math.log1p(interval.high) - math.log1p(interval.low)) / 2
    unit = Unit.rounds if lead.unit is Unit.passes else lead.unit
    least = f"leads above {math.expm1(half):.1%}" if half <= math.log(2) else "no lead below a factor of two"
    seen = f"At this noise {counted(lead.count, lead.unit.value)} can show {least}"
    if half <= math.log1p(LEAD):
        return f"{seen}."
    needed = max(FEWEST[unit], math.ceil(lead.count * (half / math.log1p(LEAD)) ** 2))
    if needed > MOST:
        return f"{seen}; for {LEAD:.0%} find out first what disturbs the machine."
    more = needed - (lead.count if unit is lead.unit else 0)
    seconds = sum(seconds_of(trial, unit) for trial in (first, comparison.other))
    most = LOOKS[unit][-1]
    beyond = f", but finalists get {most} at most: look for what disturbs the machine" if needed > most else ""
    return f"{seen}; {counted(more, f'more {unit.value}')}, about {duration(more * seconds)}, would show {LEAD:.0%}{beyond}."


def seconds_of(trial: Trial, unit: Unit) -> float:
    """What one more observation of a trial takes, s: a pass, or the start of an engine, a warm-up and its passes."""
    measurement = trial.measurement
    assert measurement is not None, "a trial without numbers is not compared"
    if unit is not Unit.starts:
        return measurement.seconds
    passes = measurement.repeats / starts_in(measurement)
    return measurement.engine_start_s + measurement.warmup_s + passes * measurement.seconds
