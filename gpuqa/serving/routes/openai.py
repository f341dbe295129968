"""OpenAI's API, through the same pipeline, frozen prompt and postprocessing as the course's contract.

POST /v1/chat/completions  one question, answered whole or, with "stream": true, by server-sent events
POST /v1/completions       the same for a prompt that is the question, or a list of them (each then streamed as one event)
GET  /v1/models            the one model that is served, by the name in its config; also /v1/models/NAME

What a request may hold is in `gpuqa.serving.openai_request`. Errors have OpenAI's shape, {"error": {"message", "type", "param",
"code"}}; one that comes after the first event is an event.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from gpuqa.engines import EngineFailed
from gpuqa.records import Completion, CompletionDelta
from gpuqa.serving.auth import UNAUTHORIZED
from gpuqa.serving.body_values import bounded_route
from gpuqa.serving.ignored import Ignored
from gpuqa.serving.openai_errors import ApiError
from gpuqa.serving.openai_request import (
    ChatRequest,
    CompletionRequest,
    ignored_fields,
    question_of,
    questions_of,
    refuse_other_model,
)
from gpuqa.serving.refusals import failure
from gpuqa.serving.service import NotReady, Service

STREAMS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
DONE = "data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Head:
    """What is the same in all parts of an answer."""

    kind: str  # the object's: "chat.completion" or "text_completion"
    model: str
    fingerprint: str | None

    def fields(self, chunk: bool = False) -> dict[str, Any]:
        """OpenAI's fields; `chunk` for a part of a stream."""
        chat = self.kind == "chat.completion"
        name = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        kind = f"{self.kind}.chunk" if chat and chunk else self.kind
        head = {"id": name, "object": kind, "created": int(time.time()), "model": self.model}
        return {**head, "system_fingerprint": self.fingerprint}


