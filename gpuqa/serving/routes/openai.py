"""OpenAI's API, through the same pipeline, frozen prompt and postprocessing as the course's contract.

POST /v1/chat/completions  one question, answered whole or, with "stream": true, by server-sent events
GET  /v1/models            the one model that is served, by the name in its config

What a request may hold is in `gpuqa.serving.openai_request`. Errors have OpenAI's shape, {"error": {"message", "type", "param",
"code"}}; one that comes after the first event is an event. (A wrong key is refused before, in the shape of all other routes.)
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from gpuqa.config.pipeline import PipelineConfig
from gpuqa.engines import EngineFailed
from gpuqa.records import Completion, CompletionDelta
from gpuqa.serving.admission import Refused
from gpuqa.serving.auth import UNAUTHORIZED
from gpuqa.serving.openai_request import ApiError, ChatRequest, question_of
from gpuqa.serving.refusals import invalid
from gpuqa.serving.service import REASONS, NotReady, Service, State
from gpuqa.serving.telemetry import note


class OpenAIRoute(APIRoute):
    """A route whose errors have OpenAI's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except (ApiError, HTTPException, RequestValidationError, NotReady, Refused, EngineFailed) as error:
                known = api_error(error, request)
                note(reason=known.body["error"]["message"])
                return JSONResponse(known.body, known.status, headers=known.headers)

        return handle


def router(service: Service, fingerprint: str | None = None) -> APIRouter:
    """POST /v1/chat/completions and GET /v1/models; `fingerprint` names the configuration, as OpenAI's does."""
    routes = APIRouter(prefix="/v1", route_class=OpenAIRoute, responses=UNAUTHORIZED)

    @routes.get("/models")
    async def models() -> dict[str, Any]:
        """The model that is served."""
        name = config_of(service).model.name
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "gpuqa"}]}

    @routes.post("/chat/completions", responses={200: {"content": {"text/event-stream": {}}}}, response_model=None)
    async def chat_completions(request: ChatRequest) -> Response | dict[str, Any]:
        """Answer the last message."""
        question = question_of(request, config_of(service))
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": request.model}
        head |= {"system_fingerprint": fingerprint}
        if not request.stream:
            [completion] = await service.answer([question])
            return whole(head, completion)
        deltas = service.stream(question)
        try:
            first = await anext(deltas)  # until here, what goes wrong has a status of its own
            refuse_failed(first.completion)
            wants_usage = request.stream_options is not None and request.stream_options.include_usage
            events = server_sent_events({**head, "object": "chat.completion.chunk"}, first, deltas, wants_usage)
        except BaseException:
            await deltas.aclose()
            raise
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    return routes


def config_of(service: Service) -> PipelineConfig:
    """What is served.

    Raises:
        NotReady: nothing, now.
    """
    if service.look() is not State.ready or service.pipeline is None:
        raise NotReady(REASONS[service.state])
    return service.pipeline.config


def api_error(error: Exception, request: Request | None = None) -> ApiError:
    """What went wrong, in OpenAI's words; what an engine died of is for the log. `request` is None within a stream."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError) and request is not None:
        where, sentence = invalid(error, request)
        return ApiError(400, sentence, where, "invalid_value")
    if isinstance(error, HTTPException):  # the body is too large, or no text
        return ApiError(error.status_code, str(error.detail), code="invalid_body")
    if isinstance(error, Refused):
        refusal = ApiError(429, str(error), code="rate_limit_exceeded")
        refusal.headers["Retry-After"] = str(error.retry_after_s)
        return refusal
    return ApiError(503, str(error) if isinstance(error, NotReady) else "the engine failed", code="unavailable")


def whole(head: dict[str, Any], completion: Completion) -> dict[str, Any]:
    """The body for an answer that is not streamed.

    Raises:
        ApiError: the question could not be answered.
    """
    refuse_failed(completion)
    message = {"role": "assistant", "content": completion.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": completion.finish_reason}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": usage(completion)}


def refuse_failed(completion: Completion | None) -> None:
    """Raise an ApiError if the question could not be answered; None is an answer that is still being made."""
    if completion is None or not completion.error:
        return
    if completion.finish_reason == "late":
        raise ApiError(504, "the deadline came before the end of the answer", code="deadline")
    if completion.finish_reason == "lost":
        raise ApiError(503, "the engine failed", code="unavailable")
    raise ApiError(500, "this question could not be answered", code="failed")


def usage(completion: Completion) -> dict[str, Any]:
    """Tokens in and out; the prompt's are those of the frozen prompt and the question together.

    `question_was_cut` is not OpenAI's: the question was too long, and its middle was left out.
    """
    return {
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.output_tokens,
        "total_tokens": completion.prompt_tokens + completion.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": completion.cached_tokens,
            "question_was_cut": completion.question_was_cut,
        },
    }


async def server_sent_events(
    head: dict[str, Any], first: CompletionDelta, rest: AsyncGenerator[CompletionDelta], wants_usage: bool
) -> AsyncGenerator[str]:
    """The events of one answer; the first delta is known, and closing this generator ends the answer."""
    head |= {"usage": None} if wants_usage else {}
    try:
        async with aclosing(rest):
            yield sse(head, {"role": "assistant", "content": ""})
            delta = first
            while delta.completion is None:
                yield sse(head, {"content": delta.text})
                delta = await anext(rest)
        refuse_failed(delta.completion)
        if delta.text:
            yield sse(head, {"content": delta.text})
        yield sse(head, {}, delta.completion.finish_reason)
        if wants_usage:
            yield event({**head, "choices": [], "usage": usage(delta.completion)})
        yield "data: [DONE]\n\n"
    except (ApiError, NotReady, EngineFailed) as error:
        yield event(api_error(error).body)


def sse(head: dict[str, Any], delta: dict[str, str], reason: str | None = None) -> str:
    """The event of one piece of the answer."""
    return event({**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]})


def event(content: dict[str, Any]) -> str:
    """A server-sent event; JSON has no line break that would end it early."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
