"""The HTTP contract over a real socket, with a client that knows nothing of the code."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from omegaconf import OmegaConf

from gpuqa.config import PipelineConfig
from gpuqa.engines import EngineFailed
from gpuqa.pipeline import Pipeline
from gpuqa.places import conf_folder
from gpuqa.records import Completion
from gpuqa.roots import HttpConfig, Status, from_plain
from gpuqa.server import StartPipeline, create_app

pytestmark = pytest.mark.engine


class Echo:
    """A fake pipeline: it fails or waits on demand, which a real engine does not."""

    def __init__(self, opens: threading.Event | None = None) -> None:
        self.opens = opens

    async def answer(self, questions: Sequence[str]) -> list[Completion]:
        """The question itself; "boom" fails alone, "dead" takes the engine along, "wait" waits for the event."""
        if "dead" in questions:
            raise EngineFailed("its process is gone")
        while "wait" in questions and self.opens is not None and not self.opens.is_set():
            await asyncio.sleep(0.01)
        return [completed("", "ValueError: boom") if text == "boom" else completed(text) for text in questions]

    async def close(self) -> None:
        """Nothing to release."""


def completed(text: str, error: str | None = None) -> Completion:
    return Completion(text, "error" if error else "stop", 1, 1, 0, False, 0.1, 0.2, error)


@contextmanager
def serving(start: StartPipeline, http_config: HttpConfig, gave_up: list[str] | None = None) -> Iterator[int]:
    """The application on a free port of a real uvicorn; yields the port."""
    app = create_app(start, ["热身"], http_config, (gave_up if gave_up is not None else []).append)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def call(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status code and JSON of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, sent, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def ready(port: int) -> Any:
    """What `GET /` says once it is 200."""
    for _ in range(600):
        status, said = call(port, "GET", "/")
        if status == 200:
            return said
        assert (status, said) == (503, {"status": "starting"})
        time.sleep(0.05)
    raise AssertionError("not ready within 30 s")


@contextmanager
def echoing(opens: threading.Event | None = None, **settings: Any) -> Iterator[int]:
    async def start() -> Any:
        return Echo(opens)

    with serving(start, HttpConfig(**settings)) as port:
        ready(port)
        yield port


def test_it_is_not_ready_before_the_warm_up_is_answered_and_then_says_how_to_ask():
    opens = threading.Event()

    async def start() -> Any:
        while not opens.is_set():
            await asyncio.sleep(0.01)
        return Echo()

    with serving(start, HttpConfig()) as port:
        assert call(port, "GET", "/") == (503, {"status": "starting"})
        assert call(port, "POST", "/predict", {"prompt": "q"})[0] == 503
        opens.set()
        assert ready(port) == {"status": "batch"}


@pytest.mark.parametrize(
    ("status", "as_list", "sent", "answered"),
    [
        (Status.batch, True, ["甲", "", "乙"], ["甲", "", "乙"]),
        (Status.batch, True, [], []),
        (Status.batch, True, "甲", ["甲"]),
        (Status.batch, False, "甲", "甲"),
        (Status.ok, True, "甲🙂\u0000", "甲🙂\u0000"),
        (Status.ok, True, ["甲"], ["甲"]),
    ],
)
def test_the_answer_has_the_shape_of_the_contract(status: Status, as_list: bool, sent: Any, answered: Any):
    with echoing(status=status, batch_str_as_list=as_list) as port:
        assert call(port, "GET", "/") == (200, {"status": status.name})
        assert call(port, "POST", "/predict", {"prompt": sent}) == (200, {"response": answered})


@pytest.mark.parametrize(
    "body", [b"{", b"[]", {}, {"prompt": None}, {"prompt": 1}, {"prompt": ["a", 1]}, {"prompt": {"a": "b"}}]
)
def test_a_body_of_another_shape_is_refused(body: Any):
    with echoing() as port:
        assert call(port, "POST", "/predict", body)[0] == 422


def test_a_failed_question_is_an_empty_answer_and_fails_no_other():
    with echoing() as port:
        assert call(port, "POST", "/predict", {"prompt": ["a", "boom", "b"]}) == (200, {"response": ["a", "", "b"]})


def test_an_engine_that_died_is_a_503_and_never_an_answer():
    with echoing() as port:
        status, said = call(port, "POST", "/predict", {"prompt": ["a", "dead"]})
        assert status == 503
        assert "response" not in said


def test_health_answers_while_a_batch_is_running():
    opens = threading.Event()
    with echoing(opens) as port, ThreadPoolExecutor(1) as pool:
        running = pool.submit(call, port, "POST", "/predict", {"prompt": ["wait"]})
        began = time.perf_counter()
        assert call(port, "GET", "/")[0] == 200
        assert time.perf_counter() - began < 0.5
        assert not running.done()
        opens.set()
        assert running.result() == (200, {"response": ["wait"]})


def test_a_start_that_fails_gives_up_with_its_reason_and_stays_unready():
    async def start() -> Pipeline:
        raise EngineFailed("no such device")

    gave_up: list[str] = []
    with serving(start, HttpConfig(), gave_up) as port:
        while not gave_up:
            time.sleep(0.01)
        assert gave_up == ["no such device"]
        assert call(port, "GET", "/")[0] == 503


def test_a_warm_up_in_which_every_question_fails_is_fatal():
    async def start() -> Any:
        return Broken()

    class Broken(Echo):
        """A fake engine that starts and answers nothing."""

        async def answer(self, questions: Sequence[str]) -> list[Completion]:
            """Only failures."""
            return [completed("", "ValueError: boom") for _ in questions]

    gave_up: list[str] = []
    with serving(start, HttpConfig(), gave_up) as port:
        while not gave_up:
            time.sleep(0.01)
        assert "boom" in gave_up[0]
        assert call(port, "GET", "/")[0] == 503


def test_many_clients_of_a_real_model_each_get_their_own_answer():
    options = {"model": "embedded", "prompt": "bare", "quantization": "none", "engine": "transformers", "sampling": "greedy"}
    values = {
        group: OmegaConf.to_container(OmegaConf.load(conf_folder() / group / f"{name}.yaml")) for group, name in options.items()
    }
    values["sampling"]["max_tokens"] = 24
    config = from_plain(values, PipelineConfig, "conf")
    rows = json.loads((conf_folder().parent / "gpuqa/embedded/questions/train.json").read_text(encoding="utf-8"))[:8]

    async def start() -> Pipeline:
        return await Pipeline.start(config)

    with serving(start, HttpConfig(status=Status.ok)) as port, ThreadPoolExecutor(8) as pool:
        assert ready(port) == {"status": "ok"}
        replies = list(pool.map(lambda row: call(port, "POST", "/predict", {"prompt": row["instruction"]}), rows))
        for row, (status, said) in zip(rows, replies, strict=True):
            assert status == 200
            assert said["response"]
            assert row["output"].startswith(said["response"].split("\n")[0])  # the model knows these by heart
        together = call(port, "POST", "/predict", {"prompt": [row["instruction"] for row in rows]})
        assert together == (200, {"response": [said["response"] for _, said in replies]})
