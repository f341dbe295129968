"""What a client of OpenAI's API may ask for, and what is refused or ignored.

What is measured is what is served, so nothing that a client sends may change an answer. A value that would change it, such as
a system message, earlier turns or another temperature, is one of the `differences` of a request. With `http.openai=strict`
the first is refused with 400 and says what is served, as OpenAI does for models with fixed settings ("unsupported_value"): a
client that sets a temperature expects that it is used, or an error. With `http.openai=lenient` they are ignored, and named.

Null, and what asks for that which is served anyway, is fine in both. So is `max_tokens` that is not below the frozen bound,
which every answer keeps, and what cannot change an answer (`user`, `metadata`; `seed`, `top_p`, `top_k` and `min_p` of greedy
answers). What cannot be answered at all, as token ids in place of text, is refused in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gpuqa.config.http import OpenAI
from gpuqa.config.pipeline import PipelineConfig
from gpuqa.serving.openai_errors import ApiError

HARMLESS = {  # they are about accounting, or about what is not served here
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls", "tool_choice",
    "request_id", "priority", "cache_salt",
}  # fmt: skip
DRAWING = ("top_p", "top_k", "min_p", "seed")  # how a token is drawn: greedy answers draw none
BOUNDS = ("max_tokens", "max_completion_tokens")
NEUTRAL: dict[str, tuple[Any, ...]] = {  # values that ask for nothing; None is always one
    "n": (1,),
    "best_of": (1,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "bad_words": ([],),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
}


class TextPart(BaseModel):
    """One part of a message; images and sound are not understood."""

    model_config = ConfigDict(strict=True)
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(strict=True)
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None

    @property
    def text(self) -> str:
        """All of it."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())


class StreamOptions(BaseModel):
    """What else a stream tells."""

    model_config = ConfigDict(strict=True)
    include_usage: bool | None = False


class OpenAIRequest(BaseModel):
    """What both kinds of requests share; the fields that are not named here are checked by `differences`."""

    model_config = ConfigDict(strict=True, extra="allow")
    model: str
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class ChatRequest(OpenAIRequest):
    """A question as the last message of a chat."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]


class CompletionRequest(OpenAIRequest):
    """One question or several as prompts; the frozen prompt stands around each."""

    prompt: str | Annotated[list[str], Field(min_length=1, fail_fast=True)]
    echo: bool | None = False
    suffix: str | None = None


def question_of(request: ChatRequest) -> int:
    """The place of the message that is the question: the last of a user.

    Raises:
        ApiError: there is none.
    """
    users = [place for place, message in enumerate(request.messages) if message.role == "user"]
    if not users:
        place = len(request.messages) - 1
        raise unsupported(f"messages.{place}.role", request.messages[place].role, "'user': the last message is the question")
    return users[-1]


def questions_of(request: CompletionRequest, most: int) -> list[str]:
    """The questions of a request for completions.

    Raises:
        ApiError: what no prompt can be asked for here, or more than `most` prompts.
    """
    questions = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    if request.echo:
        raise unsupported("echo", True, "false: an answer does not repeat the question")
    if request.suffix:
        raise unsupported("suffix", request.suffix, "none: a question is answered, and no text is filled in")
    if len(questions) > most:
        allowed = f"allowed are {most} a request (http.max_questions_per_request); send several requests"
        raise ApiError(400, f"prompt: got {len(questions)} prompts, {allowed}", "prompt", "invalid_value")
    return questions


def ignored_fields(request: OpenAIRequest, config: PipelineConfig, mode: OpenAI) -> list[str]:
    """The fields of a request that are ignored; none where `mode` is strict.

    Raises:
        ApiError: 404 for another model; where `mode` is strict, 400 names the first field that would change the answer,
            quotes its value and says what is served.
    """
    refuse_other_model(request.model, config)
    found = differences(request, config)
    if mode is OpenAI.strict:
        for difference in found:
            raise difference
    return [str(difference.param) for difference in found]


def refuse_other_model(name: str, config: PipelineConfig) -> None:
    """Raise an ApiError, 404, unless the model of that name is served."""
    if name != config.model.name:
        reason = f"model: got {name!r:.200}, served is {config.model.name!r}"
        raise ApiError(404, reason, "model", "model_not_found")


def differences(request: OpenAIRequest, config: PipelineConfig) -> Iterator[ApiError]:
    """What a request asks for and is not served, as the errors that would refuse it."""
    if isinstance(request, ChatRequest):
        yield from other_messages(request, config)
    allowed = served(config)
    for name, value in request:
        if value is None or name in HARMLESS or name in type(request).model_fields.keys() - allowed.keys() - {*BOUNDS}:
            continue
        if name in BOUNDS:
            most = config.sampling.max_tokens
            if value < most:
                yield unsupported(name, value, f"at least {most}: answers are not cut below what was measured")
        elif name in DRAWING and name not in allowed:
            continue
        elif name not in allowed:
            reason = f"{name!r:.100}: not known here, and what it asks for would not be done"
            yield ApiError(400, reason, name, "unknown_parameter")
        elif not any(isinstance(value, bool) == isinstance(one, bool) and value == one for one in allowed[name]):
            yield unsupported(name, value, " or ".join(map(repr, (*allowed[name], None))) + "; leave it out")


def other_messages(request: ChatRequest, config: PipelineConfig) -> Iterator[ApiError]:
    """The messages beside the question that are not what is frozen anyway."""
    question = question_of(request)
    last = len(request.messages) - 1
    if question < last:
        yield unsupported(f"messages.{last}.role", request.messages[last].role, "'user': the last message is the question")
    for place, message in enumerate(request.messages):
        frozen = message.role in ("system", "developer") and message.text == (config.prompt.system or "")
        if place != question and not frozen:
            one = "one question a request, in one user message; the system text and the examples are frozen"
            yield unsupported(f"messages.{place}", f"{message.role}: {message.text[:60]}", one)


def served(config: PipelineConfig) -> dict[str, tuple[Any, ...]]:
    """Field -> the values of it that are served. Without those of `DRAWING` where an answer is greedy: any is fine then."""
    sampling = config.sampling
    values: dict[str, tuple[Any, ...]] = {
        **NEUTRAL,
        "temperature": (sampling.temperature,),
        "min_tokens": (sampling.min_tokens,),
        "ignore_eos": (sampling.ignore_eos,),
        "stop": (sampling.stop_strings, *(() if sampling.stop_strings else ("",))),
        "chat_template_kwargs": ({}, {"enable_thinking": sampling.enable_thinking}),
        "reasoning_effort": () if sampling.enable_thinking else ("none",),
    }
    values |= {name: (getattr(sampling, name),) for name in ("repetition_penalty", "frequency_penalty", "presence_penalty")}
    if sampling.temperature > 0:
        values |= {name: (getattr(sampling, name),) for name in DRAWING}
        values["top_k"] += () if sampling.top_k else (-1,)  # both mean all tokens
    return values


def unsupported(name: str, value: Any, served: str) -> ApiError:
    """A value that OpenAI may know and that is not served here."""
    return ApiError(400, f"{name}: got {value!r:.200}, served is {served}", name, "unsupported_value")
