"""A frozen winner on Ray Serve: a cluster of this machine, a front, and engines that come with the load and are killed.

Ray starts once in this file, by the commands that a user types. The transformers backend runs the embedded model; in float32 an
answer does not depend on its batch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from conftest import ROOT, child_environment
from made_winner import made_winner
from stand_in_service import Served
from test_serve import QUESTIONS
from test_server import (  # noqa: F401
    test_a_batch_is_answered_with_the_same_count_in_the_same_order,
    test_a_body_that_is_no_text_is_refused_with_400,
    test_an_odd_question_does_not_fail_its_batch,
)

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("grpc_reflection") is None, reason="ray[serve] is not installed"),
]
START_S = 120.0
READY = (200, {"status": "batch"})


@dataclass
class Cluster:
    """A Ray cluster of this machine, and `serve run` on it."""

    head: subprocess.Popen[bytes]
    serve: subprocess.Popen[bytes]
    url: str
    log: Path
    env: dict[str, str]

    def engines(self) -> list[psutil.Process]:
        """The replicas of the engines' deployment."""
        found = []
        for process in psutil.Process(self.head.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                found += [process] if "ray::ServeReplica:default:Engine" in " ".join(process.cmdline()) else []
        return found

    def replicas(self) -> list[dict[str, Any]]:
        here = httpx.get(f"{self.url}/info", timeout=60, trust_env=False).json()["here"]
        return list(here.get("replicas", []))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def until(holds: Any, within_s: float = START_S) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/", timeout=60, trust_env=False).status_code == 200
    return False


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One engine, and a second one where more than four questions wait."""
    winner = made_winner(tmp_path_factory.mktemp("winner"), "engine=transformers", "sampling.max_tokens=64")
    port, http_port = free_port(), free_port()
    own = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    own |= {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_prestart_worker_first_driver": "0"}
    scale = {"max_replicas": 2, "target_ongoing_requests": 4, "upscale_delay_s": 0.1, "metrics_interval_s": 0.5}
    http = {"replicas": "auto", "logs": "text", "shutdown_timeout_s": 60}
    args = {"frozen": str(winner), "http": http, "autoscaling_config": {**scale, "look_back_period_s": 1.0}}
    application = {"name": "default", "import_path": "gpuqa.ray_app:app", "args": args}
    file, log = winner.with_name("app.yaml"), winner.with_name("serve.log")
    options = {"host": "127.0.0.1", "port": http_port}
    file.write_text(yaml.safe_dump({"http_options": options, "applications": [application]}), encoding="utf-8")
    env = child_environment(own)
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--include-dashboard=false"]
    ray += ["--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=3", "--object-store-memory=80000000"]
    run = [sys.executable, "-m", "ray.serve.scripts", "run", str(file)]
    with log.open("wb") as said, subprocess.Popen(ray, cwd=ROOT, env=env, stdout=said, stderr=said) as head:
        until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        with subprocess.Popen(run, cwd=ROOT, env=env, stdout=said, stderr=said) as serve:
            try:
                began, url = time.monotonic(), f"http://127.0.0.1:{http_port}"
                until(lambda: answers(url) or serve.poll() is not None)
                print(f"ready after {time.monotonic() - began:.1f} s")
                yield Cluster(head, serve, url, log, env)
            finally:
                below = psutil.Process(head.pid).children(recursive=True)
                for one in (serve, head, *below):  # asked to end, Ray would wait for its actors
                    with contextlib.suppress(psutil.Error):
                        one.kill()


@pytest.fixture(scope="module")
def batch(cluster: Cluster) -> Served:
    """The same, as the tests of the contract know it."""
    return Served(int(cluster.url.rpartition(":")[2]))


@pytest.fixture(scope="module")
def expected(batch: Served) -> dict[str, str]:
    """Questions with different answers, and the answer to each when it is asked alone."""
    answers = {question: batch.predict(question)[1]["response"][0] for question in QUESTIONS[:12]}
    assert len(set(answers.values())) == len(answers)
    return answers


class Asking(threading.Thread):
    """Asks a batch again and again until its block ends."""

    def __init__(self, batch: Served, questions: list[str]) -> None:
        super().__init__(daemon=True)
        self.batch, self.questions, self.ended, self.statuses = batch, questions, threading.Event(), set[int]()

    def run(self) -> None:
        while not self.ended.is_set():
            self.statuses.add(self.batch.predict(self.questions)[0])

    def __enter__(self) -> Asking:
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        self.join(START_S)


def test_a_stream_adds_up_to_the_whole_answer(batch: Served, expected: dict[str, str]) -> None:
    question, answer = next(iter(expected.items()))
    body = {"model": "embedded", "messages": [{"role": "user", "content": question}], "stream": True}
    events = batch.ask("POST", "/v1/chat/completions", json.dumps(body).encode())[2].strip().split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    assert events[-1] == "data: [DONE]"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == answer
    assert len(chunks) > 3


def test_an_answer_has_the_id_of_its_request_once(cluster: Cluster) -> None:
    for sent, expected in (({"X-Request-ID": "mine-1"}, "mine-1"), ({}, "")):
        reply = httpx.get(f"{cluster.url}/info", headers=sent, timeout=60, trust_env=False)
        [shown] = reply.headers.get_list("x-request-id")
        assert shown == expected or not expected
        line = f"request_id={shown} "
        until(lambda line=line: line in cluster.log.read_text(encoding="utf-8"), 20)  # Ray collects what its processes say


def test_questions_that_wait_bring_a_second_engine_and_info_names_both(
    cluster: Cluster, batch: Served, expected: dict[str, str]
) -> None:
    assert len(cluster.replicas()) == 1
    with Asking(batch, list(expected) * 4) as asking:
        until(lambda: [one["state"] for one in cluster.replicas()] == ["ready"] * 2)
    assert asking.statuses == {200}
    shown = batch.ask("GET", "/metrics")[2]
    assert shown.count("gpuqa_replica_ready{") == 2
    assert "gpuqa_build_info{" in shown


def in_flight(batch: Served, name: str) -> float:
    return batch.metric(f'gpuqa_replica_questions_in_flight{{replica="{name}"}}')


def test_of_an_engine_that_is_killed_under_load_no_answer_is_lost(
    cluster: Cluster, batch: Served, expected: dict[str, str]
) -> None:
    names = [one["name"] for one in cluster.replicas()]
    assert len(names) == len(cluster.engines()) == 2
    with ThreadPoolExecutor(2) as clients:
        many = clients.submit(batch.predict, list(expected) * 8)
        until(lambda: all(in_flight(batch, name) > 20 for name in names), 30)
        single = clients.submit(batch.predict, next(iter(expected)))
        time.sleep(0.2)
        cluster.engines()[0].kill()
        assert many.result() == (200, {"response": list(expected.values()) * 8})
        assert single.result()[0] == 200
    assert batch.metric("gpuqa_questions_asked_again_total") > 0
    assert batch.metric('gpuqa_questions_total{outcome="lost"}') == 0
    assert batch.status() == READY
    until(lambda: len(cluster.replicas()) == 1 or len({*names} - {one["name"] for one in cluster.replicas()}) == 1, 30)


def test_a_client_that_leaves_takes_its_questions_along(batch: Served, expected: dict[str, str]) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"http://127.0.0.1:{batch.port}/predict", json={"prompt": list(expected) * 50}, timeout=0.5, trust_env=False)
    until(lambda: batch.metric("gpuqa_questions_in_flight") == 0, 5)


def test_an_application_that_is_deleted_answers_what_it_has_and_leaves_no_engine(
    cluster: Cluster, batch: Served, expected: dict[str, str]
) -> None:
    """`serve deploy` with another frozen file replaces the front in the same way. Another engine is still being started."""
    with ThreadPoolExecutor(1) as clients:
        many = clients.submit(batch.predict, list(expected) * 8)
        until(lambda: batch.metric("gpuqa_questions_in_flight") > 20, 30)
        delete = "import os, ray; from ray import serve; ray.init(os.environ['RAY_ADDRESS']); serve.delete('default')"
        subprocess.run([sys.executable, "-c", delete], env=cluster.env, capture_output=True, timeout=90, check=True)
        assert many.result() == (200, {"response": list(expected.values()) * 8})
    until(lambda: not cluster.engines(), 30)
    assert "Traceback" not in cluster.log.read_text(encoding="utf-8")
