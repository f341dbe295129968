"""Two real replicas of vLLM's CPU engine behind one `gpuqa.serve`, in processes of their own, two of which are killed.

The contract's tests are those of one engine, asked of two. In float32 an answer does not depend on what else is in its batch.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from conftest import PATIENCE_S, Service, left_behind
from made_winner import made_winner
from stand_in_service import Served
from test_openai import (  # noqa: F401
    client,
    predicted,
    test_a_stream_ends_with_its_usage_where_that_is_asked_for,
    test_a_streamed_answer_adds_up_to_the_whole_one,
    test_a_whole_answer_is_the_one_that_predict_gives,
    test_many_clients_stream_at_once_beside_a_batch_and_get_their_own_answers,
    test_the_clients_helpers_for_streams_give_what_predict_gives,
)
from test_serve import (
    QUESTIONS,
    metric,
    predict_later,
    until,
)
from test_server import (  # noqa: F401
    test_a_batch_is_answered_with_the_same_count_in_the_same_order,
    test_a_body_that_is_no_text_is_refused_with_400,
    test_an_odd_question_does_not_fail_its_batch,
)

needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
pytestmark = [pytest.mark.engine, pytest.mark.slow, needs_two_cores]


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the winner."""
    settings = ("engine=vllm_cpu", "engine.args.max_num_seqs=8")
    return made_winner(tmp_path_factory.mktemp("replicas"), *settings).parent


@pytest.fixture(scope="module")
def service(study_folder: Path, serve: Any) -> Iterator[Service]:
    """It, served on two replicas."""
    with serve(study_folder / "frozen.yaml", "http.replicas=2", "http.logs=text", cwd=study_folder) as running:
        yield running


@pytest.fixture(scope="module")
def batch(service: Service) -> Served:
    """The same, as the tests of the contract know it."""
    return Served(int(service.url.rpartition(":")[2]))


@pytest.fixture(scope="module")
def expected(service: Service) -> dict[str, str]:
    """Questions with different answers, and the answer to each when it is asked alone."""
    answers = {question: service.predict(question)[0] for question in QUESTIONS[:16]}
    assert len(set(answers.values())) == len(answers)
    return answers


def replicas(service: Service) -> list[psutil.Process]:
    """Their processes."""
    below = psutil.Process(service.process.pid).children()
    return [child for child in below if "gpuqa.serving.replica_process" in " ".join(child.cmdline())]


def name_of(replica: psutil.Process) -> str:
    return next(word for word in replica.cmdline() if word.startswith("cores "))


def is_ready(service: Service, name: str) -> bool:
    return metric(service, f'gpuqa_replica_ready{{replica="{name}"}}') == 1


class Watching(threading.Thread):
    """Asks for /readyz until its block ends."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self.url, self.ended, self.seen = f"{service.url}/readyz", threading.Event(), set[int]()

    def run(self) -> None:
        with httpx.Client(trust_env=False, timeout=PATIENCE_S) as http:
            while not self.ended.wait(0.05):
                self.seen.add(http.get(self.url).status_code)

    def __enter__(self) -> Watching:
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        self.join(PATIENCE_S)


def test_info_names_both_replicas_and_metrics_tell_them_apart(service: Service) -> None:
    here = httpx.get(f"{service.url}/info", timeout=60, trust_env=False).json()["here"]
    names = sorted(name_of(replica) for replica in replicas(service))
    assert sorted(one["name"] for one in here["replicas"]) == names
    assert {one["state"] for one in here["replicas"]} == {"ready"}
    assert {part["part"] for part in here["overrides"]} == {"scheduler", "attention"}
    queries = [f'vllm:prefix_cache_queries_total{{model_name="embedded",replica="{name}"}}' for name in names]
    before = [metric(service, query) for query in queries]
    service.predict(QUESTIONS[:8])
    until(lambda: all(metric(service, query) > asked for query, asked in zip(queries, before, strict=True)))


def test_each_replica_runs_on_cores_of_its_own_from_its_engine_up(service: Service) -> None:
    for replica in replicas(service):
        wanted = {int(core) for core in replica.cmdline()[-2].split(",")}
        assert all(set(one.cpu_affinity()) == wanted for one in (replica, engine_of(replica)))
    assert len({tuple(replica.cpu_affinity()) for replica in replicas(service)}) == 2


def engine_of(replica: psutil.Process) -> psutil.Process:
    """The process that holds the model; vLLM forks it."""
    [engine] = replica.children()
    return engine


def kill_under_load(service: Service, batch: Served, expected: dict[str, str], of: Callable[[Any], Any]) -> str:
    """Kill the first replica, or a part `of` it, under a batch and a single question, which are answered -> its name."""
    replica, again = replicas(service)[0], metric(service, "gpuqa_questions_asked_again_total")
    victim, name, question = of(replica), name_of(replica), next(iter(expected))
    with ThreadPoolExecutor(2) as clients:
        many = clients.submit(batch.predict, list(expected) * 8)
        until(lambda: batch.metric(f'gpuqa_replica_questions_in_flight{{replica="{name}"}}') > 20, 30)
        single = clients.submit(batch.predict, question)
        time.sleep(0.2)
        victim.kill()
        until(lambda: not is_ready(service, name), 5)
        assert many.result() == (200, {"response": list(expected.values()) * 8})
        assert single.result() == (200, {"response": [expected[question]]})
    assert metric(service, "gpuqa_questions_asked_again_total") > again
    assert metric(service, 'gpuqa_questions_total{outcome="lost"}') == 0
    return name


def test_of_a_replica_that_is_killed_under_load_no_answer_is_lost_and_it_comes_back(
    service: Service, batch: Served, expected: dict[str, str]
) -> None:
    with Watching(service) as watching:
        name = kill_under_load(service, batch, expected, lambda replica: replica)
        until(lambda: is_ready(service, name))
    assert watching.seen == {200}
    [line] = [line for line in service.log.splitlines() if "another engine is started" in line]
    assert line.endswith(f"replica {name}: the engine died; another engine is started in 1 s, attempt 1 of 5")
    assert service.predict(list(expected)) == list(expected.values())


def test_of_a_replica_whose_engine_is_killed_under_load_no_answer_is_lost(
    service: Service, batch: Served, expected: dict[str, str]
) -> None:
    kill_under_load(service, batch, expected, engine_of)


def test_sigterm_lets_running_requests_finish_while_a_replica_starts_again_and_leaves_nothing_behind(
    service: Service, expected: dict[str, str]
) -> None:
    """The replica is the one that the test before has killed."""
    said = len(service.log)
    until(lambda: len(replicas(service)) == 2)
    here = httpx.get(f"{service.url}/info", timeout=60, trust_env=False).json()["here"]
    assert {one["state"] for one in here["replicas"]} == {"ready", "restarting"}
    asking, replies = predict_later(service, list(expected))
    until(lambda: metric(service, "gpuqa_questions_in_flight") > 0)
    processes = psutil.Process(service.process.pid).children(recursive=True)
    service.process.send_signal(signal.SIGTERM)
    asking.join(PATIENCE_S)
    assert replies[0].json() == {"response": list(expected.values())}
    assert service.process.wait(30) == 0
    assert not left_behind(service.process.pid)
    assert not any(process.is_running() for process in processes)
    assert "Traceback" not in service.log[said:]
