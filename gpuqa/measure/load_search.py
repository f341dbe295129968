"""The search for the highest arrival rate at which answers keep the limits of `workload.slo`.

The rate is doubled, or halved, until one rate kept the limits and another did not. Then the interval between them is halved (in
logarithms) until it is as narrow as `workload.search.resolution`, and both of its ends are measured again. All passes at a
rate count together, and every one of them gets arrivals of its own, so that no lucky pattern decides. Where later passes
turn the verdict on an end, the search goes on from there. The answer is the interval with the passes behind each end; nothing
is claimed within it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from gpuqa.config.measurement import WorkloadConfig
from gpuqa.measure.goodput import keeps
from gpuqa.measure.latency import timings_of
from gpuqa.records import Measurement, Pass

MOSTLY_ALONE = 0.3  # questions in flight on average (rate * mean latency), below which a lower rate is hardly easier


@dataclass(frozen=True, slots=True)
class TriedRate:
    """One rate of a search and all passes at it."""

    rate_per_s: float
    passes: list[Pass]
    kept: bool  # the limits, by as many answers as `workload.search.attainment` asks for, in a steady state


def next_workload(passes: Sequence[Pass], workload: WorkloadConfig) -> WorkloadConfig | None:
    """How the next pass of a search issues its questions, after all so far; None where the search has ended."""
    assert workload.arrival_seed is not None, "WorkloadConfig checks it"
    rate = next_rate(passes, workload) if len(passes) < workload.search.max_passes else None
    if rate is None:
        return None
    before = sum(measured.rate_per_s == rate for measured in passes)
    return replace(workload, rate_per_s=rate, arrival_seed=workload.arrival_seed + before)


def next_rate(passes: Sequence[Pass], workload: WorkloadConfig) -> float | None:
    """The rate of the next pass; None where both ends of the answer are known."""
    kept, missed = ends_of(passes, workload)
    if kept is None and missed is None:
        return workload.rate_per_s
    if missed is None:
        return kept.rate_per_s * 2 if kept else None
    if kept is None:
        return again(missed, workload) if is_mostly_alone(missed) else missed.rate_per_s / 2
    if missed.rate_per_s / kept.rate_per_s > 1 + workload.search.resolution:
        return math.sqrt(kept.rate_per_s * missed.rate_per_s)
    return again(kept, workload) or again(missed, workload)


def again(tried: TriedRate, workload: WorkloadConfig) -> float | None:
    """Its rate, if it has fewer passes than an end of the answer must have."""
    return tried.rate_per_s if len(tried.passes) < workload.repeats else None


def ends_of(passes: Sequence[Pass], workload: WorkloadConfig) -> tuple[TriedRate | None, TriedRate | None]:
    """The highest rate that kept the limits, and the lowest that did not. What was kept above that one does not count."""
    by_rate: dict[float, list[Pass]] = {}
    for measured in passes:
        assert measured.rate_per_s is not None, "arrivals of a search have a rate"
        by_rate.setdefault(measured.rate_per_s, []).append(measured)
    tried = [TriedRate(rate, by_rate[rate], keeps_limits(by_rate[rate], workload)) for rate in sorted(by_rate)]
    missed = next((one for one in tried if not one.kept), None)
    kept = [one for one in tried if missed is None or one.rate_per_s < missed.rate_per_s]
    return (kept[-1] if kept else None), missed


def keeps_limits(passes: Sequence[Pass], workload: WorkloadConfig) -> bool:
    """Whether enough answers of all these passes together keep every limit, and in none questions came faster than answers."""
    assert workload.search.attainment is not None, "or there would be no search"
    kept = [keeps(timing, workload.slo) for measured in passes for timing in timings_of(measured.answered)]
    return sum(kept) >= workload.search.attainment * len(kept) and not any(one.answered.saturated for one in passes)


def is_mostly_alone(tried: TriedRate) -> bool:
    """Whether hardly a question met another one at this rate."""
    return tried.rate_per_s * fmean(time for one in tried.passes for time in one.answered.latencies_s) < MOSTLY_ALONE


def passes_that_count(passes: Sequence[Pass], workload: WorkloadConfig) -> list[Pass]:
    """The passes that the numbers of a trial are of: of a search, those at the highest rate that kept the limits, or at the
    lowest where none did; else all."""
    if not workload.searches:
        return list(passes)
    kept, missed = ends_of(passes, workload)
    end = kept or missed
    return end.passes if end else []


def with_search(measurement: Measurement, passes: Sequence[Pass], workload: WorkloadConfig) -> Measurement:
    """The measurement with the answer of the search by all its passes; as it is where there was no search."""
    if not workload.searches:
        return measurement
    kept, missed = ends_of(passes, workload)
    return replace(
        measurement,
        load_kept_per_s=kept.rate_per_s if kept else None,
        load_kept_passes=len(kept.passes) if kept else None,
        load_missed_per_s=missed.rate_per_s if missed else None,
        load_missed_passes=len(missed.passes) if missed else None,
    )
