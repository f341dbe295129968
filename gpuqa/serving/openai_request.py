"""What a client of OpenAI's API may ask for, and what is refused.

What is measured is what is served, so nothing that a client sends may change an answer. The last message, a user's, is the
question. A setting that would change its answer is refused with 400 and says what is served, as OpenAI does for models with
fixed settings ("unsupported_value"): a client that sets a temperature expects that it is used, or an error. So a system
message, earlier turns, another temperature and the like are refused, unless they are what is frozen. `max_tokens` is a bound:
one that is not below the frozen one is kept by every answer and accepted. What cannot change an answer (`user`, `metadata`,
`seed` and `top_p` of greedy answers) is accepted. An unknown field is refused, since it may ask for something that is not done.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gpuqa.config.pipeline import PipelineConfig

HARMLESS = {  # they are about accounting, or about what is not served here
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls", "tool_choice",
}  # fmt: skip
DEFAULTS: dict[str, tuple[Any, ...]] = {  # fields that are understood and have one value here
    "n": (1,),
    "stop": ([], ""),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}


class TextPart(BaseModel):
    """One part of a message; images and sound are not understood."""

    model_config = ConfigDict(strict=True)
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(strict=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        """All of it."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """What else a stream tells."""

    model_config = ConfigDict(strict=True)
    include_usage: bool = False


class ChatRequest(BaseModel):
    """A question in OpenAI's form; the fields that are not named here are checked by `refuse`."""

    model_config = ConfigDict(strict=True, extra="allow")
    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


class ApiError(Exception):
    """An error in OpenAI's shape."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.status, self.headers = status, dict[str, str]()
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def question_of(request: ChatRequest, config: PipelineConfig) -> str:
    """The question of a request that asks for nothing that is not served.

    Raises:
        ApiError: 404 for another model; 400 names the field, quotes its value and says what is served.
    """
    if request.model != config.model.name:
        reason = f"model: got {request.model!r}, served is {config.model.name!r}"
        raise ApiError(404, reason, "model", "model_not_found")
    *before, last = request.messages
    if last.role != "user":
        raise unsupported(f"messages.{len(before)}.role", last.role, "'user': the last message is the question")
    for place, message in enumerate(before):
        frozen = message.role in ("system", "developer") and message.text == (config.prompt.system or "")
        if not frozen:
            served = "one question a request, in one user message; the system text and the examples are frozen"
            raise unsupported(f"messages.{place}", f"{message.role}: {message.text[:60]}", served)
    refuse(request, config)
    return last.text


def refuse(request: ChatRequest, config: PipelineConfig) -> None:
    """Raise an ApiError where a setting would change the answer."""
    sampling = config.sampling
    fixed: dict[str, Any] = {"temperature": sampling.temperature}
    if sampling.temperature > 0:
        fixed |= {"top_p": sampling.top_p, "seed": sampling.seed}
    for name, value in fixed.items():
        if getattr(request, name) not in (None, value):
            raise unsupported(name, getattr(request, name), f"{value!r}, as it was measured; leave it out")
    for name in ("max_tokens", "max_completion_tokens"):
        limit = getattr(request, name)
        if limit is not None and limit < sampling.max_tokens:
            raise unsupported(name, limit, f"at least {sampling.max_tokens}: answers are not cut below what was measured")
    asked = {name: value for name, value in (request.model_extra or {}).items() if value is not None}  # null asks for nothing
    for name, value in asked.items():
        if name in DEFAULTS and value not in DEFAULTS[name]:
            raise unsupported(name, value, " or ".join(map(repr, (*DEFAULTS[name], None))))
        if name not in DEFAULTS and name not in HARMLESS:
            reason = f"{name!r:.100}: not known here, and what it asks for would not be done"
            raise ApiError(400, reason, name if name.isascii() else None, "unknown_parameter")


def unsupported(name: str, value: Any, served: str) -> ApiError:
    """A value that OpenAI may know and that is not served here."""
    return ApiError(400, f"{name}: got {value!r:.200}, served is {served}", name, "unsupported_value")
