"""Completions and seconds -> numbers. Scoring is here too, off the clock.

A new metric is a field of `gpuqa.records.Measurement`, its formula in `measure`, and a line in
`gpuqa.measure.metric_table.METRICS`: leaderboard, report and `evaluate` then have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from gpuqa.measure import rouge
from gpuqa.measure.latency import PERCENTILES, gaps_of, interval_of, percentiles_of, timings_of, tpot_ms_mean
from gpuqa.measure.speed_prediction import next_of
from gpuqa.measure.speed_tests import SpeedNoise
from gpuqa.measure.statistics import bootstrap_interval, geometric_mean, median_and_mad
from gpuqa.records import IDLE, Answer, Answered, Completion, Conditions, Device, Interval, Measurement, Question

CLEAN_ENDS = ("stop", "error")


def intervals_of(
    measurement: Measurement, answers: Sequence[Answer], noise: SpeedNoise | None = None
) -> dict[str, Interval | None]:
    """95 % intervals by the name of their metric.

    That of the speed is where the next measurement like this one lies, as many repeats on one more start of the engine, if
    nothing changed. Those of the scores are of their means over other questions, those of percentiles over the different ones.

    Args:
        answers: that the scores are of, as `measure` got them; None for a score over fewer than two different questions, and
            for a percentile over so few that `gpuqa.measure.percentiles.percentile_interval` has none.
        noise: of the speed as a study knows it; else the repeats of this measurement are all there is.
    """
    intervals = {"chars_per_s": next_of(measurement, noise)}
    intervals |= {name: interval_of(name, answers) for name in PERCENTILES}
    for name in ("rouge_l_f1_judge", "rouge_l_f1"):
        rows = [(score, answer.question) for answer in answers if (score := getattr(answer, name)) is not None]
        scores, questions = zip(*rows, strict=True) if rows else ((), ())
        intervals[name] = bootstrap_interval(scores, clusters=questions) if len(set(questions)) > 1 else None
    return intervals


@dataclass(frozen=True, slots=True)
class Overhead:
    """What a trial cost beside its measured passes, when they began, on which engines, and in which state the GPU was."""

    engine_start_s: float
    warmup_s: float
    peak_memory_gib: float
    repeats_began_at: list[float] = field(default_factory=list)
    engine_ids: list[str] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)
    conditions: list[Conditions] = field(default_factory=list)
    energies_j: list[float | None] = field(default_factory=list)  # of every repeat


def score_answers(questions: Sequence[Question], answered: Answered, scored: bool = True) -> list[Answer]:
    """Every answer of one pass beside its question, with both scores.

    `scored` is false where `sampling.ignore_eos` made every answer run to `max_tokens`: that measures speed, and a
    score of such text would be taken for quality.
    """
    answers = []
    for question, completion, latency in zip(questions, answered.completions, answered.latencies_s, strict=True):
        scores = rouge.score_all(question.references, completion.text, question.mean_of_references) if scored else None
        answers.append(
            Answer(
                id=question.id,
                question=question.text,
                reference=question.reference,
                answer=completion.text,
                rouge_l_f1_judge=scores.judge if scores else None,
                rouge_l_f1=scores.chinese if scores else None,
                finish_reason=completion.finish_reason,
                output_tokens=completion.output_tokens,
                latency_s=latency,
                error=completion.error,
                question_digest=question.digest,
                other_references=list(question.other_references),
            )
        )
    return answers


def with_timings(answers: Sequence[Answer], passes: Sequence[Answered]) -> list[Answer]:
    """The answers with what each took in every pass."""
    rows = zip(*map(timings_of, passes), strict=True)
    return [replace(answer, timings=list(row)) for answer, row in zip(answers, rows, strict=True)]


def measure(passes: Sequence[Answered], answers: Sequence[Answer], overhead: Overhead) -> Measurement:
    """The numbers of a trial: speeds and token sums over all passes, scores and answer counts over the first pass."""
    speeds = [chars(measured.completions) / measured.seconds for measured in passes]
    seconds = geometric_mean([measured.seconds for measured in passes])
    completions = [completion for measured in passes for completion in measured.completions]
    timed = with_timings(answers, passes)
    cached, asked = sum(c.cached_tokens for c in completions), sum(c.prompt_tokens for c in completions)
    first = passes[0].completions
    judge = [score for answer in answers if (score := answer.rouge_l_f1_judge) is not None]
    chinese = [score for answer in answers if (score := answer.rouge_l_f1) is not None]
    readings = overhead.conditions
    busy = [reading for reading in readings if IDLE not in reading.throttle_reasons]
    truncated = sum(completion.finish_reason not in CLEAN_ENDS for completion in first)
    return Measurement(
        questions=len(first),
        repeats=len(passes),
        seconds=seconds,
        seconds_repeats=[measured.seconds for measured in passes],
        chars_per_s=geometric_mean(speeds),
        chars_per_s_mad=median_and_mad(speeds)[1],
        chars_per_s_repeats=speeds,
        output_tokens_per_s=output_tokens_per_s(passes),
        questions_per_s=len(first) / seconds,
        **percentiles_of(timed),
        **gaps_of(passes, answers),
        **energy_of(passes, overhead.energies_j),
        tpot_ms_mean=tpot_ms_mean(timed),
        prefix_cache_hit_rate=cached / asked if asked else 0.0,
        cached_tokens=cached,
        prompt_tokens=asked,
        output_tokens=output_tokens(completions),
        rouge_l_f1_judge=fmean(judge) if judge else None,
        rouge_l_f1=fmean(chinese) if chinese else None,
        answer_chars_mean=chars(first) / len(first),
        answers_truncated=truncated,
        truncated_fraction=truncated / len(first),
        answers_empty=sum(not completion.text for completion in first),
        answers_multi_line=sum("\n" in completion.text for completion in first),
        answers_failed=sum(completion.error is not None for completion in first),
        questions_cut=sum(completion.question_was_cut for completion in first),
        engine_start_s=overhead.engine_start_s,
        warmup_s=overhead.warmup_s,
        peak_memory_gib=overhead.peak_memory_gib,
        saturated=any(measured.saturated for measured in passes),
        repeats_began_at=overhead.repeats_began_at,
        engine_ids=overhead.engine_ids,
        devices=overhead.devices,
        conditions=readings,
        sm_clock_mhz_min=min((reading.sm_clock_mhz for reading in busy), default=None),
        temperature_c_max=max((reading.temperature_c for reading in readings), default=None),
        throttle_reasons=throttle_reasons_of(readings),
    )


def measure_prefix_cached(passes: Sequence[Answered], answers: Sequence[Answer]) -> dict[str, float | int | None]:
    """The `prefix_cached_*` numbers of a measurement; none without a pass that found the prefix cache filled.

    Args:
        answers: to the same questions, as `measure` gets them.
    """
    if not passes:
        return {}
    completions = [completion for measured in passes for completion in measured.completions]
    percentiles = percentiles_of(with_timings(answers, passes))
    asked = sum(completion.prompt_tokens for completion in completions)
    return {
        "prefix_cached_repeats": len(passes),
        "prefix_cached_chars_per_s": geometric_mean([chars(measured.completions) / measured.seconds for measured in passes]),
        "prefix_cached_output_tokens_per_s": output_tokens_per_s(passes),
        **{f"prefix_cached_{name}": percentiles[name] for name in ("ttft_ms_p50", "ttft_ms_p95")},
        "prefix_cached_hit_rate": sum(completion.cached_tokens for completion in completions) / asked if asked else 0.0,
    }


def energy_of(passes: Sequence[Answered], energies_j: Sequence[float | None]) -> dict[str, Any]:
    """The `joules_per_output_token*` numbers; none where a pass has no energy, or no token."""
    known = [energy for energy in energies_j if energy is not None]
    tokens = [output_tokens(measured.completions) for measured in passes]
    if len(known) < len(tokens) or min(tokens) == 0:
        return {}
    each = [energy / count for energy, count in zip(known, tokens, strict=True)]
    return {"joules_per_output_token": geometric_mean(each), "joules_per_output_token_repeats": each}


def output_tokens_per_s(passes: Sequence[Answered]) -> float:
    """Output tokens a second, the geometric mean over the passes."""
    return geometric_mean([output_tokens(measured.completions) / measured.seconds for measured in passes])


def output_tokens(completions: Sequence[Completion]) -> int:
    """Tokens of all answers."""
    return sum(completion.output_tokens for completion in completions)


def throttle_reasons_of(readings: Sequence[Conditions]) -> list[str] | None:
    """Why the GPU was held back in any reading, an idle GPU apart; None without readings."""
    return sorted({name for reading in readings for name in reading.throttle_reasons} - {IDLE}) if readings else None


def chars(completions: Sequence[Completion]) -> int:
    """Characters of all answers: what the judge's "tokens/s" counts."""
    return sum(len(completion.text) for completion in completions)
