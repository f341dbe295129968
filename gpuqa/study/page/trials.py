"""The cells of a study for the report: how each stands, and what was measured of it in every stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuqa.measure.fingerprint import Stage
from gpuqa.measure.latency import sample
from gpuqa.measure.metric_table import METRICS
from gpuqa.measure.metrics import intervals_of
from gpuqa.measure.percentiles import questions_needed
from gpuqa.records import Answer, Measurement, Trial
from gpuqa.roofline.roofline import fraction
from gpuqa.selection.comparison import is_finalist
from gpuqa.selection.constraints import seen_of
from gpuqa.selection.verdict import Standing
from gpuqa.study.kept import kept_of, remarks
from gpuqa.study.page.result import Result

STAGES = {Stage.first_round: "first", Stage.finals: "again", Stage.confirmation: "confirmed"}
QUANTILES = (0, 5, 25, 50, 75, 95, 100)
DISTRIBUTIONS = {"e2e_latency_ms": "e2e_latency_ms_p50", "ttft_ms": "ttft_ms_p50"}  # -> a percentile of the same values


def cells_of(result: Result) -> list[dict[str, Any]]:
    """One entry a cell, in the order of the verdict."""
    return [cell_of(standing, result) for standing in result.verdict.standings]


def cell_of(standing: Standing, result: Result) -> dict[str, Any]:
    """A cell: its name, how it stands, why, and its numbers in each stage that measured it."""
    stages, kept = result.stages_of(standing), kept_of(standing)
    decisive = Stage.finals if Stage.finals in stages else Stage.first_round
    return {
        "name": standing.trial.name,
        "axes": standing.trial.axes,
        "key": stages[Stage.first_round].key[:16],
        "status": status_of(standing, result),
        "sentences": remarks(standing),
        "short": [violation.short for violation in standing.violations],
        "kept": kept.value if kept else None,
        "decisive": STAGES[decisive],
        "stages": {STAGES[stage]: stage_of(trial, result) for stage, trial in stages.items()},
        "overrides": [
            {name: getattr(override, name) for name in ("part", "asked", "ran", "reason", "version")}
            for override in standing.trial.overrides
        ],
    }


def status_of(standing: Standing, result: Result) -> str:
    """How a cell stands, in one word."""
    trial = standing.trial
    states = {
        "winner": trial is result.verdict.winner,
        "failed": trial.error is not None,
        "skipped": trial.skipped is not None,
        "dropped": trial.dropped is not None,
        "open": standing.not_shown and bool(standing.violations),
        "refused": bool(standing.violations),
        "finalist": is_finalist(trial),
    }
    return next((state for state, holds in states.items() if holds), "eligible")


def stage_of(trial: Trial, result: Result) -> dict[str, Any] | None:
    """What was measured of a cell in one stage; None where that failed. A dropped cell has the numbers of its last slice."""
    if (seen := seen_of(trial)) is None:
        return None
    answers = result.answers.get(trial.key, ())[-seen.questions :]
    noise = result.noise if result.confirmed and trial.key == result.confirmed.key else None
    intervals = {name: interval for name, interval in intervals_of(seen, answers, noise).items() if interval}
    reached = fraction(trial)
    return {
        "key": trial.key[:16],
        "numbers": {name: getattr(seen, name) for name in METRICS},
        "intervals": {name: [interval.low, interval.high] for name, interval in intervals.items()},
        "bound": seen.chars_per_s / reached if reached else None,  # in chars/s, of what memory bandwidth allows at best
        "repeats": repeats_of(seen),
        "quantiles": {name: quantiles_of(percentile, answers) for name, percentile in DISTRIBUTIONS.items()},
        "engine_start_s": seen.engine_start_s,
        "warmup_s": seen.warmup_s,
        "clocks": clocks_of(seen),
    }


def repeats_of(seen: Measurement) -> list[dict[str, Any]]:
    """Every pass: its speed, and where they are known its begin (s since the epoch), its length and the start of its engine."""
    known: list[list[Any]] = [seen.chars_per_s_repeats, seen.repeats_began_at, seen.seconds_repeats, seen.engine_ids]
    whole = [values if len(values) == len(seen.chars_per_s_repeats) else [] for values in known]
    names = ("chars_per_s", "at", "seconds", "engine")
    return [
        {name: values[place] for name, values in zip(names, whole, strict=True) if values} for place in range(len(whole[0]))
    ]


def quantiles_of(name: str, answers: Sequence[Answer]) -> list[float | None] | None:
    """The `QUANTILES` of what single answers took, ms; None for those that the different questions cannot support."""
    values, _, questions = sample(name, answers)
    if not values:
        return None
    different = len(set(questions))
    inner = {
        percent for percent in QUANTILES if 0 < percent < 100 and different < questions_needed(max(percent, 100 - percent))
    }
    return [None if percent in inner else float(np.percentile(values, percent)) for percent in QUANTILES]


def clocks_of(seen: Measurement) -> list[dict[str, Any]]:
    """What NVML read of the first GPU at the begin and the end of every pass; none without NVML."""
    passes = len(seen.repeats_began_at)
    each, rest = divmod(len(seen.conditions), 2 * passes) if passes else (0, 0)
    if each == 0 or rest or len(seen.seconds_repeats) != passes:
        return []
    moments = [
        moment
        for began, seconds in zip(seen.repeats_began_at, seen.seconds_repeats, strict=True)
        for moment in (began, began + seconds)
    ]
    return [
        {"at": moment, "mhz": reading.sm_clock_mhz, "celsius": reading.temperature_c, "watts": reading.power_w}
        for moment, reading in zip(moments, seen.conditions[::each], strict=True)
    ]
