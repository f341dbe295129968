"""What holds before there is a request: bytes and time of a head and a body, the number of connections, a client that half
closes. Over real sockets; the engine is a stand-in that answers when it is told to."""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from stand_in_service import ScriptedEngine, Served, scripted, serving, until

from gpuqa.config import UserError
from gpuqa.config.http import HttpConfig
from gpuqa.serving.connections import BEHIND, OTHER_FILES, SPARE, affordable

pytestmark = pytest.mark.engine

BODY = json.dumps({"prompt": "什么是 warp？"}).encode()
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(BODY)
REQUEST = HEAD + b"\r\n" + BODY


@contextlib.contextmanager
def ready(engine: ScriptedEngine, **http: float) -> Iterator[Served]:
    """A server after its warm-up."""
    engine.open.set()
    with serving(scripted(engine), HttpConfig(warmup_batch=1, **http)) as served:  # type: ignore[arg-type]
        served.wait_for((200, {"status": "batch"}))
        yield served


def connect(served: Served) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", served.port))
    connection.settimeout(20)
    return connection


def all_of(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    read = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            read += piece
    return read


@pytest.fixture(scope="module")
def impatient() -> Iterator[Served]:
    with ready(ScriptedEngine(), request_timeout_s=0.4, max_head_bytes=2000) as served:
        yield served


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HT", HEAD, HEAD + b"\r\n", HEAD + b"\r\n" + BODY[:5]],
    ids=["nothing", "line", "head", "no body", "body"],
)
def test_a_request_that_is_not_complete_in_time_ends_with_408(impatient: Served, sent: bytes) -> None:
    with connect(impatient) as connection:
        connection.sendall(sent)
        began = time.monotonic()
        said = all_of(connection)
        assert 0.2 < time.monotonic() - began < 5
    assert said.startswith(b"HTTP/1.1 408 Request Timeout\r\n") is bool(sent)
    assert said.endswith(b"no complete request came in 0.4 s\n") is bool(sent)


def test_a_request_that_drips_in_is_not_given_more_time(impatient: Served) -> None:
    with connect(impatient) as connection:
        began = time.monotonic()
        connection.sendall(b"GET / HTTP/1.1\r\n")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() < began + 5:
                connection.sendall(b"X: y\r\n")
                time.sleep(0.02)
        assert 0.2 < time.monotonic() - began < 4


def test_a_connection_may_wait_between_its_requests_and_a_slow_answer_has_its_time() -> None:
    engine = ScriptedEngine()
    with ready(engine, request_timeout_s=0.3) as served, connect(served) as connection:
        for _ in range(2):
            engine.open.clear()
            connection.sendall(REQUEST)
            time.sleep(0.6)
            engine.open.set()
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
            time.sleep(0.6)


@pytest.mark.parametrize("head", [b"GET /" + b"a" * 100_000, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000])
def test_a_head_that_does_not_end_is_refused_by_its_bytes(impatient: Served, head: bytes) -> None:
    with connect(impatient) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for place in range(0, len(head), 1000):
                connection.sendall(head[place : place + 1000])
        said = all_of(connection)
    assert said == b"" or said.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))


def test_a_long_head_that_ends_and_a_body_of_any_size_are_no_matter_of_the_heads_limit(impatient: Served) -> None:
    assert impatient.ask("GET", "/livez", **{"X-Long": "a" * 1500})[0] == 200
    assert impatient.predict("长" * 20_000)[0] == 200


