"""Cells that share an engine: all are warmed up, then every repeat goes round all of them, each time in another order.

Speeds drift: a GPU heats up, a neighbour starts a job. Cell after cell, the last ones alone would pay for it; in turns that
are shuffled anew for every repeat, it is noise for all. The order follows from the cells' keys, so that a study that goes
on after an interruption keeps it. Every pass is in the journal before the next one begins.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from gpuqa.engines import Engine, EngineFailed
from gpuqa.machine.captured_output import captured, root_cause
from gpuqa.measure.cell import Cell
from gpuqa.measure.trial import FinishedTrial, PassRequest, WarmCell, measure_pass, score_trial, warm_up
from gpuqa.pipeline.pipeline import Pipeline, start_engine
from gpuqa.pipeline.prompts import load_tokenizer
from gpuqa.records import Pass, Question, Trial
from gpuqa.study.journal import Journal
from gpuqa.study.rate_sweep import above, lowest_first, rate_of, skip

MOST_FAILURES = 3  # of cells in a row on one engine key; then the rest of its group is not tried


class Observer(Protocol):
    """Somebody who watches a study: a progress bar, a test."""

    def engine_starts(self, cell: Cell) -> None:
        """An engine is about to start for this cell and those that share it."""

    def pass_done(self, cell: Cell, measured: Pass) -> None:
        """A pass is in the journal."""

    def trial_done(self, trial: Trial, kept: bool) -> None:
        """A trial ended, or was `kept` from an earlier run."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What a group needs of its study: where passes are kept, who scores, who watches."""

    journal: Journal
    scorers: ProcessPoolExecutor
    observer: Observer


