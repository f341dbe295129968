"""What clients send beside a question: refused or ignored where it would change an answer, and accepted where it asks for
nothing. Over a real socket; the engine is a stand-in that answers with the prompt, because the ways in are looked at."""

from __future__ import annotations

import io
import json
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stand_in_service import ScriptedEngine, Served, scripted, serving
from test_openai import client_of, messages

from gpuqa.config import UserError
from gpuqa.config.http import HttpConfig, OpenAI, Status
from gpuqa.records import Generation
from gpuqa.serving.auth import Keys
from gpuqa.serving.ignored import Ignored
from gpuqa.serving.telemetry import TextLines, plain

pytestmark = pytest.mark.engine

KEY = "a-key-of-the-tests"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def ready(engine: ScriptedEngine | None = None, http: HttpConfig | None = None, keys: Keys | None = None) -> Any:
    """A server whose engine answers at once."""
    engine = engine or ScriptedEngine()
    engine.open.set()
    return serving(scripted(engine), http, keys=keys)


@pytest.fixture(scope="module")
def strict() -> Iterator[Served]:
    with ready() as served:
        served.wait_for((200, {"status": "batch"}))
        yield served


@pytest.fixture(scope="module")
def lenient() -> Iterator[Served]:
    http = HttpConfig(openai=OpenAI.lenient, status=Status.ok, root_path="/gpu", cors_origins=["https://chat.example"])
    with ready(http=http) as served:
        served.wait_for((200, {"status": "ok"}))
        yield served


def post(served: Served, path: str, body: dict[str, Any], **headers: str) -> tuple[int, dict[str, str], Any]:
    status, heads, text = served.ask("POST", path, json.dumps(body).encode(), **headers)
    return status, heads, json.loads(text)


def asked(**more: Any) -> dict[str, Any]:
    return {"model": "embedded", "messages": messages("什么是 warp？"), **more}


NEUTRAL: list[dict[str, Any]] = [
    {"ignore_eos": False},
    {"repetition_penalty": 1.0, "frequency_penalty": 0, "length_penalty": 1.0},
    {"top_k": -1, "top_p": 1, "min_p": 0, "seed": None},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"n": 1, "best_of": 1, "logprobs": None, "use_beam_search": False},
    {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    {"min_tokens": 0, "stop": [], "stop_token_ids": [], "skip_special_tokens": True},
    {"a field that nobody knows": None},
]


@pytest.mark.parametrize("more", NEUTRAL, ids=lambda more: next(iter(more)))
def test_what_asks_for_nothing_is_accepted_in_both_modes_and_is_not_named(
    strict: Served, lenient: Served, more: dict[str, Any]
) -> None:
    for served in (strict, lenient):
        for path, body in ((CHAT, asked(**more)), (COMPLETIONS, {"model": "embedded", "prompt": "?", **more})):
            status, headers, said = post(served, path, body)
            assert (status, headers.get("x-gpuqa-ignored")) == (200, None), said


CHANGING: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 0.7}, "temperature"),
    ({"ignore_eos": True}, "ignore_eos"),
    ({"repetition_penalty": 1.2}, "repetition_penalty"),
    ({"max_tokens": 5}, "max_tokens"),
    ({"n": 2}, "n"),
    ({"n": True}, "n"),
    ({"logprobs": 0}, "logprobs"),
    ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"a line\nand more": 1}, "a%20line%0Aand%20more"),
]


@pytest.mark.parametrize(("more", "name"), CHANGING, ids=[name for _, name in CHANGING])
def test_what_would_change_an_answer_is_refused_or_ignored_and_named_as_the_mode_says(
    strict: Served, lenient: Served, more: dict[str, Any], name: str
) -> None:
    answer = post(lenient, CHAT, asked())[2]["choices"][0]["message"]["content"]
    status, headers, said = post(lenient, CHAT, asked(**more))
    assert (status, headers["x-gpuqa-ignored"]) == (200, name)
    assert said["choices"][0]["message"]["content"] == answer
    status, _, said = post(strict, CHAT, asked(**more))
    assert (status, list(more)) == (400, [said["error"]["param"]])


def test_a_chat_program_with_a_system_text_and_earlier_turns_gets_the_answer_to_its_last_question(lenient: Served) -> None:
    client = client_of(f"http://127.0.0.1:{lenient.port}")
    turns: Any = [
        {"role": "system", "content": "You are a pirate."},
        *messages("什么是 warp？"),
        {"role": "assistant", "content": "32 个线程。", "tool_calls": []},
        *messages("为什么？"),
    ]
    raw = client.chat.completions.with_raw_response.create(model="embedded", messages=turns, temperature=0.7, stream=True)
    assert raw.headers["x-gpuqa-ignored"] == "messages.0, messages.1, messages.2, temperature"
    said = "".join(chunk.choices[0].delta.content or "" for chunk in raw.parse() if chunk.choices)
    assert said == client.chat.completions.create(model="embedded", messages=messages("为什么？")).choices[0].message.content
    assert "为什么？" in said
    assert "pirate" not in said


