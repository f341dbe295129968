"""The replicas of a service: which of them answers what, and what becomes of the questions of one that is lost."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from gpuqa.engines import EngineFailed
from gpuqa.pipeline.pipeline import completion_of
from gpuqa.records import Completion, CompletionDelta, EncodedPrompt, Generation
from gpuqa.serving.life import EngineLife, State
from gpuqa.serving.shares import shares_of, works_of
from gpuqa.serving.telemetry import Telemetry

TRIES = 3  # of a question whose replica is lost, the first one included: one that ends engines shall not end them all


class Replicas:
    """One or more of them, each with its `EngineLife`."""

    def __init__(self, lives: Sequence[EngineLife], telemetry: Telemetry) -> None:
        self.lives, self.telemetry = list(lives), telemetry
        self.drained_by = math.inf  # on the event loop's clock
        self._clocks: set[asyncio.Timeout] = set()  # of the answers that are being made

    def drain_by(self, end: float) -> None:
        """No answer may take longer than until then, whatever its deadline is."""
        self.drained_by = end
        for clock in list(self._clocks):
            if (when := clock.when()) is not None and when > end:
                with suppress(RuntimeError):  # it has run out meanwhile
                    clock.reschedule(end)

    def ready(self) -> list[EngineLife]:
        """The replicas that answer now."""
        return [life for life in self.lives if is_ready(life)]

    def _least_loaded(self) -> EngineLife:
        """The one of those that has the least work.

        Raises:
            EngineFailed: there is none.
        """
        if not (lives := self.ready()):
            raise EngineFailed("the engine died")
        return min(lives, key=lambda life: life.work)

    async def answer(self, questions: Sequence[str], end: float, tries: int = TRIES) -> list[Completion]:
        """One completion for each question, from all replicas that are ready, side by side; "lost" where none is left.

        Args:
            end: the deadline, on the loop's clock.
            tries: how often each may be asked, the first time included.
        """
        lives = self.ready()
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
        clock = asyncio.timeout_at(min(end, self.drained_by))
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
        if places and tries > 1 and self.ready():
            self.telemetry.asked_again.inc(len(places))
            again = await self.answer([questions[place] for place in places], end, tries - 1)
            for place, completion in zip(places, again, strict=True):
                completions[place] = completion
        return completions

    async def stream(self, question: str) -> AsyncGenerator[CompletionDelta]:
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
                if tries == TRIES or not self.ready():
                    raise
                self.telemetry.asked_again.inc()
            else:
                raise EngineFailed("the engine died, and another one began another answer")


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