class Group:
    """The cells of one engine key and how far each of them is."""

    def __init__(self, cells: Sequence[Cell], desk: Desk) -> None:
        self.desk, self.tokenizer = desk, load_tokenizer(cells[0].config.model)
        self.cells = sorted(cells, key=rate_of)
        self.waiting = list(cells)  # have passes to be measured
        self.passes = {cell.key: [one for one in desk.journal.read_passes(cell.key) if one.slice is None] for cell in cells}
        self.scoring: list[asyncio.Task[FinishedTrial]] = []
        self.engine: Engine | None = None
        self.ready: dict[str, WarmCell] = {}  # on the engine that runs now
        self.cached: tuple[str, list[Question]] | None = None  # whose questions the prefix cache holds
        self.answered: set[str] = set()  # have worked on any engine of this group
        self.failures = 0  # in a row

    async def run(self) -> AsyncIterator[FinishedTrial]:
        """Every cell's trial. A cell that breaks the engine is a failed one, and the rest get a new engine."""
        try:
            for ended in self.take_up():
                yield ended
            while self.waiting:
                for ended in await self.start():
                    yield ended
                for cell, step in self.steps():
                    try:
                        for ended in await step():
                            yield ended
                    except EngineFailed as error:
                        for ended in await self.fail(cell, str(error)):
                            yield ended
                        break
                    for task in [one for one in self.scoring if one.done()]:
                        yield await self.scored(task)
            while self.scoring:
                yield await self.scored(self.scoring[0])
        except asyncio.CancelledError:  # Ctrl-C: what was measured before is kept
            for task in self.scoring:
                yield await task
            raise
        finally:
            await self.close()

    def take_up(self) -> list[FinishedTrial]:
        """Go on where a kill came between the last pass and the trial, or the trials that it makes needless."""
        for cell in list(self.waiting):
            self.end_if_complete(cell)
        return [ended for cell in self.cells for ended in self.skip_above(cell)]

    async def start(self) -> list[FinishedTrial]:
        """Start the engine; where it does not start, that is the failure of all who wait for it."""
        self.desk.observer.engine_starts(self.waiting[0])
        try:
            self.engine = await start_quietly(self.waiting[0], self.desk.journal.engine_log)
            return []
        except EngineFailed as error:
            failed, self.waiting = self.waiting, []
            return [(cell.failed(str(error)), []) for cell in failed]

    def steps(self) -> Iterator[tuple[Cell, Callable[[], Awaitable[list[FinishedTrial]]]]]:
        """What is to be done with an engine that has just started, and for which cell."""
        for cell in list(self.waiting):
            yield cell, partial(self.warm_up, cell)
        for repeat in range(max((cell.config.workload.repeats for cell in self.waiting), default=0)):
            for cell in lowest_first(in_order(self.waiting, repeat)):
                if cell not in self.waiting:  # skipped meanwhile
                    continue
                last = repeat == cell.config.workload.repeats - 1
                for request in self.missing(cell):
                    if last if request.prefix_cached else request.repeat == repeat:  # warm ones at once after the last cold one
                        yield cell, partial(self.measure, request)

    def missing(self, cell: Cell) -> list[PassRequest]:
        """The passes that a cell still needs, the cold ones first."""
        kept, workload = {(one.prefix_cached, one.repeat) for one in self.passes[cell.key]}, cell.config.workload
        cold = [PassRequest(cell, repeat, cell.questions) for repeat in range(workload.repeats)]
        warm = [
            PassRequest(cell, repeat, cell.questions, prefix_cached=True) for repeat in range(workload.prefix_cached_repeats)
        ]
        return [request for request in [*cold, *warm] if (request.prefix_cached, request.repeat) not in kept]

    async def warm_up(self, cell: Cell) -> list[FinishedTrial]:
        """Make a cell ready on this engine."""
        assert self.engine is not None, "steps come after `start`"
        self.ready[cell.key] = await warm_up(cell, Pipeline(self.engine, self.tokenizer, cell.config))
        self.answered.add(cell.key)
        return []

    async def measure(self, request: PassRequest) -> list[FinishedTrial]:
        """Measure and keep one pass; the trials that it makes needless."""
        cell = request.cell
        measured = await measure_pass(request, self.ready[cell.key], filled=self.cached == (cell.key, request.questions))
        self.cached = cell.key, request.questions
        self.desk.journal.write_pass(cell.key, measured)
        self.keep(cell, measured)
        self.failures = 0
        self.desk.observer.pass_done(cell, measured)
        self.end_if_complete(cell)
        return self.skip_above(cell)

    def skip_above(self, cell: Cell) -> list[FinishedTrial]:
        """The higher rungs of a ladder that a saturated pass ended."""
        if not any(one.answered.saturated for one in self.passes[cell.key] if not one.prefix_cached):
            return []
        rungs = above(cell, self.waiting)
        self.waiting = [one for one in self.waiting if one not in rungs]
        return [(skip(one, cell), []) for one in rungs]

    def keep(self, cell: Cell, measured: Pass) -> None:
        """Remember a pass that is in the journal."""
        self.passes[cell.key].append(measured)

    def end_if_complete(self, cell: Cell) -> None:
        """Have the answers of a cell that needs no more passes scored, while others are measured."""
        if not self.missing(cell):
            self.waiting.remove(cell)
            self.scoring.append(asyncio.create_task(score_trial(cell, self.passes[cell.key], self.desk.scorers)))

    async def fail(self, cell: Cell, error: str) -> list[FinishedTrial]:
        """Give up a cell and its engine; after three in a row also those that got no further than it did."""
        await self.close()
        self.waiting.remove(cell)
        self.failures += 1
        ended: list[FinishedTrial] = [(cell.failed(error), [])]
        if self.failures < MOST_FAILURES:
            return ended
        skipped = [one for one in self.waiting if cell.key in self.answered or one.key not in self.answered]
        self.waiting = [one for one in self.waiting if one not in skipped]
        told = f"skipped after {self.failures} failures in a row on this engine, the last: {error}"
        self.failures = 0
        return [*ended, *((one.failed(told), []) for one in skipped)]

    async def scored(self, task: asyncio.Task[FinishedTrial]) -> FinishedTrial:
        """The trial of a cell whose scoring was begun; Ctrl-C leaves the task in the list."""
        ended = await asyncio.shield(task)
        self.scoring.remove(task)
        return ended

    async def close(self) -> None:
        """Release the engine."""
        engine, self.engine = self.engine, None
        self.ready.clear()
        self.cached = None
        if engine is not None:
            with captured(self.desk.journal.engine_log):
                await engine.close()


def in_order(cells: Sequence[Cell], repeat: int) -> list[Cell]:
    """The cells in the order of one repeat: by a digest of repeat and key, which shuffles and never changes."""
    return sorted(cells, key=lambda cell: hashlib.sha256(f"{repeat} {cell.key}".encode()).digest())


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
