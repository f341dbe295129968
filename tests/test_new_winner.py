"""Another winner takes the place of the one that is served, and no request is lost.

By a real server and its frozen file, and by stand-ins that do not start when told so.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
import yaml
from conftest import PATIENCE_S, ready_service
from made_winner import made_winner
from stand_in_service import STARTING, ScriptedEngine, Served, composed, scripted, serving, until

from gpuqa.config import UserError
from gpuqa.config.http import HttpConfig
from gpuqa.config.paths import PACKAGE
from gpuqa.engines import EngineFailed
from gpuqa.machine import hardware
from gpuqa.machine.places import sets_of_cores
from gpuqa.pipeline.pipeline import Pipeline
from gpuqa.serve import refuse_other_places
from gpuqa.serving.life import State, Winner
from gpuqa.serving.room import has_room_beside

READY = (200, {"status": "batch"})


# ---------------------------------------------------------------------------------------------------------- stand-ins


class Asking:
    """Clients that ask until the block ends; what they were answered."""

    def __init__(self, served: Served, clients: int = 3) -> None:
        self.ended, self.served, self.replies = threading.Event(), served, list[Any]()
        self.threads = [threading.Thread(target=self.ask, args=(number,)) for number in range(clients)]

    def ask(self, number: int) -> None:
        while not self.ended.is_set():
            self.replies.append(self.served.predict([f"{number}", "一"] if number else "二"))
            self.ended.wait(0.05)

    def __enter__(self) -> Asking:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join(PATIENCE_S)

    @property
    def statuses(self) -> set[int]:
        return {status for status, _ in self.replies}


async def no_engine() -> Pipeline:
    raise EngineFailed("no memory")


def open_engine() -> ScriptedEngine:
    engine = ScriptedEngine()
    engine.open.set()
    return engine


@contextmanager
def old_winner(*names: str) -> Iterator[tuple[Served, list[ScriptedEngine]]]:
    """A served winner with a stand-in for each replica."""
    engines = [open_engine() for _ in names]
    starts = {name: scripted(engine) for name, engine in zip(names, engines, strict=True)}
    with serving(starts, HttpConfig(warmup_batch=1), ["Warm?"]) as served:
        served.wait_for(READY)
        yield served, engines


def swap(served: Served, engine: ScriptedEngine, starts: dict[str, Any], beside: bool = False) -> Future[None]:
    """Begin to serve another winner, in the server's own thread, which is that of a running `engine`."""
    assert served.service is not None
    assert engine.loop is not None
    winner = Winner(starts, ["Warm?"], (), {"a": "new fact"}, {"frozen_digest": "n" * 64})
    return asyncio.run_coroutine_threadsafe(served.service.swap(winner, beside), engine.loop)


def fact(served: Served) -> str:
    return str(served.call("GET", "/info")[1]["a"])


def test_replicas_are_swapped_one_by_one_under_load_without_a_lost_answer() -> None:
    new = {name: open_engine() for name in ("a", "b")}
    with old_winner("a", "b") as (served, old), Asking(served) as asking:
        swap(served, old[0], {name: scripted(engine) for name, engine in new.items()}).result(PATIENCE_S)
        assert fact(served) == "new fact"
        assert served.metric(f'gpuqa_build_info{{frozen_digest="{"n" * 64}"}}') == 1
        count = len(asking.replies)
        until(lambda: len(asking.replies) > count + 3)
    assert asking.statuses == {200}
    assert [engine.closed for engine in old] == [1, 1]
    assert all(engine.asked for engine in new.values())
    assert served.gave_up == []


def test_a_replica_is_not_stopped_while_the_others_are_being_started_again() -> None:
    new = {name: open_engine() for name in ("a", "b")}
    with old_winner("a", "b") as (served, old), Asking(served, 1) as asking:
        old[1].dead = True  # it comes back in a second
        swap(served, old[0], {name: scripted(engine) for name, engine in new.items()}).result(PATIENCE_S)
        assert old[1].starts == 2
    assert asking.statuses == {200}


def test_where_two_engines_fit_the_new_one_starts_while_the_old_one_answers() -> None:
    new = ScriptedEngine()
    with old_winner("") as (served, [old]), Asking(served) as asking:
        swapping = swap(served, old, {"": scripted(new)}, beside=True)
        until(lambda: new.asked == [1])  # its warm-up
        assert (served.status(), fact(served), old.closed) == (READY, "fact", 0)
        new.open.set()
        swapping.result(PATIENCE_S)
        assert (fact(served), old.closed) == ("new fact", 1)
    assert asking.statuses == {200}


def test_where_they_do_not_fit_running_questions_finish_and_others_are_told_to_come_back() -> None:
    new = ScriptedEngine()
    with old_winner("") as (served, [old]):
        old.open.clear()
        asking = Asking(served, clients=1)
        asking.ended.set()
        running = threading.Thread(target=lambda: asking.replies.append(served.predict("三")))
        running.start()
        until(lambda: old.asked[-1:] == [1] and served.metric("gpuqa_questions_in_flight") == 1)
        swapping = swap(served, old, {"": scripted(new)})
        until(lambda: served.status() == (503, {"status": "swapping"}))
        status, headers, text = served.ask("POST", "/predict", b'{"prompt": "?"}')
        assert (status, "another winner is being loaded" in text, headers["retry-after"]) == (503, True, "5")
        assert (old.closed, new.starts) == (0, 0), "the old one still answers what it had"
        old.open.set()
        running.join(PATIENCE_S)
        assert asking.statuses == {200}
        until(lambda: new.starts == 1)
        assert (old.closed, served.status()) == (1, (503, {"status": "swapping"}))
        new.open.set()
        swapping.result(PATIENCE_S)
        assert (served.predict("?")[0], fact(served)) == (200, "new fact")


