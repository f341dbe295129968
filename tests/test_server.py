"""The HTTP contract on a real socket: uvicorn in a thread, http.client, the transformers engine with the embedded model."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import io
import json
import logging
import random
import shutil
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stand_in_service import PATIENCE_S, STARTING, Reply, ScriptedEngine, Served, composed, real, scripted, serving, until

from gpuqa.config.http import HttpConfig, Status
from gpuqa.config.paths import find
from gpuqa.engines import EngineFailed
from gpuqa.measure import trial
from gpuqa.measure.cell import Cell
from gpuqa.pipeline import dataset
from gpuqa.pipeline.pipeline import WARMUP_TOKENS, Pipeline, encoder_for
from gpuqa.pipeline.prompts import load_tokenizer
from gpuqa.records import Generation
from gpuqa.serving.app import FREE
from gpuqa.serving.auth import Keys
from gpuqa.serving.telemetry import JsonLines

pytestmark = pytest.mark.engine
KEY = "a-key-of-the-tests"


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    """50 questions and the model's answer to each, from a pipeline without any HTTP."""
    questions = [question.text for question in dataset.load(composed("dataset=embedded_train", "dataset.limit=50").dataset)]

    async def answers() -> list[str]:
        pipeline = await real()
        try:
            return [completion.text for completion in await pipeline.answer(questions)]
        finally:
            await pipeline.close()

    by_question = dict(zip(questions, asyncio.run(answers()), strict=True))
    assert len(set(by_question.values())) == 50  # so that nobody can pass with another's answer
    return by_question


@pytest.fixture(scope="module")
def batch() -> Iterator[Served]:
    with serving(real, HttpConfig(status=Status.batch)) as served:
        served.wait_for((200, {"status": "batch"}))
        yield served


@pytest.fixture(scope="module")
def ok() -> Iterator[Served]:
    with serving(real, HttpConfig(status=Status.ok)) as served:
        served.wait_for((200, {"status": "ok"}))
        yield served


# ------------------------------------------------------------------------------------------------------- before ready


def test_it_is_unready_until_the_engine_stands_and_the_warm_up_is_answered() -> None:
    engine, loaded = ScriptedEngine(), threading.Event()

    async def start() -> Pipeline:
        await asyncio.to_thread(loaded.wait, PATIENCE_S)
        return await scripted(engine)()

    with serving(start, warmup=["甲", "乙", "丙"]) as served:
        for _ in range(2):  # while the engine starts, then while it warms up
            assert served.status() == STARTING
            for prompt in ("一", ["一", "二"], []):
                status, body = served.predict(prompt)
                assert status == 503 or (status, prompt) == (200, [])
                assert "一" not in json.dumps(body, ensure_ascii=False)
            if not loaded.is_set():
                assert engine.asked == []
                loaded.set()
                until(lambda: engine.asked == [1])  # the warm-up is running: one question alone
        engine.open.set()
        served.wait_for((200, {"status": "batch"}))
        assert engine.asked == [1, 64]  # and as many as the engine takes at once
        assert served.gave_up == []


def test_a_real_engine_is_announced_only_when_it_answers() -> None:
    with serving(real) as served:
        replies = [served.status()]
        while replies[-1][0] == 503:
            replies.append(served.status())
        assert served.predict("什么是 warp？")[0] == 200
    assert replies[0] == STARTING
    assert set(map(str, replies)) == {str(STARTING), str((200, {"status": "batch"}))}


