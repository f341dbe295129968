"""The course's contract.

GET  /         503 {"status": "starting"} until the engine is warm, then {"status": "batch"} or {"status": "ok"}
POST /predict  {"prompt": str | [str, ...]} -> {"response": ...}, same count, same order; a failed question is ""

A str is answered by a list of one in batch mode, and by a str in ok mode (`http=serial`) or with http.batch_str_as_list=false.
Other fields than the prompt have no effect; the header X-Gpuqa-Ignored names them, and X-Gpuqa-Empty the places of questions
that were empty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Response
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from gpuqa.config.http import HttpConfig, Status
from gpuqa.serving.auth import UNAUTHORIZED, Refusal
from gpuqa.serving.body_values import bounded_route
from gpuqa.serving.ignored import Ignored
from gpuqa.serving.life import State
from gpuqa.serving.service import Service


class PredictRequest(BaseModel):
    """One question or all of them."""

    model_config = ConfigDict(strict=True, extra="ignore")
    prompt: str | Annotated[list[str], Field(fail_fast=True)]  # one error, not one for each item
    _ignored: list[str] = PrivateAttr(default_factory=list)  # names of the other fields

    @model_validator(mode="wrap")
    @classmethod
    def keep_names(cls, sent: Any, read: Callable[[Any], PredictRequest]) -> PredictRequest:
        """The request, with the names of what has no effect; a value of any kind does no harm there."""
        request = read(sent)
        request._ignored = [str(name) for name in sent if name != "prompt"] if isinstance(sent, dict) else []
        return request


class PredictResponse(BaseModel):
    """The answers in the shape of the request."""

    response: str | list[str]


class StatusResponse(BaseModel):
    """How the evaluator should send its questions, or that it should wait."""

    status: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "the body cannot be read"},
    415: {"model": Refusal, "description": "the body is compressed"},
    **UNAUTHORIZED,
    422: {"model": Refusal, "description": "the body is no question and no list of questions, or there are too many"},
    413: {"model": Refusal, "description": "the body is too large, or holds too many values"},
    429: {"model": Refusal, "description": "at capacity; Retry-After says in how many seconds to ask again"},
    503: {"model": Refusal, "description": "not ready, draining, or the engine died"},
}


def router(service: Service, http: HttpConfig, ignored: Ignored) -> APIRouter:
    """GET / and POST /predict."""
    routes = APIRouter(route_class=bounded_route(http.max_questions_per_request))

    @routes.get("/", response_model=StatusResponse, responses={503: {"model": StatusResponse}})
    async def status(response: Response) -> StatusResponse:
        """Whether the service is ready, and how it wants its questions."""
        state = service.look()
        if state is not State.ready:
            response.status_code = 503
            return StatusResponse(status=state.name)
        return StatusResponse(status=http.status.name)

    @routes.post("/predict", response_model=PredictResponse, responses=REFUSALS)
    async def predict(request: PredictRequest, reply: Response) -> PredictResponse:
        """Answer one question or many. A text is answered by a text with http=serial, or http.batch_str_as_list=false."""
        questions = [request.prompt] if isinstance(request.prompt, str) else request.prompt
        reply.headers.update(ignored.headers("/predict", request._ignored, questions))
        count, limit = len(request.prompt), http.max_questions_per_request
        if count > limit and isinstance(request.prompt, list):
            allowed = f"allowed are {limit} a request (http.max_questions_per_request); send several requests"
            raise HTTPException(422, f"{count} questions, {allowed}")
        if isinstance(request.prompt, list):
            answers = await service.answer(request.prompt) if request.prompt else []
            return PredictResponse(response=[answer.text for answer in answers])
        [answer] = await service.answer([request.prompt])
        as_list = http.status is Status.batch and http.batch_str_as_list
        return PredictResponse(response=[answer.text] if as_list else answer.text)

    return routes
