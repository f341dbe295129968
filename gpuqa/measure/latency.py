"""Timings of single answers -> percentiles with their intervals, and the time per output token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from gpuqa.measure.percentiles import percentile, percentile_interval
from gpuqa.records import Answer, Answered, Interval, Timing

PERCENTILES: dict[str, tuple[Callable[[Timing], float | None], int]] = {  # metric -> what it is a percentile of (s), which one
    "ttft_ms_p50": (lambda timing: timing.first_token_s, 50),
    "ttft_ms_p95": (lambda timing: timing.first_token_s, 95),
    "e2e_latency_ms_p50": (lambda timing: timing.latency_s, 50),
    "e2e_latency_ms_p95": (lambda timing: timing.latency_s, 95),
    "e2e_latency_ms_p99": (lambda timing: timing.latency_s, 99),
}


def timings_of(measured: Answered) -> list[Timing]:
    """What the answers of one pass took, in their order."""
    both = zip(measured.completions, measured.latencies_s, strict=True)
    return [Timing(latency, answer.first_token_s, answer.output_tokens, answer.error is not None) for answer, latency in both]


def percentiles_of(answers: Sequence[Answer]) -> dict[str, Any]:
    """Every percentile of `PERCENTILES` by its name; None where there are too few different questions."""
    return {name: percentile(*sample(name, answers)) for name in PERCENTILES}


def interval_of(name: str, answers: Sequence[Answer]) -> Interval | None:
    """The 95 % interval of a percentile of `PERCENTILES`; None where there are too few different questions, or no timings."""
    return percentile_interval(*sample(name, answers))


def sample(name: str, answers: Sequence[Answer]) -> tuple[list[float], int, list[str]]:
    """The values (ms, over all repeats) that a percentile is of, which one it is, and of each value its question."""
    seconds_of, percent = PERCENTILES[name]
    timings = [(timing, answer.question) for answer in answers for timing in answer.timings]
    rows = [(seconds * 1000, question) for timing, question in timings if (seconds := seconds_of(timing)) is not None]
    return [value for value, _ in rows], percent, [question for _, question in rows]


def tpot_ms_mean(answers: Sequence[Answer]) -> float | None:
    """Mean time per output token over all answers of two tokens or more, ms; None without one."""
    seconds = [each for answer in answers for timing in answer.timings if (each := timing.tpot_s) is not None]
    return fmean(seconds) * 1000 if seconds else None
