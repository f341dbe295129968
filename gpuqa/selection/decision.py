"""Decide a study. It reads numbers and answers only, so that trials on disk can be judged again by another rule.

The first by the rule is compared with every other eligible trial; docs/verdict_rates.md has the error rates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from gpuqa.config.measurement import SelectionConfig
from gpuqa.measure.devices import repeats_by_device
from gpuqa.measure.speed_tests import StartNoise
from gpuqa.measure.statistics import Trend, trend
from gpuqa.records import Trial
from gpuqa.selection.comparison import Comparison, Known, is_finalist, speed
from gpuqa.selection.constraints import beside_baseline, floor_note, violations
from gpuqa.selection.pairing import Answers
from gpuqa.selection.ranking import RANKINGS, compare_all, pareto_front, rank, simplicity
from gpuqa.selection.ratios import FEWEST_QUESTIONS
from gpuqa.selection.reasons import reason_of
from gpuqa.selection.verdict import Outcome, Standing, Verdict, not_shown, started_once, tied_of


def decide(
    trials: Sequence[Trial],
    rule: SelectionConfig,
    answers: Answers | None = None,
    usual: StartNoise | None = None,
    left_out: int = 0,
) -> Verdict:
    """The winner first, then the eligible by the rule, those with violations by speed, the dropped, failures last.

    Args:
        answers: of each trial by its key; ratios and quality are tested where they are at hand, otherwise means decide.
        usual: how much starts of an engine differ on this machine.
        left_out: how many trials may be as good as the finalists and were not measured again.
    """
    known = Known(answers or {}, usual or StartNoise())
    standings = standings_of(trials, rule, known.answers)
    ranked = [standing.trial for standing in standings if not standing.violations]
    verdict = Verdict(standings, None, "", left_out=left_out, drift=drift_of(trials))
    if ranked:
        repeated = [trial for trial in ranked if is_finalist(trial)] or ranked
        first, comparisons = first_of(repeated, rule, known)
        verdict = replace(verdict, first=first, comparisons=comparisons, questions=asked_of(first, known.answers))
        outcome = Outcome.ONLY_ELIGIBLE if len(ranked) == 1 else outcome_of(verdict, rule)
        winner = min([first, *tied_of(comparisons, rule)], key=simplicity(rule)) if outcome is Outcome.TIE else first
        standings.sort(key=lambda standing: standing.trial is not winner)
        verdict = replace(verdict, winner=winner, outcome=outcome)
    note = floor_note(verdict.winner, rule, known.answers) if verdict.winner else ""
    return replace(verdict, reason=" ".join(filter(None, [reason_of(verdict, rule), note])))


def first_of(ranked: Sequence[Trial], rule: SelectionConfig, known: Known) -> tuple[Trial, list[Comparison]]:
    """The first of the ranked trials, compared with each of the others.

    Trials are ranked by means. Where the ranks of many rounds give another trial the lead over the first, that one is the
    first: the number that is told has the sign of the test.
    """
    first = ranked[0]
    for _ in ranked:
        comparisons = compare_all(first, [trial for trial in ranked if trial is not first], rule, known)
        behind = [comparison for comparison in comparisons if comparison.speed is not None and comparison.difference < 0]
        if not behind:
            break
        first = min(behind, key=lambda comparison: comparison.difference).other
    return first, comparisons


def asked_of(trial: Trial, answers: Answers) -> int:
    """How many different questions a trial was asked; all of its questions where its answers are not at hand."""
    different = {answer.question for answer in answers.get(trial.key, ())}
    return len(different) or (trial.measurement.questions if trial.measurement else 0)


def standings_of(trials: Sequence[Trial], rule: SelectionConfig, answers: Answers) -> list[Standing]:
    """Every trial with its violations: the eligible by the rule, finalists first, then the others by speed, failures last."""
    front = {id(trial) for trial in pareto_front(trials)}
    standings = [
        Standing(
            trial,
            violations(trial, trials, rule, answers),
            id(trial) in front,
            beside_baseline(trial, trials, rule, answers),
        )
        for trial in trials
    ]
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


def outcome_of(verdict: Verdict, rule: SelectionConfig) -> Outcome:
    """How sure the first place is among several eligible trials."""
    unsure = verdict.questions < FEWEST_QUESTIONS or verdict.left_out or not verdict.comparisons
    if unsure or started_once(verdict.comparisons):
        return Outcome.INCONCLUSIVE
    tied = not_shown(verdict.comparisons, rule)
    if not tied:
        return Outcome.WIN
    return Outcome.TIE if all(comparison.is_level(rule.max_interval_ratio) for comparison in tied) else Outcome.INCONCLUSIVE


def undecided(verdict: Verdict, rule: SelectionConfig) -> list[Trial]:
    """The trials that more passes could tell apart: the first, and those that it is not shown to lead.

    None where all of these are level with it within half of what a tie allows: a tie gives the first place away, so that it is
    not taken before a lead of that size had its chance to show.
    """
    tied = not_shown(verdict.comparisons, rule)
    level = all(comparison.is_level(math.sqrt(rule.max_interval_ratio)) for comparison in tied)
    if verdict.first is None or level or not RANKINGS[rule.rule].repeats_decide:
        return []
    return [verdict.first, *(comparison.other for comparison in tied)]


def drift_of(trials: Sequence[Trial]) -> Trend | None:
    """The trend of all repeats of a study over its time.

    It shows only while an engine is up, where all repeats of a cell lie: what happens between engines cannot be told from what
    they differ in, since every cell, whose level is unknown, runs on one. So the test is the weaker the more engines there are.
    Finalists are measured again in the end, but were chosen for being fast: their second number is lower without any drift.
    Only a first engine that is started again in between would tell, and that costs a start each time. A cell's repeats on
    another device have another level.
    """
    rows = [row for trial in trials if trial.measurement for row in repeats_by_device(trial.measurement)]
    return trend([moments for moments, _ in rows], [speeds for _, speeds in rows])
