"""What is behind the routes: one pipeline, its state, and the way from questions to answers.

Routes call `answer` and `stream` and know nothing of engines; what cannot be answered is raised as a plain exception, which
`gpuqa.serving.app` turns into HTTP for all routes alike. One task, `_live`, starts the engine, watches it, and starts another
one when it died.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum

from gpuqa.config.http import HttpConfig
from gpuqa.engines import EngineFailed
from gpuqa.pipeline.pipeline import Pipeline, completion_of, warm_up
from gpuqa.records import Completion, CompletionDelta, EncodedPrompt, Generation, Override
from gpuqa.serving.admission import Admission, Refused
from gpuqa.serving.telemetry import Telemetry, note

log = logging.getLogger("gpuqa.serve")
StartPipeline = Callable[[], Awaitable[Pipeline]]
LOOK_EVERY_S = 0.25  # between two looks at whether the engine lives
LONGEST_BACKOFF_S = 60.0
HEALTHY_S = 3600.0  # an engine that lived so long has used up none of its restarts


class NotReady(Exception):
    """There is no engine that could answer now; the message says why."""


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


@dataclass(frozen=True, slots=True)
class Winner:
    """What is served."""

    start: StartPipeline  # makes the pipeline; called once for every life of the engine
    warmup: Sequence[str]  # questions to warm up with
    overrides: Sequence[Override] = ()  # those that ran when it was measured


class Service:
    """A pipeline, its state, and the way from questions to answers."""

    def __init__(self, winner: Winner, http: HttpConfig, telemetry: Telemetry, give_up: Callable[[str], None]) -> None:
        """`give_up` is called with the reason when there will be no engine: it should end the process."""
        self.winner, self.http, self.telemetry, self.give_up = winner, http, telemetry, give_up
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
        """The state at this moment; asks the engine whether it lives."""
        if self.state is State.ready and (self.pipeline is None or not self.pipeline.engine.alive()):
            self._enter(State.restarting if self.http.restart_engine else State.failed)
        return self.state

    def overrides(self) -> list[Override]:
        """Which parts of the backend ours replace in the running engine; none while there is no engine."""
        return [] if self.pipeline is None else self.pipeline.engine.overrides()

    async def answer(self, questions: Sequence[str], deadline_s: float | None = None) -> list[Completion]:
        """One completion for each question, in their order. What failed, or was not done in time (`http.deadline_s` unless
        told otherwise) or before the engine died, is empty and has an error.

        Raises:
            NotReady: there is no engine now.
            Refused: the server is at capacity.
            EngineFailed: the engine died, and no answer was done.
        """
        with self.admitted(questions) as pipeline:
            clock = asyncio.timeout(self.http.deadline_s if deadline_s is None else deadline_s)
            self._clocks.add(clock)
            try:
                completions = await pipeline.answer_in_time(questions, clock)
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
            async with closing(pipeline.stream(question)) as deltas:
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
        """The pipeline, for as long as these questions are in flight. Every way to an answer leads through here.

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
        if empty := sum(not question.strip() for question in questions):
            self.telemetry.empty.inc(empty)
            note(questions_empty=empty)
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

    async def drain(self) -> None:
        """Take no more questions; return when those in flight are answered, after `http.shutdown_timeout_s` at the latest."""
        if self.state is State.ready:
            log.info("draining: %d questions in flight", self.admission.in_flight)
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
        if cut := sum(completion.question_was_cut for completion in completions):
            note(questions_cut=cut)
        failed = [completion.error for completion in completions if completion.error]
        if failed:
            log.warning("%d of %d questions failed, the first with %s", len(failed), len(completions), failed[0])

    # ---------------------------------------------------------------- the engine's life

    async def _live(self) -> None:
        """Start an engine, watch it, and start another one when it died, until the attempts are used up."""
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

    async def _start_engine(self) -> None:
        """Start the engine and answer the warm-up questions; only then is the service ready."""
        began = time.perf_counter()
        self.pipeline = await self.winner.start()
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self.http.deadline_s):
                answered = await warm_up(self.pipeline, self.winner.warmup, self.http.warmup_batch)
        except EngineFailed as error:
            if self.http.warmup_must_succeed or not self.pipeline.engine.alive():
                raise
            answered = 0
            log.warning("http.warmup_must_succeed=false: ready although the warm-up failed: %s", error)
        log.info("engine started in %.1f s, %d warm-up questions answered in %.1f s: ready",
                 started - began, answered, time.perf_counter() - started)  # fmt: skip
        self._compare_overrides()
        self._died.clear()
        if self.state is not State.draining:
            self._enter(State.ready)

    def _compare_overrides(self) -> None:
        """Warn where the engine runs other parts than the measured one did: it may be slower, and its answers may differ."""
        measured, running = self.winner.overrides, self.overrides()
        if {(part.part, part.ran, part.version) for part in measured} != {
            (part.part, part.ran, part.version) for part in running
        }:
            log.warning("OTHER PARTS THAN MEASURED: the frozen winner was measured with %s; this engine runs %s. "
                        "Its speed is not the measured one", in_words(measured), in_words(running))  # fmt: skip

    async def _watch(self) -> str:
        """Return the reason when the engine has died; the answers that it was making end at once."""
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
        self.telemetry.enter(state.name, [known.name for known in State])

    def _numbers(self) -> tuple[str, dict[str, float]]:
        """The model's name and what the engine counts about itself; nothing without an engine."""
        return ("", {}) if self.pipeline is None else (self.pipeline.config.model.name, self.pipeline.engine.numbers())


@asynccontextmanager
async def closing(deltas: AsyncGenerator[CompletionDelta]) -> AsyncIterator[AsyncGenerator[CompletionDelta]]:
    """End an answer with its context. One that still computes its next delta was cancelled and ends by itself.

    That is so where a client has left: its request is cancelled twice, and the second time ends the wait of the first.
    """
    try:
        yield deltas
    finally:
        if not deltas.ag_running:  # type: ignore[attr-defined]  # every one that `async def` makes has it
            await deltas.aclose()


def in_words(overrides: Sequence[Override]) -> str:
    """Which parts ran, for messages: "attention=shared_prefix (1f0a), scheduler=default (asked: burst; reason)"."""
    words = []
    for override in sorted(overrides, key=lambda override: override.part):
        details = [f"asked: {override.asked}; {override.reason or 'no reason given'}"] if override.asked != override.ran else []
        details += [override.version] if override.version else []
        words.append(f"{override.part}={override.ran}" + (f" ({'; '.join(details)})" if details else ""))
    return ", ".join(words) or "the backend's own parts"