def test_a_new_client_gets_in_where_others_only_hold_connections(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with ready(ScriptedEngine(), max_connections=10) as served, ExitStack() as stack:
        idle = [stack.enter_context(connect(served)) for _ in range(10)]
        idle[0].sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(5):
            began = time.monotonic()
            assert served.ask("GET", "/readyz")[0] == 200
            assert served.predict("?")[0] == 200
            assert time.monotonic() - began < 2
        assert all_of(idle[0]).endswith(b"\r\n\r\nthere are too many connections\n")
    said = [record.getMessage() for record in caplog.records if "max_connections" in record.getMessage()]
    assert said == ["http.max_connections: all 10 are taken; those that wait longest for a request are closed"]


def test_while_all_connections_are_being_answered_health_is_and_a_question_is_told_to_come_back() -> None:
    engine = ScriptedEngine()
    with ready(engine, max_connections=4) as served, ExitStack() as stack:
        engine.open.clear()
        busy = [stack.enter_context(connect(served)) for _ in range(4)]
        for connection in busy:
            connection.sendall(REQUEST)
        assert served.service is not None
        until(lambda: served.service.admission.in_flight == 4)  # type: ignore[union-attr]
        assert served.ask("GET", "/readyz")[0] == 200
        status, headers, text = served.ask("POST", "/predict", BODY)
        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        assert "http.max_connections" in text
        with connect(served) as one_whose_body_comes_later:
            one_whose_body_comes_later.sendall(HEAD + b"\r\n")
            assert all_of(one_whose_body_comes_later).startswith(b"HTTP/1.1 503 ")
        for _ in range(SPARE + 5):
            stack.enter_context(connect(served))
        assert served.ask("GET", "/readyz")[0] == 200, "those that only hold a connection are closed"
        engine.open.set()
        assert [connection.recv(65536)[:12] for connection in busy] == [b"HTTP/1.1 200"] * 4


@pytest.mark.parametrize("status", ["whole", "streamed"])
def test_a_client_that_closes_its_sending_side_gets_its_answer(status: str) -> None:
    engine = ScriptedEngine()
    chat = {"model": "embedded", "messages": [{"role": "user", "content": "?"}], "stream": status == "streamed"}
    body = json.dumps(chat).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with ready(engine) as served, connect(served) as connection:
        engine.open.clear()
        connection.sendall(head + body)
        connection.shutdown(socket.SHUT_WR)
        time.sleep(1.2)  # longer than the server takes to see that a client has gone
        engine.open.set()
        said = all_of(connection)
    assert said.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert b"assistant" in said


def test_a_client_that_closes_both_sides_is_noticed_although_one_that_half_closes_looks_the_same_at_first() -> None:
    engine = ScriptedEngine()
    with ready(engine) as served:
        engine.open.clear()
        with connect(served) as connection:
            connection.sendall(REQUEST)
            until(lambda: served.service.admission.in_flight == 1)  # type: ignore[union-attr]
        until(lambda: engine.cancelled == 1)
        until(lambda: served.service.admission.in_flight == 0)  # type: ignore[union-attr]
        engine.open.set()


def test_a_client_that_goes_with_requests_behind_one_another_leaves_no_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = ScriptedEngine()
    with ready(engine) as served:
        engine.open.clear()
        with connect(served) as connection:
            connection.sendall(REQUEST * 3)
            until(lambda: served.service.admission.in_flight == 1)  # type: ignore[union-attr]
        engine.open.set()
        until(lambda: served.service.admission.in_flight == 0)  # type: ignore[union-attr]
        with connect(served) as connection:
            connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
            assert connection.recv(1).startswith(b"H")
        assert served.ask("GET", "/readyz")[0] == 200
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_client_that_leaves_in_the_middle_of_its_body_is_noted_and_leaves_no_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with ready(ScriptedEngine()) as served:
        with connect(served) as connection:
            connection.sendall(HEAD + b"\r\n" + BODY[:5])
            time.sleep(0.1)
        until(lambda: "the client disconnected before its request was complete" in caplog.text)
        assert served.metric('gpuqa_requests_total{outcome="gone",route="/predict"}') == 1
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_an_answer_that_comes_in_pieces_stays_whole_when_its_client_half_closes_behind_another_request() -> None:
    engine = ScriptedEngine()
    body = json.dumps({"model": "embedded", "messages": [{"role": "user", "content": "?"}], "stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with ready(engine) as served, connect(served) as connection:
        engine.open.clear()
        connection.sendall((head + body) * 2)
        until(lambda: served.service.admission.in_flight == 1)  # type: ignore[union-attr]
        connection.shutdown(socket.SHUT_WR)
        time.sleep(0.2)
        engine.open.set()
        said = all_of(connection)
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert said.count(b"data: [DONE]") == 2
    assert b"100 Continue" not in said


def test_a_connection_may_have_some_requests_behind_one_another_and_not_thousands() -> None:
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    with ready(ScriptedEngine()) as served:
        with connect(served) as connection:
            connection.sendall(request * BEHIND)
            connection.shutdown(socket.SHUT_WR)
            assert all_of(connection).count(b"HTTP/1.1 200 OK") == BEHIND
        with connect(served) as connection:
            connection.sendall(request * 1000)
            said = all_of(connection)
        assert said.count(b"HTTP/1.1 200 OK") <= BEHIND + 1
        assert said.endswith(b"Invalid HTTP request received.")
        assert served.ask("GET", "/readyz")[0] == 200


def test_a_process_that_may_open_few_files_has_fewer_connections_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert affordable(10) == 10
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
        assert affordable(200) == 200
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 200 + SPARE + OTHER_FILES, "as many as are needed"
        if hard != resource.RLIM_INFINITY:
            assert affordable(hard) == hard - SPARE - OTHER_FILES
            assert f"http.max_connections={hard} is {hard - SPARE - OTHER_FILES} here" in caplog.text
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"http.max_connections: got 0, allowed is an integer of at least 1"):
        HttpConfig(max_connections=0)
