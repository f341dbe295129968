"""The HTTP contract on a real socket: uvicorn in a thread, http.client, the transformers engine with the embedded model."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import shutil
import socket
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from prometheus_client import CollectorRegistry

from gpuqa import dataset
from gpuqa.config import SamplingConfig
from gpuqa.door import vllm_on_this_machine
from gpuqa.engines import EngineFailed
from gpuqa.http_config import HttpConfig, Status
from gpuqa.pipeline import BUILTIN_WARMUP, Pipeline
from gpuqa.places import conf_folder, find
from gpuqa.prompts import load_tokenizer
from gpuqa.records import Generation
from gpuqa.roots import CellConfig, register_schemas, resolve
from gpuqa.server import create_app
from gpuqa.service import Service
from gpuqa.telemetry import Telemetry

pytestmark = pytest.mark.engine

PATIENCE_S = 120.0
STARTING = (503, {"status": "starting"})
Start = Callable[[], Awaitable[Pipeline]]
Reply = tuple[int, Any]


def composed(*overrides: str) -> CellConfig:
    """One cell on the transformers backend; in float32 an answer does not depend on what else is in its batch."""
    register_schemas()
    OmegaConf.register_new_resolver("vllm_on_this_machine", vllm_on_this_machine, replace=True)
    fixed = ["experiment=none", "engine=transformers", "engine.args.dtype=float32", "prompt=bare", "sampling.max_tokens=24"]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return resolve(compose("sweep", overrides=[*fixed, *overrides]), CellConfig)


@dataclass
class Served:
    """An application behind a port of the loopback, until its context ends."""

    port: int
    gave_up: list[str] = field(default_factory=list)

    def call(self, method: str, path: str, body: bytes | None = None) -> Reply:
        """Status and JSON of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            headers = {"Connection": "close"} | ({} if body is None else {"Content-Type": "application/json"})
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read().decode("utf-8"))
        finally:
            connection.close()

    def status(self) -> Reply:
        return self.call("GET", "/")

    def predict(self, prompt: Any) -> Reply:
        return self.call("POST", "/predict", json.dumps({"prompt": prompt}).encode())

    def wait_for(self, reply: Reply) -> None:
        until(lambda: self.status() == reply)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


@contextmanager
def serving(start: Start, config: HttpConfig | None = None, warmup: Sequence[str] = BUILTIN_WARMUP[:2]) -> Iterator[Served]:
    """uvicorn in a thread, on a free port. Its end is a clean shutdown, or the test fails."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        served = Served(listening.getsockname()[1])
        telemetry = Telemetry(CollectorRegistry())
        app = create_app(Service(start, warmup, config or HttpConfig(), telemetry, served.gave_up.append))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            until(lambda: server.started)
            yield served
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


class ScriptedEngine:
    """A fake, because the real engine neither fails nor waits on demand: it answers a prompt with the prompt, or as `script`
    says, and not before `open` is set."""

    start_s = 0.0

    def __init__(self, script: Callable[[int], Generation] | None = None) -> None:
        self.script = script
        self.open = threading.Event()
        self.asked: list[int] = []  # prompts of each call
        self.held: set[int] = set()  # places in a call that are never answered
        self.cancelled = self.closed = 0
        self.dead = False

    async def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: SamplingConfig,
        stop: Sequence[int],
        finished: dict[int, Generation] | None = None,
    ) -> list[Generation]:
        self.asked.append(len(prompts))
        done = {} if finished is None else finished
        try:
            for place, prompt in enumerate(prompts):
                while not self.open.is_set() or place in self.held:
                    await asyncio.sleep(0.01)
                done[place] = self.script(place) if self.script else Generation(prompt, "stop")
            return [done[place] for place in range(len(prompts))]
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def alive(self) -> bool:
        return not self.dead

    def numbers(self) -> dict[str, float]:
        return {"vllm:num_requests_running": 7.0}

    async def reset_prefix_cache(self) -> None:
        """Nothing is cached."""

    async def close(self) -> None:
        self.closed += 1


def scripted(engine: ScriptedEngine) -> Start:
    async def start() -> Pipeline:
        config = composed()
        return Pipeline(engine, load_tokenizer(config.model), config)  # type: ignore[arg-type]

    return start


def real() -> Awaitable[Pipeline]:
    return Pipeline.start(composed())


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
    shutil.copytree(find(composed().model.path, "model.path"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    with serving(lambda: Pipeline.start(composed(f"model.path={folder}"))) as served:
        until(lambda: bool(served.gave_up))
        assert served.status() == (503, {"status": "failed"})
        assert served.predict("一")[0] == 503
    assert len(served.gave_up) == 1
    assert "model.safetensors" in served.gave_up[0]


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
        if engine.asked[1:]:
            raise EngineFailed("secret")
        return Generation([7], "stop")

    engine = ScriptedEngine(dies)
    engine.open.set()
    with serving(scripted(engine)) as served:
        served.wait_for((200, {"status": "batch"}))
        status, body = served.predict(["一"])
    assert status == 503
    assert "secret" not in json.dumps(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b'"text"',
        b'["text"]',
        b"{}",
        b'{"question": "text"}',
        b'{"prompt": null}',
        b'{"prompt": 5}',
        b'{"prompt": 1.5}',
        b'{"prompt": true}',
        b'{"prompt": {"text": "text"}}',
        b'{"prompt": ["text", 5]}',
        b'{"prompt": ["text", null]}',
        b'{"prompt": [["text"]]}',
    ],
)
def test_a_wrong_body_is_refused_with_422_and_a_reason(batch: Served, body: bytes) -> None:
    status, said = batch.call("POST", "/predict", body)
    assert status == 422
    assert said["detail"]


def test_unknown_fields_beside_the_prompt_do_no_harm(ok: Served, expected: dict[str, str]) -> None:
    question, answer = next(iter(expected.items()))
    body = json.dumps({"id": 7, "prompt": question, "temperature": 2}).encode()
    assert ok.call("POST", "/predict", body) == (200, {"response": answer})


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
