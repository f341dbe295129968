"""What is behind the routes: one pipeline or several replicas of it, their state, and the way from questions to answers.

Routes call `answer` and `stream` and know nothing of engines; what cannot be answered is raised as a plain exception, which
`gpuqa.serving.app` turns into HTTP for all routes alike. Each engine has an `EngineLife`, which starts it, watches it, and
starts another one when it died. Questions of a replica that is lost are asked again on the others.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any

from gpuqa.config.http import HttpConfig
from gpuqa.config.pipeline import PipelineConfig
from gpuqa.engines import EngineFailed
from gpuqa.pipeline.pipeline import completion_of
from gpuqa.records import Completion, CompletionDelta, EncodedPrompt, Generation, Override
from gpuqa.serving.admission import Admission, Refused
from gpuqa.serving.life import EngineLife, State, Winner
from gpuqa.serving.shares import shares_of, works_of
from gpuqa.serving.telemetry import Telemetry, note

log = logging.getLogger("gpuqa.serve")
TRIES = 3  # of a question whose replica is lost, the first one included: one that ends engines shall not end them all


class NotReady(Exception):
    """There is no engine that could answer now; the message says why."""


REASONS = {
    State.starting: "starting: the model is being loaded and warmed up",
    State.restarting: "restarting: the engine died, another one is being started",
    State.draining: "draining: this process is about to end",
    State.failed: "failed: the engine is gone",
}


class Service:
    """The replicas of a winner, their state, and the way from questions to answers."""

    def __init__(self, winner: Winner, http: HttpConfig, telemetry: Telemetry, give_up: Callable[[str], None]) -> None:
        """`give_up` is called with the reason when there will be no engine: it should end the process."""
        self.http, self.telemetry, self.give_up = http, telemetry, give_up
        self.lives = [EngineLife(name, winner, http, telemetry) for name in winner.starts]
        self.admission = Admission(http.max_waiting_questions)
        self._was_ready = self._is_draining = False
        self._clocks: set[asyncio.Timeout] = set()  # of the answers that are being made
        self._drained_by = math.inf  # on the event loop's clock
        telemetry.limit.set(http.max_waiting_questions)
        telemetry.in_flight.set_function(lambda: self.admission.in_flight)
        telemetry.watch_engines(self._numbers)
        for life in self.lives:
            life.changed = self._settle
            if life.name:
                telemetry.replica_ready.labels(life.name).set_function(partial(is_ready, life))
                telemetry.replica_in_flight.labels(life.name).set_function(partial(getattr, life, "questions"))
        self._enter(State.starting)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The engines start in the background, so that the port answers from the first second; the end closes them."""
        living = [asyncio.create_task(self._live(life)) for life in self.lives]
        yield
        for task in living:
            task.cancel()
        await asyncio.gather(*living, return_exceptions=True)
        await asyncio.gather(*(life.close() for life in self.lives))

    # ---------------------------------------------------------------- what routes call

    def look(self) -> State:
        """The state at this moment; asks the engines whether they live.

        Ready when all of them are warm, and from then on as long as one of them is.
        """
        for life in self.lives:
            life.look()
        self._settle()
        return self.state

    def config(self) -> PipelineConfig:
        """What is served.

        Raises:
            NotReady: nothing, now.
        """
        if self.look() is State.ready:
            for life in self._ready():
                return life.config
        raise NotReady(REASONS[self.state])

    def overrides(self) -> list[Override]:
        """Which parts of the backend ours replace in a running engine; none while there is no engine."""
        return next((life.overrides() for life in self.lives if life.pipeline is not None), [])

    def replicas(self) -> list[dict[str, Any]]:
        """Each replica's name, state and questions in flight; none where there is only one engine."""
        return [
            {"name": life.name, "state": life.look().name, "questions_in_flight": life.questions}
            for life in self.lives
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
            completions = await self._ask_all(questions, end, TRIES)
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
            async with closing(self._deltas(question)) as deltas:
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
        for life in self.lives:
            life.is_ending = True
        self._settle()
        end = self._drained_by = asyncio.get_running_loop().time() + self.http.shutdown_timeout_s
        for clock in list(self._clocks):
            if (when := clock.when()) is not None and when > end:
                with suppress(RuntimeError):  # it has run out meanwhile
                    clock.reschedule(end)
        while self.admission.in_flight and asyncio.get_running_loop().time() < end + 1:
            await asyncio.sleep(0.05)

    # ---------------------------------------------------------------- from questions to answers

    async def _ask_all(self, questions: Sequence[str], end: float, tries: int) -> list[Completion]:
        """One completion for each question, from all replicas that are ready, side by side. `end`: on the loop's clock."""
        lives = self._ready()
        if not lives:
            return [lost("the engine died")] * len(questions)
        works = works_of(questions, lives[0].config)
        if len(lives) == 1:
            return await self._ask(lives[0], questions, sum(works), end, tries)
        shares = shares_of(works, [life.work for life in lives])
        asked = [(life, share) for life, share in zip(lives, shares, strict=True) if share]
        answers = await asyncio.gather(
            *(
                self._ask(life, [questions[place] for place in share], sum(works[place] for place in share), end, tries)
                for life, share in asked
            )
        )
        by_place = {
            place: completion
            for (_, share), completions in zip(asked, answers, strict=True)
            for place, completion in zip(share, completions, strict=True)
        }
        return [by_place[place] for place in range(len(questions))]

    async def _ask(self, life: EngineLife, questions: Sequence[str], work: int, end: float, tries: int) -> list[Completion]:
        """The completions of one replica's share; where it is lost, of the others."""
        clock = asyncio.timeout_at(min(end, self._drained_by))
        self._clocks.add(clock)
        try:
            with life.answering(len(questions), work) as pipeline:
                completions = await pipeline.answer_in_time(questions, clock)
        except EngineFailed as error:
            completions = [lost(str(error))] * len(questions)
        finally:
            self._clocks.discard(clock)
        places = [place for place, completion in enumerate(completions) if completion.finish_reason == "lost"]
        if places:
            life.lose()
        if places and tries > 1 and self._ready():
            self.telemetry.asked_again.inc(len(places))
            again = await self._ask_all([questions[place] for place in places], end, tries - 1)
            for place, completion in zip(places, again, strict=True):
                completions[place] = completion
        return completions

    async def _deltas(self, question: str) -> AsyncGenerator[CompletionDelta]:
        """The answer of one replica as it comes. Where it is lost, another one begins anew, and goes on if it says the same.

        Raises:
            EngineFailed: there is no other one, or it said something else than the client has already got.
        """
        sent = ""
        for tries in range(1, TRIES + 1):
            said, life = "", self._least_loaded()
            try:
                with life.answering(1, *works_of([question], life.config)) as pipeline:
                    async with closing(pipeline.stream(question)) as deltas:
                        async for delta in deltas:
                            said += delta.text
                            is_shorter = delta.completion is not None and len(said) < len(sent)
                            if is_shorter or not said.startswith(sent[: len(said)]):
                                break
                            if len(said) > len(sent) or delta.completion is not None:
                                rest, sent = said[len(sent) :], max(said, sent, key=len)
                                yield CompletionDelta(rest, delta.completion)
                            if delta.completion is not None:
                                return
            except EngineFailed:
                if tries == TRIES or not self._ready():
                    raise
                self.telemetry.asked_again.inc()
            else:
                raise EngineFailed("the engine died, and another one began another answer")

    def _ready(self) -> list[EngineLife]:
        """The replicas that answer now."""
        return [life for life in self.lives if is_ready(life)]

    def _least_loaded(self) -> EngineLife:
        """The one of those that has the least work.

        Raises:
            EngineFailed: there is none.
        """
        if not (lives := self._ready()):
            raise EngineFailed("the engine died")
        return min(lives, key=lambda life: life.work)

    def _count(self, completions: Sequence[Completion]) -> None:
        self.telemetry.count(completions)
        if cut := sum(completion.question_was_cut for completion in completions):
            note(questions_cut=cut)
        failed = [completion.error for completion in completions if completion.error]
        if failed:
            log.warning("%d of %d questions failed, the first with %s", len(failed), len(completions), failed[0])

    # ---------------------------------------------------------------- the state

    async def _live(self, life: EngineLife) -> None:
        """Keep an engine alive; give up when it was the last one, or when it never came up."""
        reason = await life.live()
        if not self._is_draining and self.state is State.failed:
            self.give_up(reason)

    def _settle(self) -> None:
        """The state that follows from those of the engines."""
        states = {life.state for life in self.lives}
        if self._is_draining:
            state = State.draining
        elif self._was_ready:
            state = next(state for state in (State.ready, State.restarting, State.failed) if state in states)
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
        running = [life for life in self.lives if life.pipeline is not None]
        return (running[0].config.model.name if running else "", {life.name: life.numbers() for life in running})


def is_ready(life: EngineLife) -> bool:
    """Whether a replica answers now."""
    return life.look() is State.ready


def lost(reason: str) -> Completion:
    """The answer to a question whose engine died."""
    return completion_of(EncodedPrompt([], False), Generation(finish_reason="lost", error=reason), "")


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