def test_a_model_that_does_not_load_is_given_up_and_never_announced(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(find(composed().model.path, "model.path"), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no_such_type"}), encoding="utf-8")
    with serving(lambda: Pipeline.start(composed(f"model.path={folder}"))) as served:
        until(lambda: bool(served.gave_up))
        assert served.status() == (503, {"status": "failed"})
        assert served.predict("一")[0] == 503
    assert len(served.gave_up) == 1
    assert "no_such_type" in served.gave_up[0]


def test_a_warm_up_that_fails_throughout_is_given_up_and_its_engine_closed() -> None:
    engine = ScriptedEngine(lambda place: Generation(error=f"ValueError: no {place}"))
    engine.open.set()
    with serving(scripted(engine)) as served:
        until(lambda: bool(served.gave_up))
        assert served.status() == (503, {"status": "failed"})
        assert served.predict("一")[0] == 503
    assert len(served.gave_up) == 1
    assert "ValueError: no 0" in served.gave_up[0]
    assert engine.closed == 1


def test_a_warm_up_has_the_width_of_the_engine_and_short_answers() -> None:
    engine, config = ScriptedEngine(), composed("sampling.max_tokens=100", "engine.args.batch_size=16")
    engine.open.set()

    async def start() -> Pipeline:
        return Pipeline(engine, load_tokenizer(config.model), config)  # type: ignore[arg-type]

    with serving(start) as served:
        served.wait_for((200, {"status": "batch"}))
        assert served.predict("一")[0] == 200
    assert engine.asked == [1, 16, 1]
    assert engine.most == [WARMUP_TOKENS, WARMUP_TOKENS, 100]
    assert WARMUP_TOKENS < 100


def test_a_server_asks_the_engine_the_same_warm_up_as_a_study() -> None:
    engines, config, warmup = (ScriptedEngine(), ScriptedEngine()), composed("engine.args.batch_size=5"), ["甲", "乙", "丙"]

    def pipeline_of(engine: ScriptedEngine) -> Pipeline:
        engine.prompts = []
        engine.open.set()
        return Pipeline(engine, load_tokenizer(config.model), config)  # type: ignore[arg-type]

    async def start() -> Pipeline:
        return pipeline_of(engines[0])

    with serving(start, warmup=warmup) as served:
        served.wait_for((200, {"status": "batch"}))
    asyncio.run(trial.warm_up(Cell(config, {}, [], warmup, {}), pipeline_of(engines[1])))
    served_engine, studied_engine = engines
    assert len(served_engine.prompts or []) == 1 + 5
    assert served_engine.prompts == studied_engine.prompts
    assert (served_engine.asked, served_engine.most) == (studied_engine.asked, studied_engine.most)


def test_a_warm_up_that_fails_in_part_is_good_enough() -> None:
    engine = ScriptedEngine(lambda place: Generation(error="ValueError: no") if place else Generation([7], "stop"))
    engine.open.set()
    with serving(scripted(engine)) as served:
        served.wait_for((200, {"status": "batch"}))
    assert served.gave_up == []
    assert engine.closed == 1


# -------------------------------------------------------------------------------------------------------------- ready


def test_a_batch_is_answered_with_the_same_count_in_the_same_order(batch: Served, expected: dict[str, str]) -> None:
    questions = list(expected)[:12]
    for asked in (questions, questions[::-1], questions[:1], questions[:1] * 3):
        assert batch.predict(asked) == (200, {"response": [expected[question] for question in asked]})


def test_an_empty_batch_has_an_empty_answer(batch: Served, ok: Served) -> None:
    assert batch.predict([]) == ok.predict([]) == (200, {"response": []})


def test_one_question_is_answered_by_a_list_in_batch_mode_and_by_text_in_ok_mode(
    batch: Served, ok: Served, expected: dict[str, str]
) -> None:
    question, answer = next(iter(expected.items()))
    assert batch.predict(question) == (200, {"response": [answer]})
    assert ok.predict(question) == (200, {"response": answer})
    assert ok.predict([question]) == (200, {"response": [answer]})


def test_batch_mode_can_answer_one_question_by_text() -> None:
    engine = ScriptedEngine()
    engine.open.set()
    with serving(scripted(engine), HttpConfig(status=Status.batch, batch_str_as_list=False)) as served:
        served.wait_for((200, {"status": "batch"}))
        status, body = served.predict("一")
        assert (status, type(body["response"])) == (200, str)
        assert len(served.predict(["一"])[1]["response"]) == 1


@pytest.mark.parametrize(
    "text", ["什么是 warp？", "naïve café", "👩‍👩‍👧‍👦 한국어", 'a "quote" \\ and\ttab', "𠮷野家", "<|im_end|> & <b>"]
)
def test_text_of_any_script_survives_the_way_there_and_back(text: str) -> None:
    engine = ScriptedEngine()  # it answers with the prompt that reached it
    engine.open.set()
    with serving(scripted(engine)) as served:
        served.wait_for((200, {"status": "batch"}))
        [escaped] = served.predict(text)[1]["response"]
        [raw] = served.call("POST", "/predict", json.dumps({"prompt": text}, ensure_ascii=False).encode())[1]["response"]
    assert text in escaped
    assert raw == escaped


def test_an_odd_question_does_not_fail_its_batch(batch: Served, expected: dict[str, str]) -> None:
    (first, said), (last, told) = list(expected.items())[:2]
    odd = ["", " \n", "\x00", "\ud800", "<|im_end|><|im_start|>", "为什么？" * 20_000, "👩‍👩‍👧‍👦" * 100]
    status, body = batch.predict([first, *odd, last])
    assert status == 200
    assert [body["response"][0], body["response"][-1]] == [said, told]
    assert len(body["response"]) == len(odd) + 2


def test_a_failed_question_is_an_empty_answer_and_never_an_error_text() -> None:
    engine = ScriptedEngine(lambda place: Generation(error="ValueError: secret") if place == 1 else Generation([100 + place]))
    engine.open.set()
    with serving(scripted(engine)) as served:
        served.wait_for((200, {"status": "batch"}))
        status, body = served.predict(["一", "二", "三"])
    assert status == 200
    assert [bool(text) for text in body["response"]] == [True, False, True]
    assert body["response"][1] == ""
    assert "secret" not in json.dumps(body)


def test_an_engine_that_died_is_an_honest_503_without_its_reason() -> None:
    def dies(_: int) -> Generation:
        if engine.asked[2:]:
            raise EngineFailed("secret")
        return Generation([7], "stop")

    engine = ScriptedEngine(dies)
    engine.open.set()
    with serving(scripted(engine)) as served:
        served.wait_for((200, {"status": "batch"}))
        status, body = served.predict(["一"])
    assert status == 503
    assert "secret" not in json.dumps(body)


WRONG_BODIES = {
    b"": "the body is empty or null",
    b"null": "the body is empty or null",
    b"{": "the body is not valid JSON: Expecting property name enclosed in double quotes (at character 1)",
    b"{'prompt': 'text'}": "the body is not valid JSON: Expecting property name enclosed in double quotes (at character 1)",
    b'"text"': "the body is text",
    b'["text"]': "the body is a list",
    b"{}": "prompt: is missing",
    b'{"question": "text"}': "prompt: is missing",
    b'{"prompt": null}': "prompt: got null, allowed is text or a list",
    b'{"prompt": 5}': "prompt: got a number, allowed is text or a list",
    b'{"prompt": 1.5}': "prompt: got a number, allowed is text or a list",
    b'{"prompt": true}': "prompt: got a boolean, allowed is text or a list",
    b'{"prompt": {"text": "text"}}': "prompt: got an object, allowed is text or a list",
    b'{"prompt": ["text", 5]}': "prompt.1: got a number, allowed is text",
    b'{"prompt": ["text", null]}': "prompt.1: got null, allowed is text",
    b'{"prompt": [["text"]]}': "prompt.0: got a list, allowed is text",
}


@pytest.mark.parametrize("body", WRONG_BODIES)
def test_a_wrong_body_is_refused_with_422_and_one_sentence_that_says_what_to_send(batch: Served, body: bytes) -> None:
    sentence = WRONG_BODIES[body] + '; send {"prompt": "..."} or {"prompt": ["...", ...]} as application/json'
    assert batch.call("POST", "/predict", body) == (422, {"detail": sentence})


def test_a_body_that_is_no_text_is_refused_with_400(batch: Served) -> None:
    assert batch.call("POST", "/predict", b"\xff") == (400, {"detail": "the body cannot be read as JSON"})


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
def test_a_body_of_another_content_type_is_refused_by_the_name_of_its_type(batch: Served, content_type: str) -> None:
    status, _, text = batch.ask("POST", "/predict", b'{"prompt": "text"}', **{"Content-Type": content_type})
    said = f"the Content-Type is {content_type!r}, allowed is application/json; send "
    assert (status, said in json.loads(text)["detail"]) == (422, True)


def test_a_route_that_does_not_exist_is_answered_with_those_that_do(batch: Served) -> None:
    status, body = batch.call("GET", "/no/such/path")
    assert status == 404
    assert body["detail"].startswith("there is no GET '/no/such/path'; there are GET /, GET /health, GET /info, ")
    assert "POST /predict" in body["detail"]
    status, headers, text = batch.ask("GET", "/predict")
    assert (status, headers["allow"], json.loads(text)) == (
        405,
        "POST",
        {"detail": "GET '/predict' is not allowed; allowed is POST"},
    )


def test_a_load_balancer_may_look_by_head() -> None:
    engine = ScriptedEngine()
    with serving(scripted(engine)) as served:
        assert [served.ask("HEAD", path)[0::2] for path in ("/", "/livez", "/readyz")] == [(503, ""), (200, ""), (503, "")]
        engine.open.set()
        served.wait_for((200, {"status": "batch"}))
        assert [served.ask("HEAD", path)[0::2] for path in ("/", "/livez", "/readyz")] == [(200, "")] * 3


def test_unknown_fields_beside_the_prompt_do_no_harm(ok: Served, expected: dict[str, str]) -> None:
    question, answer = next(iter(expected.items()))
    body = json.dumps({"id": 7, "prompt": question, "temperature": 2}).encode()
    assert ok.call("POST", "/predict", body) == (200, {"response": answer})


@pytest.fixture(scope="module")
def echo() -> Iterator[Served]:
    """A stand-in pipeline, because only HTTP is looked at: the answer to a question is its prompt."""
    engine = ScriptedEngine()
    engine.open.set()
    limits = HttpConfig(max_questions_per_request=2_000, max_body_bytes=110_000_000)
    with serving(scripted(engine), limits) as served:
        served.wait_for((200, {"status": "batch"}))
        yield served


def test_2000_questions_of_odd_lengths_are_2000_answers_in_their_order(echo: Served) -> None:
    questions = [f"<{number}>" + "长" * (10_000 if number % 400 == 0 else number % 7) for number in range(2_000)]
    status, body = echo.predict(questions)
    assert status == 200
    assert [answer.count(f"<{number}>") for number, answer in enumerate(body["response"])] == [1] * 2_000


def test_one_question_more_than_allowed_is_refused_with_the_limit(echo: Served) -> None:
    status, body = echo.predict(["?"] * 2_001)
    assert status == 422
    told = "2001 questions, allowed are 2000 a request (http.max_questions_per_request); send several requests"
    assert body == {"detail": told}


@contextlib.contextmanager
def request_lines() -> Iterator[io.StringIO]:
    """The log lines of requests, as `http.logs=json` writes them."""
    log, lines = logging.getLogger("gpuqa.requests"), io.StringIO()
    handler, level = logging.StreamHandler(lines), log.level
    handler.setFormatter(JsonLines())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield lines
    log.removeHandler(handler)
    log.setLevel(level)


def test_a_question_of_any_length_reaches_the_engine_as_the_tokens_that_a_study_would_give_it() -> None:
    engine = ScriptedEngine()
    engine.open.set()
    questions = ["短", "长" * 1_000, "长" * 200_000, f"HEAD{'word ' * 50_000}TAIL", "\ud800" * 99_999]
    config = composed()
    encoder = encoder_for(load_tokenizer(config.model), config)
    with serving(scripted(engine)) as served, request_lines() as lines:
        served.wait_for((200, {"status": "batch"}))
        engine.prompts = []
        assert served.predict(questions)[0] == 200
        assert served.predict("短")[0] == 200
        chat = {"model": config.model.name, "messages": [{"role": "user", "content": questions[3]}], "stream": True}
        assert served.ask("POST", "/v1/chat/completions", json.dumps(chat).encode())[0] == 200
        assert served.metric("gpuqa_questions_cut_total") == 5
        for text, was_cut in ((questions[0], False), (questions[1], True)):
            chat = {"model": config.model.name, "messages": [{"role": "user", "content": text}]}
            usage = served.call("POST", "/v1/chat/completions", json.dumps(chat).encode())[1]["usage"]
            assert usage["prompt_tokens_details"]["question_was_cut"] is was_cut
        deadline = time.monotonic() + 10
        while lines.getvalue().count("\n") < 5 and time.monotonic() < deadline:  # a line is written behind its reply
            time.sleep(0.02)
    asked = [encoder.encode(question).token_ids for question in questions]
    assert engine.prompts == [*asked, asked[0], asked[3], *asked[:2]]
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(line["questions"], line.get("questions_cut")) for line in told] == [(5, 4), (1, None), (1, 1), (1, None), (1, 1)]


def test_a_body_of_100_mb_is_answered_in_time_and_health_meanwhile(echo: Served) -> None:
    body = json.dumps({"prompt": ["显存带宽 " * 800_000] * 5 + ["word " * 9_000_000]}, ensure_ascii=False).encode()
    assert 95e6 < len(body) < 110e6
    began, waits = time.monotonic(), list[float]()
    with ThreadPoolExecutor(1) as client:
        running = client.submit(echo.call, "POST", "/predict", body)
        while not running.done():
            asked = time.monotonic()
            assert echo.call("GET", "/livez")[0] == 200
            waits.append(time.monotonic() - asked)
            time.sleep(0.05)
    status, reply = running.result()
    assert (status, len(reply["response"])) == (200, 6)
    assert time.monotonic() - began < 30
    assert max(waits) < 10


def test_a_body_that_is_too_large_is_413_announced_or_in_chunks() -> None:
    engine = ScriptedEngine()
    engine.open.set()
    body = json.dumps({"prompt": "x" * 980}).encode()
    with serving(scripted(engine), HttpConfig(max_body_bytes=1_000)) as served:
        served.wait_for((200, {"status": "batch"}))
        assert len(body) <= 1_000
        assert served.call("POST", "/predict", body)[0] == 200
        larger = body + b" " * (1_001 - len(body))
        status, said = served.call("POST", "/predict", larger)
        assert (status, "http.max_body_bytes=1000" in said["detail"]) == (413, True)
        chunks = (larger[place : place + 100] for place in range(0, len(larger), 100))
        assert served.ask("POST", "/predict", chunks)[0] == 413  # http.client sends an iterator in chunks


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.just("prompt"), inner, max_size=3),
    max_leaves=12,
)
SURROGATES = st.text(st.characters(codec=None), max_size=30)  # json.dumps writes halves of pairs as escapes


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.one_of(st.binary(max_size=200), ANY_JSON, st.builds(lambda prompt: {"prompt": prompt}, ANY_JSON)))
def test_no_body_is_answered_by_a_5xx_or_by_something_that_is_no_json(echo: Served, body: Any) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, said = echo.call("POST", "/predict", raw)
    assert status in (200, 400, 422), said
    assert ("response" in said) is (status == 200)


