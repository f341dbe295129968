"""Engines in actors of Ray, on a cluster that runs already or on one of this machine that lasts as long as the study.

An actor gets the GPUs of one engine and keeps them for all plans of its place. One that dies, or whose node does, is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from gpuqa.config import check, one_line
from gpuqa.config.executor import ExecutorConfig
from gpuqa.measure import fingerprint
from gpuqa.selection.wording import counted
from gpuqa.study.engine_session import CellFailed, Event, StartFailed, Step
from gpuqa.study.executors.outpost import Hello, Outpost, differences, refuse_other_overrides, with_overrides
from gpuqa.study.executors.places import PlaceNotThere, RemotePlace, Wanted
from gpuqa.study.executors.ray_cluster import joined

THREADS = "OMP_NUM_THREADS"  # Ray sets it in its actors
END_S = 10.0  # until an actor that is to end is killed
CLOSE_S = 90.0  # until an engine that is being closed has ended


class RemoteOutpost(Outpost):
    """An outpost in an actor."""

    def __init__(self, folder: str, log: str, threads: str | None) -> None:
        """`threads`: OMP_NUM_THREADS of the study's process, which engines get as on its own machine."""
        os.environ.pop(THREADS, None)
        if threads is not None:
            os.environ[THREADS] = threads
        super().__init__(folder, log)


@contextlib.contextmanager
def ray_places(wanted: Wanted) -> Iterator[list[RemotePlace]]:
    """The places of a study in actors. The first is there on entry, and what it runs in is what this machine has.

    Raises:
        UserError: Ray is not installed, or the cluster refuses, or has fewer GPUs or processors than are asked for.
        PlaceNotThere: no actor starts in time, or its machine is set up otherwise.
    """
    with joined(wanted.config, wanted.say) as ray:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        count = places_on(nodes, wanted)
        actors = Actors(ray, wanted.config, resources(nodes, wanted))
        first = ActorSession(actors, wanted.configs[0].study.folder / "engine.actor_1.log")
        hello = asyncio.run(first.looked_at(wanted))
        here, start = (hello.part.is_a_device, hello.environment), partial(ActorSession, actors)
        places = [RemotePlace(f"actor {number + 1}", *here, start, per_plan=False) for number in range(count)]
        places[0].opened.append(first)
        yield places


