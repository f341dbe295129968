"""What is behind the routes: one pipeline, its state, and the way from questions to answers.

Routes call `answer` and know nothing of engines; what cannot be answered is raised as a plain exception, which
`gpuqa.serving.app` turns into HTTP for all routes alike. One task, `_live`, brings the engine up, watches it, and brings it up
again when it died.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from enum import Enum

from gpuqa.config.http import HttpConfig
from gpuqa.engines import EngineFailed
from gpuqa.pipeline.pipeline import Pipeline, completion_of, warm_up
from gpuqa.pipeline.prompts import GAP
from gpuqa.records import Completion, CompletionDelta, EncodedPrompt, Generation
from gpuqa.serving.admission import Admission, Refused
from gpuqa.serving.telemetry import Telemetry, note

log = logging.getLogger("gpuqa.serve")
StartPipeline = Callable[[], Awaitable[Pipeline]]
LOOK_EVERY_S = 0.25
LONGEST_BACKOFF_S = 60.0
HEALTHY_S = 3600.0  # an engine that lived so long has used up none of its restarts


class NotReady(Exception):
    """Nobody is here to answer; the message says why."""


class State(Enum):
    """Where a service stands; it answers in `ready` alone."""

    starting = "starting"
    ready = "ready"
    restarting = "restarting"  # the engine died, and another one is being started
    draining = "draining"  # running answers finish, no new ones begin
    failed = "failed"  # there is no engine and there will be none


REASONS = {
    State.starting: "starting: the model is being loaded and warmed up",
    State.restarting: "restarting: the engine died, another one is being started",
    State.draining: "draining: this process is about to end",
    State.failed: "failed: the engine is gone",
}


class Service:
    """A pipeline, its state, and the way from questions to answers."""

    def __init__(
        self,
        start: StartPipeline,
        warmup: Sequence[str],
        http: HttpConfig,
        telemetry: Telemetry,
        give_up: Callable[[str], None],
    ) -> None:
        """`start` makes the pipeline, once for every life of the engine. `give_up` is called with the reason when there will
        be no engine: it should end the process."""
        self.start, self.warmup, self.http, self.telemetry, self.give_up = start, warmup, http, telemetry, give_up
        self.pipeline: Pipeline | None = None
        self.admission = Admission(http.max_waiting_questions)
        self._clocks: set[asyncio.Timeout] = set()  # of the answers that are being made
        self._drained_by = math.inf  # on the event loop's clock
        self._died = asyncio.Event()
        telemetry.limit.set(http.max_waiting_questions)
        telemetry.in_flight.set_function(lambda: self.admission.in_flight)
        telemetry.watch_engine(self._numbers)
        self._enter(State.starting)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The engine starts in the background, so that the port answers from the first second; the end closes it."""
        living = asyncio.create_task(self._live())
        yield
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
        await self._close()

    # ---------------------------------------------------------------- what routes call

    def look(self) -> State:
        """The state at this moment: the engine is asked whether it lives."""
        if self.state is State.ready and (self.pipeline is None or not self.pipeline.engine.alive()):
            self._enter(State.restarting if self.http.restart_engine else State.failed)
        return self.state

    async def answer(self, questions: Sequence[str], deadline_s: float | None = None) -> list[Completion]:
        """One completion for each question, in their order. What failed, or was not done in time (`http.deadline_s` unless
        told otherwise) or before the engine died, is empty and has an error.

        Raises:
            NotReady: there is no engine now.
            Refused: the house is full.
            EngineFailed: the engine died, and no answer was done.
        """
        with self.admitted(questions) as pipeline:
            clock = asyncio.timeout(self.http.deadline_s if deadline_s is None else deadline_s)
            self._clocks.add(clock)
            try:
                completions = await pipeline.answer_in_time([self.cut(question) for question in questions], clock)
            finally:
                self._clocks.discard(clock)
        self._count(completions)
        return completions

    async def stream(self, question: str) -> AsyncGenerator[CompletionDelta]:
        """The answer to one question as it comes; see `Pipeline.stream`. What was not done in time ends with an error.

        Raises:
            NotReady, Refused, EngineFailed: see `answer`; the first two before the first delta.
        """
        text, now = "", asyncio.get_running_loop().time
        end = now() + self.http.deadline_s
        with self.admitted([question]) as pipeline:
            async with aclosing(pipeline.stream(self.cut(question))) as deltas:
                while True:
                    try:  # no timeout around it all: another task may ask for the next delta
                        delta = await asyncio.wait_for(anext(deltas), min(end, self._drained_by) - now())
                    except TimeoutError:
                        late = Generation(finish_reason="late", error="the deadline came before the end of the answer")
                        delta = CompletionDelta("", completion_of(EncodedPrompt([], False), late, text))
                    if delta.completion is not None:
                        break
                    text += delta.text
                    yield delta
        self._count([delta.completion])
        yield delta

    @contextmanager
    def admitted(self, questions: Sequence[str]) -> Iterator[Pipeline]:
        """The pipeline, for as long as these questions are in the house. Every way to an answer leads through here.

        Raises:
            NotReady, Refused, EngineFailed: see `answer`.
        """
        count = len(questions)
        note(questions=count)
        if self.look() is not State.ready or self.pipeline is None:
            raise NotReady(REASONS[self.state])
        try:
            self.admission.enter(count, time.monotonic())
        except Refused:
            self.telemetry.questions.labels("refused").inc(count)
            raise
        try:
            yield self.pipeline
        except EngineFailed:
            self._died.set()
            self.telemetry.questions.labels("lost").inc(count)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            self.telemetry.questions.labels("gone").inc(count)
            raise
        finally:
            self.admission.leave(count, time.monotonic())

    def cut(self, question: str) -> str:
        """The question without its middle where it is longer than `http.max_question_chars`, its ends say most."""
        most = self.http.max_question_chars
        return (
            question if len(question) <= most else f"{question[: most - most // 2]}{GAP}{question[len(question) - most // 2 :]}"
        )

    async def drain(self) -> None:
        """Take no more questions; return when the running ones are answered, after `http.shutdown_timeout_s` at the latest."""
        if self.state is State.ready:
            log.info("draining: %d questions are being answered", self.admission.in_flight)
        self._enter(State.draining)
        end = self._drained_by = asyncio.get_running_loop().time() + self.http.shutdown_timeout_s
        for clock in list(self._clocks):
            if (when := clock.when()) is not None and when > end:
                with suppress(RuntimeError):  # it has run out meanwhile
                    clock.reschedule(end)
        while self.admission.in_flight and asyncio.get_running_loop().time() < end + 1:
            await asyncio.sleep(0.05)

    def _count(self, completions: Sequence[Completion]) -> None:
        self.telemetry.count(completions)
        failed = [completion.error for completion in completions if completion.error]
        if failed:
            log.warning("%d of %d questions failed, the first with %s", len(failed), len(completions), failed[0])

    # ---------------------------------------------------------------- the engine's life

    async def _live(self) -> None:
        """Bring the engine up, watch it, and do so again when it died, until there is nothing left to try."""
        attempts = 0
        while True:
            try:
                await self._bring_up()
                self.telemetry.starts.labels("ready").inc()
                since = time.monotonic()
                reason = await self._watch()
                attempts = 0 if time.monotonic() - since > HEALTHY_S else attempts
            except Exception as error:  # whatever it is, a service that cannot answer must say so and end
                self.telemetry.starts.labels("failed").inc()
                reason = f"start-up failed: {type(error).__name__}: {error}"
            log.error("%s", reason)
            await self._close()
            if self.state is State.draining:
                return
            if self.state is State.starting or not self.http.restart_engine or attempts >= self.http.restart_attempts:
                self._enter(State.failed)
                return self.give_up(reason)
            self._enter(State.restarting)
            wait = min(self.http.restart_backoff_s * 2**attempts, LONGEST_BACKOFF_S)
            attempts += 1
            log.warning("starting another engine in %g s, attempt %d of %d", wait, attempts, self.http.restart_attempts)
            await asyncio.sleep(wait)

    async def _bring_up(self) -> None:
        """Start the engine and answer the warm-up questions; only then is the service ready."""
        began = time.perf_counter()
        self.pipeline = await self.start()
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self.http.deadline_s):
                answered = await warm_up(self.pipeline, self.warmup, self.http.warmup_batch)
        except EngineFailed as error:
            if self.http.warmup_must_succeed or not self.pipeline.engine.alive():
                raise
            answered = 0
            log.warning("http.warmup_must_succeed=false: ready although the warm-up failed: %s", error)
        log.info("engine started in %.1f s, %d warm-up questions answered in %.1f s: ready",
                 started - began, answered, time.perf_counter() - started)  # fmt: skip
        self._died.clear()
        if self.state is not State.draining:
            self._enter(State.ready)

    async def _watch(self) -> str:
        """Return when the engine has died, with what to say of it; what it was answering ends at once."""
        assert self.pipeline is not None
        while self.pipeline.engine.alive() and not self._died.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._died.wait(), LOOK_EVERY_S)
        self.telemetry.deaths.inc()
        self.look()
        return "the engine died"

    async def _close(self) -> None:
        """Release the engine, if there is one."""
        pipeline, self.pipeline = self.pipeline, None
        if pipeline is not None:
            with suppress(EngineFailed):
                await pipeline.close()

    def _enter(self, state: State) -> None:
        self.state = state
        self.telemetry.enter(state.name, [one.name for one in State])

    def _numbers(self) -> tuple[str, dict[str, float]]:
        """The model's name and what the engine counts about itself; nothing without an engine."""
        return ("", {}) if self.pipeline is None else (self.pipeline.config.model.name, self.pipeline.engine.numbers())
