"""Cells -> groups that share an engine -> passes -> trials. What was measured before is not measured again.

The study, and nothing else, writes the journal, has passes scored and tells the observer. Executors and sessions only report
events to it; see `gpuqa.study.executors`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from gpuqa.config import UserError
from gpuqa.config.commands import CellConfig
from gpuqa.config.paths import find_model
from gpuqa.config.pipeline import PromptConfig
from gpuqa.engines import BACKENDS
from gpuqa.measure import fingerprint
from gpuqa.measure.cell import Cell
from gpuqa.measure.fingerprint import Stage
from gpuqa.measure.goodput import with_goodput
from gpuqa.measure.trial import FinishedTrial
from gpuqa.pipeline import dataset
from gpuqa.pipeline.pipeline import checked_encoder, checked_tokenizer, warmup_questions
from gpuqa.pipeline.sampling import stop_token_ids
from gpuqa.records import Answer, Pass, Trial
from gpuqa.study import event_log, rate_sweep
from gpuqa.study.cell_checks import CellChecks
from gpuqa.study.engine_session import CellWarm, EngineStarts, Event, PassDone
from gpuqa.study.executors.places import Place, PlaceNotThere
from gpuqa.study.executors.side_by_side import run_plans
from gpuqa.study.finals import Finals, Schedule, Undecided
from gpuqa.study.grid import GridPlan, group_by_engine
from gpuqa.study.journal import Journal
from gpuqa.study.progress import Plan
from gpuqa.study.racing.race_plan import digest_of, dropped_trials, race_of, race_stages
from gpuqa.study.run_file import sent_prompt
from gpuqa.study.same_effect import Effects
from gpuqa.study.scoring import Scoring

NOTED: dict[type[Event], str] = {EngineStarts: event_log.STARTS, CellWarm: event_log.WARM, PassDone: event_log.PASS}


class Observer(Protocol):
    """What watches a study: a progress bar, a test."""

    def engine_starts(self, cell: Cell) -> None:
        """An engine is about to start for this cell and those that share it."""

    def pass_done(self, cell: Cell, measured: Pass) -> None:
        """A pass is in the journal."""

    def trial_done(self, trial: Trial, kept: bool) -> None:
        """A trial ended, or was `kept` from an earlier run."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A study's trials in the order of its cells, and what it took."""

    trials: list[Trial]
    engine_starts: int
    kept: int


def prepare(
    configs: Sequence[tuple[CellConfig, dict[str, str]]],
    checks: CellChecks | None = None,
    environment: Mapping[str, Any] | None = None,
) -> list[Cell]:
    """Check everything that can be wrong before an engine starts, and read what all cells need.

    Args:
        checks: that have read what the cells name; None: it is read now.
        environment: of the machine where engines will run; None: of this one.

    Raises:
        UserError: in any cell; none has run.
    """
    checks = checks or CellChecks()
    configs = [(checks.checked(config), axes) for config, axes in configs]  # early: what is wrong with files is told at once
    environment = environment or fingerprint.environment()
    models: dict[str, Any] = {}
    cells = []
    for config, axes in configs:
        folder, questions = find_model(config.model), checks.questions(config.dataset).questions
        if config.model.path not in models:
            digests = fingerprint.sha256_of_model(folder)  # before transformers is imported
            models[config.model.path] = (checked_tokenizer(config), digests)
        tokenizer, digests = models[config.model.path]
        BACKENDS[config.engine.backend].load().check_args(config.engine_args())
        warmup = warmup_questions(config.model, never={question.text for question in questions})
        encoder = checked_encoder(tokenizer, config)
        prompt_tokens = encoder.digest
        checks.sent_prompts.setdefault(prompt_tokens, sent_prompt(encoder))
        known = {
            "digests": {**digests, "dataset": dataset.digest(questions), "prompt_tokens": prompt_tokens},
            "stop_token_ids": stop_token_ids(tokenizer, config),
            "revision": fingerprint.model_revision(config.model, folder),
            **environment,
        }
        cells.append(Cell(config, axes, questions, warmup, known))
    refuse_equal_prompts(cells)
    if len({cell.key for cell in cells}) < len(cells):
        raise UserError(
            "two cells of the study are the same configuration; check the axes for a value that is listed twice, "
            "or for workload.slo, by which trials are counted and not measured"
        )
    return cells