def test_what_cannot_be_answered_at_all_is_refused_in_both_modes(strict: Served, lenient: Served) -> None:
    refused: list[tuple[str, dict[str, Any], str]] = [
        (COMPLETIONS, {"prompt": [1, 2, 3]}, "prompt.0: got a number, allowed is text"),
        (COMPLETIONS, {"prompt": [[1, 2], [3]]}, "prompt.0: got a list, allowed is text"),
        (COMPLETIONS, {"prompt": []}, "prompt"),
        (COMPLETIONS, {}, "prompt: is missing"),
        (COMPLETIONS, {"prompt": "?", "echo": True}, "echo: got True, served is false"),
        (COMPLETIONS, {"prompt": "?", "suffix": "!"}, "suffix: got '!', served is none"),
        (COMPLETIONS, {"prompt": ["?"] * 4097}, "prompt: got 4097 prompts, allowed are 4096 a request"),
        (CHAT, {"messages": [{"role": "assistant", "content": "?"}]}, "messages.0.role"),
        (COMPLETIONS, {"prompt": "?", "max_completion_tokens": "5"}, "max_completion_tokens: got text, allowed is an integer"),
        (CHAT, {"messages": messages("?"), "temperature": "hot"}, "temperature: got text, allowed is a number"),
    ]
    for served in (strict, lenient):
        for path, body, told in refused:
            status, _, said = post(served, path, {"model": "embedded", **body})
            assert (status, said["error"]["message"].startswith(told)) == (400, True), said
        assert post(served, CHAT, asked(model="gpt-4o"))[0] == 404


def test_prompts_are_questions_and_a_list_of_them_is_answered_in_its_order(strict: Served) -> None:
    client = client_of(f"http://127.0.0.1:{strict.port}")
    alone = [strict.predict([question])[1]["response"][0] for question in ("一", "二", "三")]
    got = client.completions.create(model="embedded", prompt=["一", "二", "三"], max_tokens=24)
    assert [choice.text for choice in got.choices] == alone
    assert [choice.index for choice in got.choices] == [0, 1, 2]
    assert got.usage is not None
    assert got.usage.total_tokens == got.usage.prompt_tokens + got.usage.completion_tokens > 0
    for prompts in (["一"], ["一", "二", "三"]):
        options: Any = {"stream": True, "stream_options": {"include_usage": True}}
        *chunks, last = client.completions.create(model="embedded", prompt=prompts, max_tokens=24, **options)
        texts = [""] * len(prompts)
        for chunk in chunks:
            texts[chunk.choices[0].index] += chunk.choices[0].text
        assert texts == alone[: len(prompts)]
        assert (chunks[-1].choices[0].finish_reason, last.choices) == ("stop", [])
        assert last.usage is not None


def test_a_prompt_that_fails_is_an_empty_choice_beside_the_others() -> None:
    engine = ScriptedEngine(lambda place: Generation(error="ValueError: secret") if place == 1 else Generation([100], "stop"))
    with ready(engine) as served:
        served.wait_for((200, {"status": "batch"}))
        status, _, said = post(served, COMPLETIONS, {"model": "embedded", "prompt": ["一", "二", "三"]})
        assert status == 200
        assert [(bool(choice["text"]), choice["finish_reason"]) for choice in said["choices"]][1] == (False, "error")
        assert all(choice["text"] for choice in said["choices"][::2])
        assert "secret" not in json.dumps(said)


def test_one_model_is_shown_by_its_name(strict: Served) -> None:
    client = client_of(f"http://127.0.0.1:{strict.port}")
    assert client.models.retrieve("embedded").id == "embedded"
    with pytest.raises(openai.NotFoundError, match="'other/model', served is 'embedded'"):
        client.models.retrieve("other/model")


def test_everything_under_v1_goes_wrong_in_openais_shape() -> None:
    with ready(keys=Keys([KEY])) as served:
        served.wait_for((200, {"status": "batch"}))
        allowed = {"Authorization": f"Bearer {KEY}"}
        failed = [
            (401, "invalid_api_key", served.ask("GET", "/v1/models")),
            (404, "unknown_url", served.ask("GET", "/v1/audio/speech", **allowed)),
            (404, "unknown_url", served.ask("GET", "/v1", **allowed)),
            (405, "method_not_allowed", served.ask("GET", CHAT, **allowed)),
            (415, "invalid_body", served.ask("POST", CHAT, b"\x1f\x8b", **allowed, **{"Content-Encoding": "gzip"})),
        ]
        for status, code, (got, headers, text) in failed:
            error = json.loads(text)["error"]
            assert (got, error["code"], set(error)) == (status, code, {"message", "type", "param", "code"})
            assert status != 401 or headers["www-authenticate"] == "Bearer"
        assert json.loads(served.ask("GET", "/info")[2]) == {"detail": "this service needs a key: Authorization: Bearer KEY"}
        assert served.ask("GET", "/health")[0] == 200


