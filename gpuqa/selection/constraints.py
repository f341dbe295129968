"""The constraints that a trial must keep to win, and its violations of them.

Floors, caps and limits are about a trial's own numbers. Two ratios bound what a quantized trial may lose beside its baseline:
the trial that differs in quantization only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, assert_never

from gpuqa.config.measurement import ConstraintTest, SelectionConfig
from gpuqa.measure.statistics import bootstrap_interval
from gpuqa.pipeline.dataset.summary import rows_text
from gpuqa.records import Measurement, Trial
from gpuqa.selection.pairing import Answers, ScorePair, ScorePairs, paired, scores_of

ROUNDING = 1e-12


def violations(trial: Trial, trials: Sequence[Trial], rule: SelectionConfig, answers: Answers) -> tuple[str, ...]:
    """Every reason why a trial may not win, a sentence each; none if it may."""
    measurement = trial.measurement
    if trial.dropped is not None:
        return (f"dropped: {trial.dropped.reason}",)
    if measurement is None:
        return (f"skipped: {trial.skipped}" if trial.skipped else f"failed: {trial.error}",)
    best = best_score(trials, measurement.questions, answers)
    reasons = [*quality_violations(measurement, best, rule), *speed_violations(measurement, rule)]
    if (baseline := baseline_of(trial, trials, rule)) is not None:
        reasons += baseline_violations(trial, baseline, rule, answers)
    return tuple(reasons)


def best_score(trials: Sequence[Trial], questions: int, answers: Answers) -> float:
    """The rouge_l_f1 that the best of the trials has at least; 0 where nothing was scored.

    A dropped trial that was asked a slice counts with the lower end of its slice's interval.
    """
    scored = [(trial, score, seen) for trial in trials if (seen := seen_of(trial)) and (score := seen.rouge_l_f1) is not None]
    best = max((score for _, score, seen in scored if seen.questions == questions), default=0.0)
    for trial, score, seen in sorted(scored, key=lambda row: -row[1]):
        if score <= best:
            break
        rows = [
            (answer.rouge_l_f1, answer.question)
            for answer in answers.get(trial.key, ())[-seen.questions :]
            if answer.rouge_l_f1 is not None
        ]
        if rows:  # an interval costs milliseconds, so only those are asked for that can exceed the best
            scores, texts = zip(*rows, strict=True)
            best = max(best, bootstrap_interval(scores, clusters=texts).low)
    return best


def quality_violations(measurement: Measurement, best: float, rule: SelectionConfig) -> list[str]:
    """Violations of floors on scores and of caps on empty and truncated answers. `best`: the study's highest rouge_l_f1."""
    reasons, judge, score = [], measurement.rouge_l_f1_judge, measurement.rouge_l_f1
    if (judge or 0.0) < rule.min_rouge_l_f1_judge:
        reasons.append(f"rouge_l_f1_judge {score_text(judge)} is below the floor {rule.min_rouge_l_f1_judge:g}")
    if (score or 0.0) < rule.min_rouge_l_f1_of_best * best:
        share = f"{rule.min_rouge_l_f1_of_best * 100:.4g}%"
        reasons.append(f"rouge_l_f1 {score_text(score)} is below {share} of the study's best {best:.4g}")
    for name, fraction, limit in (
        ("empty", measurement.answers_empty / measurement.questions, rule.max_empty_fraction),
        ("truncated", measurement.truncated_fraction, rule.max_truncated_fraction),
    ):
        if fraction > limit:
            reasons.append(f"{fraction:.1%} of the answers are {name}, at most {limit:.4g} is selection.max_{name}_fraction")
    return reasons


def speed_violations(measurement: Measurement, rule: SelectionConfig) -> list[str]:
    """Violations of the speed floor and of the latency limits; a percentile that the sample cannot support keeps no limit."""
    reasons = []
    if measurement.chars_per_s < rule.min_chars_per_s:
        reasons.append(f"chars_per_s {measurement.chars_per_s:,.0f} is below the floor {rule.min_chars_per_s:g}")
    for name in ("e2e_latency_ms_p95", "ttft_ms_p95"):
        limit, latency = getattr(rule, f"max_{name}"), getattr(measurement, name)
        if limit is not None and (latency is None or latency > limit):
            text = "n/a (too few different questions)" if latency is None else f"{latency:,.1f}"
            reasons.append(f"{name} {text} is above the limit {limit:g}")
    return reasons


