"""The fuzz under experiments/serving: a slice of its requests, and what it takes for a fault."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import ROOT
from stand_in_service import ScriptedEngine, scripted, serving, until

from gpuqa.config.http import HttpConfig, OpenAI
from gpuqa.records import Generation

SERVING = ROOT / "experiments" / "serving"
REQUESTS = 800


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The script; it imports by bare names."""
    monkeypatch.syspath_prepend(str(SERVING))
    yield importlib.import_module("fuzz")
    for name in ("fuzz", "wild_requests"):
        sys.modules.pop(name, None)


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("mode", list(OpenAI))
def test_odd_requests_are_answered_or_refused_and_leave_nothing_behind(
    fuzz: Any, mode: OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    engine = ScriptedEngine(lambda _: Generation([100, 200, 300], "stop"))  # at once: what is tested are the ways in
    engine.open.set()
    with serving(scripted(engine), HttpConfig(openai=mode)) as served:
        served.wait_for((200, {"status": "batch"}))
        before = len(asyncio.all_tasks(engine.loop))
        outcome = asyncio.run(fuzz.send_all(served.port, 2, range(REQUESTS), 8))
        until(lambda: served.service.admission.in_flight == 0)  # type: ignore[union-attr]
        until(lambda: len(asyncio.all_tasks(engine.loop)) <= before)
    assert outcome.failures == []
    assert sum(outcome.statuses.values()) >= REQUESTS
    assert {"openai 200", "question 200", "several 200", "broken json 400", "no http 400"} <= outcome.statuses.keys()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_the_same_number_is_the_same_request(fuzz: Any) -> None:
    drawn = [fuzz.draw(1, number) for number in range(300)]
    assert drawn == [fuzz.draw(1, number) for number in range(300)]
    assert drawn != [fuzz.draw(2, number) for number in range(300)]
    assert {wild.kind for wild in drawn} == {
        "route", "question", "openai", "broken json", "nested", "half", "chunked", "odd head", "several", "no http",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "faults"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", []),
        (b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\n\r\n{}", []),
        (b"HTTP/1.1 429 Too Many Requests\r\n\r\n{}", ["status 429"]),
        (b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n", []),
        (b"HTTP/1.1 200 OK\r\n\r\nretry-afterHTTP/1.1 503 Service Unavailable\r\n\r\n", ["status 503"]),
        (b"HTTP/1.1 500 Internal Server Error\r\n\r\n", ["status 500"]),
        (b"", ["no answer"]),
        (None, ["no end within 10 s"]),
    ],
)
def test_what_is_no_answer_is_a_fault(fuzz: Any, answer: bytes | None, faults: list[str]) -> None:
    assert fuzz.faults(fuzz.Wild("kind", b""), answer) == faults


def test_what_has_grown_and_what_the_log_says_of_an_error_are_faults(fuzz: Any) -> None:
    before = {"files": 10, "in_flight": 0.0, "tasks": 4}
    assert fuzz.left(before, {"files": 12, "in_flight": 0.0, "tasks": 4}) == []
    assert fuzz.left(before, {"files": 40, "in_flight": 1.0, "tasks": 4}) == ["left: 30 files", "left: 1 in_flight"]
    assert fuzz.tracebacks('2026 WARNING x\nTraceback (most recent call last):\n{"level": "ERROR"}\n') == [
        "log: Traceback (most recent call last):",
        'log: {"level": "ERROR"}',
    ]