def test_a_defect_of_the_server_is_answered_with_json_and_not_with_its_reason(strict: Served) -> None:
    """A fake defect, because no real one is known."""
    service = strict.service
    assert service is not None
    kept, service.answer = service.answer, None  # type: ignore[assignment,method-assign]
    try:
        said = {"detail": "this server failed; its log says why"}
        assert strict.predict("?") == (500, said)
        assert post(strict, CHAT, asked())[2]["error"]["message"] == said["detail"]
    finally:
        service.answer = kept  # type: ignore[method-assign]


def test_head_is_answered_wherever_get_is_without_a_body(strict: Served) -> None:
    paths = [path for path, ways in json.loads(strict.ask("GET", "/openapi.json")[2])["paths"].items() if "get" in ways]
    assert {"/", "/health", "/info", "/metrics", "/v1/models"} <= {*paths}
    for path in (*(path.replace("{model}", "embedded") for path in paths), "/ui", "/openapi.json", "/docs"):
        by_head, by_get = strict.ask("HEAD", path), strict.ask("GET", path)
        assert (by_head[0], by_head[2]) == (by_get[0], ""), path
    assert [strict.ask("HEAD", path)[0] for path in ("/no/such/path", "/predict")] == [404, 405]
    assert strict.metric('gpuqa_requests_total{outcome="ok",route="/info"}') >= 2


def test_a_page_of_an_allowed_origin_may_ask_and_the_paths_below_a_proxys_prefix_are_known(lenient: Served) -> None:
    asks = {"Origin": "https://chat.example", "Access-Control-Request-Method": "POST"}
    status, headers, _ = lenient.ask("OPTIONS", CHAT, **asks, **{"Access-Control-Request-Headers": "authorization"})
    assert (status, headers["access-control-allow-origin"]) == (200, "https://chat.example")
    _, headers, _ = post(lenient, CHAT, asked(temperature=1), Origin="https://chat.example")
    assert headers["access-control-allow-origin"] == "https://chat.example"
    assert "X-Gpuqa-Ignored" in headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in post(lenient, CHAT, asked(), Origin="https://other.example")[1]
    assert [lenient.ask("GET", path)[0] for path in ("/gpu/readyz", "/readyz", "/gpu/v1/models")] == [200] * 3
    assert json.loads(lenient.ask("GET", "/gpu/v1/nope")[2])["error"]["code"] == "unknown_url"
    assert json.loads(lenient.ask("GET", "/gpu/openapi.json")[2])["servers"] == [{"url": "/gpu"}]
    assert "access-control-allow-origin" not in post(lenient, "/predict", {"prompt": "?"})[1]


def test_below_a_prefix_health_needs_no_key_and_questions_do() -> None:
    with ready(http=HttpConfig(root_path="/gpu"), keys=Keys([KEY])) as served:
        served.wait_for((200, {"status": "batch"}))
        got = {path: served.ask("GET", path)[0] for path in ("/gpu/readyz", "/gpu/", "/gpu/info", "/info", "/gpux/readyz")}
        assert got == {"/gpu/readyz": 200, "/gpu/": 200, "/gpu/info": 401, "/info": 401, "/gpux/readyz": 401}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"root_path": "gpu"}, "http.root_path: got 'gpu'"),
        ({"root_path": "/gpu/"}, "http.root_path: got '/gpu/'"),
        ({"cors_origins": ["example.com"]}, "http.cors_origins: got 'example.com', allowed is origins such as"),
    ],
)
def test_a_prefix_or_an_origin_that_cannot_work_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        HttpConfig(**wrong)


# ------------------------------------------------------------------------------------------------------- the contract


def test_json_is_taken_without_a_content_type_and_a_compressed_body_is_refused_by_its_name(strict: Served) -> None:
    body = json.dumps({"prompt": "?"}).encode()
    assert strict.ask("POST", "/predict", body, **{"Content-Type": ""})[0] == 200
    for encoding in ("gzip", "br", "deflate"):
        status, _, text = strict.ask("POST", "/predict", body, **{"Content-Encoding": encoding})
        said = f"the body's Content-Encoding is '{encoding}', allowed is none: send it as it is"
        assert (status, json.loads(text)) == (415, {"detail": said})
    assert strict.ask("POST", "/predict", body, **{"Content-Encoding": "identity"})[0] == 200


