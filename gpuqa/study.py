"""Cells -> groups that share an engine -> trials. What was measured before is not measured again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from gpuqa import dataset, identity
from gpuqa.config import UserError
from gpuqa.engine_log import captured, root_cause
from gpuqa.engines import Engine, EngineFailed, backend_class
from gpuqa.executors import EXECUTORS
from gpuqa.journal import Journal
from gpuqa.pipeline import Pipeline, encoder_for, start_engine, stop_token_ids, warmup_questions
from gpuqa.places import find
from gpuqa.prompts import load_tokenizer
from gpuqa.records import Answer, Trial
from gpuqa.roots import CellConfig
from gpuqa.trial import Cell, run_trial, score_trial, start_scorers

MOST_FAILURES = 3  # of cells in a row on one engine key; then the rest of its group is not tried


class Observer(Protocol):
    """Somebody who watches a study: a progress bar, a test."""

    def engine_starts(self, cell: Cell) -> None:
        """An engine is about to start for this cell and those that share it."""

    def trial_done(self, trial: Trial, kept: bool) -> None:
        """A trial ended, or was `kept` from an earlier run."""


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
    environment = identity.environment()
    models: dict[str, Any] = {}
    cells = []
    for config, axes in configs:
        if config.model.path not in models:
            folder = find(config.model.path, "model.path")
            models[config.model.path] = (load_tokenizer(config.model), identity.sha256_of_model(folder))
        tokenizer, digests = models[config.model.path]
        backend_class(config.engine.backend).check_args(config.engine_args())
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
    known = journal.read()
    measured = [cell for cell in cells if cell.key in known and known[cell.key].error is None]
    done = {cell.key: replace(known[cell.key], axes=cell.axes) for cell in measured}
    for trial in done.values():
        observer.trial_done(trial, kept=True)
    kept, starts = len(done), 0

    def engine_starts(cell: Cell) -> None:
        nonlocal starts
        starts += 1
        observer.engine_starts(cell)

    def run_one(group: list[Cell]) -> AsyncIterator[tuple[Trial, list[Answer]]]:
        return run_group(group, engine_starts, journal.engine_log, scorers)

    groups = group_by_engine([cell for cell in cells if cell.key not in done])
    with start_scorers() as scorers:
        async for trial, answers in EXECUTORS[cells[0].config.executor.kind](groups, run_one):
            journal.write(trial, answers)
            done[trial.key] = trial
            observer.trial_done(trial, kept=False)
    return Outcome([done[cell.key] for cell in cells], starts, kept)


def group_by_engine(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that can share an engine together, in the order of their first appearance."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.engine_key, []).append(cell)
    return list(groups.values())


async def run_group(
    group: list[Cell], engine_starts: Callable[[Cell], None], log: Path, scorers: ProcessPoolExecutor
) -> AsyncIterator[tuple[Trial, list[Answer]]]:
    """One engine for all cells; a cell that breaks it is a failed trial, and the rest get a new one.

    While a cell is measured, the answers of the one before it are scored.
    """
    tokenizer, in_a_row = load_tokenizer(group[0].config.model), 0
    engine: Engine | None = None
    scoring: asyncio.Task[tuple[Trial, list[Answer]]] | None = None
    try:
        for place, cell in enumerate(group):
            if engine is None:
                engine_starts(cell)
                try:
                    engine = await start_quietly(cell, log)
                except EngineFailed as error:  # the same start would fail for the rest of the group too
                    for failed in group[place:]:
                        yield failed.failed(str(error)), []
                    return
            try:
                measured = await run_trial(cell, Pipeline(engine, tokenizer, cell.config))
                in_a_row = 0
            except EngineFailed as error:
                if scoring is not None:
                    yield await scoring
                    scoring = None
                yield cell.failed(str(error)), []
                await engine.close()
                engine, in_a_row = None, in_a_row + 1
                if in_a_row == MOST_FAILURES:
                    for skipped in group[place + 1 :]:
                        yield (
                            skipped.failed(f"skipped after {in_a_row} failures in a row on this engine, the last: {error}"),
                            [],
                        )
                    return
                continue
            if scoring is not None:
                yield await asyncio.shield(scoring)
            scoring = asyncio.create_task(score_trial(measured, scorers))
        if scoring is not None:
            yield await asyncio.shield(scoring)
    except asyncio.CancelledError:  # Ctrl-C: what was measured before is kept
        if scoring is not None:
            yield await scoring
        raise
    finally:
        if engine is not None:
            await engine.close()


async def start_quietly(cell: Cell, log: Path) -> Engine:
    """The engine of a cell, its output in the study's log.

    Raises:
        EngineFailed: with the reason that the engine's own process gave.
    """
    before = log.stat().st_size if log.exists() else 0
    try:
        with captured(log):
            return await start_engine(cell.config)
    except EngineFailed as error:
        printed = log.read_bytes()[before:].decode(errors="replace")
        raise EngineFailed(root_cause(printed, str(error))) from error
