"""The finalists of a study: the trials that may win after the first round are measured again, and the second time decides.

The best of many noisy measurements is the best partly by luck, so its number promises too much (the winner's curse; Capen,
Clapp and Campbell, Journal of Petroleum Technology 23, 1971). Measured again, in an engine that has just started, a
finalist has no advantage but its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpuqa.config.measurement import SelectionConfig
from gpuqa.measure import fingerprint
from gpuqa.records import Trial
from gpuqa.selection.pairing import Answers
from gpuqa.selection.verdict import Verdict, decide
from gpuqa.study.journal import Journal


@dataclass(frozen=True, slots=True)
class Choice:
    """Which trials are measured again, the first by the rule first, and how many more may be as good."""

    finalists: list[Trial]
    left_out: int
    verdict: Verdict  # of the first round


@dataclass(frozen=True, slots=True)
class Judged:
    """A study's verdict, and the answers that it rests on."""

    verdict: Verdict
    answers: Answers


def choose(trials: Sequence[Trial], rule: SelectionConfig, journal: Journal) -> Choice:
    """The finalists of a first round that is on the disk."""
    return finalists(trials, rule, answers_of(trials, journal), journal.finalists())


def finalists(trials: Sequence[Trial], rule: SelectionConfig, answers: Answers, limit: int) -> Choice:
    """The first by the rule and those that it is not shown to lead, or the next: a win is checked against another cell.

    None where there was nothing to choose from.
    """
    verdict = decide(trials, rule, answers)
    if verdict.first is None or not verdict.comparisons or limit == 0:
        return Choice([], 0, verdict)
    tied = [comparison.other for comparison in verdict.comparisons if not comparison.shown(rule.confidence)]
    near = [verdict.first, *(tied or [verdict.comparisons[0].other])]
    return Choice(near[:limit], len(near[limit:]), verdict)


def judge(trials: Sequence[Trial], rule: SelectionConfig, journal: Journal) -> Judged:
    """The verdict of a study on the disk.

    The trials of the first round decide where its finalists by this rule were not all measured again: new numbers beside
    old ones would favour a trial that has none. That is so where another rule than the sweep's is asked.
    """
    first, known, limit = answers_of(trials, journal), journal.read(), journal.finalists()
    choice = finalists(trials, rule, first, limit)
    fresh = {finalist.key: known[key] for finalist in choice.finalists if (key := fingerprint.again(finalist.key)) in known}
    if not choice.finalists:
        return Judged(choice.verdict, first)
    if len(fresh) < len(choice.finalists):
        sentence = "Its finalists were not measured again, so its lead may be luck; a sweep with this rule measures them."
        return Judged(with_more(choice.verdict, sentence), first)
    answers = {**first, **answers_of(list(fresh.values()), journal)}
    verdict = decide([replaced(trial, fresh.get(trial.key)) for trial in trials], rule, answers)
    if choice.left_out:
        sentence = (
            f"{choice.left_out} more may be as good by the first round and were not measured again (study.finalists={limit})."
        )
        verdict = with_more(verdict, sentence)
    return Judged(verdict, answers)


def with_more(verdict: Verdict, sentence: str) -> Verdict:
    """The verdict with one more sentence."""
    return replace(verdict, reason=f"{verdict.reason} {sentence}")


def replaced(trial: Trial, fresh: Trial | None) -> Trial:
    """A finalist with the numbers of its second measurement, every other trial as it is."""
    if fresh is None or trial.measurement is None:
        return trial
    if fresh.measurement is None:  # it broke: its first numbers cannot stand beside the others' second ones
        return replace(fresh, axes=trial.axes)
    measurement = replace(fresh.measurement, first_round_chars_per_s=trial.measurement.chars_per_s)
    return replace(fresh, axes=trial.axes, measurement=measurement)


def answers_of(trials: Sequence[Trial], journal: Journal) -> Answers:
    """The answers of all trials that have some; a cell that a race dropped may be another's baseline."""
    return {trial.key: journal.answers(trial.key) for trial in trials if trial.measurement or trial.dropped}
