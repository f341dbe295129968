"""Several replicas behind one service: how a batch is shared out, what a replica's death costs, and which places there are.

The engines are stand-ins that wait, fail and die when told to; test_replicas_served.py has real ones in processes of their own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_winner import made_winner
from stand_in_service import STARTING, Reply, ScriptedEngine, Served, composed, scripted, serving, until

from gpuqa.config import UserError
from gpuqa.config.app import run_command
from gpuqa.config.http import HttpConfig
from gpuqa.engines import EngineFailed
from gpuqa.machine import hardware
from gpuqa.pipeline.pipeline import Pipeline
from gpuqa.pipeline.prompts import load_tokenizer
from gpuqa.records import Generation
from gpuqa.serve import serve
from gpuqa.serving.places import places_of
from gpuqa.serving.scrapes import History, Scrape, snapshot
from gpuqa.serving.shares import shares_of, works_of

READY = (200, {"status": "batch"})


@contextmanager
def ready(engines: dict[str, ScriptedEngine], **http: Any) -> Iterator[Served]:
    """Stand-ins under their names, warm; they open again when told to."""
    for engine in engines.values():
        engine.open.set()
    config = HttpConfig(**{"restart_backoff_s": 0.05, "warmup_batch": 1, **http})
    with serving({name: scripted(engine) for name, engine in engines.items()}, config, ["Warm?"]) as served:
        served.wait_for(READY)
        for engine in engines.values():
            engine.open.clear()
            engine.asked.clear()
        try:
            yield served
        finally:
            for engine in engines.values():
                engine.open.set()


@contextmanager
def asking(served: Served, *prompts: Any) -> Iterator[list[Future[Reply]]]:
    """Requests that are running."""
    with ThreadPoolExecutor(len(prompts)) as clients:
        yield [clients.submit(served.predict, prompt) for prompt in prompts]


def two() -> dict[str, ScriptedEngine]:
    return {"a": ScriptedEngine(), "b": ScriptedEngine()}


def dying(engine: ScriptedEngine) -> Callable[[int], Generation]:
    """A script: the engine dies at the first question."""

    def script(_: int) -> Generation:
        engine.dead = True
        raise EngineFailed("secret")

    return script


def in_flight(served: Served, replica: str) -> float:
    return served.metric(f'gpuqa_replica_questions_in_flight{{replica="{replica}"}}')


# ---------------------------------------------------------------------------------------------------------- the shares


@given(st.lists(st.integers(1, 2000), max_size=80), st.lists(st.integers(0, 5000), min_size=1, max_size=8))
def test_every_question_is_in_one_share_in_order_and_no_replica_has_more_than_one_question_too_many(
    works: list[int], loads: list[int]
) -> None:
    shares = shares_of(works, loads)
    assert sorted(place for share in shares for place in share) == list(range(len(works)))
    assert all(share == sorted(share) for share in shares)
    ends = [load + sum(works[place] for place in share) for load, share in zip(loads, shares, strict=True)]
    for end, share in zip(ends, shares, strict=True):
        assert not share or end - min(works[place] for place in share) <= min(ends)


def test_work_is_the_question_as_far_as_it_is_read_and_the_longest_answer() -> None:
    config = composed("sampling.max_tokens=100", "engine.args.max_model_len=1024")
    assert works_of(["", "四个字。", "长" * 5000], config) == [100, 104, 1024]


def test_a_batch_is_shared_out_by_work_and_its_answers_come_in_its_order() -> None:
    engines = two()
    for engine in engines.values():
        engine.prompts = []
    with ready(engines) as served:
        for engine in engines.values():
            engine.open.set()
        questions = [f"<{number}>" + "长" * (900 if number == 3 else number) for number in range(11)]
        status, body = served.predict(questions)
        assert status == 200
        assert [answer.count(f"<{number}>") for number, answer in enumerate(body["response"])] == [1] * 11
        assert sorted(engine.asked[0] for engine in engines.values()) == [1, 10], "the long question is as much as the others"


def test_single_questions_go_to_the_replica_with_the_least_work() -> None:
    engines = two()
    with ready(engines) as served, asking(served, "一") as first:
        until(lambda: in_flight(served, "a") == 1)
        with asking(served, "二") as second:
            until(lambda: in_flight(served, "b") == 1)
            assert [engine.asked for engine in engines.values()] == [[1], [1]]
            for engine in engines.values():
                engine.open.set()
            assert first[0].result() == (200, {"response": first[0].result()[1]["response"]})
            assert second[0].result()[0] == 200


def test_capacity_is_counted_over_all_replicas() -> None:
    engines = two()
    with ready(engines, max_waiting_questions=5) as served, asking(served, ["一", "二"], ["三", "四"]) as running:
        until(lambda: in_flight(served, "a") + in_flight(served, "b") == 4)
        status, headers, text = served.ask("POST", "/predict", json.dumps({"prompt": ["五", "六"]}).encode())
        assert (status, "4 of 5 questions in flight, 2 more requested" in text) == (429, True)
        assert int(headers["retry-after"]) >= 1
        for engine in engines.values():
            engine.open.set()
        assert [future.result()[0] for future in running] == [200, 200]


def test_at_the_deadline_every_replica_returns_what_it_has() -> None:
    engines = two()
    with ready(engines, deadline_s=0.5) as served:
        for engine in engines.values():
            engine.held = {1}
            engine.open.set()
        status, body = served.predict(["一", "二", "三", "四"])
        assert (status, [bool(answer) for answer in body["response"]].count(False)) == (200, 2)
        assert [engine.cancelled for engine in engines.values()] == [1, 1]


# ------------------------------------------------------------------------------------------------------- states, deaths


def test_it_is_ready_when_every_replica_is_warm_and_then_as_long_as_one_lives(caplog: pytest.LogCaptureFixture) -> None:
    engines = two()
    engines["a"].open.set()
    config = HttpConfig(restart_backoff_s=30.0, warmup_batch=1)
    with serving({name: scripted(engine) for name, engine in engines.items()}, config, ["Warm?"]) as served:
        until(lambda: served.metric('gpuqa_replica_ready{replica="a"}') == 1)
        assert served.status() == STARTING
        engines["b"].open.set()
        served.wait_for(READY)
        engines["a"].dead = True
        assert served.status() == READY
        shown = served.call("GET", "/info")[1]["here"]["replicas"]
        assert [(one["name"], one["state"]) for one in shown] == [("a", "restarting"), ("b", "ready")]
        assert served.predict(["一", "二"])[0] == 200
        until(lambda: any("replica a: the engine died" in record.getMessage() for record in caplog.records))
        engines["b"].dead = True
        assert served.call("GET", "/readyz") == (503, {"status": "restarting"})
        assert served.predict("一")[0] == 503
    [line] = [said for record in caplog.records if "replica a" in (said := record.getMessage()) and "OTHER PARTS" not in said]
    assert line == "replica a: the engine died; another engine is started in 30 s, attempt 1 of 5"


def test_questions_of_a_replica_that_died_are_asked_again_on_the_others_and_it_comes_back() -> None:
    engines = two()
    with ready(engines) as served:
        engines["a"].script = dying(engines["a"])
        for engine in engines.values():
            engine.open.set()
        status, body = served.predict(["一", "二", "三", "四"])
        assert (status, all(body["response"])) == (200, True)
        assert [name in answer for name, answer in zip("一二三四", body["response"], strict=True)] == [True] * 4
        assert served.metric("gpuqa_questions_asked_again_total") == 2
        assert served.metric('gpuqa_questions_total{outcome="lost"}') == 0
        engines["a"].script = None
        until(lambda: served.metric('gpuqa_replica_ready{replica="a"}') == 1)
        assert served.gave_up == []


def test_a_question_that_ends_every_engine_is_asked_three_times_at_most() -> None:
    engines = {name: ScriptedEngine() for name in "abcde"}
    with ready(engines, restart_backoff_s=30.0) as served:
        for engine in engines.values():
            engine.script = dying(engine)
            engine.open.set()
        status, body = served.predict("?")
        assert (status, "secret" in json.dumps(body)) == (503, False)
        assert sum(engine.dead for engine in engines.values()) == 3
        assert served.call("GET", "/readyz")[0] == 200


def test_a_question_whose_replica_dies_after_its_deadline_is_late_and_not_asked_again() -> None:
    engines = two()
    with ready(engines, deadline_s=0.3) as served:
        engines["a"].held = {0}
        engines["a"].open.set()
        assert served.predict("一") == (200, {"response": [""]})
        assert served.metric("gpuqa_questions_asked_again_total") == 0


def test_a_replica_that_does_not_come_back_is_given_up_alone_and_the_last_one_ends_the_service() -> None:
    engines = two()
    starts = {name: scripted(engine) for name, engine in engines.items()}
    started: list[str] = []

    def once(name: str) -> Callable[[], Any]:
        async def start() -> Pipeline:
            if name in started:
                raise EngineFailed("no memory")
            started.append(name)
            return await starts[name]()

        return start

    for engine in engines.values():
        engine.open.set()
    config = HttpConfig(restart_backoff_s=0.01, restart_attempts=2, warmup_batch=1)
    with serving({name: once(name) for name in engines}, config, ["Warm?"]) as served:
        served.wait_for(READY)
        engines["a"].dead = True
        until(lambda: served.metric('gpuqa_engine_starts_total{outcome="failed"}') == 2)
        assert (served.status(), served.gave_up) == (READY, [])
        engines["b"].dead = True
        until(lambda: bool(served.gave_up))
        assert served.call("GET", "/readyz") == (503, {"status": "failed"})


def test_a_replica_that_never_comes_up_ends_the_service_at_its_start() -> None:
    async def fails() -> Pipeline:
        raise EngineFailed("no memory")

    engine = ScriptedEngine()
    engine.open.set()
    with serving({"a": scripted(engine), "b": fails}) as served:
        until(lambda: bool(served.gave_up))
        assert "no memory" in served.gave_up[0]
        assert served.status()[0] == 503


def test_a_live_view_takes_the_mean_of_the_caches_and_a_first_start_of_each_replica_for_no_restart() -> None:
    lines = [
        'gpuqa_engine_starts_total{outcome="ready"} 3',
        'gpuqa_replica_ready{replica="a"} 1',
        'gpuqa_replica_ready{replica="b"} 1',
    ]
    lines += [
        f'vllm:kv_cache_usage_perc{{model_name="m",replica="{name}"}} {usage}' for name, usage in (("a", 0.5), ("b", 0.25))
    ]
    history = History()
    history.add(Scrape.of("\n".join([*lines, ""]), 0.0, 0.0))
    seen = snapshot("http://x", "ready", {}, history)
    assert (seen.kv_cache_usage, seen.restarts) == (0.375, 1)


# ------------------------------------------------------------------------------------------------------------- streams


def streamed(served: Served, question: str) -> tuple[list[str], str]:
    """The texts of the events of one chat, and its last event."""
    body = {"model": composed().model.name, "messages": [{"role": "user", "content": question}], "stream": True}
    events = served.ask("POST", "/v1/chat/completions", json.dumps(body).encode())[2].strip().split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events if not event.endswith("[DONE]")]
    return [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if "choices" in chunk], events[-1]


class Falls(ScriptedEngine):
    """Says a text, and dies after so many tokens of a stream where it is told to."""

    after: int | None = None

    def __init__(self, text: str) -> None:
        token_ids = load_tokenizer(composed().model).encode(text, add_special_tokens=False)
        super().__init__(lambda _: Generation(list(token_ids), "stop"))

    async def stream(self, prompt: list[int], sampling: Any, stop: Any) -> Any:
        async for delta in super().stream(prompt, sampling, stop):
            if self.after == 0:
                self.dead = True
                raise EngineFailed("secret")
            self.after = None if self.after is None else self.after - 1
            yield delta


@contextmanager
def streaming(first: str, second: str) -> Iterator[tuple[Served, Falls]]:
    """Two replicas that say these texts, and the one that is asked first."""
    engines = {"a": Falls(first), "b": Falls(second)}
    with ready(dict(engines), restart_backoff_s=30.0) as served:
        for engine in engines.values():
            engine.open.set()
        yield served, engines["a"]


def test_a_stream_whose_replica_dies_goes_on_from_another_one_where_it_stood() -> None:
    text = "warp 是 GPU 调度的基本单位，由 32 个 thread 组成。"
    with streaming(text, text) as (served, engine):
        engine.after = 6
        pieces, last = streamed(served, "一")
        assert ("".join(pieces), last) == (text, "data: [DONE]")
        assert served.metric("gpuqa_questions_asked_again_total") == 1


@pytest.mark.parametrize("other", ["block 是另一个词。", "w"])
def test_a_stream_that_another_replica_would_go_on_with_other_words_ends_with_an_error(other: str) -> None:
    with streaming("warp 是 GPU 调度的基本单位", other) as (served, engine):
        engine.after = 6
        pieces, last = streamed(served, "一")
        assert "".join(pieces).startswith("warp")
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "unavailable"


# -------------------------------------------------------------------------------------------------------------- places


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made up, because a test machine has none or others."""
    monkeypatch.setattr(hardware, "visible_gpu_models", lambda: dict.fromkeys("0123", "a card"))


