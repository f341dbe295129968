"""The replicas of Ray Serve as a front sees them: who is there, deadlines, and clients that leave.

Ray is a fake, which calls the engines' deployment in this process, because a cluster takes a minute and its replicas neither
wait nor vanish on demand. test_ray_app_served.py has a real one.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from stand_in_service import ScriptedEngine, composed, scripted

from gpuqa.config.http import HttpConfig
from gpuqa.engines import EngineFailed
from gpuqa.ray_app import Engine
from gpuqa.records import Generation
from gpuqa.serving.fleet import Fleet, Member
from gpuqa.serving.life import EngineLife, State, Winner
from gpuqa.serving.replica_process import Vitals
from gpuqa.serving.service import NotReady, Service, has_started
from gpuqa.serving.telemetry import Telemetry

pytestmark = pytest.mark.skipif(importlib.util.find_spec("grpc_reflection") is None, reason="ray[serve] is not installed")
PATIENCE_S = 20.0


class Response:
    """As Ray's."""

    def __init__(self, doing: Any) -> None:
        self.doing = doing
        self.task = asyncio.ensure_future(doing) if isinstance(doing, Coroutine) else None

    def __await__(self) -> Iterator[Any]:
        assert self.task is not None
        return self.task.__await__()

    def __aiter__(self) -> Any:
        return self.doing

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()


class Handle:
    """As Ray's, of the deployment of engines that are in `engines`, by their ids."""

    def __init__(self, engines: dict[str, Any], method: str = "") -> None:
        self.engines, self.method = engines, method

    def options(self, method_name: str, stream: bool) -> Handle:
        return Handle(self.engines, method_name)

    def remote(self, id_: str, *values: Any) -> Response:
        return Response(getattr(self.engines[id_], self.method)(id_, *values))

    def broadcast(self, method: str) -> Any:
        from ray.serve.exceptions import DeploymentUnavailableError

        async def said(**_: Any) -> list[Any]:
            if not self.engines:
                raise DeploymentUnavailableError("none")
            return await asyncio.gather(*(getattr(each, method)() for each in self.engines.values()))

        return SimpleNamespace(results_async=said)


class Deployed(Engine):
    """Python calls a `__del__` that Ray awaits."""

    def __del__(self) -> None:
        """Nothing; the tests await the other one."""


async def deployed(name: str, engine: ScriptedEngine) -> Any:
    """The real deployment's object as Ray would have started it, with a scripted engine."""
    each = object.__new__(Deployed)
    each.id, each.clocks, each.winner = (
        name,
        {},
        Winner({"": scripted(engine)}, ["Warm?"], facts={"a": "fact"}, labels={"x": "y"}),
    )
    each.life = EngineLife("", each.winner, HttpConfig(warmup_batch=1, restart_engine=False), Telemetry(CollectorRegistry()))
    engine.open.set()
    each.living = asyncio.create_task(each.life.live())
    assert await has_started(each.life)
    engine.open.clear()
    engine.asked.clear()
    return each


@asynccontextmanager
async def fleet(**engines: ScriptedEngine) -> AsyncIterator[tuple[Service, Fleet, dict[str, Any]]]:
    """A service whose replicas these are, as it sees them at its first look."""
    there = {name: await deployed(name, engine) for name, engine in engines.items()}
    service = Service(Winner({}, ()), HttpConfig(), Telemetry(CollectorRegistry()), lambda _: None)
    kept = Fleet(service, composed(), Handle(there))
    lives = list(there.values())
    async with service.running():
        assert service.look() is State.starting
        await kept.take(await kept.members())
        await until(lambda: service.look() is State.ready)
        yield service, kept, there
    for each in lives:
        await Engine.__del__(each)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.01)


def names(service: Service) -> list[str]:
    return [each["name"].rpartition(" ")[2] for each in service.each()]


def test_replicas_come_and_go_and_one_that_leaves_finishes_what_it_has() -> None:
    async def scenario() -> None:
        engines = {"a": ScriptedEngine(), "b": ScriptedEngine()}
        async with fleet(**engines) as (service, kept, there):
            assert names(service) == ["a", "b"]
            assert service.winner.facts == {"a": "fact"}
            batch = asyncio.create_task(service.answer(["一", "二", "三", "四"]))
            await until(lambda: [engine.asked for engine in engines.values()] == [[2], [2]])
            kept.handle.engines = {"a": there["a"]}
            await kept.take(await kept.members())
            assert names(service) == ["a"]
            assert generate_latest(service.telemetry.registry).decode().count("gpuqa_replica_ready{") == 1
            for engine in engines.values():
                engine.open.set()
            assert [answer.finish_reason for answer in await batch] == ["stop"] * 4
            kept.handle.engines = {}
            await kept.take(await kept.members())
            assert service.look() is State.restarting
            with pytest.raises(NotReady):
                await service.answer(["五"])
            kept.handle.engines = there
            await kept.take(await kept.members())
            await until(lambda: service.look() is State.ready)
            assert len(await service.answer(["六"])) == 1

    asyncio.run(scenario())


def test_an_engine_that_dies_is_asked_nothing_more_and_its_questions_go_to_another_one() -> None:
    async def scenario() -> None:
        engines = {"a": ScriptedEngine(), "b": ScriptedEngine()}

        def dies(_: int) -> Generation:
            engines["a"].dead = True
            raise EngineFailed("secret")

        async with fleet(**engines) as (service, kept, there):
            engines["a"].script = dies
            for engine in engines.values():
                engine.open.set()
            assert [answer.finish_reason for answer in await service.answer(["一", "二"])] == ["stop"] * 2
            assert names(service) == ["b"]
            with pytest.raises(EngineFailed):
                there["a"].check_health()
            there["b"].check_health()
            await kept.take(await kept.members())
            assert names(service) == ["b"], "it says itself that it does not answer"

    asyncio.run(scenario())


def test_at_the_deadline_the_answers_that_are_done_are_returned_and_the_engine_is_freed() -> None:
    async def scenario() -> None:
        engine = ScriptedEngine()
        async with fleet(a=engine) as (service, _, there):
            engine.open.set()
            engine.held = {1}
            answers = await service.answer(["一", "二"], deadline_s=0.3)
            assert [answer.finish_reason for answer in answers] == ["stop", "late"]
            assert there["a"].clocks == {}
            assert engine.cancelled == 1

    asyncio.run(scenario())


def test_what_a_client_that_leaves_had_asked_leaves_the_engine() -> None:
    async def scenario() -> None:
        engine = ScriptedEngine()
        async with fleet(a=engine) as (service, _, there):
            asking = asyncio.create_task(service.answer(["一", "二"]))
            await until(lambda: there["a"].record_autoscaling_stats() == {"questions": 2.0})
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
            await until(lambda: there["a"].record_autoscaling_stats() == {"questions": 0.0})
            assert engine.cancelled == 1

    asyncio.run(scenario())


def test_a_look_that_ray_does_not_answer_leaves_everything_as_it_was() -> None:
    async def scenario() -> None:
        engine = ScriptedEngine()
        async with fleet(a=engine) as (service, kept, there):
            there["a"].member = lambda: asyncio.sleep(0, 1 / 0)
            following = asyncio.create_task(kept.follow())
            await asyncio.sleep(0.05)
            assert (names(service), following.done()) == (["a"], False)
            following.cancel()
            [name] = kept.replicas
            await kept.take([Member(name, "a", Vitals(alive=True, numbers={"n": 2.0}), 1)])
            assert kept.replicas[name].numbers() == {"n": 2.0}

    asyncio.run(scenario())
