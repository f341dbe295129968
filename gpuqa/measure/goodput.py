"""Answers that keep the limits of `workload.slo`, counted anew whenever the limits are others: nothing is measured for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gpuqa.config.measurement import SloConfig
from gpuqa.measure.statistics import geometric_mean
from gpuqa.records import Answer, Measurement, Timing

NOT_COUNTED: dict[str, Any] = {"goodput_questions_per_s": None, "goodput_questions_per_s_repeats": [], "slo_attainment": None}


def with_goodput(measurement: Measurement, answers: Sequence[Answer], slo: SloConfig) -> Measurement:
    """The measurement with what the limits make of its answers; with none of it where there is no limit, or no timings.

    Goodput is the answers that keep every limit, a second of their pass (Y. Zhong et al., "DistServe", OSDI 2024).

    Args:
        answers: of the measurement, with the timings of every repeat.
    """
    seconds = measurement.seconds_repeats
    if not slo.any_limit or not answers or any(len(answer.timings) != len(seconds) for answer in answers):
        return replace(measurement, **NOT_COUNTED)
    kept = [sum(keeps(answer.timings[repeat], slo) for answer in answers) for repeat in range(len(seconds))]
    each = [count / time for count, time in zip(kept, seconds, strict=True)]
    counted: dict[str, Any] = {
        "goodput_questions_per_s": geometric_mean(each),
        "goodput_questions_per_s_repeats": each,
        "slo_attainment": sum(kept) / (len(answers) * len(seconds)),
    }
    return replace(measurement, **counted)


def keeps(timing: Timing, slo: SloConfig) -> bool:
    """Whether an answer keeps every limit. A failed one keeps none, one without a token no limit of its first token, and one of
    a single token every limit between tokens."""
    first, between = timing.first_token_s, timing.tpot_s
    if timing.failed or (slo.ttft_ms is not None and first is None):
        return False
    pairs = ((first, slo.ttft_ms), (between, slo.tpot_ms), (timing.latency_s, slo.e2e_ms))
    return all(seconds is None or limit_ms is None or seconds * 1000 <= limit_ms for seconds, limit_ms in pairs)


def slo_of(setting: Mapping[str, Any]) -> SloConfig:
    """The limits of a trial's setting; none where it knows of none."""
    return SloConfig(**(setting.get("workload", {}).get("slo") or {}))