def resources(nodes: list[dict[str, float]], wanted: Wanted) -> dict[str, float]:
    """What an actor asks Ray for: the GPUs of an engine, or its share of the processors where there are no GPUs."""
    if gpus := gpus_on(nodes, wanted):
        return {"num_gpus": gpus, "num_cpus": 1}
    cpus = sum(node.get("CPU", 0) for node in nodes)
    return {"num_gpus": 0, "num_cpus": max(1, int(cpus // (wanted.config.workers or 1)))}


def gpus_on(nodes: list[dict[str, float]], wanted: Wanted) -> int:
    """How many GPUs an engine takes on these nodes."""
    return wanted.gpus if any(node.get("GPU", 0) for node in nodes) else 0


def places_on(nodes: list[dict[str, float]], wanted: Wanted) -> int:
    """How many actors run at once: as many as are asked for, or as find GPUs.

    Raises:
        UserError: there are not so many.
    """
    asked, gpus = wanted.config.workers, gpus_on(nodes, wanted)
    what, size = ("GPU", gpus) if gpus else ("CPU", 1)
    fit = int(sum(node.get(what, 0) // size for node in nodes))
    of_each = f"{counted(len(nodes), 'node')} with {', '.join(f'{node.get(what, 0):g}' for node in nodes)} {what}s"
    check(fit > 0, "executor", "ray", f"for a cluster that has an engine's {size} GPUs on one node; this one has {of_each}")
    check(asked is None or asked <= fit, "executor.workers", asked, f"at most {fit}: the cluster has {of_each}")
    return asked or (fit if gpus else 1)


@dataclass(frozen=True)
class Actors:
    """How a study has its actors."""

    ray: Any  # the module
    config: ExecutorConfig
    resources: Mapping[str, float]
    environment: Mapping[str, Any] = field(default_factory=fingerprint.environment)  # of this machine

    def start(self, log: Path) -> Any:
        """A new actor, which waits until its resources are free."""
        remote = self.ray.remote(RemoteOutpost).options(max_restarts=0, **self.resources)
        return remote.remote(os.getcwd(), str(log.absolute()), os.environ.get(THREADS))


class ActorSession:
    """The study's end of an actor; see `PlaceSession`."""

    def __init__(self, actors: Actors, log: Path) -> None:
        self.actors, self.log = actors, log
        self.actor: Any = None
        self.hello: Hello | None = None
        self.busy = False

    async def open(self) -> None:
        """Have an actor that answers."""
        if self.hello is not None:
            return
        self.actor, limit = self.actors.start(self.log), self.actors.config.start_timeout_s or 0
        try:
            hello: Hello = await within(limit, self.actor.hello.remote())
        except TimeoutError:
            await self.end()
            busy = "its GPUs or processors may be taken: look at `ray status`, then run the same command again"
            raise PlaceNotThere(f"executor.start_timeout_s={limit:g}: no actor started in that time; {busy}") from None
        except self.actors.ray.exceptions.RayError as error:
            await self.end()
            raise PlaceNotThere(f"executor=ray: the actor does not start: {cause_of(error)}") from None
        if other := differences(self.actors.environment, hello.environment):
            await self.end()
            raise PlaceNotThere(f"executor=ray: {hello.host} has another installation than this machine: {other}")
        self.hello = hello

    async def looked_at(self, wanted: Wanted) -> Hello:
        """Have an actor that is set up as this machine; what it says of its own."""
        await self.open()
        assert self.hello is not None, "it is open"
        configs = with_overrides(wanted.configs)
        refuse_other_overrides(configs, await self.actor.switched_off.remote(configs))
        return self.hello

    async def measure(self, step: Step) -> AsyncGenerator[Event]:
        """As `EngineSession.measure`; an actor that is lost is an engine that died."""
        key = step.request.cell.key
        try:
            await self.open()
        except PlaceNotThere as error:
            yield StartFailed(key, str(error))
            return
        self.busy = True
        try:
            async for event in self.actor.measure.options(num_returns="streaming").remote(step):
                yield await event
        except self.actors.ray.exceptions.RayActorError as error:
            host = self.hello.host if self.hello else "a node"
            await self.end()
            yield CellFailed(key, f"the engine process died: its actor on {host} is gone: {cause_of(error)}")
        self.busy = False

    async def close(self) -> None:
        """Release the engine; the actor stays for the next one, unless it was interrupted."""
        if self.hello is None:
            return
        if self.busy:
            await self.end()
            return
        try:
            await within(CLOSE_S, self.actor.close.remote())
        except (self.actors.ray.exceptions.RayError, TimeoutError):
            await self.end()

    async def end(self) -> None:
        """End the actor, so that its GPUs are free on return."""
        actor, self.actor, self.hello, self.busy = self.actor, None, None, False
        if actor is not None:
            with contextlib.suppress(self.actors.ray.exceptions.RayError, TimeoutError):
                await within(END_S, actor.end.remote())
            self.actors.ray.kill(actor)


async def within(seconds: float, reference: Any) -> Any:
    """What an actor answers.

    Raises:
        TimeoutError: it has not answered by then.
        RayError: it is gone, or its method failed.
    """
    return await asyncio.wait_for(asyncio.wrap_future(reference.future()), seconds)


def cause_of(error: Exception) -> str:
    """What Ray says of an actor, in a line: its last one is the reason where a method failed."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return one_line(lines[-1] if "Traceback" in str(error) else lines[0])[:300]