def refuse_equal_prompts(cells: Sequence[Cell]) -> None:
    """Raise a UserError where two prompts reach a model as the same tokens and are treated alike after it: their cells would
    differ by chance alone."""
    prompts: dict[tuple[str, str, str], PromptConfig] = {}
    for cell in cells:
        prompt, digests = cell.config.prompt, cell.fingerprint["digests"]
        assert isinstance(digests, dict), "prepare makes it"
        other = prompts.setdefault((cell.config.model.path, digests["prompt_tokens"], repr(prompt.postprocess)), prompt)
        if other != prompt:
            raise UserError(
                f"prompt: {other.name!r} and {prompt.name!r} come out of the chat template of model={cell.config.model.name} "
                f"as the same tokens; leave one of them out, or use a model whose template keeps what tells them apart"
            )


async def run(cells: Sequence[Cell], journal: Journal, observer: Observer, places: Sequence[Place] = ()) -> Outcome:
    """Run every cell that the journal does not hold yet; failed ones are tried again.

    Args:
        places: where engines run side by side (`gpuqa.study.executors.opened`); none: one after the other in this process.
    """
    racing = cells[0].config.study.racing and cells[0].stage is Stage.first_round
    with Scoring() as scoring:
        study = Run(cells, journal, observer, scoring, places)
        study.keep_passes = racing
        study.keep_earlier(racing)
        await (study.race() if racing else study.full_grid())
    for trial in study.done.values():
        if trial.error is None:
            journal.forget_passes(trial.key)  # a race needed them until now, or a kill came between a trial and that
    return Outcome([study.done[cell.key] for cell in cells], study.engine_starts, study.kept)


async def run_finals(
    cells: Sequence[Cell], journal: Journal, observer: Observer, undecided: Undecided, schedule: Schedule
) -> Outcome:
    """Measure finalists until they are decided; their passes stay, so that more time can be spent on them later."""
    with Scoring() as scoring:
        study = Run(cells, journal, observer, scoring, schedule.places)
        await study.finals(undecided, schedule)
    return Outcome([study.done[cell.key] for cell in cells], study.engine_starts, study.kept)