def router(service: Service, ignored: Ignored) -> APIRouter:
    """The routes under /v1."""
    bounded = bounded_route(service.http.max_questions_per_request)
    routes = APIRouter(prefix="/v1", responses=UNAUTHORIZED, route_class=bounded)

    def head_of(kind: str, model: str) -> Head:
        """With the winner's digest for a fingerprint: it names the configuration, as OpenAI's does."""
        return Head(kind, model, service.winner.facts.get("frozen", {}).get("digest"))

    def card() -> dict[str, Any]:
        config = service.config()
        about = {"id": config.model.name, "object": "model", "created": 0, "owned_by": "gpuqa"}
        return {**about, "max_model_len": config.engine.max_model_len}

    @routes.get("/models")
    async def models() -> dict[str, Any]:
        """The model that is served."""
        return {"object": "list", "data": [card()]}

    @routes.get("/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        """The same, by its name."""
        refuse_other_model(model, service.config())
        return card()

    @routes.post("/chat/completions", responses=STREAMS, response_model=None)
    async def chat_completions(request: ChatRequest, reply: Response) -> Response | dict[str, Any]:
        """Answer the last message."""
        names = ignored_fields(request, service.config(), service.http.openai)
        question = request.messages[question_of(request)].text
        reply.headers.update(ignored.headers("/v1/chat/completions", names, [question]))
        head = head_of("chat.completion", request.model)
        if request.stream:
            return await streamed(service.stream(question), head, request.wants_usage, reply)
        [completion] = await service.answer([question])
        refuse_failed(completion)
        message = {"role": "assistant", "content": completion.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": completion.finish_reason}
        return {**head.fields(), "choices": [choice], "usage": usage([completion])}

    @routes.post("/completions", responses=STREAMS, response_model=None)
    async def completions(request: CompletionRequest, reply: Response) -> Response | dict[str, Any]:
        """Answer each prompt as a question, inside the frozen prompt."""
        names = ignored_fields(request, service.config(), service.http.openai)
        questions = questions_of(request, service.http.max_questions_per_request)
        reply.headers.update(ignored.headers("/v1/completions", names, questions))
        head = head_of("text_completion", request.model)
        if request.stream and len(questions) == 1:
            return await streamed(service.stream(questions[0]), head, request.wants_usage, reply)
        answers = await service.answer(questions)
        if all(answer.error for answer in answers):
            refuse_failed(answers[0])
        if request.stream:
            return EventStream(events_of(answers, head, request.wants_usage), headers=dict(reply.headers))
        choices = [text_choice(answer.text, answer.finish_reason, place) for place, answer in enumerate(answers)]
        return {**head.fields(), "choices": choices, "usage": usage(answers)}

    return routes


class EventStream(StreamingResponse):
    """Server-sent events, which no cache may keep."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str] | Iterator[str], headers: dict[str, str]) -> None:
        super().__init__(events, headers={**headers, "Cache-Control": "no-cache"})


async def streamed(deltas: AsyncGenerator[CompletionDelta], head: Head, wants_usage: bool, reply: Response) -> EventStream:
    """The answer to one question as it comes.

    Raises:
        ApiError, NotReady, Refused, EngineFailed: before the first event; a later one is an event.
    """
    try:
        first = await anext(deltas)
        refuse_failed(first.completion)
        return EventStream(server_sent_events(head, first, deltas, wants_usage), headers=dict(reply.headers))
    except BaseException:
        await deltas.aclose()
        raise


def refuse_failed(completion: Completion | None) -> None:
    """Raise an ApiError if the question could not be answered; None is an answer that is still being made."""
    if completion is None or not completion.error:
        return
    if completion.finish_reason == "late":
        raise ApiError(504, "the deadline came before the end of the answer", code="deadline")
    if completion.finish_reason == "lost":
        raise ApiError(503, "the engine failed", code="unavailable")
    raise ApiError(500, "this question could not be answered", code="failed")


def usage(answers: Sequence[Completion]) -> dict[str, Any]:
    """Tokens in and out; a prompt's are those of the frozen prompt and the question together.

    `question_was_cut` is not OpenAI's: a question was too long, and its middle was left out.
    """
    prompt, output = sum(answer.prompt_tokens for answer in answers), sum(answer.output_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {
            "cached_tokens": sum(answer.cached_tokens for answer in answers),
            "question_was_cut": any(answer.question_was_cut for answer in answers),
        },
    }


async def server_sent_events(
    head: Head, first: CompletionDelta, rest: AsyncGenerator[CompletionDelta], wants_usage: bool
) -> AsyncGenerator[str]:
    """The events of one answer; the first delta is known, and closing this generator ends the answer."""
    fields = {**head.fields(chunk=True), **({"usage": None} if wants_usage else {})}
    chat = head.kind == "chat.completion"

    def piece(text: str, reason: str | None = None) -> str:
        choice = chat_choice({"content": text} if text else {}, reason) if chat else text_choice(text, reason)
        return event({**fields, "choices": [choice]})

    try:
        async with aclosing(rest):
            if chat:
                yield event({**fields, "choices": [chat_choice({"role": "assistant", "content": ""})]})
            delta = first
            while delta.completion is None:
                yield piece(delta.text)
                delta = await anext(rest)
        refuse_failed(delta.completion)
        if delta.text:
            yield piece(delta.text)
        yield piece("", delta.completion.finish_reason)
        if wants_usage:
            yield event({**fields, "choices": [], "usage": usage([delta.completion])})
        yield DONE
    except (ApiError, NotReady, EngineFailed) as error:
        yield event(failure(error).body)


def events_of(answers: Sequence[Completion], head: Head, wants_usage: bool) -> Iterator[str]:
    """The events of several answers that are done: one for each."""
    fields = head.fields(chunk=True)
    for place, answer in enumerate(answers):
        yield event({**fields, "choices": [text_choice(answer.text, answer.finish_reason, place)]})
    if wants_usage:
        yield event({**fields, "choices": [], "usage": usage(answers)})
    yield DONE


def chat_choice(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    """A piece of a chat's answer."""
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def text_choice(text: str, reason: str | None, place: int = 0) -> dict[str, Any]:
    """The answer to the prompt at that place, or a piece of it."""
    return {"index": place, "text": text, "logprobs": None, "finish_reason": reason}


def event(content: dict[str, Any]) -> str:
    """A server-sent event; JSON has no line break that would end it early."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
