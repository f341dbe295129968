"""What is behind the routes: one pipeline or several replicas of it, their state, and the way from questions to answers.

Routes call `answer` and `stream` and know nothing of engines; what cannot be answered is raised as a plain exception, which
`gpuqa.serving.app` turns into HTTP for all routes alike. Each engine has an `EngineLife`, which starts it, watches it, and
starts another one when it died. Questions of a replica that is lost are asked again on the others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from gpuqa.config.http import HttpConfig
from gpuqa.config.pipeline import PipelineConfig
from gpuqa.engines import EngineFailed
from gpuqa.pipeline.pipeline import completion_of
from gpuqa.records import Completion, CompletionDelta, EncodedPrompt, Generation, Override
from gpuqa.serving.admission import Admission, Refused
from gpuqa.serving.life import EngineLife, StartPipeline, State, Winner
from gpuqa.serving.replicas import Replicas, closing, is_ready
from gpuqa.serving.telemetry import Telemetry, note

log = logging.getLogger("gpuqa.serve")


class NotReady(Exception):
    """There is no engine that could answer now; the message says why."""


REASONS = {
    State.starting: "starting: the model is being loaded and warmed up",
    State.restarting: "restarting: the engine died, another one is being started",
    State.swapping: "swapping: another winner is being loaded and warmed up",
    State.draining: "draining: this process is about to end",
    State.failed: "failed: the engine is gone",
}


class Service:
    """The replicas of a winner, their state, and the way from questions to answers."""

    def __init__(self, winner: Winner, http: HttpConfig, telemetry: Telemetry, give_up: Callable[[str], None]) -> None:
        """`give_up` is called with the reason when there will be no engine: it should end the process."""
        self.winner, self.http, self.telemetry, self.give_up = winner, http, telemetry, give_up
        self.admission = Admission(http.max_waiting_questions)
        self._was_ready = self._is_draining = self._is_swapping = False
        self._living: dict[EngineLife, asyncio.Task[None]] = {}
        self._retiring: set[asyncio.Task[None]] = set()  # of replicas that have left
        telemetry.limit.set(http.max_waiting_questions)
        telemetry.in_flight.set_function(lambda: self.admission.in_flight)
        telemetry.watch_engines(self._numbers)
        if winner.labels:
            telemetry.introduce(winner.labels)
        self.replicas = Replicas([self._life(name, winner) for name in winner.starts], telemetry)
        self._enter(State.starting)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The engines start in the background, so that the port answers from the first second; the end closes them."""
        for life in self.replicas.lives:
            self._begin(life)
        yield
        living = dict(self._living)
        for task in living.values():
            task.cancel()
        await asyncio.gather(*living.values(), return_exceptions=True)
        await asyncio.gather(*(life.close() for life in living))

    # ---------------------------------------------------------------- what routes call

    def look(self) -> State:
        """The state at this moment; asks the engines whether they live.

        Ready when all of them are warm, and from then on as long as one of them is.
        """
        for life in self.replicas.lives:
            life.look()
        self._settle()
        return self.state

    def config(self) -> PipelineConfig:
        """What is served.

        Raises:
            NotReady: nothing, now.
        """
        if self.look() is State.ready:
            for life in self.replicas.ready():
                return life.config
        raise NotReady(REASONS[self.state])

    def overrides(self) -> list[Override]:
        """Which parts of the backend ours replace in a running engine; none while there is no engine."""
        return next((life.overrides() for life in self.replicas.lives if life.pipeline is not None), [])

    def each(self) -> list[dict[str, Any]]:
        """Each replica's name, state and questions in flight; none where there is only one engine."""
        return [
            {"name": life.name, "state": life.look().name, "questions_in_flight": life.questions}
            for life in self.replicas.lives
            if life.name
        ]

    async def answer(self, questions: Sequence[str], deadline_s: float | None = None) -> list[Completion]:
        """One completion for each question, in their order. What failed, or was not done in time (`http.deadline_s` unless
        told otherwise) or before the last engine died, is empty and has an error.

        Raises:
            NotReady: there is no engine now.
            Refused: the server is at capacity.
            EngineFailed: the engines died, and no answer was done.
        """
        end = asyncio.get_running_loop().time() + (self.http.deadline_s if deadline_s is None else deadline_s)
        with self.admitted(questions):
            completions = await self.replicas.answer(questions, end)
            if all(completion.finish_reason == "lost" for completion in completions):
                raise EngineFailed(completions[0].error)
        self._count(completions)
        return completions

    async def stream(self, question: str) -> AsyncGenerator[CompletionDelta]:
        """The answer to one question as it comes; see `Pipeline.stream`. What was not done in time ends with an error.

        Raises:
            NotReady, Refused, EngineFailed: see `answer`; the first two before the first delta.
        """
        text, now = "", asyncio.get_running_loop().time
        end = now() + self.http.deadline_s
        with self.admitted([question]):
            async with closing(self.replicas.stream(question)) as deltas:
                while True:
                    try:  # no timeout around it all: another task may ask for the next delta
                        delta = await asyncio.wait_for(anext(deltas), min(end, self.replicas.drained_by) - now())
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
    def admitted(self, questions: Sequence[str]) -> Iterator[None]:
        """For as long as these questions are in flight. Every way to an answer leads through here.

        Raises:
            NotReady, Refused, EngineFailed: see `answer`.
        """
        count = len(questions)
        note(questions=count)
        if self.look() is not State.ready:
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
            yield
        except EngineFailed:
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
        self._is_draining = True
        for life in self.replicas.lives:
            life.is_ending = True
        self._settle()
        end = asyncio.get_running_loop().time() + self.http.shutdown_timeout_s
        self.replicas.drain_by(end)
        while self.admission.in_flight and asyncio.get_running_loop().time() < end + 1:
            await asyncio.sleep(0.05)

    def _count(self, completions: Sequence[Completion]) -> None:
        self.telemetry.count(completions)
        if cut := sum(completion.question_was_cut for completion in completions):
            note(questions_cut=cut)
        failed = [completion.error for completion in completions if completion.error]
        if failed:
            log.warning("%d of %d questions failed, the first with %s", len(failed), len(completions), failed[0])

    # ---------------------------------------------------------------- another winner

    async def swap(self, winner: Winner, beside: bool) -> None:
        """Serve another winner, replica by replica; where it does not start, the one before again. No question is lost.

        Args:
            beside: a new engine starts while the old one answers. Else its questions are finished first; meanwhile the other
                replicas answer, and where there is none, questions are refused with a time to ask again.
        """
        before, count = self.winner, len(self.replicas.lives)
        self._is_swapping = True
        swapped = 0
        while swapped < count and (beside or not self._is_draining) and await self._replace(swapped, winner, beside):
            swapped += 1
        if swapped == count:
            self.winner = winner
            self.telemetry.introduce(winner.labels)
        elif not self._is_draining:
            log.error("the new winner does not start: the one before is served again")
            for place in reversed(range(swapped if beside else swapped + 1)):  # first the one that does not answer
                await self._replace(place, before, beside)
        self._is_swapping = False
        self.telemetry.swaps.labels("ready" if swapped == count else "failed").inc()
        if self.look() is State.failed:
            self.give_up("neither the new winner nor the one before could be started")

    async def _replace(self, place: int, winner: Winner, beside: bool) -> bool:
        """Put an engine of this winner into the place of a replica -> whether it has started."""
        lives = self.replicas.lives
        old, new = lives[place], self._life(lives[place].name, winner)
        if beside:
            self._begin(new)
            if not await has_started(new):
                return False
        else:
            await self._wait_for_others(old)
        lives[place] = new  # from here on the old one gets no more questions
        self._settle()
        await self._retire(old)
        if beside:
            return True
        self._begin(new)
        return await has_started(new)

    async def _wait_for_others(self, life: EngineLife) -> None:
        """Until another replica answers, if one will: this one is about to stop."""
        others = [other for other in self.replicas.lives if other is not life]
        while {other.look() for other in others} & {State.starting, State.restarting} and not any(map(is_ready, others)):
            await asyncio.sleep(0.05)

    async def _retire(self, life: EngineLife) -> None:
        """End an engine when its questions are answered."""
        life.is_ending = True
        while life.questions:
            await asyncio.sleep(0.02)
        if task := self._living.pop(life, None):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await life.close()

    # ---------------------------------------------------------------- replicas that somebody else starts and ends

    def join(self, name: str, start: StartPipeline) -> None:
        """Have one more, until it is lost or leaves."""
        life = self._life(name, replace(self.winner, starts={name: start}))
        life.is_ending = True  # another one is not ours to start
        self.replicas.lives.append(life)
        self._living[life] = asyncio.create_task(self._visit(life))

    def leave(self, name: str) -> None:
        """Ask this one nothing more; it ends when its questions are answered."""
        for life in [life for life in self.replicas.lives if life.name == name]:
            self._forget(life)
            retiring = asyncio.create_task(self._retire(life))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)

    async def _visit(self, life: EngineLife) -> None:
        await life.live()
        self._living.pop(life, None)
        self._forget(life)

    def _forget(self, life: EngineLife) -> None:
        if life in self.replicas.lives:
            self.replicas.lives.remove(life)
            for gauge in (self.telemetry.replica_ready, self.telemetry.replica_in_flight):
                with suppress(KeyError):
                    gauge.remove(life.name)
            self._settle()

    # ---------------------------------------------------------------- the state

    def _life(self, name: str, winner: Winner) -> EngineLife:
        """That of a replica's engine, which `_begin` begins."""
        life = EngineLife(name, winner, self.http, self.telemetry)
        life.changed = self._settle
        if name:
            self.telemetry.replica_ready.labels(name).set_function(partial(is_ready, life))
            self.telemetry.replica_in_flight.labels(name).set_function(partial(getattr, life, "questions"))
        return life

    def _begin(self, life: EngineLife) -> None:
        self._living[life] = asyncio.create_task(self._live(life))

    async def _live(self, life: EngineLife) -> None:
        """Keep an engine alive; give up when it was the last one, or when it never came up."""
        reason = await life.live()
        if not self._is_draining and not self._is_swapping and self.state is State.failed:
            self.give_up(reason)

    def _settle(self) -> None:
        """The state that follows from those of the engines."""
        states = {life.state for life in self.replicas.lives}
        if self._is_draining:
            state = State.draining
        elif self._was_ready:
            order = (State.ready, State.restarting, State.starting, State.failed)
            state = next((state for state in order if state in states), State.restarting)
            state = State.swapping if state is State.starting or (self._is_swapping and state is State.failed) else state
        else:
            state = State.failed if State.failed in states else State.ready if states == {State.ready} else State.starting
            self._was_ready = state is State.ready
        if state is not self.state:
            self._enter(state)

    def _enter(self, state: State) -> None:
        self.state = state
        self.telemetry.enter(state.name, [known.name for known in State])

    def _numbers(self) -> tuple[str, dict[str, dict[str, float]]]:
        """The model's name and by replica what its engine counts about itself; nothing without an engine."""
        running = [life for life in self.replicas.lives if life.pipeline is not None]
        return (running[0].config.model.name if running else "", {life.name: life.numbers() for life in running})


async def has_started(life: EngineLife) -> bool:
    """Wait until an engine answers, or will not."""
    while life.state is State.starting:
        await asyncio.sleep(0.05)
    return life.state is State.ready
