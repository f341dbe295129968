"""The finalists of a study: the trials that may win after the first round are measured again, and the second time decides.

The best of many noisy measurements is the best partly by luck, so its number promises too much (the winner's curse; Capen,
Clapp and Campbell, Journal of Petroleum Technology 23, 1971). Measured again, on engines that have just started, a finalist has
no advantage but its own. The winner among them is lucky once more, if less: its number comes from passes of its own, which
begin when it is chosen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from gpuqa.config.measurement import SelectionConfig
from gpuqa.measure.devices import device_of
from gpuqa.measure.fingerprint import Stage, at_stage
from gpuqa.measure.goodput import slo_of, with_goodput
from gpuqa.measure.metrics import Overhead, measure, with_timings
from gpuqa.measure.speed_tests import StartNoise
from gpuqa.records import Answer, Pass, Trial
from gpuqa.selection.comparison import Known
from gpuqa.selection.decision import decide, undecided
from gpuqa.selection.pairing import Answers
from gpuqa.selection.ranking import compare_all
from gpuqa.selection.verdict import Verdict, tied_of
from gpuqa.selection.wording import counted
from gpuqa.study.journal import Journal


@dataclass(frozen=True, slots=True)
class Choice:
    """Which trials are measured again, the first by the rule first, and how many more may be as good."""

    finalists: list[Trial]
    left_out: int
    verdict: Verdict  # of the first round


@dataclass(frozen=True, slots=True)
class Judged:
    """A study's verdict, the answers that it rests on, and what its winner is frozen with."""

    verdict: Verdict
    answers: Answers
    confirmed: Trial | None = None  # the winner by passes that did not choose it
    finalists: Sequence[Trial] = ()  # of the first round, where they were measured again


def finalists(
    trials: Sequence[Trial], rule: SelectionConfig, answers: Answers, limit: int, usual: StartNoise | None = None
) -> Choice:
    """The first by the rule and those that it is not shown to lead, or the next: a win is checked against another cell.

    None where there was nothing to choose from.
    """
    verdict = decide(trials, rule, answers, usual)
    if verdict.first is None or not verdict.comparisons or limit == 0:
        return Choice([], 0, verdict)
    tied = tied_of(verdict.comparisons, rule)
    near = [
        verdict.first,
        *(not_led(verdict.first, tied, rule, Known(answers, usual or StartNoise())) or [verdict.comparisons[0].other]),
    ]
    return Choice(near[:limit], len(near[limit:]), verdict)


def not_led(first: Trial, tied: Sequence[Trial], rule: SelectionConfig, known: Known) -> list[Trial]:
    """Of the trials that the first is not shown to lead, those that no other one is shown to lead on a device where the first
    was not: the first need not be compared with those, since it has to beat the other one."""
    left: list[Trial] = []
    for trial in tied:
        near = [other for other in left if not share_device(first, trial) and share_device(other, trial)]
        if not any(compare_all(other, [trial], rule, known)[0].shown(rule) for other in near):
            left.append(trial)
    return left


def share_device(first: Trial, other: Trial) -> bool:
    """Whether both trials were measured on one device, as all are of which no device is known."""
    devices = [set(trial.measurement.devices if trial.measurement else ()) for trial in (first, other)]
    return not all(devices) or bool(devices[0] & devices[1])


@dataclass(frozen=True, slots=True)
class Contest:
    """The finalists of a study while they are measured again."""

    trials: Sequence[Trial]  # of the first round
    choice: Choice
    rule: SelectionConfig
    answers: Answers
    usual: StartNoise

    def undecided(self, passes: Mapping[str, Sequence[Pass]]) -> Collection[str]:
        """By the passes so far, the keys of the cells of which more passes could decide who wins."""
        measured = {trial.key: passes.get(at_stage(trial.key, Stage.finals), ()) for trial in self.choice.finalists}
        trials = [so_far(trial, measured.get(trial.key, ()), self.answers.get(trial.key, ())) for trial in self.trials]
        verdict = decide(trials, self.rule, self.answers, self.usual)
        return [at_stage(trial.key, Stage.finals) for trial in undecided(verdict, self.rule)]


def contest(trials: Sequence[Trial], rule: SelectionConfig, journal: Journal) -> Contest:
    """The contest of a first round that is on the disk."""
    answers, usual = answers_of(trials, journal), journal.start_noise()
    return Contest(trials, finalists(trials, rule, answers, journal.finalists(), usual), rule, answers, usual)


