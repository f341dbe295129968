"""The rule: trials -> a verdict. Reads numbers and answers only, so it can be asked again about trials on disk.

The first by the rule is compared with every other eligible trial. WIN: it is shown to lead all of them. TIE: some are not
shown to be behind, and the simplest of these and the first wins. INCONCLUSIVE: an interval is too wide to call that a tie,
or no test was possible; the first wins, with a warning. Documented with its error rates in the README.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from gpuqa.config.measurement import Rule, SelectionConfig
from gpuqa.measure.statistics import Trend, trend
from gpuqa.records import SETTINGS, Trial
from gpuqa.selection.comparison import Comparison, compare_all, merit, quality, speed
from gpuqa.selection.constraints import Answers, name_of, text_of, unguarded, violations

BEST = {Rule.fastest: "fastest", Rule.best_quality: "best in rouge_l_f1", Rule.weighted: "best by weight", Rule.knee: "knee"}


class Outcome(Enum):
    """How sure a verdict is."""

    WIN = "WIN"
    TIE = "TIE"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class Standing:
    """One trial before the rule: the violations against it, none if it may win; whether any trial is faster and better."""

    trial: Trial
    violations: tuple[str, ...]
    on_front: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """Standings from first to last, and why the first won, or why nobody did."""

    standings: list[Standing]
    winner: Trial | None
    reason: str
    outcome: Outcome | None = None  # None without a winner
    first: Trial | None = None  # the best by the rule: what `comparisons` compares; not the winner in a tie
    comparisons: list[Comparison] = field(default_factory=list)
    drift: Trend | None = None  # of speeds over the study; None where no cell has two repeats


def decide(trials: Sequence[Trial], rule: SelectionConfig, answers: Answers | None = None) -> Verdict:
    """The winner first, then the eligible by the rule, the objected by speed, the dropped, failures last.

    Args:
        answers: of each trial by its key; guards and quality are tested where they are at hand, else means decide.
    """
    answers = answers or {}
    front = pareto_front(trials)
    standings = [Standing(one, violations(one, trials, rule, answers), any(one is other for other in front)) for one in trials]
    ranked = sorted(rank([one.trial for one in standings if not one.violations], rule), key=lambda one: not is_finalist(one))
    place = {id(one): number for number, one in enumerate(ranked)}
    standings.sort(
        key=lambda one: (place.get(id(one.trial), len(place)), one.trial.error is not None, -speed(one.trial)),
    )
    drift = drift_of(trials)
    if not ranked:
        return Verdict(standings, None, why_nobody(standings), drift=drift)
    finals = [one for one in ranked if is_finalist(one)] or ranked
    comparisons = compare_all(ranked[0], finals[1:], rule, answers)
    outcome, tied = outcome_of(comparisons, rule)
    winner = min([ranked[0], *tied], key=simplicity(rule)) if outcome is Outcome.TIE else ranked[0]
    standings.sort(key=lambda one: one.trial is not winner)
    reason = " ".join([*why(outcome, winner, ranked, comparisons, standings, rule), *warnings(trials, rule, drift)])
    return Verdict(standings, winner, reason, outcome, ranked[0], comparisons, drift)


def is_finalist(trial: Trial) -> bool:
    """Whether the trial's numbers are from measuring it again: then it stands before all that were measured once.

    What was measured once and kept for being the best was lucky, as a rule; see `gpuqa.study.finalists`.
    """
    return trial.measurement is not None and trial.measurement.first_round_chars_per_s is not None


def outcome_of(comparisons: Sequence[Comparison], rule: SelectionConfig) -> tuple[Outcome, list[Trial]]:
    """How sure the first place is, and who shares it."""
    tied = [one for one in comparisons if not one.shown(rule.confidence)]
    if not tied:
        return Outcome.WIN, []
    tells = all(one.tells(rule.max_interval_ratio) for one in tied)
    return Outcome.TIE if tells else Outcome.INCONCLUSIVE, [one.other for one in tied]


def rank(eligible: Sequence[Trial], rule: SelectionConfig) -> list[Trial]:
    """The eligible trials from best to worst by the rule."""
    if rule.rule is Rule.knee:
        return sorted(eligible, key=knee(eligible), reverse=True)
    if rule.rule is Rule.fastest:
        return sorted(eligible, key=speed, reverse=True)
    if rule.rule is Rule.best_quality:
        return sorted(eligible, key=lambda one: (quality(one), speed(one)), reverse=True)
    return sorted(eligible, key=lambda one: merit(one, rule), reverse=True)


def knee(eligible: Sequence[Trial]) -> Any:
    """Height above the line between the ends of the Pareto front, both axes scaled to it (Satopää et al., "Kneedle", 2011).

    What is not on the front comes after it.
    """
    front = pareto_front(eligible)
    ends = [(min(values), max(values)) for values in ([speed(one) for one in front], [quality(one) for one in front]) if values]

    def height(trial: Trial) -> tuple[bool, float]:
        values = zip((speed(trial), quality(trial)), ends, strict=True)
        above = sum((value - low) / (high - low) if high > low else 0.0 for value, (low, high) in values)
        return any(trial is one for one in front), above

    return height


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Measured trials of which no other has more chars/s and as much rouge_l_f1, or the other way round."""
    points = [(one, speed(one), quality(one)) for one in trials if one.measurement]
    return [
        one
        for one, fast, good in points
        if not any(other[1] >= fast and other[2] >= good and (other[1] > fast or other[2] > good) for other in points)
    ]