@pytest.mark.usefixtures("four_gpus")
def test_replicas_get_a_set_of_gpus_each_as_large_as_the_engine_needs() -> None:
    one, pair = composed("engine=vllm"), composed("engine=vllm", "+engine.args.tensor_parallel_size=2")
    assert [place.env["CUDA_VISIBLE_DEVICES"] for place in places_of("auto", one)] == ["0", "1", "2", "3"]
    assert [place.name for place in places_of(2, one)] == ["GPU 0", "GPU 1"]
    assert [place.env["CUDA_VISIBLE_DEVICES"] for place in places_of("auto", pair)] == ["0,1", "2,3"]
    assert places_of(1, one) == []
    four = composed("engine=vllm", "+engine.args.tensor_parallel_size=4")
    assert places_of("auto", four) == [], "one set is one engine, in the server's own process"


def test_without_a_gpu_replicas_get_cores_and_auto_is_one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(hardware, "visible_gpu_models", dict)
    assert [place.cores for place in places_of(2, composed())] == [(0, 1), (2, 3)]
    assert places_of("auto", composed()) == []


BAD_INPUT = [
    ("0", "http.replicas: got 0, allowed is auto, or an integer of at least 1"),
    ("-1", "http.replicas: got -1, allowed is auto, or an integer of at least 1"),
    ("1.5", "http.replicas: got 1.5, allowed is auto, or an integer of at least 1"),
    ("true", "http.replicas: got True, allowed is auto, or an integer of at least 1"),
    ("all", "http.replicas: got 'all', allowed is auto, or an integer of at least 1"),
    ("null", "http.replicas: got None, allowed is auto, or an integer of at least 1"),
    ("[0,1]", "http.replicas: got [0, 1], allowed is auto, or an integer of at least 1"),
    ("7", "http.replicas: got 7, allowed is at most 2: without a GPU each takes cores of its own"),
]


