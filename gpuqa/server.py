"""The HTTP contract: an application around anything that answers a list of questions.

    GET  /         503 {"status": "starting"} until the engine is warm, then {"status": "batch"} or {"status": "ok"}
    POST /predict  {"prompt": str | [str, ...]} -> {"response": ...}, same count, same order; a failed question is ""

The engine starts in the background, so the port answers from the first second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from gpuqa.engines import EngineFailed
from gpuqa.pipeline import Pipeline
from gpuqa.roots import HttpConfig, Status

log = logging.getLogger("gpuqa.serve")
StartPipeline = Callable[[], Awaitable[Pipeline]]


class PredictRequest(BaseModel):
    """One question or all of them."""

    model_config = ConfigDict(strict=True, extra="ignore")
    prompt: str | Annotated[list[str], Field(max_length=100_000)]


class PredictResponse(BaseModel):
    """The answers in the shape of the request."""

    response: str | list[str]


class StatusResponse(BaseModel):
    """How the evaluator should send its questions, or that it should wait."""

    status: str


class Service:
    """What the handlers share: the pipeline once it is warm."""

    def __init__(self, http: HttpConfig) -> None:
        self.http = http
        self.pipeline: Pipeline | None = None

    async def answer(self, questions: Sequence[str]) -> list[str]:
        """One text for each question.

        Raises:
            HTTPException: 503, not ready yet or the engine is gone.
        """
        if self.pipeline is None:
            raise HTTPException(503, "starting: the model is being loaded and warmed up")
        try:
            completions = await self.pipeline.answer(questions)
        except EngineFailed as error:
            log.error("the engine failed: %s", error)
            raise HTTPException(503, "the engine failed") from error
        failed = [completion.error for completion in completions if completion.error]
        if failed:
            log.warning("%d of %d questions failed, the first with %s", len(failed), len(completions), failed[0])
        return [completion.text for completion in completions]


def create_app(start: StartPipeline, warmup: Sequence[str], http: HttpConfig, give_up: Callable[[str], None]) -> FastAPI:
    """The application. `start` makes the pipeline; if that or the warm-up fails, `give_up` is called and it stays unready."""
    service = Service(http)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        starting = asyncio.create_task(bring_up(service, start, warmup, give_up))
        yield
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        if service.pipeline is not None:
            await service.pipeline.close()

    app = FastAPI(title="gpuqa", lifespan=lifespan)

    @app.get("/", response_model=StatusResponse)
    async def status(response: Response) -> StatusResponse:
        """Whether the service is ready, and how it wants its questions."""
        if service.pipeline is None:
            response.status_code = 503
            return StatusResponse(status="starting")
        return StatusResponse(status=http.status.name)

    @app.post("/predict", response_model=PredictResponse)
    async def predict(request: PredictRequest, _: Request) -> PredictResponse:
        """Answer one question or many."""
        if isinstance(request.prompt, list):
            return PredictResponse(response=await service.answer(request.prompt) if request.prompt else [])
        [text] = await service.answer([request.prompt])
        as_list = http.status is Status.batch and http.batch_str_as_list
        return PredictResponse(response=[text] if as_list else text)

    return app


async def bring_up(service: Service, start: StartPipeline, warmup: Sequence[str], give_up: Callable[[str], None]) -> None:
    """Start the engine and answer the warm-up questions; only then is the service ready."""
    pipeline: Pipeline | None = None
    try:
        began = time.perf_counter()
        pipeline = await start()
        started = time.perf_counter()
        completions = await pipeline.answer(warmup)
        if all(completion.error for completion in completions):
            raise EngineFailed(f"every warm-up question failed, the first with {completions[0].error}")
        log.info("engine started in %.1f s, %d warm-up questions answered in %.1f s: ready",
                 started - began, len(warmup), time.perf_counter() - started)  # fmt: skip
        service.pipeline = pipeline
    except Exception as error:  # whatever it is, a service that cannot answer must say so and end
        log.error("start-up failed: %s: %s", type(error).__name__, error)
        give_up(str(error))
    finally:
        if pipeline is not None and service.pipeline is None:
            await pipeline.close()