@settings(max_examples=75, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(questions=st.lists(SURROGATES, max_size=8))
def test_any_questions_get_as_many_answers(echo: Served, questions: list[str]) -> None:
    status, said = echo.predict(questions)
    assert status == 200
    assert len(said["response"]) == len(questions)
    assert all(isinstance(answer, str) for answer in said["response"])


# ------------------------------------------------------------------------------------------------- who asks, and who looks


def test_a_request_id_is_returned_the_clients_own_or_a_new_one(echo: Served) -> None:
    assert echo.ask("GET", "/livez", **{"X-Request-ID": "mine-1"})[1]["x-request-id"] == "mine-1"
    made = [echo.ask("POST", "/predict", b"{", **{"X-Request-ID": 'no "good" one'})[1]["x-request-id"] for _ in range(2)]
    assert len(set(made)) == 2
    assert all(len(one) == 32 for one in made)


def test_requests_and_questions_are_counted_by_outcome_and_route(echo: Served) -> None:
    names = [f'gpuqa_requests_total{{outcome="{outcome}",route="/predict"}}' for outcome in ("ok", "invalid")]
    names += ['gpuqa_questions_total{outcome="answered"}']
    echo.predict(["?"]), echo.predict(7)  # so that all have been seen
    before = [echo.metric(name) for name in names]
    assert echo.predict(["一", "二", "三"])[0] == 200
    assert echo.predict(None)[0] == 422
    assert [echo.metric(name) for name in names] == [before[0] + 1, before[1] + 1, before[2] + 3]
    echo.call("GET", "/no/such/path")
    assert echo.metric('gpuqa_requests_total{outcome="invalid",route="none"}') >= 1
    assert echo.metric('vllm:num_requests_running{model_name="embedded"}') == 7
    assert echo.metric('gpuqa_engine_state{state="ready"}') == 1


def test_info_shows_the_facts_and_the_state(echo: Served) -> None:
    status, shown = echo.call("GET", "/info")
    assert (status, shown["state"], shown["a"]) == (200, "ready", "fact")


def test_info_shows_which_parts_run_in_the_engine_at_this_moment(echo: Served) -> None:
    running = {"part": "scheduler", "asked": "burst", "ran": "default", "reason": "this vLLM is unknown", "version": ""}
    assert echo.call("GET", "/info")[1]["here"]["overrides"] == [running]


def test_with_keys_questions_need_one_and_health_does_not() -> None:
    engine = ScriptedEngine()
    engine.open.set()
    with serving(scripted(engine), keys=Keys(["another-key-0123456789", KEY])) as served:
        served.wait_for((200, {"status": "batch"}))
        for path in ("/livez", "/readyz", "/metrics"):
            assert served.ask("GET", path)[0] == 200
        body = json.dumps({"prompt": "?"}).encode()
        wrong = ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"})
        refused = [served.ask("POST", "/predict", body, **header) for header in wrong]
        assert {status for status, _, _ in refused} == {401}
        assert len({text for _, _, text in refused}) == 1
        assert list(json.loads(refused[0][2])) == ["detail"]
        assert refused[0][1]["www-authenticate"] == "Bearer"
        for path in ("/info", "/openapi.json", "/no/such/path", "/ui/../info"):
            assert served.ask("GET", path)[0] == 401 or path.startswith("/ui/")
        assert served.ask("POST", "/predict", body, Authorization=f"Bearer {KEY}")[0] == 200
        document = json.loads(served.ask("GET", "/openapi.json", Authorization=f"Bearer {KEY}")[2])
        told = {path for path, ways in document["paths"].items() for way in ways.values() if "401" in way["responses"]}
        assert told == {*document["paths"]} - {*FREE} >= {"/predict", "/info", "/v1/models", "/v1/completions"}
        assert served.metric('gpuqa_requests_total{outcome="unauthorized",route="none"}') >= len(wrong)


# --------------------------------------------------------------------------------------------------------- under load


def test_the_status_is_answered_within_half_a_second_while_a_big_batch_runs(batch: Served, expected: dict[str, str]) -> None:
    waits: list[float] = []
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(batch.predict, list(expected) * 8)
        time.sleep(0.1)
        while not running.done():
            began = time.perf_counter()
            reply = batch.status()
            if not running.done():  # it was surely answered during the batch
                waits.append(time.perf_counter() - began)
            assert reply == (200, {"status": "batch"})
            time.sleep(0.05)
    assert running.result() == (200, {"response": [*expected.values()] * 8})
    assert len(waits) >= 5
    assert max(waits) < 0.5


def test_50_clients_at_once_get_their_own_answers(ok: Served, expected: dict[str, str]) -> None:
    together = threading.Barrier(50)

    def ask(question: str) -> Reply:
        together.wait(PATIENCE_S)
        return ok.predict(question)

    with ThreadPoolExecutor(50) as clients:
        replies = list(clients.map(ask, expected))
    assert replies == [(200, {"response": answer}) for answer in expected.values()]


# --------------------------------------------------------------------------------------------------------------- memory


class HeapNumbers(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def in_use() -> tuple[int, int]:
    """Bytes that malloc has handed out, and blocks of Python's own allocator; what is free in either does not count."""
    gc.collect()
    malloc = ctypes.CDLL(None).mallinfo2
    malloc.restype = HeapNumbers
    return malloc().uordblks, sys.getallocatedblocks()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="only glibc 2.33 and later tells")
def test_a_server_keeps_nothing_of_the_questions_that_it_has_answered(echo: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)  # pytest keeps log lines
    rng = random.Random(0)
    model = composed().model.name

    def ask_all_kinds(times: int) -> None:
        for place in range(times):
            phrase = "".join(chr(rng.randint(0x4E00, 0x9FFF)) for _ in range(40))
            text = f"{phrase}，{rng.random()}？"  # nobody asked it before
            chat = {"model": model, "messages": [{"role": "user", "content": text}], "stream": True}
            assert echo.predict(text)[0] == 200
            if place % 10 == 0:
                assert echo.ask("POST", "/v1/chat/completions", json.dumps(chat).encode())[0] == 200
                assert echo.ask("POST", "/predict", b"{")[0] == 422
                assert echo.ask("GET", f"/{rng.random()}")[0] == 404
                assert echo.ask("GET", "/metrics")[0] == 200

    ask_all_kinds(400)  # what is kept once and for all
    before = in_use()
    ask_all_kinds(400)
    grown = [(now - then) / 400 for now, then in zip(in_use(), before, strict=True)]
    assert grown[0] < 400, "bytes a question"
    assert grown[1] < 1, "blocks a question"


# ------------------------------------------------------------------------------------------------------------ the end


def test_the_end_of_the_server_releases_the_model() -> None:
    kept: list[weakref.ref[Any]] = []

    async def start() -> Pipeline:
        pipeline = await real()
        kept.append(weakref.ref(next(pipeline.engine.model.parameters())))  # type: ignore[attr-defined]
        return pipeline

    with serving(start) as served:
        served.wait_for((200, {"status": "batch"}))
        assert kept[0]() is not None
    gc.collect()
    assert kept[0]() is None


def test_a_server_that_ends_during_the_warm_up_closes_its_engine() -> None:
    engine = ScriptedEngine()
    with serving(scripted(engine)):
        until(lambda: bool(engine.asked))
    assert engine.closed == 1
