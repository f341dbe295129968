"""The service behind the routes: capacity, deadlines, clients that leave, an engine that dies, and the end.

The engine is a stand-in that waits, fails and dies when told to; what vLLM itself does then is in test_serve.py. Over a real
socket, because clients leave by closing one.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from stand_in_service import PATIENCE_S, Reply, ScriptedEngine, Served, scripted, serving, until

from gpuqa.config.http import HttpConfig
from gpuqa.engines import EngineFailed
from gpuqa.pipeline.pipeline import Pipeline
from gpuqa.records import Generation, Override
from gpuqa.serving.auth import Keys
from gpuqa.serving.life import State, Winner
from gpuqa.serving.service import Service
from gpuqa.serving.telemetry import Telemetry

pytestmark = pytest.mark.engine


@contextmanager
def ready(engine: ScriptedEngine, keys: Keys | None = None, **http: Any) -> Iterator[Served]:
    """A served stand-in that has warmed up, and has not opened since."""
    engine.open.set()
    config = HttpConfig(**{"restart_backoff_s": 0.05, "warmup_batch": 1, **http})
    with serving(scripted(engine), config, ["Warm?"], keys) as served:
        served.wait_for((200, {"status": "batch"}))
        engine.open.clear()
        engine.asked.clear()
        try:
            yield served
        finally:
            engine.open.set()


@contextmanager
def asking(served: Served, *prompts: Any) -> Iterator[list[Future[Reply]]]:
    """Requests that are running: the engine has them."""
    with ThreadPoolExecutor(len(prompts)) as clients:
        yield [clients.submit(served.predict, prompt) for prompt in prompts]


def in_flight(served: Served) -> float:
    return served.metric("gpuqa_questions_in_flight")


def request_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of requests that were refused or given up."""
    said = [record.getMessage() for record in caplog.records if record.name == "gpuqa.requests"]
    return [line for line in said if not line.endswith(" ok")]


def outcome(served: Served, name: str) -> float:
    return served.metric(f'gpuqa_questions_total{{outcome="{name}"}}')


# ----------------------------------------------------------------------------------------------------------- capacity


def test_at_capacity_questions_are_refused_with_429_and_a_time_and_never_health_or_metrics() -> None:
    engine = ScriptedEngine()
    with ready(engine, max_waiting_questions=5) as served:
        with asking(served, ["一", "二", "三"], "四") as running:
            until(lambda: in_flight(served) == 4)
            status, headers, text = served.ask("POST", "/predict", json.dumps({"prompt": ["五", "六"]}).encode())
            assert (status, "at capacity: 4 of 5 questions in flight, 2 more requested" in text) == (429, True)
            assert int(headers["retry-after"]) >= 1
            for path in ("/", "/livez", "/readyz", "/metrics", "/info"):
                assert served.ask("GET", path)[0] == 200
            assert outcome(served, "refused") == 2
            engine.open.set()
            assert [future.result()[0] for future in running] == [200, 200]
        assert served.predict(["五", "六"])[0] == 200
        assert in_flight(served) == 0


def test_the_log_line_of_a_refused_request_names_the_status_and_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engine, keys = ScriptedEngine(), Keys(["a-key-of-the-tests"])
    with ready(engine, keys=keys, max_waiting_questions=1, max_body_bytes=900) as served:
        key = {"Authorization": "Bearer a-key-of-the-tests"}
        body = json.dumps({"prompt": "一"}).encode()
        with ThreadPoolExecutor(1) as client:
            running = client.submit(served.ask, "POST", "/predict", body, **key)
            until(lambda: in_flight(served) == 1)
            served.ask("POST", "/predict", body, **key)
            engine.open.set()
            running.result()
        served.ask("POST", "/predict", b"{}", **key)
        served.ask("POST", "/predict", b" " * 1000, **key)
        served.ask("POST", "/predict", body)
        served.ask("POST", "/predict", body, Authorization="Bearer wrong")
        served.ask("GET", "/a%0Aline", **key)
        served.ask("POST", "/v1/chat/completions", b"[]", **key)
    [capacity, missing, large, nothing, wrong, nowhere, chat] = request_lines(caplog)
    assert capacity.startswith(
        "POST /predict 429 refused: at capacity: 1 of 1 questions in flight, 1 more requested; retry after"
    )
    assert missing.startswith("POST /predict 422 invalid: prompt: is missing; send ")
    assert large == "POST /predict 413 invalid: the body is larger than http.max_body_bytes=900 allows; send several requests"
    assert nothing == "POST /predict 401 unauthorized: the request has no key"
    assert wrong == "POST /predict 401 unauthorized: the request has a wrong key"
    assert nowhere.startswith("GET /a%0Aline 404 invalid: there is no GET '/a\\nline'; there are ")
    assert chat == "POST /v1/chat/completions 400 invalid: the body is a list"


