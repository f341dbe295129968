"""What speaks against a trial: floors, caps and limits by its own numbers, guards by its unquantized baseline's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpuqa.config.measurement import ConstraintTest, SelectionConfig
from gpuqa.measure.statistics import bootstrap_interval
from gpuqa.records import Answer, Measurement, Trial

Answers = Mapping[str, Sequence[Answer]]  # of each trial, by its key
ROUNDING = 1e-12


def violations(trial: Trial, trials: Sequence[Trial], rule: SelectionConfig, answers: Answers) -> tuple[str, ...]:
    """Every reason why a trial may not win; none if it may."""
    found = trial.measurement
    if trial.dropped is not None:
        return (f"dropped: {trial.dropped.reason}",)
    if found is None:
        return (f"skipped: {trial.skipped}" if trial.skipped else f"failed: {trial.error}",)
    best = max((best_of(one, found.questions) for one in trials), default=0.0)
    against = limits(found, best, rule)
    if (baseline := baseline_of(trial, trials, rule)) is not None:
        against += guards(trial, baseline, rule, answers)
    return tuple(against)


def best_of(trial: Trial, questions: int) -> float:
    """The rouge_l_f1 that the study's best must at least be; of a slice, what its interval is sure of."""
    seen = seen_of(trial)
    if seen is None or seen.rouge_l_f1 is None:
        return 0.0
    interval = seen.rouge_l_f1_interval
    return seen.rouge_l_f1 if seen.questions == questions else interval.low if interval else 0.0


def limits(found: Measurement, best: float, rule: SelectionConfig) -> list[str]:
    """The violations that need no baseline. `best`: the highest rouge_l_f1 of the study."""
    against = []
    if (found.rouge_l_f1_judge or 0.0) < rule.min_rouge_l_f1_judge:
        against.append(f"rouge_l_f1_judge {text_of(found.rouge_l_f1_judge)} is below the floor {rule.min_rouge_l_f1_judge:g}")
    if (found.rouge_l_f1 or 0.0) < rule.min_rouge_l_f1_of_best * best:
        share = f"{rule.min_rouge_l_f1_of_best * 100:.4g}%"
        against.append(f"rouge_l_f1 {text_of(found.rouge_l_f1)} is below {share} of the study's best {best:.4g}")
    empty = found.answers_empty / found.questions
    for what, share_of, most in (
        ("empty", empty, rule.max_empty_fraction),
        ("truncated", found.truncated_fraction, rule.max_truncated_fraction),
    ):
        if share_of > most:
            against.append(f"{share_of:.1%} of the answers are {what}, at most {most:.4g} is selection.max_{what}_fraction")
    if found.chars_per_s < rule.min_chars_per_s:
        against.append(f"chars_per_s {found.chars_per_s:,.0f} is below the floor {rule.min_chars_per_s:g}")
    for key in ("e2e_latency_ms_p95", "ttft_ms_p95"):
        most_ms, ours = getattr(rule, f"max_{key}"), getattr(found, key)
        if most_ms is not None and (ours is None or ours > most_ms):
            told = "n/a (too few answers)" if ours is None else f"{ours:,.1f}"
            against.append(f"{key} {told} is above the limit {most_ms:g}")
    return against


def guards(trial: Trial, baseline: Trial, rule: SelectionConfig, answers: Answers) -> list[str]:
    """Whether quality and length were kept; by the means where the answers of one of the two are not at hand."""
    found, theirs = trial.measurement, seen_of(baseline)
    assert found is not None
    assert theirs is not None
    pairs = paired(answers.get(trial.key, ()), answers.get(baseline.key, ()))
    quality = scores_of(pairs)
    length = [(float(len(ours.answer)), float(len(other.answer))) for ours, other in pairs]
    return [
        *guarded("rouge_l_f1", (found, theirs), quality, rule.min_rouge_l_f1_ratio, rule),
        *guarded("answer_chars_mean", (found, theirs), length, rule.min_answer_chars_ratio, rule),
    ]


