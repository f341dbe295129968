"""The constraints that a trial must keep to win, and its violations of them.

Floors, caps and limits are about a trial's own numbers. Two ratios bound what a quantized trial may lose beside its baseline:
the trial that differs in quantization only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from gpuqa.config.measurement import ConstraintTest, Rule, SelectionConfig
from gpuqa.engines import PLAIN_CACHES
from gpuqa.measure.metrics import intervals_of
from gpuqa.measure.statistics import bootstrap_interval
from gpuqa.records import Answer, Measurement, Trial
from gpuqa.selection.pairing import AnswerPairs, Answers, ScorePair, ScorePairs, paired, scores_of
from gpuqa.selection.ratios import BesideBaseline, Ratio, beside, length_ratio, score_ratio
from gpuqa.selection.wording import Violation

NUMBER_FORMATS = ("quantization", "kv_cache_dtype")  # engine arguments: the number formats of weights and KV cache
RANKED_BY = {  # rule -> the number without which a trial cannot be ranked by it, and why a trial may lack it
    Rule.goodput: ("goodput_questions_per_s", "workload.slo sets no limit, or the answers are not on the disk"),
    Rule.cheapest: ("joules_per_output_token", "NVML did not count the energy of its GPUs"),
}


def violations(trial: Trial, trials: Sequence[Trial], rule: SelectionConfig, answers: Answers) -> tuple[Violation, ...]:
    """Every reason why a trial may not win, a sentence each; none if it may."""
    measurement = trial.measurement
    if trial.dropped is not None:
        return (Violation(f"dropped: {trial.dropped.reason}", "dropped"),)
    if measurement is None:
        skipped = Violation(f"skipped: {trial.skipped}", "skipped")
        return (skipped if trial.skipped else Violation(f"failed: {trial.error}", "failed"),)
    best = best_score(trials, measurement.questions, answers)
    reasons = [*quality_violations(measurement, best, rule, answers.get(trial.key, ())), *speed_violations(measurement, rule)]
    if (kept := beside_baseline(trial, trials, rule, answers)) and kept.refused:
        reasons.append(Violation(kept.text, kept.short))
    return (*reasons, *too_short(trial, trials, rule, answers))


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


def quality_violations(
    measurement: Measurement, best: float, rule: SelectionConfig, answers: Sequence[Answer] = ()
) -> list[Violation]:
    """Violations of floors on scores and of caps on empty and truncated answers. `best`: the study's highest rouge_l_f1.

    The floors compare the measured means, as the judge does, and say so.
    """
    reasons, judge, score = [], measurement.rouge_l_f1_judge, measurement.rouge_l_f1
    if (judge or 0.0) < rule.min_rouge_l_f1_judge:
        text = f"rouge_l_f1_judge {score_text(judge)} is below the floor {rule.min_rouge_l_f1_judge:g}"
        short = f"judge {score_text(judge)} < {rule.min_rouge_l_f1_judge:g}"
        reasons.append(Violation(f"{text} ({as_point('rouge_l_f1_judge', measurement, answers)})", short))
    if (score or 0.0) < rule.min_rouge_l_f1_of_best * best:
        share = f"{rule.min_rouge_l_f1_of_best * 100:.4g}%"
        text = f"rouge_l_f1 {score_text(score)} is below {share} of the study's best {best:.4g}"
        short = f"ROUGE-L < {share} of best"
        reasons.append(Violation(f"{text} ({as_point('rouge_l_f1', measurement, answers)})", short))
    for name, fraction, limit in (
        ("empty", measurement.answers_empty / measurement.questions, rule.max_empty_fraction),
        ("truncated", measurement.truncated_fraction, rule.max_truncated_fraction),
    ):
        if fraction > limit:
            text = f"{fraction:.1%} of the answers are {name}, at most {limit:.4g} is selection.max_{name}_fraction"
            reasons.append(Violation(text, f"{name} {fraction:.1%} > {limit * 100:.4g}%"))
    return reasons


def as_point(name: str, measurement: Measurement, answers: Sequence[Answer]) -> str:
    """That a score is compared as it was measured, with its 95 % interval where the answers are at hand."""
    interval = intervals_of(measurement, answers)[name]
    return "a point estimate" + (f", 95% interval {interval.low:.4f} to {interval.high:.4f}" if interval else "")


def floor_note(trial: Trial, rule: SelectionConfig, answers: Answers) -> str:
    """A sentence where the judge's floor lies inside a trial's interval, so that its score may be above by luck; else ""."""
    seen, floor = seen_of(trial), rule.min_rouge_l_f1_judge
    interval = intervals_of(seen, answers.get(trial.key, ()))["rouge_l_f1_judge"] if seen else None
    if interval is None or not interval.low < floor <= interval.high:
        return ""
    inside = f"lies inside the 95% interval of its rouge_l_f1_judge ({interval.low:.4f} to {interval.high:.4f})"
    return f"The floor {floor:g} {inside}: over other questions it may miss it."


def speed_violations(measurement: Measurement, rule: SelectionConfig) -> list[Violation]:
    """Violations of the speed floor and of the latency limits, and the lack of what the rule ranks by; a percentile that the
    sample cannot support keeps no limit."""
    name, why = RANKED_BY.get(rule.rule, ("chars_per_s", ""))
    reasons = []
    if getattr(measurement, name) is None:
        text = f"it has no {name}, by which selection.rule={rule.rule.name} ranks: {why}"
        reasons.append(Violation(text, f"no {name.split('_')[0]}"))
    if (speed := measurement.chars_per_s) < rule.min_chars_per_s:
        text = f"chars_per_s {speed:,.0f} is below the floor {rule.min_chars_per_s:g}"
        reasons.append(Violation(text, f"speed < {rule.min_chars_per_s:,g}"))
    for name in ("e2e_latency_ms_p95", "ttft_ms_p95"):
        limit, latency = getattr(rule, f"max_{name}"), getattr(measurement, name)
        if limit is not None and (latency is None or latency > limit):
            text = "n/a (too few different questions)" if latency is None else f"{latency:,.1f}"
            short = f"{'TTFT p95' if name.startswith('ttft') else 'p95'} > {limit:g} ms"
            reasons.append(Violation(f"{name} {text} is above the limit {limit:g}", short))
    return reasons


def beside_baseline(trial: Trial, trials: Sequence[Trial], rule: SelectionConfig, answers: Answers) -> BesideBaseline | None:
    """How a quantized trial's rouge_l_f1 stands beside its unquantized baseline's; None where there is nothing to compare."""
    if (baseline := baseline_of(trial, trials, rule)) is None:
        return None
    pairs = scores_of(pairs_of(trial, baseline, answers))
    seen = seen_of(trial)
    questions = len({pair.question for pair in pairs}) or (seen.questions if seen else 0)
    return compared(trial, baseline, pairs, score_ratio(rule, questions), rule)


def too_short(trial: Trial, trials: Sequence[Trial], rule: SelectionConfig, answers: Answers) -> list[Violation]:
    """Whether a quantized trial's answers collapsed beside its baseline's, in a sentence.

    Shorter answers that are as good are no loss, and lengths scatter twice as much as scores. So the limit is missed only
    where that is shown, unless means alone decide.
    """
    if (baseline := baseline_of(trial, trials, rule)) is None:
        return []
    pairs = pairs_of(trial, baseline, answers)
    lengths = [ScorePair(float(len(first.answer)), float(len(second.answer)), first.question) for first, second in pairs]
    if rule.constraint_test is ConstraintTest.bound:
        rule = replace(rule, constraint_test=ConstraintTest.refuted)
    length = compared(trial, baseline, lengths, length_ratio(rule), rule)
    return [Violation(length.text, length.short)] if length and length.refused else []


def compared(trial: Trial, baseline: Trial, pairs: ScorePairs, ratio: Ratio, rule: SelectionConfig) -> BesideBaseline | None:
    """A trial beside its baseline in one quantity; None where that was not measured or the rule does not limit it."""
    means = [getattr(seen_of(one), ratio.quantity) for one in (trial, baseline)]
    return beside((means[0], means[1]), pairs, ratio, rule) if ratio.share > 0 and None not in means else None


def pairs_of(trial: Trial, baseline: Trial, answers: Answers) -> AnswerPairs:
    """The answers of both to all questions, side by side; a race may have asked a dropped one slices before."""
    ours, other = (
        rows[-one.dropped.seen.questions :] if one.dropped and one.dropped.seen else rows
        for one in (trial, baseline)
        for rows in [answers.get(one.key, ())]
    )
    return paired(ours, other)


def without_baseline(trials: Sequence[Trial], rule: SelectionConfig) -> list[Trial]:
    """Measured quantized trials of which no baseline was measured: no ratio constraint was checked for them."""
    quantized = [trial for trial in trials if trial.measurement and quantization_of(trial) != rule.baseline_quantization]
    return [trial for trial in quantized if baseline_of(trial, trials, rule) is None]


def baseline_of(trial: Trial, trials: Sequence[Trial], rule: SelectionConfig) -> Trial | None:
    """The trial that differs in quantization only and was asked all questions, if only once before a race dropped it.

    None if the study has none, for the baseline itself, and for a dropped trial that was not asked all questions.
    """
    if (seen := seen_of(trial)) is None:
        return None
    for same in unquantized(trial, trials, rule):
        whole = trial.measurement or same.measurement  # two dropped ones may have been asked the same slice
        if whole and (same_seen := seen_of(same)) and same_seen.questions == seen.questions:
            return same
    return None


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
    """The name of a trial's quantization option, with the number formats that its engine's arguments name beside it."""
    args = trial.pipeline["engine"]["args"]
    beside = [f"{key}={args[key]}" for key in NUMBER_FORMATS if args.get(key) not in (None, *PLAIN_CACHES)]
    return " with ".join([str(trial.pipeline["quantization"]["name"]), *beside])


def without_quantization(trial: Trial) -> dict[str, Any]:
    """All of a trial's pipeline but its number formats."""
    rest = {key: value for key, value in trial.pipeline.items() if key != "quantization"}
    args = {key: value for key, value in trial.pipeline["engine"]["args"].items() if key not in NUMBER_FORMATS}
    return {**rest, "engine": {**trial.pipeline["engine"], "args": args}}


def score_text(score: float | None) -> str:
    """A score in a sentence."""
    return "n/a (sampling.ignore_eos)" if score is None else f"{score:.4f}"