def test_the_log_line_of_a_client_that_disconnected_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engine = ScriptedEngine()
    with ready(engine) as served:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE_S)
        connection.request("POST", "/predict", json.dumps({"prompt": "一"}), {"Content-Type": "application/json"})
        until(lambda: engine.asked == [1])
        connection.close()
        until(lambda: bool(request_lines(caplog)))
    assert request_lines(caplog) == ["POST /predict 0 gone: the client disconnected before its answer"]


# ---------------------------------------------------------------------------------------------------------- deadlines


def test_at_the_deadline_what_is_done_is_returned_and_the_rest_is_empty_and_counted() -> None:
    engine = ScriptedEngine()
    with ready(engine, deadline_s=0.5) as served:
        engine.held = {1, 3}
        engine.open.set()
        status, body = served.predict(["一", "二", "三", "四"])
        assert status == 200
        assert [bool(answer) for answer in body["response"]] == [True, False, True, False]
        assert engine.cancelled == 1
        assert (outcome(served, "late"), in_flight(served)) == (2, 0)


def test_a_single_question_that_is_late_is_an_empty_answer_too() -> None:
    with ready(ScriptedEngine(), deadline_s=0.2) as served:
        assert served.predict("一") == (200, {"response": [""]})


# ------------------------------------------------------------------------------------------------- clients that leave


def test_questions_of_a_client_that_disconnects_are_no_longer_in_flight_nor_in_the_engine() -> None:
    engine = ScriptedEngine()
    with ready(engine) as served:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE_S)
        connection.request("POST", "/predict", json.dumps({"prompt": ["一"] * 7}), {"Content-Type": "application/json"})
        until(lambda: engine.asked == [7])
        assert in_flight(served) == 7
        connection.close()
        until(lambda: engine.cancelled == 1)
        until(lambda: in_flight(served) == 0)
        assert outcome(served, "gone") == 7
        assert served.metric('gpuqa_requests_total{outcome="gone",route="/predict"}') == 1


def test_questions_of_a_client_that_waits_stay_in_flight() -> None:
    engine = ScriptedEngine()
    with ready(engine) as served, asking(served, ["一"]) as running:
        until(lambda: engine.asked == [1])
        time.sleep(0.5)
        assert in_flight(served) == 1
        engine.open.set()
        assert running[0].result()[0] == 200
        assert engine.cancelled == 0


# ------------------------------------------------------------------------------------------------ an engine that dies


def dies_at(place_of_death: int, engines: list[ScriptedEngine]) -> Callable[[int], Generation]:
    """A script: once told to, the engine dies when it gets to this question of a batch of more than one."""

    def script(place: int) -> Generation:
        if engines[0].asked[-1] > 1 and place == place_of_death:
            engines[0].dead = True
            raise EngineFailed("secret")
        return Generation([100 + place], "stop")

    return script


def test_a_death_returns_what_was_done_and_another_engine_comes_up_by_itself() -> None:
    engines: list[ScriptedEngine] = []
    engines.append(engine := ScriptedEngine(dies_at(2, engines)))
    with ready(engine) as served:
        engine.open.set()
        status, body = served.predict(["一", "二", "三", "四"])
        assert status == 200
        assert [bool(answer) for answer in body["response"]] == [True, True, False, False]
        until(lambda: engine.starts == 2)
        served.wait_for((200, {"status": "batch"}))
        assert served.predict("一")[0] == 200
        assert served.metric("gpuqa_engine_deaths_total") == 1
        assert served.metric('gpuqa_engine_starts_total{outcome="ready"}') == 2
        assert outcome(served, "lost") == 2
        assert engine.closed == 1
        assert served.gave_up == []


def test_a_death_before_any_answer_is_a_503_that_keeps_its_reason_to_itself() -> None:
    engines: list[ScriptedEngine] = []
    engines.append(engine := ScriptedEngine(dies_at(0, engines)))
    with ready(engine, restart_backoff_s=30.0) as served:
        engine.open.set()
        status, body = served.predict(["一", "二"])
        assert (status, "secret" in json.dumps(body)) == (503, False)
        until(lambda: served.call("GET", "/readyz") == (503, {"status": "restarting"}))
        assert served.call("GET", "/livez")[0] == 200
        status, headers, text = served.ask("POST", "/predict", b'{"prompt": "?"}')
        assert (status, "restarting" in text, "retry-after" in headers) == (503, True, True)


def test_an_idle_death_is_seen_within_two_seconds() -> None:
    engine = ScriptedEngine()
    with ready(engine, restart_backoff_s=30.0) as served:
        engine.dead = True
        assert served.call("GET", "/readyz")[0] == 503
        began = time.monotonic()
        until(lambda: served.metric("gpuqa_engine_deaths_total") == 1)
        assert time.monotonic() - began < 2


def test_without_restarts_a_death_ends_the_process() -> None:
    engine = ScriptedEngine()
    with ready(engine, restart_engine=False) as served:
        engine.dead = True
        until(lambda: bool(served.gave_up))
        assert served.call("GET", "/readyz") == (503, {"status": "failed"})
        assert (engine.starts, engine.closed) == (1, 1)