def guarded(
    key: str,
    both: tuple[Measurement, Measurement],
    pairs: Sequence[tuple[float, float]],
    ratio: float,
    rule: SelectionConfig,
) -> list[str]:
    """An violation if a number fell below its share of the unquantized baseline's, as `rule.constraint_test` reads it."""
    ours, theirs = (getattr(one, key) for one in both)
    if ours is None or theirs is None or ratio == 0:
        return []
    if rule.constraint_test is ConstraintTest.point or not pairs:
        missed = ours < ratio * theirs
        return [f"{key} {ours:.4g} is below {ratio * 100:.4g}% of the unquantized {theirs:.4g}"] if missed else []
    one_sided = bootstrap_interval([mine - ratio * other for mine, other in pairs], 2 * rule.confidence - 1)
    bound = one_sided.low if rule.constraint_test is ConstraintTest.bound else one_sided.high
    if bound >= -ROUNDING:
        return []
    reach = (ratio + bound / theirs) * 100 if theirs else 0.0
    how = "is not shown to keep" if rule.constraint_test is ConstraintTest.bound else "is shown to miss"
    return [
        f"{key} {ours:.4g} {how} {ratio * 100:.4g}% of the unquantized {theirs:.4g}: "
        f"{rule.confidence:.0%} bound {reach:.1f}% over {len(pairs)} questions "
        f"(selection.constraint_test={rule.constraint_test.name})"
    ]


def paired(ours: Sequence[Answer], theirs: Sequence[Answer]) -> list[tuple[Answer, Answer]]:
    """The answers of two trials to the same questions; none unless all questions are the same."""
    if [(one.id, one.question) for one in ours] != [(one.id, one.question) for one in theirs]:
        return []
    return list(zip(ours, theirs, strict=True))


def scores_of(pairs: Sequence[tuple[Answer, Answer]]) -> list[tuple[float, float]]:
    """rouge_l_f1 of both, where both were scored."""
    both = ((ours.rouge_l_f1, theirs.rouge_l_f1) for ours, theirs in pairs)
    return [(ours, theirs) for ours, theirs in both if ours is not None and theirs is not None]


def unguarded(trials: Sequence[Trial], rule: SelectionConfig) -> list[Trial]:
    """Measured quantized trials of which no unquantized counterpart was measured: their guards are off."""
    quantized = [one for one in trials if one.measurement and name_of(one) != rule.baseline_quantization]
    return [one for one in quantized if baseline_of(one, trials, rule) is None]


def baseline_of(trial: Trial, trials: Sequence[Trial], rule: SelectionConfig) -> Trial | None:
    """The trial that differs in quantization only and was asked all questions, if only once before a race dropped it.

    None if the study has none, or for the baseline itself.
    """
    all_questions = trial.measurement.questions if trial.measurement else 0
    same = unquantized(trial, trials, rule)
    return next((one for one in same if (seen := seen_of(one)) and seen.questions == all_questions), None)


def unquantized(trial: Trial, trials: Sequence[Trial], rule: SelectionConfig) -> Iterator[Trial]:
    """The trials that differ from a quantized one in that only, measured or not; none for an unquantized one."""
    if name_of(trial) != rule.baseline_quantization:
        wanted = without_quantization(trial)
        plain = (one for one in trials if name_of(one) == rule.baseline_quantization)
        yield from (one for one in plain if without_quantization(one) == wanted)


def seen_of(trial: Trial) -> Measurement | None:
    """A trial's numbers, those of a dropped one too."""
    return trial.dropped.seen if trial.dropped else trial.measurement


def name_of(trial: Trial) -> str:
    """The quantization option of a trial."""
    return str(trial.pipeline["quantization"]["name"])


def without_quantization(trial: Trial) -> dict[str, Any]:
    """All of a trial's pipeline but its number formats."""
    return {key: value for key, value in trial.pipeline.items() if key != "quantization"}


def text_of(score: float | None) -> str:
    """A score in a sentence."""
    return "n/a (sampling.ignore_eos)" if score is None else f"{score:.4f}"
