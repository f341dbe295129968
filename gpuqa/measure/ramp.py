"""A pass whose arrivals come ever faster, by thirds: which rate was kept up with, and which was not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from gpuqa.config.measurement import WorkloadConfig
from gpuqa.measure.percentiles import percentile
from gpuqa.measure.workload import KEPT_UP, arrivals_s
from gpuqa.records import Answer, Measurement, RampThird

THIRDS = 3


def with_ramp(measurement: Measurement, answers: Sequence[Answer], workload: WorkloadConfig) -> Measurement:
    """The measurement with the thirds of its ramp; as it is where there was none, or fewer than two questions for a third.

    Some questions of a third are answered in the next one. So a third that is hardly longer than four answers counts as
    saturated, however idle the engine is: a ramp wants many questions.
    """
    if workload.ramp_to_per_s is None or len(answers) < 2 * THIRDS:
        return measurement
    schedule = arrivals_s(len(answers), workload)
    bounds = [len(answers) * number // THIRDS for number in range(THIRDS + 1)]
    thirds = [third_of(answers, schedule, begin, end) for begin, end in pairwise(bounds)]
    saturated = [third.arrivals_per_s for third in thirds if third.answers_per_s < KEPT_UP * third.arrivals_per_s]
    return replace(measurement, ramp=thirds, saturates_at_per_s=saturated[0] if saturated else None)


def third_of(answers: Sequence[Answer], schedule: Sequence[float], begin: int, end: int) -> RampThird:
    """The questions from one place in the order of arrival up to another, and what came back meanwhile."""
    last = min(end, len(schedule) - 1)  # the arrival that ends the third: the next one's first, or the very last
    since, until = schedule[begin], schedule[last]
    repeats = len(answers[0].timings)
    moments = [due + timing.latency_s for answer, due in zip(answers, schedule, strict=True) for timing in answer.timings]
    values = [(timing.latency_s * 1000, answer.question) for answer in answers[begin:end] for timing in answer.timings]
    latencies, questions = [value for value, _ in values], [question for _, question in values]
    return RampThird(
        arrivals_per_s=(last - begin) / (until - since),
        answers_per_s=sum(since < moment <= until for moment in moments) / repeats / (until - since),
        e2e_latency_ms_p50=percentile(latencies, 50, questions),
        e2e_latency_ms_p95=percentile(latencies, 95, questions),
    )