def simplicity(rule: SelectionConfig) -> Any:
    """Sorts the simplest first: unquantized, then the shorter prompt, then smaller engine settings, then the faster."""

    def key(trial: Trial) -> tuple[Any, ...]:
        prompt, engine = trial.pipeline["prompt"], trial.pipeline["engine"]
        examples = sum(len(one["question"]) + len(one["answer"]) for one in prompt["examples"])
        settings = {**engine["args"], "max_tokens": trial.pipeline["sampling"]["max_tokens"]}
        sizes = [(name, value) for name, value in sorted(settings.items()) if isinstance(value, int | float)]
        prompt_chars = len(prompt["system"] or "") + len(prompt["user"]) + examples
        own_parts = sum(engine.get(part, "default") != "default" for part in ("scheduler", "attention"))
        return (name_of(trial) != rule.baseline_quantization, prompt_chars, own_parts, sizes, -speed(trial))

    return key


def why(
    outcome: Outcome,
    winner: Trial,
    ranked: Sequence[Trial],
    comparisons: Sequence[Comparison],
    standings: Sequence[Standing],
    rule: SelectionConfig,
) -> list[str]:
    """The verdict in a few sentences."""
    best = BEST[rule.rule]
    tied = [one for one in comparisons if not one.shown(rule.confidence)]
    title = f"the simplest of {len(tied) + 1} that tie for {best}" if outcome is Outcome.TIE else f"the {best}"
    among = f"{len(ranked)} eligible trials (of {len(standings)})"
    told = [f"{outcome.name}: {winner.name} is {title} of {among}: {numbers(winner, rule)}"]
    if outcome is Outcome.TIE and winner is not ranked[0]:
        against = next(one for one in comparisons if one.other is winner)
        told.append(f"The first, {ranked[0].name}, leads it by {lead(against, rule)}: not shown to be more than chance.")
    elif comparisons:
        told.append(f"It leads the next, {comparisons[0].other.name}, by {lead(comparisons[0], rule)}.")
    if is_finalist(winner):
        first = winner.measurement.first_round_chars_per_s if winner.measurement else None
        count = sum(is_finalist(one) for one in ranked)
        told.append(f"{count} finalists were measured again, and that decides; in the first round it had {first:,.0f} chars/s.")
    if outcome is Outcome.INCONCLUSIVE:
        told.append(f"Not conclusive: {why_not(tied, rule)}; {len(tied)} other trials may be as good or better.")
    return told