def test_restarts_that_fail_are_tried_so_often_and_not_for_ever() -> None:
    engine = ScriptedEngine()
    starts = 0

    async def start() -> Pipeline:
        nonlocal starts
        starts += 1
        if starts > 1:
            raise EngineFailed("no memory")
        return await scripted(engine)()

    engine.open.set()
    with serving(start, HttpConfig(restart_backoff_s=0.01, restart_attempts=3)) as served:
        served.wait_for((200, {"status": "batch"}))
        engine.dead = True
        until(lambda: bool(served.gave_up))
        assert starts == 1 + 3
        assert "no memory" in served.gave_up[0]
        assert served.metric('gpuqa_engine_starts_total{outcome="failed"}') == 3


def test_a_warm_up_that_fails_is_let_pass_only_where_the_config_says_so() -> None:
    engine = ScriptedEngine(lambda place: Generation(error=f"ValueError: no {place}"))
    engine.open.set()
    with serving(scripted(engine), HttpConfig(warmup_must_succeed=False)) as served:
        served.wait_for((200, {"status": "batch"}))
        assert served.predict(["一"]) == (200, {"response": [""]})


# ------------------------------------------------------------------------------------------------------------ overrides


@pytest.mark.parametrize(
    ("measured", "warned"),
    [
        ([Override("scheduler", "burst", "burst", None, "1f0a")], "scheduler=burst (1f0a)"),
        ([], "the backend's own parts"),
        ([Override("scheduler", "burst", "default", "another reason")], None),
    ],
    ids=["ours was measured", "nothing was said", "the same"],
)
def test_an_engine_that_runs_other_parts_than_the_measured_one_is_warned_of_with_both(
    measured: list[Override], warned: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    engine = ScriptedEngine()
    engine.open.set()
    winner = Winner({"": scripted(engine)}, ["Warm?"], measured)

    async def start_and_end() -> None:
        service = Service(winner, HttpConfig(), Telemetry(CollectorRegistry()), pytest.fail)
        async with service.running():
            while service.look() is not State.ready:
                await asyncio.sleep(0.01)

    asyncio.run(start_and_end())
    said = [record.getMessage() for record in caplog.records if "OTHER PARTS" in record.message]
    assert len(said) == (warned is not None)
    for message in said:
        assert f"was measured with {warned}; this engine runs scheduler=default (asked: burst; this vLLM is unknown)" in message


# -------------------------------------------------------------------------------------------------------------- the end


def test_draining_refuses_new_questions_and_waits_for_the_running_ones() -> None:
    engine = ScriptedEngine()
    with ready(engine) as served, asking(served, ["一", "二"]) as running:
        until(lambda: in_flight(served) == 2)
        draining = drain(served, engine)
        until(lambda: served.call("GET", "/readyz") == (503, {"status": "draining"}))
        assert served.status() == (503, {"status": "draining"})
        assert served.predict("三")[0] == 503
        assert served.call("GET", "/livez")[0] == 200
        time.sleep(0.3)
        assert not draining.done()
        engine.open.set()
        draining.result(PATIENCE_S)
        assert running[0].result()[0] == 200
        assert all(running[0].result()[1]["response"])


def test_draining_ends_after_its_limit_with_the_answers_that_are_done() -> None:
    engine = ScriptedEngine()
    with ready(engine, shutdown_timeout_s=0.5) as served:
        engine.held = {0}
        engine.open.set()
        with asking(served, ["一", "二"]) as running:
            until(lambda: in_flight(served) == 2)
            drain(served, engine).result(PATIENCE_S)
            status, body = running[0].result()
            assert status == 200
            assert [bool(answer) for answer in body["response"]] == [False, True]


def drain(served: Served, engine: ScriptedEngine) -> Future[None]:
    """Begin to drain, in the server's own thread."""
    assert served.service is not None
    assert engine.loop is not None
    return asyncio.run_coroutine_threadsafe(served.service.drain(), engine.loop)


def test_many_clients_that_come_and_go_leave_nothing_in_flight() -> None:
    engine = ScriptedEngine()
    with ready(engine, max_waiting_questions=40) as served:
        engine.open.set()
        stop = threading.Event()

        def come_and_go(number: int) -> None:
            while not stop.is_set():
                connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE_S)
                body = json.dumps({"prompt": ["一"] * (1 + number)})
                connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
                if number % 2:
                    connection.getresponse().read()
                connection.close()

        with ThreadPoolExecutor(8) as clients:
            futures = [clients.submit(come_and_go, number) for number in range(8)]
            time.sleep(1.5)
            stop.set()
            assert [future.exception() for future in futures] == [None] * 8
        until(lambda: in_flight(served) == 0)
        assert served.predict(["一"] * 40)[0] == 200
