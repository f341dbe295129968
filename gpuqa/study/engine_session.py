"""One place for an engine: start it, warm cells up, measure passes, write a failure down, close it.

A session is told what to measure one step at a time and yields what happens as events. It knows no journal and no other
process, so it can run anywhere: a step that goes in and an event that comes out can be pickled. It does nothing more before
its consumer has taken an event, so that every pass is on the disk before the next one begins.
"""

from __future__ import annotations

import platform
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from gpuqa.engines import Engine, EngineFailed
from gpuqa.machine import hardware
from gpuqa.machine.captured_output import captured, root_cause
from gpuqa.measure.cell import Cell
from gpuqa.measure.trial import PassRequest, WarmCell, measure_pass, warm_up
from gpuqa.pipeline.pipeline import Pipeline, start_engine
from gpuqa.pipeline.prompts import load_tokenizer
from gpuqa.records import Pass, Question
from gpuqa.study.guesses import Work


@dataclass(frozen=True, slots=True)
class Step:
    """The next pass on an engine, which is started if none is up."""

    cells: list[
        Cell
    ]  # are all warm before the pass begins; all share an engine key with the request's, which has no warm-up of
    # its own where it is not among them: one of many prompts that are tried on a warm engine
    request: PassRequest


@dataclass(frozen=True, slots=True)
class EngineStarts:
    """An engine is about to start for this cell and those that share it."""

    key: str  # of a cell, here as in all events


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The engine of this cell did not start."""

    key: str
    error: str


@dataclass(frozen=True, slots=True)
class CellWarm:
    """The engine answered the warm-up questions of a cell."""

    key: str


@dataclass(frozen=True, slots=True)
class PassDone:
    """A pass of a cell was measured."""

    key: str
    measured: Pass


@dataclass(frozen=True, slots=True)
class CellFailed:
    """The engine broke on a cell, in its warm-up or in a pass, and was closed."""

    key: str
    error: str


Event = EngineStarts | StartFailed | CellWarm | PassDone | CellFailed
LAST = PassDone | StartFailed | CellFailed  # after which none of that step comes


class Session(Protocol):
    """An `EngineSession`, here or in another process."""

    def measure(self, step: Step) -> AsyncGenerator[Event]:
        """Events up to the end of the step's pass."""

    async def close(self) -> None:
        """Release the engine, if one is up."""


class Steps(Protocol):
    """What a session is driven by: see `gpuqa.study.grid` and `gpuqa.study.racing.race_plan`."""

    place: int | None  # the number of the place where alone it may run; None: at any

    @property
    def work(self) -> Work:
        """What is left of it, by which an executor may guess how long it takes."""

    async def next(self) -> Step | None:
        """The next step after all events so far; None when the session can be closed."""


@dataclass(slots=True)
class Running:
    """An engine that is up, and what its passes say of it."""

    engine: Engine
    id: str  # of this start
    device: str
    warm: dict[str, WarmCell]  # by the key of the cell
    passes: int = 0
    cached: tuple[str, list[Question]] | None = None  # the cell and the questions that the prefix cache holds


class EngineSession:
    """Engines of one engine key, one after the other."""

    def __init__(self, log: Path, place: str = "", model: str = "") -> None:
        """
        Args:
            log: the file for what engines print.
            place: which part of the machine this process has, where it is one of several; passes name it.
            model: of the device there, for the passes; "": as the machine is described.
        """
        self.log, self.place, self.model = log, place, model
        self.tokenizer: Any = None
        self.running: Running | None = None

    async def measure(self, step: Step) -> AsyncGenerator[Event]:
        """Events up to the end of the step's pass. After a failure no engine is up, and the next step starts a new one."""
        cell = step.cells[0]
        if self.running is None:
            yield EngineStarts(cell.key)
            try:
                self.running = await self.start(cell)
            except EngineFailed as error:
                yield StartFailed(cell.key, str(error))
                return
        try:
            for cell in [cell for cell in step.cells if cell.key not in self.running.warm]:
                self.running.warm[cell.key] = await warm_up(cell, Pipeline(self.running.engine, self.tokenizer, cell.config))
                yield CellWarm(cell.key)
            cell = step.request.cell
            yield PassDone(cell.key, await self.measured(step.request, self.running))
        except EngineFailed as error:
            await self.close()
            yield CellFailed(cell.key, str(error))

    async def start(self, cell: Cell) -> Running:
        """An engine that no cell has used yet."""
        self.tokenizer = self.tokenizer or load_tokenizer(cell.config.model)
        engine = await start_quietly(cell, self.log)
        return Running(engine, uuid4().hex, self.model or hardware.describe()["device"], {})

    async def measured(self, request: PassRequest, running: Running) -> Pass:
        """One pass, with the start of the engine that answered."""
        key = request.cell.key
        ready = running.warm.get(key) or WarmCell(Pipeline(running.engine, self.tokenizer, request.cell.config), 0.0)
        measured = await measure_pass(request, ready, filled=running.cached == (key, request.questions))
        running.cached = key, request.questions
        running.passes += 1
        measured = replace(measured, host=platform.node(), device=running.device, place=self.place)
        return replace(measured, engine_id=running.id, round=running.passes - 1)

    async def close(self) -> None:
        """Release the engine, if one is up."""
        running, self.running = self.running, None
        if running is not None:
            with captured(self.log):
                await running.engine.close()


async def drive(steps: Steps, session: Session) -> AsyncGenerator[Event]:
    """The events of all steps; the session is closed in the end, whatever ends it."""
    try:
        while (step := await steps.next()) is not None:
            async with aclosing(session.measure(step)) as events:
                async for event in events:
                    yield event
    finally:
        await session.close()


async def start_quietly(cell: Cell, log: Path) -> Engine:
    """The engine of a cell, its output in the log.

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
