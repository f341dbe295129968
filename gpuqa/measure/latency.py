"""Timings of single answers and tokens -> percentiles with their intervals, time per output token, gaps between tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
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


def gaps_of(passes: Sequence[Answered], answers: Sequence[Answer]) -> dict[str, Any]:
    """The `itl_ms_*` numbers: of every gap between a token and the next of its answer; None where nothing was streamed.

    Tokens that came in one chunk have gaps of 0 between them, and the wait for the next chunk is one gap, since that is what a
    client sees. `tpot_ms_mean` is another thing: a mean over answers, in which a short answer counts as much as a long one.
    """
    gaps, questions = list[float](), list[str]()
    for measured in passes:
        for completion, answer in zip(measured.completions, answers, strict=True):
            between = [(later - sooner) * 1000 for sooner, later in pairwise(completion.token_times_s)]
            gaps += between
            questions += [answer.question] * len(between)
    percentiles = {f"itl_ms_p{percent}": percentile(gaps, percent, questions) for percent in (50, 95, 99)}
    return {"itl_ms_mean": fmean(gaps) if gaps else None, **percentiles}