@pytest.fixture(scope="module")
def winner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_winner(tmp_path_factory.mktemp("winner"), "engine=transformers")


@pytest.mark.parametrize(("replicas", "told"), BAD_INPUT, ids=[words for words, _ in BAD_INPUT])
def test_replicas_that_there_cannot_be_end_the_command_with_one_line_and_exit_code_2_before_an_engine_starts(
    replicas: str, told: str, winner: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The real command in this process; two cores are made up."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(hardware, "visible_gpu_models", dict)
    monkeypatch.setattr(sys, "argv", ["gpuqa.serve", f"frozen={winner}", "http.port=0", f"http.replicas={replicas}"])
    with pytest.raises(SystemExit) as ended:
        run_command(serve, "serve")
    said = capfd.readouterr()
    assert ended.value.code == 2
    assert told in said.err
    assert said.err.count("\n") == 1, said.err


@pytest.mark.usefixtures("four_gpus")
def test_more_replicas_than_sets_of_gpus_are_refused_with_the_gpus_that_there_are() -> None:
    pair = composed("engine=vllm", "+engine.args.tensor_parallel_size=2")
    told = "http.replicas: got 3, allowed is at most 2: this machine shows GPU 0, 1, 2, 3, and an engine takes 2"
    with pytest.raises(UserError) as refused:
        places_of(3, pair)
    assert str(refused.value) == told