def why_not(tied: Sequence[Comparison], rule: SelectionConfig) -> str:
    """What keeps a verdict from being a tie."""
    if rule.rule is Rule.knee:
        return "a knee has no test"
    if any(one.interval is None for one in tied):
        return "without two repeats of every trial (workload.repeats) and the same questions there is no test"
    return f"an interval is wider than selection.max_interval_ratio={rule.max_interval_ratio:g} allows; more repeats narrow it"


def numbers(winner: Trial, rule: SelectionConfig) -> str:
    """What the winner reached."""
    found = winner.measurement
    assert found is not None
    return (
        f"{found.chars_per_s:,.0f} chars/s (MAD {found.chars_per_s_mad:,.0f} over {found.repeats} repeats) "
        f"at rouge_l_f1_judge {text_of(found.rouge_l_f1_judge)} (floor {rule.min_rouge_l_f1_judge:g}), "
        f"rouge_l_f1 {text_of(found.rouge_l_f1)}."
    )


def lead(found: Comparison, rule: SelectionConfig) -> str:
    """A difference with its interval and p-value."""
    if found.interval is None or found.p_value is None:
        return f"{found.difference:.1%} (no test)"
    ends = f"{found.interval.low:+.1%} to {found.interval.high:+.1%}"
    return f"{found.difference:.1%} ({rule.confidence:.0%} interval {ends}, p {found.p_value:.3g} after Holm)"


def warnings(trials: Sequence[Trial], rule: SelectionConfig, drift: Trend | None) -> list[str]:
    """What the verdict could not look at, and what speaks against its numbers."""
    found, off = [], unguarded(trials, rule)
    if off and not rule.min_rouge_l_f1_ratio == rule.min_answer_chars_ratio == 0:
        names = ", ".join(dict.fromkeys(name_of(one) for one in off))
        found.append(f"Guards were off for {len(off)} trials ({names}): nothing unquantized was measured beside them.")
    if drift and drift.p_value <= 1 - rule.confidence:
        found.append(
            f"Speeds drifted by {drift.change:+.1%} over the study (p {drift.p_value:.3g}): cells of one engine took turns and "
            "are fair to each other, cells of different engines are not."
        )
    reasons = [set(one.measurement.throttle_reasons or ()) - SETTINGS for one in trials if one.measurement]
    if any(reasons):
        slow = min(one.measurement.sm_clock_mhz_min or 0 for one in trials if one.measurement)
        told = ", ".join(sorted(set.union(*reasons)))
        found.append(f"The GPU was held back in {sum(map(bool, reasons))} trials ({told}; SM clock down to {slow} MHz).")
    return found


def drift_of(trials: Sequence[Trial]) -> Trend | None:
    """The trend of all repeats of a study over its time.

    It shows only while an engine is up, where all repeats of a cell lie: what happens between engines cannot be told from what
    they differ in, since every cell, whose level is unknown, runs on one. So the test is the weaker the more engines there are.
    Finalists are measured again in the end, but were chosen for being fast: their second number is lower without any drift.
    Only a first engine that is started again in between would tell, and that costs a start each time.
    """
    found = [one.measurement for one in trials if one.measurement]
    return trend([one.repeats_began_at for one in found], [one.chars_per_s_repeats for one in found])


def why_nobody(standings: Sequence[Standing]) -> str:
    """Names the trial that came nearest, by the fewest violations, then by score."""
    measured = [one for one in standings if one.trial.measurement]
    if not measured:
        return "no trial was measured, so there is no winner"
    nearest = min(measured, key=lambda one: (len(one.violations), -score(one.trial)))
    return f"no trial is eligible; the nearest is {nearest.trial.name}: {'; '.join(nearest.violations)}"


def score(trial: Trial) -> float:
    """The judge's score, 0 for a failure or where nothing was scored."""
    return (trial.measurement.rouge_l_f1_judge or 0.0) if trial.measurement else 0.0
