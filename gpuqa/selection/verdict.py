"""The verdict on a study. It reads numbers and answers only, so that trials on disk can be judged again by another rule.

The first by the rule is compared with every other eligible trial. WIN: it is shown to lead all of them. TIE: some are not
shown to be behind, and the simplest of these and the first wins. INCONCLUSIVE: an interval is too wide to call that a tie,
or no test was possible; the first wins, with a warning. Documented with its error rates in the README.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from gpuqa.config.measurement import SelectionConfig
from gpuqa.measure.statistics import Trend, trend
from gpuqa.records import SETTINGS, Trial
from gpuqa.selection.comparison import Comparison, lead_texts, speed
from gpuqa.selection.constraints import quantization_of, score_text, violations, without_baseline
from gpuqa.selection.pairing import Answers
from gpuqa.selection.ranking import RANKINGS, compare_all, pareto_front, rank


class Outcome(Enum):
    """How sure a verdict is."""

    WIN = "WIN"
    TIE = "TIE"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class Standing:
    """One trial before the rule: its violations of constraints, none if it may win; whether any trial is faster and better."""

    trial: Trial
    violations: tuple[str, ...]
    on_front: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """Standings from first to last, and why the first won, or why none did."""

    standings: list[Standing]
    winner: Trial | None
    reason: str
    outcome: Outcome | None = None  # None without a winner
    first: Trial | None = None  # the best by the rule: what `comparisons` compares; not the winner in a tie
    comparisons: list[Comparison] = field(default_factory=list)
    drift: Trend | None = None  # of speeds over the study; None where no cell has two repeats


def decide(trials: Sequence[Trial], rule: SelectionConfig, answers: Answers | None = None) -> Verdict:
    """The winner first, then the eligible by the rule, those with violations by speed, the dropped, failures last.

    Args:
        answers: of each trial by its key; ratios and quality are tested where they are at hand, otherwise means decide.
    """
    answers = answers or {}
    standings = standings_of(trials, rule, answers)
    ranked = [standing.trial for standing in standings if not standing.violations]
    verdict = Verdict(standings, None, "", drift=drift_of(trials))
    if ranked:
        repeated = [trial for trial in ranked if is_finalist(trial)] or ranked
        comparisons = compare_all(ranked[0], repeated[1:], rule, answers)
        outcome, tied = outcome_of(comparisons, rule)
        winner = min([ranked[0], *tied], key=simplicity(rule)) if outcome is Outcome.TIE else ranked[0]
        standings.sort(key=lambda standing: standing.trial is not winner)
        verdict = Verdict(standings, winner, "", outcome, ranked[0], comparisons, verdict.drift)
    return replace(verdict, reason=reason_of(verdict, rule))


def standings_of(trials: Sequence[Trial], rule: SelectionConfig, answers: Answers) -> list[Standing]:
    """Every trial with its violations: the eligible by the rule, finalists first, then the others by speed, failures last."""
    front = {id(one) for one in pareto_front(trials)}
    standings = [Standing(trial, violations(trial, trials, rule, answers), id(trial) in front) for trial in trials]
    eligible = rank([standing.trial for standing in standings if not standing.violations], rule)
    place = {id(trial): number for number, trial in enumerate(sorted(eligible, key=lambda trial: not is_finalist(trial)))}
    return sorted(
        standings,
        key=lambda standing: (
            place.get(id(standing.trial), len(place)),
            standing.trial.error is not None,
            -speed(standing.trial),
        ),
    )


def is_finalist(trial: Trial) -> bool:
    """Whether the trial's numbers are from measuring it again: then it stands before all that were measured once.

    What was measured once and kept for being the best was lucky, as a rule; see `gpuqa.study.finalists`.
    """
    return trial.measurement is not None and trial.measurement.first_round_chars_per_s is not None


def outcome_of(comparisons: Sequence[Comparison], rule: SelectionConfig) -> tuple[Outcome, list[Trial]]:
    """How sure the first place is, and who shares it."""
    tied = [comparison for comparison in comparisons if not comparison.shown(rule.confidence)]
    if not tied:
        return Outcome.WIN, []
    all_narrow = all(comparison.is_narrow(rule.max_interval_ratio) for comparison in tied)
    return Outcome.TIE if all_narrow else Outcome.INCONCLUSIVE, [comparison.other for comparison in tied]


def simplicity(rule: SelectionConfig) -> Any:
    """Sorts the simplest first: unquantized, then the shorter prompt, then smaller engine settings, then the faster."""

    def key(trial: Trial) -> tuple[Any, ...]:
        prompt, engine = trial.pipeline["prompt"], trial.pipeline["engine"]
        examples = sum(len(example["question"]) + len(example["answer"]) for example in prompt["examples"])
        settings = {**engine["args"], "max_tokens": trial.pipeline["sampling"]["max_tokens"]}
        sizes = [(name, value) for name, value in sorted(settings.items()) if isinstance(value, int | float)]
        prompt_chars = len(prompt["system"] or "") + len(prompt["user"]) + examples
        overrides = sum(engine.get(part, "default") != "default" for part in ("scheduler", "attention"))
        return (quantization_of(trial) != rule.baseline_quantization, prompt_chars, overrides, sizes, -speed(trial))

    return key


def drift_of(trials: Sequence[Trial]) -> Trend | None:
    """The trend of all repeats of a study over its time.

    It shows only while an engine is up, where all repeats of a cell lie: what happens between engines cannot be told from what
    they differ in, since every cell, whose level is unknown, runs on one. So the test is the weaker the more engines there are.
    Finalists are measured again in the end, but were chosen for being fast: their second number is lower without any drift.
    Only a first engine that is started again in between would tell, and that costs a start each time.
    """
    measurements = [trial.measurement for trial in trials if trial.measurement]
    return trend(
        [measurement.repeats_began_at for measurement in measurements],
        [measurement.chars_per_s_repeats for measurement in measurements],
    )


def reason_of(verdict: Verdict, rule: SelectionConfig) -> str:
    """A verdict in sentences: who won among how many, by how much, and what is uncertain about it."""
    winner, comparisons = verdict.winner, verdict.comparisons
    if winner is None or verdict.outcome is None:
        return reason_without_winner(verdict.standings)
    eligible = [standing.trial for standing in verdict.standings if not standing.violations]
    tied = [comparison for comparison in comparisons if not comparison.shown(rule.confidence)]
    best = RANKINGS[rule.rule].title
    title = f"the simplest of {len(tied) + 1} that tie for {best}" if verdict.outcome is Outcome.TIE else f"the {best}"
    among = f"{len(eligible)} eligible trials (of {len(verdict.standings)})"
    sentences = [f"{verdict.outcome.name}: {winner.name} is {title} of {among}: {numbers_of(winner, rule)}"]
    if verdict.first is not None and verdict.first is not winner:
        against = next(comparison for comparison in comparisons if comparison.other is winner)
        lead = lead_of(against, rule)
        sentences.append(f"The first, {verdict.first.name}, leads it by {lead}: not shown to be more than chance.")
    elif comparisons:
        sentences.append(f"It leads the next, {comparisons[0].other.name}, by {lead_of(comparisons[0], rule)}.")
    if winner.measurement and (first_round := winner.measurement.first_round_chars_per_s) is not None:
        count = sum(map(is_finalist, eligible))
        sentences.append(
            f"{count} finalists were measured again, and that decides; in the first round it had {first_round:,.0f} chars/s."
        )
    if verdict.outcome is Outcome.INCONCLUSIVE:
        sentences.append(f"Not conclusive: {why_inconclusive(tied, rule)}; {len(tied)} other trials may be as good or better.")
    return " ".join([*sentences, *warnings(verdict, rule)])


def why_inconclusive(tied: Sequence[Comparison], rule: SelectionConfig) -> str:
    """Why a verdict is neither a win nor a tie."""
    if (untested := RANKINGS[rule.rule].untested) is not None:
        return untested
    if any(comparison.interval is None for comparison in tied):
        return "without two repeats of every trial (workload.repeats) and the same questions there is no test"
    return f"an interval is wider than selection.max_interval_ratio={rule.max_interval_ratio:g} allows; more repeats narrow it"


def numbers_of(winner: Trial, rule: SelectionConfig) -> str:
    """What the winner reached."""
    measurement = winner.measurement
    assert measurement is not None, "a trial without numbers is not eligible"
    return (
        f"{measurement.chars_per_s:,.0f} chars/s (MAD {measurement.chars_per_s_mad:,.0f} over {measurement.repeats} repeats) "
        f"at rouge_l_f1_judge {score_text(measurement.rouge_l_f1_judge)} (floor {rule.min_rouge_l_f1_judge:g}), "
        f"rouge_l_f1 {score_text(measurement.rouge_l_f1)}."
    )


def lead_of(comparison: Comparison, rule: SelectionConfig) -> str:
    """A lead with its interval and p-value, in a sentence."""
    share, interval, p_value = lead_texts(comparison.difference, comparison.interval, comparison.p_value)
    tested = f"{rule.confidence:.0%} interval {interval}, p {p_value} after Holm" if comparison.interval else "no test"
    return f"{share.removeprefix('+')} ({tested})"


def warnings(verdict: Verdict, rule: SelectionConfig) -> list[str]:
    """What the verdict could not check, and what disturbed the measurements, a sentence each."""
    trials, sentences = [standing.trial for standing in verdict.standings], []
    unchecked = without_baseline(trials, rule)
    if unchecked and not rule.min_rouge_l_f1_ratio == rule.min_answer_chars_ratio == 0:
        names = ", ".join(dict.fromkeys(map(quantization_of, unchecked)))
        sentences.append(
            f"{len(unchecked)} quantized trials ({names}) were not checked for lost quality and length, because no trial with "
            f"quantization={rule.baseline_quantization} that is otherwise the same was measured."
        )
    if (drift := verdict.drift) and drift.p_value <= 1 - rule.confidence:
        sentences.append(
            f"Speeds drifted by {drift.change:+.1%} over the study (p {drift.p_value:.3g}): cells of one engine took turns and "
            "are fair to each other, cells of different engines are not."
        )
    measurements = [trial.measurement for trial in trials if trial.measurement]
    throttled = [reasons for measurement in measurements if (reasons := set(measurement.throttle_reasons or ()) - SETTINGS)]
    if throttled:
        slowest = min(measurement.sm_clock_mhz_min or 0 for measurement in measurements)
        names = ", ".join(sorted(set.union(*throttled)))
        sentences.append(f"The GPU was held back in {len(throttled)} trials ({names}; SM clock down to {slowest} MHz).")
    return sentences


def reason_without_winner(standings: Sequence[Standing]) -> str:
    """Names the trial that came nearest: the one with the fewest violations, among equals with the best judge's score."""
    measured = [(standing, standing.trial.measurement) for standing in standings if standing.trial.measurement]
    if not measured:
        return "no trial was measured, so there is no winner"
    nearest, _ = min(measured, key=lambda row: (len(row[0].violations), -(row[1].rouge_l_f1_judge or 0.0)))
    return f"no trial is eligible; the nearest is {nearest.trial.name}: {'; '.join(nearest.violations)}"