def so_far(trial: Trial, passes: Sequence[Pass], answers: Sequence[Answer]) -> Trial:
    """A finalist with the speeds of its passes so far, and the scores of its first round."""
    if trial.measurement is None or not passes:
        return trial
    overhead = Overhead(
        *(passes[0].engine_start_s, passes[0].warmup_s, 0.0),
        engine_ids=[measured.engine_id for measured in passes],
        devices=[device_of(measured) for measured in passes],
        energies_j=[measured.energy_j for measured in passes],
    )
    answered = [measured.answered for measured in passes]
    numbers = with_goodput(measure(answered, answers, overhead), with_timings(answers, answered), slo_of(trial.setting))
    return replace(trial, measurement=replace(numbers, first_round_chars_per_s=trial.measurement.chars_per_s))


def judge(trials: Sequence[Trial], rule: SelectionConfig, journal: Journal) -> Judged:
    """The verdict of a study on the disk.

    The trials of the first round decide where its finalists by this rule were not all measured again: new numbers beside
    old ones would favour a trial that has none. That is so where another rule than the sweep's is asked.
    """
    first_round, known = contest(trials, rule, journal), journal.read()
    choice, first = first_round.choice, first_round.answers
    keys = {finalist.key: at_stage(finalist.key, Stage.finals) for finalist in choice.finalists}
    fresh = {key: known[again] for key, again in keys.items() if again in known}
    if not choice.finalists:
        return Judged(choice.verdict, first)
    if len(fresh) < len(choice.finalists):
        sentence = "Its finalists were not measured again, so its lead may be luck; a sweep with this rule measures them."
        return Judged(with_more(choice.verdict, sentence), first)
    answers = {**first, **answers_of(list(fresh.values()), journal)}
    measured = [replaced(trial, fresh.get(trial.key)) for trial in trials]
    verdict = decide(measured, rule, answers, first_round.usual, choice.left_out)
    chosen, winner = chosen_of(verdict, choice.finalists), verdict.winner
    confirmed = known.get(at_stage(chosen.key, Stage.confirmation)) if chosen else None
    if winner is None or confirmed is None or confirmed.measurement is None:
        return Judged(verdict, answers, finalists=choice.finalists)
    speed = f"Measured once more after it was chosen it had {confirmed.measurement.chars_per_s:,.0f} chars/s"
    repeats = counted(confirmed.measurement.repeats, "repeat")
    verdict = with_more(verdict, f"{speed} ({repeats} on a fresh engine), and that is what is frozen.")
    answers = {**answers, **answers_of([confirmed], journal)}
    return Judged(verdict, answers, replaced(winner, confirmed), choice.finalists)


def chosen_of(verdict: Verdict, finalists: Sequence[Trial]) -> Trial | None:
    """The winner of the finals, as the first round knows it; None where no finalist won."""
    of_finals = {at_stage(finalist.key, Stage.finals): finalist for finalist in finalists}
    return of_finals.get(verdict.winner.key) if verdict.winner else None


def winner_of(trials: Sequence[Trial], rule: SelectionConfig, journal: Journal) -> Trial | None:
    """The winner of a study's finals, as the first round knows it."""
    judged = judge(trials, rule, journal)
    return chosen_of(judged.verdict, judged.finalists)


def with_more(verdict: Verdict, sentence: str) -> Verdict:
    """The verdict with one more sentence."""
    return replace(verdict, reason=f"{verdict.reason} {sentence}")


def replaced(trial: Trial, fresh: Trial | None) -> Trial:
    """A trial with the numbers of its next measurement; as it is where it has none."""
    if fresh is None or trial.measurement is None:
        return trial
    if fresh.measurement is None:  # it broke: its first numbers cannot stand beside the others' second ones
        return replace(fresh, axes=trial.axes)
    before = trial.measurement.first_round_chars_per_s
    measurement = replace(fresh.measurement, first_round_chars_per_s=before or trial.measurement.chars_per_s)
    return replace(fresh, axes=trial.axes, measurement=measurement)


def answers_of(trials: Sequence[Trial], journal: Journal) -> Answers:
    """The answers of all trials that have some; a cell that a race dropped may be another's baseline."""
    return {trial.key: journal.answers(trial.key) for trial in trials if trial.measurement or trial.dropped}
