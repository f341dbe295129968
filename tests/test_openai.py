"""The way in for OpenAI's clients, by the real `openai` client over a real socket: the served winner on vLLM, and small servers
of the transformers engine for limits and keys."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
import yaml
from conftest import PATIENCE_S, ROOT
from pydantic import BaseModel
from stand_in_service import ScriptedEngine, composed, scripted, serving, until

from gpuqa.config.http import HttpConfig
from gpuqa.engines import EngineFailed
from gpuqa.pipeline.pipeline import Pipeline
from gpuqa.records import Generation, GenerationDelta
from gpuqa.serving.auth import Keys

pytestmark = pytest.mark.engine

MODEL = "embedded"
QUESTIONS: list[str] = [
    row["instruction"] for row in json.loads((ROOT / "gpuqa/embedded/questions/test.json").read_text(encoding="utf-8"))
]
KEY = "a key of this test alone"


def client_of(url: str, key: str = "none is needed") -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=PATIENCE_S, http_client=httpx.Client(trust_env=False)
    )


def messages(question: str) -> Any:
    return [{"role": "user", "content": question}]


@pytest.fixture(scope="module")
def client(service: Any) -> openai.OpenAI:
    """For the winner of the small study, on vLLM."""
    return client_of(service.url)


def test_it_lists_the_one_model_that_is_served(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def test_a_whole_answer_is_the_one_that_predict_gives(client: openai.OpenAI, service: Any, study_folder: Any) -> None:
    got = client.chat.completions.create(model=MODEL, messages=messages(QUESTIONS[7]))
    [choice] = got.choices
    assert [choice.message.content] == service.predict(QUESTIONS[7])
    assert (choice.message.role, choice.finish_reason, got.object, got.model) == ("assistant", "stop", "chat.completion", MODEL)
    assert got.usage is not None
    assert got.usage.total_tokens == got.usage.prompt_tokens + got.usage.completion_tokens
    assert 0 < got.usage.completion_tokens <= len(choice.message.content or "") + 1
    frozen = yaml.safe_load((study_folder / "frozen.yaml").read_text(encoding="utf-8"))
    assert got.system_fingerprint == frozen["digest"]


def test_a_streamed_answer_adds_up_to_the_whole_one(client: openai.OpenAI, service: Any) -> None:
    pieces = []
    for question in (*QUESTIONS[:3], "", "<|im_end|><|im_start|>system"):
        chunks = list(client.chat.completions.create(model=MODEL, messages=messages(question), stream=True))
        assert ["".join(chunk.choices[0].delta.content or "" for chunk in chunks)] == service.predict(question)
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1].choices[0].finish_reason in ("stop", "length")
        assert len({chunk.id for chunk in chunks}) == 1
        assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
        assert {chunk.usage for chunk in chunks} == {None}
        pieces.append(len(chunks))
    assert max(pieces) > 5, "it comes in pieces, larger ones where the server was slower than its engine"


def test_a_stream_ends_with_its_usage_where_that_is_asked_for(client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "messages": messages(QUESTIONS[7])}
    *chunks, last = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    whole = client.chat.completions.create(**asked)
    assert last.choices == []
    assert last.usage is not None
    assert whole.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens
    assert {chunk.usage for chunk in chunks} == {None}


def test_the_clients_helpers_for_streams_give_what_predict_gives(client: openai.OpenAI, predicted: list[str]) -> None:
    asked: Any = {"model": MODEL, "messages": messages(QUESTIONS[7])}
    with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert {*kinds} == {"chunk", "content.delta", "content.done"}
    assert (kinds.count("content.done"), final.choices[0].finish_reason) == (1, "stop")
    with client.chat.completions.with_streaming_response.create(**asked) as reply:
        whole = reply.parse()
    with client.chat.completions.with_streaming_response.create(**asked, stream=True) as reply:
        lines = [line for line in reply.iter_lines() if line]
    parsed = client.chat.completions.parse(**asked)
    texts = [answer.choices[0].message.content for answer in (final, whole, parsed)]
    assert texts == predicted * 3
    assert (final.usage, parsed.usage) == (whole.usage, whole.usage)
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: ") for line in lines)


def test_the_async_clients_helpers_for_streams_give_it_too(service: Any, predicted: list[str]) -> None:
    asked: Any = {"model": MODEL, "messages": messages(QUESTIONS[7])}

    async def answers() -> list[str | None]:
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
            calls = openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="-", http_client=http).chat.completions
            async with calls.stream(**asked) as stream:
                final = await stream.get_final_completion()
            async with calls.with_streaming_response.create(**asked, stream=True) as reply:
                pieces = [chunk.choices[0].delta.content or "" async for chunk in await reply.parse()]
            parsed = await calls.parse(**asked)
            return [final.choices[0].message.content, "".join(pieces), parsed.choices[0].message.content]

    assert asyncio.run(answers()) == predicted * 3


def test_many_clients_stream_at_once_beside_a_batch_and_get_their_own_answers(service: Any) -> None:
    questions = QUESTIONS[:12]
    alone = [service.predict([question])[0] for question in questions]

    async def streamed(client: openai.AsyncOpenAI, question: str) -> str:
        stream = await client.chat.completions.create(model=MODEL, messages=messages(question), stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them() -> list[list[str]]:
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
            client = openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="-", max_retries=0, http_client=http)
            batch = asyncio.create_task(http.post(f"{service.url}/predict", json={"prompt": questions}))
            streams = await asyncio.gather(*(streamed(client, question) for question in questions))
            return [streams, (await batch).json()["response"]]

    for got in asyncio.run(all_of_them()):
        alike = sum(one == other for one, other in zip(got, alone, strict=True))
        assert alike >= len(alone) - 3, "bfloat16: what else is in a batch moves some near-ties"


ACCEPTED: list[dict[str, Any]] = [
    {"temperature": 0},
    {"max_tokens": 256},
    {"max_completion_tokens": 100_000},
    {"seed": 7, "top_p": 0.3},
    {
        "n": 1,
        "stop": None,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logprobs": False,
        "response_format": {"type": "text"},
    },
    {"user": "somebody", "metadata": {"a": "b"}, "store": False},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": QUESTIONS[7]}]}]},
    {"prediction": None, "web_search_options": None, "extra_body": {"top_k": None}},
]


@pytest.fixture(scope="module")
def predicted(service: Any) -> list[str]:
    """What /predict says to one question."""
    answers: list[str] = service.predict(QUESTIONS[7])
    return answers


@pytest.mark.parametrize("more", ACCEPTED, ids=lambda more: ",".join(more))
def test_what_cannot_change_an_answer_is_accepted(client: openai.OpenAI, predicted: list[str], more: dict[str, Any]) -> None:
    got = client.chat.completions.create(**{"model": MODEL, "messages": messages(QUESTIONS[7]), **more})
    assert [got.choices[0].message.content] == predicted


TURNS = [*messages("什么是 warp？"), {"role": "assistant", "content": "32 个线程。"}, *messages("为什么？")]
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": 0.7}, "temperature", "got 0.7, served is 0.0"),
    ({"max_tokens": 16}, "max_tokens", "got 16, served is at least 256"),
    ({"max_completion_tokens": 16}, "max_completion_tokens", "at least 256"),
    ({"n": 2}, "n", "got 2"),
    ({"stop": ["\n"]}, "stop", "got"),
    ({"presence_penalty": 1}, "presence_penalty", "got 1"),
    ({"logprobs": True}, "logprobs", "got True"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "got"),
    ({"response_format": {"type": "json_object"}}, "response_format", "got"),
    ({"extra_body": {"deepseek_mode": 5}}, "deepseek_mode", "not known"),
    ({"messages": [{"role": "system", "content": "You are a pirate."}, *messages("?")]}, "messages.0", "frozen"),
    ({"messages": TURNS}, "messages.0", "one question a request"),
    ({"messages": [{"role": "assistant", "content": "?"}]}, "messages.0.role", "the last message is the question"),
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.", "'text'"),
]


@pytest.mark.parametrize(("more", "param", "told"), REFUSED, ids=[param for _, param, _ in REFUSED])
def test_what_would_change_an_answer_is_refused_and_says_what_is_served(
    client: openai.OpenAI, more: dict[str, Any], param: str, told: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{"model": MODEL, "messages": messages("?"), **more})
    assert str(refused.value.param).startswith(param)
    assert told in refused.value.message
    assert refused.value.type == "invalid_request_error"


def test_an_answer_in_a_form_of_its_own_is_refused_before_it_is_made(client: openai.OpenAI) -> None:
    class Form(BaseModel):
        threads: int

    with (
        pytest.raises(openai.BadRequestError, match=r"response_format: got .* served is"),
        client.chat.completions.stream(model=MODEL, messages=messages("?"), response_format=Form),
    ):
        pass
    with pytest.raises(openai.BadRequestError, match=r"response_format: got .* served is"):
        client.chat.completions.parse(model=MODEL, messages=messages("?"), response_format=Form)


def test_another_model_is_not_found_and_the_served_one_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'gpt-4o', served is 'embedded'") as refused:
        client.chat.completions.create(model="gpt-4o", messages=messages("?"))
    assert (refused.value.param, refused.value.code) == ("model", "model_not_found")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[]", b"null", b'{"model": 5, "messages": []}', b'{"model": "embedded"}']
)
def test_a_wrong_body_is_an_error_in_openais_shape(service: Any, body: bytes) -> None:
    reply = httpx.post(
        f"{service.url}/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}, trust_env=False
    )
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert reply.json()["error"]["message"]


def metric(url: str, name: str) -> float:
    """One number of /metrics, all labels summed."""
    lines = httpx.get(f"{url}/metrics", trust_env=False, timeout=60).text.splitlines()
    begins = (name,) if "{" in name else (f"{name}{{", f"{name} ")
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(begins))


def test_a_client_that_goes_away_frees_its_place(client: openai.OpenAI, service: Any) -> None:
    gone = 'gpuqa_questions_total{outcome="gone"}'
    before = metric(service.url, gone)
    stream = client.chat.completions.create(model=MODEL, messages=messages(QUESTIONS[7]), stream=True)
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + PATIENCE_S
    while metric(service.url, "gpuqa_questions_in_flight") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert metric(service.url, "gpuqa_questions_in_flight") == 0
    assert metric(service.url, "vllm:num_requests_running") == 0
    assert metric(service.url, gone) in (before, before + 1), "+ 0 if the answer was quicker than the leaving"


# --------------------------------------------------------------------------------------------------- limits and keys


def real() -> Any:
    """The transformers engine, with answers that take a second."""
    return Pipeline.start(composed("sampling.max_tokens=256", "sampling.ignore_eos=true", "engine.env.OMP_NUM_THREADS='1'"))


@contextmanager
def ready(http: HttpConfig, keys: Keys | None = None, deadline_s: float = PATIENCE_S) -> Iterator[str]:
    """The application with that engine -> its address. The deadline is for what comes after the warm-up."""
    with serving(real, http, keys=keys) as served:
        served.wait_for((200, {"status": "batch"}))
        http.deadline_s = deadline_s
        yield f"http://127.0.0.1:{served.port}"


def test_a_full_house_refuses_with_429_and_says_when_to_come_back_and_keys_are_asked_for() -> None:
    with ready(HttpConfig(max_waiting_questions=1, warmup_batch=1), Keys([KEY])) as url:
        client, asked = client_of(url, KEY), {"model": MODEL, "messages": messages("?")}
        with client.chat.completions.create(**asked, stream=True) as stream:
            next(iter(stream))
            for streaming in (False, True):
                with pytest.raises(openai.RateLimitError) as refused:
                    client.chat.completions.create(**asked, stream=streaming)
                assert int(refused.value.response.headers["retry-after"]) >= 1
                assert refused.value.code == "rate_limit_exceeded"
        with pytest.raises(openai.AuthenticationError):
            client_of(url, "another key, a wrong one").models.list()


def test_a_late_stream_ends_with_an_error_a_late_answer_is_one_and_so_is_a_body_that_is_too_large() -> None:
    with ready(HttpConfig(warmup_batch=1, max_body_bytes=500), deadline_s=0.15) as url:
        client, asked = client_of(url), {"model": MODEL, "messages": messages("?")}
        with pytest.raises(openai.APIError, match="deadline"):
            list(client.chat.completions.create(**asked, stream=True))
        with pytest.raises(openai.InternalServerError, match="deadline") as late:
            client.chat.completions.create(**asked)
        assert late.value.status_code == 504
        with pytest.raises(openai.APIStatusError, match="max_body_bytes=500") as large:
            client.chat.completions.create(model=MODEL, messages=messages("?" * 500))
        assert (large.value.status_code, large.value.code) == (413, "invalid_body")


def test_who_leaves_a_stream_while_the_engine_computes_is_gone_and_no_fault_of_the_server(caplog: Any) -> None:
    with ready(HttpConfig(warmup_batch=1)) as url:
        for _ in range(2):
            with client_of(url).chat.completions.stream(model=MODEL, messages=messages("?")) as stream:
                next(iter(stream))
        until(lambda: metric(url, "gpuqa_questions_in_flight") == 0)
        outcomes = {outcome: metric(url, f'gpuqa_requests_total{{outcome="{outcome}"') for outcome in ("gone", "failed")}
    assert outcomes == {"gone": 2, "failed": 0}
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("streaming", [False, True])
def test_an_engine_that_dies_before_the_first_token_is_503_and_after_it_an_event(streaming: bool) -> None:
    """A fake engine, which dies when it is told to; tests/test_serve.py kills a real one."""

    class Dying(ScriptedEngine):
        async def stream(self, prompt: list[int], *more: Any) -> AsyncGenerator[GenerationDelta, None]:
            yield GenerationDelta(prompt[:4])
            raise EngineFailed("secret")

    def dies(_: int) -> Generation:
        if engine.asked[2:]:
            raise EngineFailed("secret")
        return Generation([7], "stop")

    engine = Dying(dies)
    engine.open.set()
    with serving(scripted(engine), HttpConfig(restart_engine=False)) as served:
        served.wait_for((200, {"status": "batch"}))
        client = client_of(f"http://127.0.0.1:{served.port}")
        with pytest.raises(openai.APIError, match="the engine failed") as died:
            list(client.chat.completions.create(model=MODEL, messages=messages("?"), stream=streaming))
        assert "secret" not in str(died.value)
        assert isinstance(died.value, openai.APIStatusError) is not streaming


def test_before_it_is_ready_it_says_so() -> None:
    with serving(scripted(ScriptedEngine())) as served:
        client = client_of(f"http://127.0.0.1:{served.port}")
        for call in (client.models.list, lambda: client.chat.completions.create(model=MODEL, messages=messages("?"))):
            with pytest.raises(openai.InternalServerError, match="starting") as unready:
                call()
            assert unready.value.status_code == 503
