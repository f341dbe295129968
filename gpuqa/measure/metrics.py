"""Completions + seconds -> numbers. Scoring is here too, so it is off the clock by construction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from gpuqa.measure import rouge
from gpuqa.measure.statistics import bootstrap_interval, median_and_mad, percentile, speed_interval
from gpuqa.records import IDLE, Answer, Answered, Completion, Conditions, Measurement, Question

CLEAN_ENDS = ("stop", "error")


@dataclass(frozen=True, slots=True)
class Overhead:
    """What a trial cost beside its measured passes, when they began, and in which state the GPU was."""

    engine_start_s: float
    warmup_s: float
    peak_memory_gib: float
    repeats_began_at: list[float] = field(default_factory=list)
    conditions: list[Conditions] = field(default_factory=list)


def score_answers(questions: Sequence[Question], answered: Answered, scored: bool = True) -> list[Answer]:
    """Every answer of one pass beside its question, with both scores.

    `scored` is false where `sampling.ignore_eos` made every answer run to `max_tokens`: that measures speed, and a
    score of such text would be taken for quality.
    """
    answers = []
    for question, completion, latency in zip(questions, answered.completions, answered.latencies_s, strict=True):
        scores = rouge.score(rouge.cut(question.reference), rouge.cut(completion.text)) if scored else None
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
            )
        )
    return answers


def measure(passes: Sequence[Answered], answers: Sequence[Answer], overhead: Overhead) -> Measurement:
    """The numbers of a trial: speeds and token sums over all passes, scores and answer counts over the first pass."""
    speeds = [chars(one.completions) / one.seconds for one in passes]
    speed, speed_mad = median_and_mad(speeds)
    seconds, _ = median_and_mad([one.seconds for one in passes])
    completions = [completion for one in passes for completion in one.completions]
    latencies_ms = [latency * 1000 for one in passes for latency in one.latencies_s]
    first_ms = [completion.first_token_s * 1000 for completion in completions if completion.first_token_s is not None]
    gaps_ms = [gap for completion in completions if (gap := time_per_output_token_ms(completion)) is not None]
    cached, asked = sum(c.cached_tokens for c in completions), sum(c.prompt_tokens for c in completions)
    first = passes[0].completions
    judge = [score for answer in answers if (score := answer.rouge_l_f1_judge) is not None]
    chinese = [score for answer in answers if (score := answer.rouge_l_f1) is not None]
    readings = overhead.conditions
    busy = [one for one in readings if IDLE not in one.throttle_reasons]
    truncated = sum(completion.finish_reason not in CLEAN_ENDS for completion in first)
    return Measurement(
        questions=len(first),
        repeats=len(passes),
        seconds=seconds,
        chars_per_s=speed,
        chars_per_s_mad=speed_mad,
        chars_per_s_repeats=speeds,
        chars_per_s_interval=speed_interval(speeds),
        output_tokens_per_s=median_and_mad([sum(c.output_tokens for c in one.completions) / one.seconds for one in passes])[0],
        questions_per_s=len(first) / seconds,
        ttft_ms_p50=percentile(first_ms, 50),
        ttft_ms_p95=percentile(first_ms, 95),
        tpot_ms_mean=fmean(gaps_ms) if gaps_ms else None,
        e2e_latency_ms_p50=percentile(latencies_ms, 50),
        e2e_latency_ms_p95=percentile(latencies_ms, 95),
        e2e_latency_ms_p99=percentile(latencies_ms, 99),
        prefix_cache_hit_rate=cached / asked if asked else 0.0,
        cached_tokens=cached,
        prompt_tokens=asked,
        output_tokens=sum(completion.output_tokens for completion in completions),
        rouge_l_f1_judge=fmean(judge) if judge else None,
        rouge_l_f1_judge_interval=bootstrap_interval(judge) if judge else None,
        rouge_l_f1=fmean(chinese) if chinese else None,
        rouge_l_f1_interval=bootstrap_interval(chinese) if chinese else None,
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
        saturated=any(one.saturated for one in passes),
        repeats_began_at=overhead.repeats_began_at,
        conditions=readings,
        sm_clock_mhz_min=min((one.sm_clock_mhz for one in busy), default=None),
        temperature_c_max=max((one.temperature_c for one in readings), default=None),
        throttle_reasons=sorted({name for one in readings for name in one.throttle_reasons} - {IDLE}) if readings else None,
    )


def measure_prefix_cached(passes: Sequence[Answered]) -> dict[str, float | int | None]:
    """The `warm_*` numbers of a measurement; none without a warm pass."""
    if not passes:
        return {}
    completions = [completion for one in passes for completion in one.completions]
    first_ms = [completion.first_token_s * 1000 for completion in completions if completion.first_token_s is not None]
    asked = sum(completion.prompt_tokens for completion in completions)
    tokens_per_s = [sum(completion.output_tokens for completion in one.completions) / one.seconds for one in passes]
    return {
        "prefix_cached_repeats": len(passes),
        "prefix_cached_chars_per_s": median_and_mad([chars(one.completions) / one.seconds for one in passes])[0],
        "prefix_cached_output_tokens_per_s": median_and_mad(tokens_per_s)[0],
        "prefix_cached_ttft_ms_p50": percentile(first_ms, 50),
        "prefix_cached_ttft_ms_p95": percentile(first_ms, 95),
        "prefix_cached_hit_rate": sum(completion.cached_tokens for completion in completions) / asked if asked else 0.0,
    }


def chars(completions: Sequence[Completion]) -> int:
    """Characters of all answers: what the judge's "tokens/s" counts."""
    return sum(len(completion.text) for completion in completions)


def time_per_output_token_ms(completion: Completion) -> float | None:
    """Mean time between two tokens of one answer, ms; None below two tokens."""
    if completion.first_token_s is None or completion.last_token_s is None or completion.output_tokens < 2:
        return None
    return (completion.last_token_s - completion.first_token_s) * 1000 / (completion.output_tokens - 1)