ODD = st.dictionaries(
    st.text(st.characters(codec=None), min_size=1), st.none() | st.text() | st.lists(st.integers()), max_size=4
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(more=ODD)
def test_predict_answers_whatever_stands_beside_the_prompt_and_names_it(lenient: Served, more: dict[str, Any]) -> None:
    more.pop("prompt", None)
    status, headers, said = post(lenient, "/predict", {**more, "prompt": "?"})
    assert (status, type(said["response"])) == (200, str)
    assert ("x-gpuqa-ignored" in headers) == bool(more)
    assert headers.get("x-gpuqa-ignored", "").isprintable()


def test_an_empty_question_is_named_by_its_place_and_counted(strict: Served) -> None:
    before = strict.metric("gpuqa_questions_empty_total")
    status, headers, said = post(strict, "/predict", {"prompt": ["", "?", " \n"]})
    assert (status, headers["x-gpuqa-empty"], len(said["response"])) == (200, "0, 2", 3)
    assert "x-gpuqa-empty" not in post(strict, "/predict", {"prompt": "?"})[1]
    assert post(strict, CHAT, asked(messages=messages("")))[1]["x-gpuqa-empty"] == "0"
    assert strict.metric("gpuqa_questions_empty_total") == before + 3
    shown = post(strict, "/predict", {"prompt": [""] * 30})[1]["x-gpuqa-empty"]
    assert shown.endswith("18, 19 and 10 more")


# ---------------------------------------------------------------------------------------------------------- log lines


@pytest.fixture
def text_lines() -> Iterator[io.StringIO]:
    """What `http.logs=text` writes."""
    lines, logs = io.StringIO(), [logging.getLogger(f"gpuqa.{name}") for name in ("requests", "serve")]
    handler, levels = logging.StreamHandler(lines), [log.level for log in logs]
    handler.setFormatter(TextLines())
    for log in logs:
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    yield lines
    for log, level in zip(logs, levels, strict=True):
        log.removeHandler(handler)
        log.setLevel(level)


def lines_of(lines: io.StringIO, word: str, count: int) -> list[str]:
    """So many lines with a word, without their time: a line is written behind its reply."""
    deadline = time.monotonic() + 10
    while len(found := [line[24:] for line in lines.getvalue().splitlines() if word in line]) < count:
        assert time.monotonic() < deadline, lines.getvalue()
        time.sleep(0.01)
    return found


def test_a_text_line_has_status_seconds_request_id_and_the_refused_field(strict: Served, text_lines: io.StringIO) -> None:
    post(strict, CHAT, asked(temperature=1), **{"X-Request-ID": "mine"})
    [line] = lines_of(text_lines, "=mine", 1)
    refused = "POST /v1/chat/completions 400 invalid: temperature: got 1.0, served is 0.0 or None; leave it out"
    assert line.startswith(f"INFO gpuqa.requests: {refused} [request_id=mine param=temperature status=400 seconds=0.")


def test_a_field_without_an_effect_is_in_the_log_once_and_in_the_line_of_each_request(
    strict: Served, text_lines: io.StringIO
) -> None:
    for place in range(3):
        post(strict, "/predict", {"prompt": "?", "never_seen": place})
    assert len(lines_of(text_lines, "ignored=never_seen", 4)) == 4, "three requests and the warning, which is of the first"
    [warning] = lines_of(text_lines, "no effect", 1)
    assert warning.startswith("WARNING gpuqa.serve: /predict: the field never_seen has no effect here (said once; X-Gpuqa-Ign")


def test_made_up_names_end_to_be_logged(caplog: pytest.LogCaptureFixture) -> None:
    ignored = Ignored()
    for place in range(30):
        ignored.headers("/predict", [f"name{place}.{number}" for number in range(50)], [])
    assert len(caplog.records) == 200


def test_no_control_character_of_a_path_is_written_to_the_log(strict: Served, text_lines: io.StringIO) -> None:
    with socket.create_connection(("127.0.0.1", strict.port)) as connection:
        connection.sendall(b"GET /a%1b[31m\x7f HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        while connection.recv(4096):
            pass
    strict.ask("GET", "/b%0AINFO%20forged")
    lines_of(text_lines, "/b%0AINFO%20forged 404", 1)
    assert text_lines.getvalue().replace("\n", "").isprintable()


def test_a_path_in_a_log_line_shows_every_control_character_as_its_number() -> None:
    assert plain("/a\x1b[31m\x7f\x9b2J \u2028/中") == "/a%1B[31m%7F%9B2J%20%2028/中"
