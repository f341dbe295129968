"""The rule: trials -> a verdict. Reads numbers only, so it can be asked again about trials on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpuqa.criteria import SelectionConfig
from gpuqa.records import Measurement, Trial


@dataclass(frozen=True, slots=True)
class Standing:
    """One trial before the rule: the objections against it, none if it may win."""

    trial: Trial
    objections: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Standings from first to last, and why the first won, or why nobody did."""

    standings: list[Standing]
    winner: Trial | None
    reason: str


def decide(trials: Sequence[Trial], rule: SelectionConfig) -> Verdict:
    """The fastest in chars/s among trials without objections; slower and objected ones follow, failures last."""
    standings = [Standing(trial, objections(trial, baseline_of(trial, trials, rule), rule)) for trial in trials]
    standings.sort(key=lambda one: (bool(one.objections), one.trial.measurement is None, -speed(one.trial)))
    best = standings[0] if standings else None
    if best is None or best.objections:
        return Verdict(standings, None, why_nobody(standings))
    return Verdict(standings, best.trial, why_winner(best.trial, standings, rule))


def objections(trial: Trial, baseline: Trial | None, rule: SelectionConfig) -> tuple[str, ...]:
    """What speaks against a trial under the floor and the guards."""
    found = trial.measurement
    if found is None:
        return (f"failed: {trial.error}",)
    against = []
    if (found.rouge_l_f1_judge or 0.0) < rule.min_rouge_l_f1_judge:
        against.append(f"rouge_l_f1_judge {text_of(found.rouge_l_f1_judge)} is below the floor {rule.min_rouge_l_f1_judge:g}")
    if baseline is not None and baseline.measurement is not None:
        against += guard("rouge_l_f1", found, baseline.measurement, rule.min_rouge_l_f1_ratio)
        against += guard("answer_chars_mean", found, baseline.measurement, rule.min_answer_chars_ratio)
    return tuple(against)


def guard(key: str, found: Measurement, baseline: Measurement, ratio: float) -> list[str]:
    """An objection if a number fell below its share of the unquantized baseline's."""
    ours, theirs = getattr(found, key), getattr(baseline, key)
    if ours is None or theirs is None or ours >= ratio * theirs:
        return []
    return [f"{key} {ours:.4g} is below {ratio * 100:.4g}% of the unquantized {theirs:.4g}"]


def baseline_of(trial: Trial, trials: Sequence[Trial], rule: SelectionConfig) -> Trial | None:
    """The measured trial that differs in quantization only; None if the study has none, or for the baseline itself."""
    if name_of(trial) == rule.baseline_quantization:
        return None
    wanted = without_quantization(trial)
    same = (one for one in trials if name_of(one) == rule.baseline_quantization and without_quantization(one) == wanted)
    return next((one for one in same if one.measurement is not None), None)


def name_of(trial: Trial) -> str:
    """The quantization option of a trial."""
    return str(trial.pipeline["quantization"]["name"])


def without_quantization(trial: Trial) -> dict[str, Any]:
    """All of a trial's pipeline but its number formats."""
    return {key: value for key, value in trial.pipeline.items() if key != "quantization"}


def speed(trial: Trial) -> float:
    """Characters per second, 0 for a failure."""
    return trial.measurement.chars_per_s if trial.measurement else 0.0


def why_winner(winner: Trial, standings: Sequence[Standing], rule: SelectionConfig) -> str:
    """The verdict in one or two sentences."""
    found = winner.measurement
    assert found is not None
    eligible = [one.trial for one in standings if not one.objections]
    text = (
        f"{winner.name} is the fastest of {len(eligible)} eligible trials (of {len(standings)}): "
        f"{found.chars_per_s:,.0f} chars/s (MAD {found.chars_per_s_mad:,.0f} over {found.repeats} repeats) "
        f"at rouge_l_f1_judge {text_of(found.rouge_l_f1_judge)} (floor {rule.min_rouge_l_f1_judge:g}), "
        f"rouge_l_f1 {text_of(found.rouge_l_f1)}."
    )
    if len(eligible) > 1 and speed(eligible[1]) > 0:
        lead = speed(winner) / speed(eligible[1]) - 1
        text += f" It leads the next, {eligible[1].name}, by {lead:.1%}."
    return text


def why_nobody(standings: Sequence[Standing]) -> str:
    """Names the trial that came nearest, by the fewest objections, then by score."""
    measured = [one for one in standings if one.trial.measurement]
    if not measured:
        return "no trial was measured, so there is no winner"
    nearest = min(measured, key=lambda one: (len(one.objections), -score(one.trial)))
    return f"no trial is eligible; the nearest is {nearest.trial.name}: {'; '.join(nearest.objections)}"


def score(trial: Trial) -> float:
    """The judge's score, 0 for a failure or where nothing was scored."""
    return (trial.measurement.rouge_l_f1_judge or 0.0) if trial.measurement else 0.0


def text_of(score: float | None) -> str:
    """A score in a sentence."""
    return "n/a (sampling.ignore_eos)" if score is None else f"{score:.4f}"