def baseline_violations(trial: Trial, baseline: Trial, rule: SelectionConfig, answers: Answers) -> list[str]:
    """Whether quality or length fell too far below the baseline's; by means where answers of one of both are not at hand."""
    pairs = paired(answers.get(trial.key, ()), answers.get(baseline.key, ()))
    lengths = [ScorePair(float(len(first.answer)), float(len(second.answer)), first.question) for first, second in pairs]
    both, reasons = (seen_of(trial), seen_of(baseline)), []
    for name, values, ratio in (
        ("rouge_l_f1", scores_of(pairs), rule.min_rouge_l_f1_ratio),
        ("answer_chars_mean", lengths, rule.min_answer_chars_ratio),
    ):
        mean, baseline_mean = (getattr(numbers, name) for numbers in both)
        if mean is not None and baseline_mean is not None and ratio > 0:
            reasons.append(ratio_violation(f"{name} {mean:.4g}", (mean, baseline_mean), values, ratio, rule))
    return [reason for reason in reasons if reason is not None]


def ratio_violation(
    subject: str, means: tuple[float, float], pairs: ScorePairs, ratio: float, rule: SelectionConfig
) -> str | None:
    """A sentence if a mean is below its share of the baseline's, as `selection.constraint_test` reads it; else None.

    Args:
        pairs: the values of trial and baseline, row by row; none: the means alone decide.
    """
    mean, baseline_mean = means
    share = f"{ratio * 100:.4g}% of the unquantized {baseline_mean:.4g}"
    if rule.constraint_test is ConstraintTest.point or not pairs:
        return f"{subject} is below {share}" if mean < ratio * baseline_mean else None
    beyond, questions = [pair.first - ratio * pair.second for pair in pairs], [pair.question for pair in pairs]
    one_sided = bootstrap_interval(beyond, 2 * rule.confidence - 1, clusters=questions)
    match rule.constraint_test:
        case ConstraintTest.bound:
            end, verb = one_sided.low, "is not shown to keep"
        case ConstraintTest.refuted:
            end, verb = one_sided.high, "is shown to miss"
        case _:
            assert_never(rule.constraint_test)
    if end >= -ROUNDING:
        return None
    reach = (ratio + end / baseline_mean) * 100 if baseline_mean else 0.0
    test = f"{rule.confidence:.0%} bound {reach:.1f}% over {rows_text(len(pairs), len(set(questions)))}"
    return f"{subject} {verb} {share}: {test} (selection.constraint_test={rule.constraint_test.name})"


def without_baseline(trials: Sequence[Trial], rule: SelectionConfig) -> list[Trial]:
    """Measured quantized trials of which no baseline was measured: no ratio constraint was checked for them."""
    quantized = [trial for trial in trials if trial.measurement and quantization_of(trial) != rule.baseline_quantization]
    return [trial for trial in quantized if baseline_of(trial, trials, rule) is None]


def baseline_of(trial: Trial, trials: Sequence[Trial], rule: SelectionConfig) -> Trial | None:
    """The trial that differs in quantization only and was asked all questions, if only once before a race dropped it.

    None if the study has none, or for the baseline itself.
    """
    questions = trial.measurement.questions if trial.measurement else 0
    same = unquantized(trial, trials, rule)
    return next((trial for trial in same if (seen := seen_of(trial)) and seen.questions == questions), None)


def unquantized(trial: Trial, trials: Sequence[Trial], rule: SelectionConfig) -> Iterator[Trial]:
    """The trials that differ from a quantized one in that only, measured or not; none for an unquantized one."""
    if quantization_of(trial) != rule.baseline_quantization:
        wanted = without_quantization(trial)
        plain = (trial for trial in trials if quantization_of(trial) == rule.baseline_quantization)
        yield from (candidate for candidate in plain if without_quantization(candidate) == wanted)


def seen_of(trial: Trial) -> Measurement | None:
    """A trial's numbers, those of a dropped one too."""
    return trial.dropped.seen if trial.dropped else trial.measurement


def quantization_of(trial: Trial) -> str:
    """The name of a trial's quantization option."""
    return str(trial.pipeline["quantization"]["name"])


def without_quantization(trial: Trial) -> dict[str, Any]:
    """All of a trial's pipeline but its number formats."""
    return {key: value for key, value in trial.pipeline.items() if key != "quantization"}


def score_text(score: float | None) -> str:
    """A score in a sentence."""
    return "n/a (sampling.ignore_eos)" if score is None else f"{score:.4f}"
