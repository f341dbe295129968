"""What is behind the routes: one pipeline, its state, and the way from questions to answers.

Routes call `answer` and know nothing of engines; what cannot be answered is raised as a plain exception, which
`gpuqa.server` turns into HTTP for all routes alike.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from enum import Enum

from gpuqa.engines import EngineFailed
from gpuqa.http_config import HttpConfig
from gpuqa.pipeline import Pipeline
from gpuqa.records import Completion

log = logging.getLogger("gpuqa.serve")
StartPipeline = Callable[[], Awaitable[Pipeline]]


class NotReady(Exception):
    """Nobody is here to answer; the message says why."""


class State(Enum):
    """Where a service stands; it answers in `ready` alone."""

    starting = "starting"
    ready = "ready"


class Service:
    """A pipeline behind a door.

    `start` makes the pipeline. If that or the warm-up fails, `give_up` is called with the reason and it stays unready.
    """

    def __init__(self, start: StartPipeline, warmup: Sequence[str], http: HttpConfig, give_up: Callable[[str], None]) -> None:
        self.start, self.warmup, self.http, self.give_up = start, warmup, http, give_up
        self.state = State.starting
        self.pipeline: Pipeline | None = None
        self.questions_inside = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The engine starts in the background, so that the port answers from the first second; the end closes it."""
        starting = asyncio.create_task(self._bring_up())
        yield
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        if self.pipeline is not None:
            await self.pipeline.close()

    async def answer(self, questions: Sequence[str]) -> list[Completion]:
        """One completion for each question, in their order; a question that failed is an empty one with an error.

        Raises:
            NotReady: the engine is not warm.
            EngineFailed: the engine is gone.
        """
        with self.admitted(questions) as pipeline:
            completions = await pipeline.answer(questions)
        failed = [completion.error for completion in completions if completion.error]
        if failed:
            log.warning("%d of %d questions failed, the first with %s", len(failed), len(completions), failed[0])
        return completions

    @contextmanager
    def admitted(self, questions: Sequence[str]) -> Iterator[Pipeline]:
        """The pipeline, for as long as these questions are in the house. Every way to an answer leads through here.

        Raises:
            NotReady: the engine is not warm.
        """
        if self.pipeline is None:
            raise NotReady("starting: the model is being loaded and warmed up")
        self.questions_inside += len(questions)
        try:
            yield self.pipeline
        finally:
            self.questions_inside -= len(questions)

    async def _bring_up(self) -> None:
        """Start the engine and answer the warm-up questions; only then is the service ready."""
        pipeline: Pipeline | None = None
        try:
            began = time.perf_counter()
            pipeline = await self.start()
            started = time.perf_counter()
            completions = await pipeline.answer(self.warmup)
            if all(completion.error for completion in completions):
                raise EngineFailed(f"every warm-up question failed, the first with {completions[0].error}")
            log.info("engine started in %.1f s, %d warm-up questions answered in %.1f s: ready",
                     started - began, len(self.warmup), time.perf_counter() - started)  # fmt: skip
            self.pipeline, self.state = pipeline, State.ready
        except Exception as error:  # whatever it is, a service that cannot answer must say so and end
            log.error("start-up failed: %s: %s", type(error).__name__, error)
            self.give_up(str(error))
        finally:
            if pipeline is not None and self.pipeline is None:
                await pipeline.close()
