"""The life of one engine of a service: started, warmed up, watched, and another one started when it died."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from gpuqa.config.http import HttpConfig
from gpuqa.config.pipeline import PipelineConfig
from gpuqa.engines import Engine, EngineFailed
from gpuqa.pipeline.pipeline import Pipeline, warm_up
from gpuqa.records import Override
from gpuqa.serving.replica import Remote
from gpuqa.serving.telemetry import Telemetry

log = logging.getLogger("gpuqa.serve")
LOOK_EVERY_S = 0.25  # between two looks at whether the engine lives
LONGEST_BACKOFF_S = 60.0
HEALTHY_S = 3600.0  # an engine that lived so long has used up none of its restarts


class State(Enum):
    """Where an engine, or a service, stands; it answers in `ready` alone."""

    starting = "starting"
    ready = "ready"
    restarting = "restarting"  # the engine died, and another one is being started
    swapping = "swapping"  # another winner is being started, and there is no room for two
    draining = "draining"  # running answers finish, no new ones begin
    failed = "failed"  # there is no engine and there will be none


StartPipeline = Callable[[], Awaitable[Pipeline | Remote]]


@dataclass(frozen=True, slots=True)
class Winner:
    """What is served."""

    starts: Mapping[str, StartPipeline]  # by the replica's name: makes its pipeline; called for every life of its engine
    warmup: Sequence[str]  # questions to warm up with
    overrides: Sequence[Override] = ()  # those that ran when it was measured
    facts: Mapping[str, Any] = field(default_factory=dict)  # for GET /info: plain values
    labels: Mapping[str, str] = field(default_factory=dict)  # for `gpuqa_build_info`


class EngineLife:
    """One engine after the other, in the same place."""

    def __init__(self, name: str, winner: Winner, http: HttpConfig, telemetry: Telemetry) -> None:
        """`name`: the replica's, "" where it is the only one."""
        self.name, self.winner, self.http, self.telemetry = name, winner, http, telemetry
        self.state = State.starting
        self.pipeline: Pipeline | Remote | None = None
        self.changed: Callable[[], None] = lambda: None  # called after every change of the state
        self.work = self.questions = 0  # in flight here; the unit of work is that of `gpuqa.serving.shares`
        self.is_ending = False  # an engine that dies is not replaced any more
        self._died = asyncio.Event()

    def look(self) -> State:
        """The state at this moment; asks the engine whether it lives."""
        if self.state is State.ready and (self._died.is_set() or self.pipeline is None or not engine_of(self.pipeline).alive()):
            self._enter(State.restarting if self.http.restart_engine else State.failed)
        return self.state

    @property
    def config(self) -> PipelineConfig:
        """What it serves.

        Raises:
            EngineFailed: nothing, now.
        """
        if self.pipeline is None:
            raise EngineFailed("the engine died")
        return self.pipeline.config

    def overrides(self) -> list[Override]:
        """Which parts of the backend ours replace in the running engine; none while there is no engine."""
        return [] if self.pipeline is None else engine_of(self.pipeline).overrides()

    def numbers(self) -> dict[str, float]:
        """What the engine counts about itself; nothing without one."""
        return {} if self.pipeline is None else engine_of(self.pipeline).numbers()

    @contextmanager
    def answering(self, questions: int, work: int) -> Iterator[Pipeline | Remote]:
        """The pipeline, for as long as these questions are in flight here.

        Raises:
            EngineFailed: the engine died before; what the pipeline raises of this kind is noted as its death.
        """
        if self.pipeline is None:
            raise EngineFailed("the engine died")
        self.questions += questions
        self.work += work
        try:
            yield self.pipeline
        except EngineFailed:
            self.lose()
            raise
        finally:
            self.questions -= questions
            self.work -= work

    def lose(self) -> None:
        """The engine has died, as an answer has shown."""
        self._died.set()

    async def live(self) -> str:
        """Start an engine, watch it, and start another one when it died -> why there will be none any more."""
        attempts = 0
        while True:
            try:
                await self._start_engine()
                self.telemetry.starts.labels("ready").inc()
                since = time.monotonic()
                reason = await self._watch()
                attempts = 0 if time.monotonic() - since > HEALTHY_S else attempts
            except Exception as error:  # whatever it was, a service without an engine must say so and end
                self.telemetry.starts.labels("failed").inc()
                reason = f"start-up failed: {type(error).__name__}: {error}"
            await self.close()
            was_starting = self.state is State.starting
            if self.is_ending or was_starting or not self.http.restart_engine or attempts >= self.http.restart_attempts:
                log.error("%s%s", self._prefix, reason)
                self._enter(State.failed)
                return reason
            self._enter(State.restarting)
            wait = min(self.http.restart_backoff_s * 2**attempts, LONGEST_BACKOFF_S)
            attempts += 1
            log.warning("%s%s; another engine is started in %g s, attempt %d of %d",
                        self._prefix, reason, wait, attempts, self.http.restart_attempts)  # fmt: skip
            await asyncio.sleep(wait)

    async def close(self) -> None:
        """Release the engine, if there is one."""
        pipeline, self.pipeline = self.pipeline, None
        if pipeline is not None:
            with suppress(EngineFailed):
                await pipeline.close()

    @property
    def _prefix(self) -> str:
        return f"replica {self.name}: " if self.name else ""

    async def _start_engine(self) -> None:
        """Start the engine and answer the warm-up questions; only then is it ready."""
        began = time.perf_counter()
        self.pipeline = pipeline = await self.winner.starts[self.name]()
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self.http.deadline_s):
                answered = await warmed_up(pipeline, self.winner.warmup, self.http.warmup_batch)
        except EngineFailed as error:
            if self.http.warmup_must_succeed or not engine_of(pipeline).alive():
                raise
            answered = 0
            log.warning("http.warmup_must_succeed=false: ready although the warm-up failed: %s", error)
        log.info("%sengine started in %.1f s, %d warm-up questions answered in %.1f s: ready",
                 self._prefix, started - began, answered, time.perf_counter() - started)  # fmt: skip
        self._compare_overrides()
        self._died.clear()
        self._enter(State.ready)

    def _compare_overrides(self) -> None:
        """Warn where the engine runs other parts than the measured one did: it may be slower, and its answers may differ."""
        measured, running = self.winner.overrides, self.overrides()
        if {(part.part, part.ran, part.version) for part in measured} != {
            (part.part, part.ran, part.version) for part in running
        }:
            log.warning("%sOTHER PARTS THAN MEASURED: the frozen winner was measured with %s; this engine runs %s. "
                        "Its speed is not the measured one", self._prefix, in_words(measured), in_words(running))  # fmt: skip

    async def _watch(self) -> str:
        """Return the reason when the engine has died; the answers that it was making end at once."""
        assert self.pipeline is not None
        while engine_of(self.pipeline).alive() and not self._died.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._died.wait(), LOOK_EVERY_S)
        self.telemetry.deaths.inc()
        self.look()
        return "the engine died"

    def _enter(self, state: State) -> None:
        self.state = state
        self.changed()


def engine_of(pipeline: Pipeline | Remote) -> Engine | Remote:
    """What says whether it lives, what it replaces and what it counts: the engine, or the other end of it."""
    return pipeline.engine if isinstance(pipeline, Pipeline) else pipeline


async def warmed_up(pipeline: Pipeline | Remote, questions: Sequence[str], batch: int | None) -> int:
    """As `gpuqa.pipeline.pipeline.warm_up`, wherever it runs."""
    if isinstance(pipeline, Pipeline):
        return await warm_up(pipeline, questions, batch)
    return await pipeline.warm_up(questions, batch)


def in_words(overrides: Sequence[Override]) -> str:
    """Which parts ran, for messages: "attention=shared_prefix (1f0a), scheduler=default (asked: burst; reason)"."""
    words = []
    for override in sorted(overrides, key=lambda override: override.part):
        details = [f"asked: {override.asked}; {override.reason or 'no reason given'}"] if override.asked != override.ran else []
        details += [override.version] if override.version else []
        words.append(f"{override.part}={override.ran}" + (f" ({'; '.join(details)})" if details else ""))
    return ", ".join(words) or "the backend's own parts"
