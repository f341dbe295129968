"""Cells -> groups that share an engine -> trials. What was measured before is not measured again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpuqa.config import UserError
from gpuqa.config.commands import CellConfig
from gpuqa.config.paths import find
from gpuqa.engines import BACKENDS
from gpuqa.measure import fingerprint
from gpuqa.measure.cell import Cell
from gpuqa.measure.trial import FinishedTrial, start_scorers
from gpuqa.pipeline import dataset
from gpuqa.pipeline.pipeline import encoder_for, stop_token_ids, warmup_questions
from gpuqa.pipeline.prompts import load_tokenizer
from gpuqa.records import Trial
from gpuqa.study import rate_sweep
from gpuqa.study.engine_session import Desk, Group, Observer
from gpuqa.study.executors import EXECUTORS
from gpuqa.study.journal import Journal
from gpuqa.study.racing.race_session import digest_of, run_race


@dataclass(frozen=True, slots=True)
class Outcome:
    """A study's trials in the order of its cells, and what it took."""

    trials: list[Trial]
    engine_starts: int
    kept: int


def prepare(configs: Sequence[tuple[CellConfig, dict[str, str]]]) -> list[Cell]:
    """Check everything that can be wrong before an engine starts, and read what all cells need.

    Raises:
        UserError: in any cell; none has run.
    """
    environment = fingerprint.environment()
    models: dict[str, Any] = {}
    cells = []
    for config, axes in configs:
        if config.model.path not in models:
            folder = find(config.model.path, "model.path")
            models[config.model.path] = (load_tokenizer(config.model), fingerprint.sha256_of_model(folder))
        tokenizer, digests = models[config.model.path]
        BACKENDS[config.engine.backend].load().check_args(config.engine_args())
        encoder_for(tokenizer, config)
        stop_token_ids(tokenizer, config.sampling)
        questions = dataset.load(config.dataset)
        warmup = warmup_questions(config.model, never={question.text for question in questions})
        known = {"digests": {**digests, "dataset": dataset.digest(questions)}, **environment}
        cells.append(Cell(config, axes, questions, warmup, known))
    if len({cell.key for cell in cells}) < len(cells):
        raise UserError("two cells of the study are the same configuration; check the axes for a value that is listed twice")
    return cells


async def run(cells: Sequence[Cell], journal: Journal, observer: Observer) -> Outcome:
    """Run every cell that the journal does not hold yet; failed ones are tried again."""
    racing = cells[0].config.study.racing and not cells[0].again
    done = kept_trials(cells, journal, racing)
    for trial in done.values():
        observer.trial_done(trial, kept=True)
    kept, counted = len(done), Counted(observer)
    for trial in rate_sweep.skipped_by(cells, done):
        journal.write(trial, [])
        done[trial.key] = trial
        observer.trial_done(trial, kept=True)
    with start_scorers() as scorers:
        desk = Desk(journal, scorers, counted)
        async for trial, answers in race(cells, done, desk) if racing else full_grid(cells, done, desk):
            journal.write(trial, answers, keep_passes=racing)
            done[trial.key] = trial
            observer.trial_done(trial, kept=False)
    for trial in done.values():
        if trial.error is None:
            journal.forget_passes(trial.key)  # a race needed them until now, or a kill came between a trial and that
    return Outcome([done[cell.key] for cell in cells], counted.starts, kept)


def kept_trials(cells: Sequence[Cell], journal: Journal, racing: bool) -> dict[str, Trial]:
    """The trials of an earlier run that count in this one.

    While a race is under way its passes decide, also those of trials that are complete. A dropped cell is one of the race
    that dropped it only.
    """
    known, race_digest = journal.read(), digest_of(cells)
    found = {cell.key: replace(known[cell.key], axes=cell.axes) for cell in cells if cell.key in known}
    if racing:
        settled = {key: one for key, one in found.items() if ends(one, race_digest)}
        under_way = len(settled) < len(cells)
        return {key: one for key, one in settled.items() if not (under_way and journal.read_passes(key))}
    return {key: one for key, one in found.items() if one.measurement is not None}


def ends(trial: Trial, race: str) -> bool:
    """Whether a trial needs no more measuring in that race."""
    return trial.measurement is not None or (trial.dropped is not None and trial.dropped.race == race)


def full_grid(cells: Sequence[Cell], done: Mapping[str, Trial], desk: Desk) -> AsyncIterator[FinishedTrial]:
    """Every cell in full."""
    groups = group_by_engine([cell for cell in cells if cell.key not in done])
    return EXECUTORS[cells[0].config.executor.kind](groups, lambda group: Group(group, desk).run())


def race(cells: Sequence[Cell], done: Mapping[str, Trial], desk: Desk) -> AsyncIterator[FinishedTrial]:
    """A slice first; see `gpuqa.study.racing`."""
    return run_race(group_by_engine(cells), dict(done), desk)


class Counted:
    """An observer that counts engine starts and passes all on."""

    def __init__(self, observer: Observer) -> None:
        self.observer, self.starts = observer, 0
        self.pass_done, self.trial_done = observer.pass_done, observer.trial_done

    def engine_starts(self, cell: Cell) -> None:
        """One more."""
        self.starts += 1
        self.observer.engine_starts(cell)


def group_by_engine(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that can share an engine together, in the order of their first appearance."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.engine_key, []).append(cell)
    return list(groups.values())