@pytest.mark.parametrize(("names", "beside", "always"), [(("",), False, False), (("",), True, True), (("a", "b"), False, True)])
def test_a_winner_that_does_not_start_leaves_the_one_before_served(names: Sequence[str], beside: bool, always: bool) -> None:
    def starts() -> dict[str, Callable[[], Awaitable[Pipeline]]]:
        return {name: scripted(open_engine()) if place < len(names) - 1 else no_engine for place, name in enumerate(names)}

    with old_winner(*names) as (served, old), Asking(served) as asking:
        swap(served, old[0], starts(), beside).result(PATIENCE_S)
        assert (served.status(), fact(served), served.gave_up) == (READY, "fact", [])
        assert served.metric('gpuqa_winner_swaps_total{outcome="failed"}') == 1
        count = len(asking.replies)
        until(lambda: len(asking.replies) > count + 3)
        assert asking.replies[-1][0] == 200
    assert asking.statuses == {200} or not always


def test_where_neither_of_the_two_starts_the_service_ends() -> None:
    engine = open_engine()
    started: list[int] = []

    async def once() -> Pipeline:
        started.append(1)
        return await (scripted(engine)() if len(started) == 1 else no_engine())

    with serving({"": once}, HttpConfig(warmup_batch=1), ["Warm?"]) as served:
        served.wait_for(READY)
        swap(served, engine, {"": no_engine}).result(PATIENCE_S)
        assert served.gave_up == ["neither the new winner nor the one before could be started"]
        assert served.status() == (503, {"status": "failed"})
        assert served.status() != STARTING


def test_the_page_has_a_word_for_every_state_in_both_languages() -> None:
    page = (PACKAGE / "serving" / "page.html").read_text(encoding="utf-8")
    assert {state.name: len(re.findall(rf"[ {{]{state.name}: \"", page)) for state in State} == {
        state.name: 2 for state in State
    }


# ------------------------------------------------------------------------------------------------------ room and places


@pytest.mark.parametrize(("used", "share", "room"), [(30, 0.2, True), (30, 0.9, False), (60, 0.2, False)])
def test_a_gpu_has_room_for_a_second_engine_where_as_much_is_free_as_is_used_and_the_share_that_it_takes(
    used: int, share: float, room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cards are made up, because a test machine has none."""
    rows = [f"0, GPU-a, {used}, 100", "1, GPU-b, 99, 100"]
    monkeypatch.setattr(hardware, "visible_gpu_models", lambda: {"0": "a card", "1": "a card"})
    monkeypatch.setattr(hardware, "nvidia_smi", lambda _: rows)
    pipeline = composed("engine=vllm", f"engine.args.gpu_memory_utilization={share}")
    assert has_room_beside(pipeline) is room


def test_without_a_gpu_the_machines_memory_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "visible_gpu_models", dict)
    held = psutil.Process().memory_info().rss
    for available, room in ((100 * held, True), (held // 2, False)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda available=available: SimpleNamespace(available=available))
        assert has_room_beside(composed()) is room


def test_a_winner_that_needs_other_places_is_refused_with_both() -> None:
    with pytest.raises(UserError, match=r"another winner would need other places \(one engine instead of cores 0"):
        refuse_other_places(sets_of_cores(1), [])


# --------------------------------------------------------------------------------------------------- the real command


@pytest.mark.engine
@pytest.mark.slow
def test_a_running_server_takes_another_winner_from_its_file_without_a_lost_request(tmp_path: Path) -> None:
    """At SIGHUP and by itself; a wrong file is named in one line, and the winner before stays."""
    first, second = (
        made_winner(folder_of(tmp_path, name), "engine=transformers", "sampling.max_tokens=8", f"prompt={name}")
        for name in PROMPTS
    )
    file = tmp_path / "frozen.yaml"
    shutil.copy(first, file)
    words = ("http.watch_frozen=true", "http.logs=text")
    with ready_service(file, *words, cwd=tmp_path) as service, Asking(Served(int(service.url.rpartition(":")[2]))) as asking:
        content = yaml.safe_load(second.read_text(encoding="utf-8"))
        wrong = {**content, "pipeline": {**content["pipeline"], "sampling": {**content["pipeline"]["sampling"], "seed": 99}}}
        replace_by(file, yaml.safe_dump(wrong, allow_unicode=True))
        until(lambda: "the winner stays as it was" in service.log)
        [line] = [line for line in service.log.splitlines() if "the winner stays as it was" in line]
        assert "digest of the file itself differs" in line
        assert served_digest(service) == digest_of(first)
        replace_by(file, second.read_text(encoding="utf-8"))
        until(lambda: served_digest(service) == digest_of(second))
        assert "its engine starts while the one before answers" in service.log
        service.process.send_signal(signal.SIGHUP)
        until(lambda: "holds the winner that is served" in service.log)
        count = len(asking.replies)
        until(lambda: len(asking.replies) > count + 3)
    assert asking.statuses == {200}
    assert all(all(body["response"]) for _, body in asking.replies)
    assert "Traceback" not in service.log


PROMPTS = ("bare", "structured")


def folder_of(root: Path, name: str) -> Path:
    folder = root / name
    folder.mkdir()
    return folder


def replace_by(file: Path, text: str) -> None:
    """Another file in its place at once, as `gpuqa.freeze` writes it."""
    other = file.with_suffix(".new")
    other.write_text(text, encoding="utf-8")
    other.rename(file)


def digest_of(file: Path) -> str:
    return str(yaml.safe_load(file.read_text(encoding="utf-8"))["digest"])


def served_digest(service: Any) -> str:
    return str(httpx.get(f"{service.url}/info", timeout=60, trust_env=False).json()["frozen"]["digest"])