class Run:
    """One run of a study: what is done by now, and what is being scored."""

    def __init__(
        self, cells: Sequence[Cell], journal: Journal, observer: Observer, scoring: Scoring, places: Sequence[Place]
    ) -> None:
        self.cells, self.places = {cell.key: cell for cell in cells}, places
        self.journal, self.observer, self.scoring = journal, observer, scoring
        self.keep_passes = True  # of trials that have ended
        self.done: dict[str, Trial] = {}
        self.scores: list[asyncio.Task[FinishedTrial]] = []  # of complete cells, in the order in which they will be there
        self.engine_starts = self.kept = 0

    def keep_earlier(self, racing: bool) -> None:
        """Take over what earlier runs have measured, and what follows from it for the rest."""
        cells = list(self.cells.values())
        self.done = kept_trials(cells, self.journal, racing)
        self.kept = len(self.done)
        for key, trial in list(self.done.items()):
            self.count_again(trial)
            self.observer.trial_done(self.done[key], kept=True)
        copies = [trial for trial in Effects(cells).copies() if trial.key not in self.done]
        for trial in [*copies, *rate_sweep.skipped_by(cells, self.done)]:
            self.write(trial, [])

    def count_again(self, trial: Trial) -> None:
        """Count an earlier trial's answers by the limits of this command, and keep it where that changes its numbers."""
        slo, measurement = self.cells[trial.key].config.workload.slo, trial.measurement
        if measurement is None or not (slo.any_limit or measurement.slo_attainment is not None):
            return
        answers = self.journal.answers(trial.key)
        if (counted := with_goodput(measurement, answers[-measurement.questions :], slo)) != measurement:
            self.done[trial.key] = replace(trial, measurement=counted)
            self.journal.write(self.done[trial.key], answers, keep_passes=self.keep_passes)

    async def full_grid(self) -> None:
        """Every cell in full."""
        groups = group_by_engine([cell for key, cell in self.cells.items() if key not in self.done])
        plans = [GridPlan(group, {cell.key: self.journal.read_passes(cell.key) for cell in group}) for group in groups]
        await self.execute(iter([plans]))

    async def race(self) -> None:
        """A slice first, and all questions only for the cells that may still win; see `gpuqa.study.racing`."""
        cells, kept = list(self.cells.values()), set(self.done)
        race = race_of(cells, self.done, self.journal.answers)
        groups, passes = group_by_engine(cells), self.journal.read_passes
        await self.execute(race_stages(race, groups, passes, self.done, self.scoring.trial))
        for trial, answers in dropped_trials(race, digest_of(cells)):
            if trial.key not in kept:
                self.write(trial, answers)

    async def finals(self, undecided: Undecided, schedule: Schedule) -> None:
        """Finalists until they are decided; see `gpuqa.study.finals`."""
        cells, known = list(self.cells.values()), self.journal.read()
        finals = Finals(cells, {cell.key: self.journal.read_passes(cell.key) for cell in cells}, undecided, schedule)
        await self.execute(finals.stages())
        for cell in [cell for cell in cells if cell.key not in self.done]:
            passes, before = sorted(finals.passes[cell.key], key=lambda measured: measured.repeat), known.get(cell.key)
            if before is not None and before.measurement is not None and before.measurement.repeats >= len(passes):
                self.done[cell.key], self.kept = replace(before, axes=cell.axes, setting=cell.setting), self.kept + 1
                self.count_again(self.done[cell.key])
            else:
                self.scores.append(asyncio.create_task(self.score(cell, passes)))
        await self.write_scores()

    async def execute(self, stages: Iterator[Sequence[Plan]]) -> None:
        """Run the plans of each stage, a stage after the other, and write down what comes of them."""
        try:
            for plans in stages:
                self.collect(plans)
                async with aclosing(run_plans(plans, self.journal.engine_log, self.places)) as events:
                    async for plan, event in events:
                        self.record(event, plan)
                        self.write_scored()
                self.collect(plans)
                await self.write_scores()
        except (asyncio.CancelledError, PlaceNotThere):  # Ctrl-C: what was measured before is kept
            await self.write_scores()
            raise

    async def score(self, cell: Cell, passes: Sequence[Pass]) -> FinishedTrial:
        """The trial of a cell that has all its passes, scored."""
        with self.journal.events.scoring(cell.key):
            return await self.scoring.trial(cell, passes)

    def record(self, event: Event, plan: Plan) -> None:
        """Write down what a session reports, then tell its plan and the observer."""
        cell = self.cells[event.key]
        if (what := NOTED.get(type(event))) is not None:
            self.journal.events.note(what, cell.key)
        if isinstance(event, PassDone):
            self.journal.write_pass(cell.key, event.measured)
        plan.take(event)
        if isinstance(event, EngineStarts):
            self.engine_starts += 1
            self.observer.engine_starts(cell)
        elif isinstance(event, PassDone):
            self.observer.pass_done(cell, event.measured)
        self.collect([plan])

    def collect(self, plans: Sequence[Plan]) -> None:
        """Write the trials that ended without numbers, and begin to score the cells that have all their passes."""
        for progress in [plan.progress for plan in plans]:
            complete, progress.complete = progress.complete, []
            ended, progress.ended = progress.ended, []
            for cell in complete:
                self.scores.append(asyncio.create_task(self.score(cell, progress.passes[cell.key])))
            for trial in ended:
                self.write(trial, [])

    def write_scored(self) -> None:
        """Write the trials whose scores are there."""
        while self.scores and self.scores[0].done():
            self.write(*self.scores.pop(0).result())

    async def write_scores(self) -> None:
        """Wait for all scores and write their trials; Ctrl-C leaves those that it interrupts in the list."""
        while self.scores:
            await asyncio.shield(self.scores[0])
            self.write_scored()

    def write(self, trial: Trial, answers: Sequence[Answer]) -> None:
        """Keep a trial for good, then tell the observer."""
        self.journal.write(trial, answers, keep_passes=self.keep_passes)
        self.done[trial.key] = trial
        self.observer.trial_done(trial, kept=False)


def kept_trials(cells: Sequence[Cell], journal: Journal, racing: bool) -> dict[str, Trial]:
    """The trials of an earlier run that count in this one.

    While a race is under way its passes decide, also those of trials that are complete. A dropped cell is one of the race
    that dropped it only.
    """
    known, race_digest = journal.read(), digest_of(cells)
    earlier = {cell.key: replace(known[cell.key], axes=cell.axes, setting=cell.setting) for cell in cells if cell.key in known}
    if racing:
        settled = {key: trial for key, trial in earlier.items() if ends(trial, race_digest)}
        under_way = len(settled) < len(cells)
        return {key: trial for key, trial in settled.items() if not (under_way and journal.read_passes(key))}
    return {key: trial for key, trial in earlier.items() if trial.measurement is not None}


def ends(trial: Trial, race: str) -> bool:
    """Whether a trial needs no more measuring in that race."""
    return trial.measurement is not None or (trial.dropped is not None and trial.dropped.race == race)
