"""The engines that a front of Ray Serve has: replicas of another deployment, on any host, which come and go.

How a batch is split, which replica a question goes to and what becomes of the questions of one that is lost is
`gpuqa.serving.replicas`, as on one host. Here is the way to them: calls that name their replica (`ray_routing.AskedReplica`).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from gpuqa.config.pipeline import PipelineConfig
from gpuqa.engines import EngineFailed
from gpuqa.pipeline.pipeline import completion_of
from gpuqa.records import Completion, CompletionDelta, EncodedPrompt, Override
from gpuqa.serving.life import Winner
from gpuqa.serving.replica import EXPIRY_S, LATE
from gpuqa.serving.replica_process import Vitals
from gpuqa.serving.service import Service

LOOK_EVERY_S = 0.5  # between two looks at who is there
ANSWER_S = 10.0  # a look that takes longer says nothing
log = logging.getLogger("gpuqa.serve")


@dataclass(frozen=True, slots=True)
class Member:
    """What a replica says of itself."""

    name: str  # its host and its id, for people
    id: str  # Ray's
    vitals: Vitals
    warmed_up: int  # questions that it has answered before it was there


class Call:
    """Calls of a replica's methods."""

    def __init__(self, handle: Any, id_: str) -> None:
        self.handle, self.id = handle, id_

    def begin(self, method: str, *values: Any, stream: bool = False) -> Any:
        """Ray's response, which can be awaited, or iterated where it streams.

        In a context of its own: Ray takes all calls that an HTTP request makes for one where its router looks for replicas.
        """
        handle = self.handle.options(method_name=method, stream=stream)
        return Context().run(handle.remote, self.id, *values)


class FleetReplica:
    """A pipeline in a replica of Ray Serve, with what a service calls of `gpuqa.pipeline.pipeline.Pipeline`."""

    def __init__(self, config: PipelineConfig, handle: Any, member: Member) -> None:
        self.config, self.member = config, member
        self._call = Call(handle, member.id)

    async def warm_up(self, questions: Sequence[str], batch: int | None) -> int:  # noqa: ARG002
        """How many it has answered: it was warm before it was there."""
        return self.member.warmed_up

    async def answer_in_time(self, questions: Sequence[str], clock: asyncio.Timeout) -> list[Completion]:
        """As `Replica.answer_in_time`."""
        number = uuid.uuid4().hex  # there may be other fronts
        response = self._call.begin("answer", number, list(questions))
        answering = asyncio.ensure_future(await_response(response))
        with ray_failures():
            try:
                async with clock:
                    return await asyncio.shield(answering)
            except TimeoutError:
                self._call.begin("expire", number)
                with suppress(TimeoutError):
                    return await asyncio.wait_for(asyncio.shield(answering), EXPIRY_S)
            finally:
                if not answering.done():
                    answering.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody waits for it
                    response.cancel()
        return [completion_of(EncodedPrompt([], False), LATE, "")] * len(questions)

    async def stream(self, question: str) -> AsyncGenerator[CompletionDelta]:
        """As `Pipeline.stream`."""
        response = self._call.begin("stream", question, stream=True)
        with ray_failures():
            try:
                async for delta in response:
                    yield delta
                    if delta.completion is not None:
                        return
            finally:
                response.cancel()

    def alive(self) -> bool:
        """Whether it could answer now."""
        return self.member.vitals.alive

    def overrides(self) -> list[Override]:
        """Those of its engine."""
        return self.member.vitals.overrides

    def numbers(self) -> dict[str, float]:
        """Those of its engine, at most a moment old."""
        return self.member.vitals.numbers

    async def close(self) -> None:
        """Nothing: Ray ends it."""


@contextmanager
def ray_failures() -> Iterator[None]:
    """What Ray raises where a replica is lost is an engine that died; what a replica raises by mistake is no such thing."""
    from ray.exceptions import RayError, RayTaskError
    from ray.serve.exceptions import RayServeException

    try:
        yield
    except (RayError, RayServeException) as error:
        if isinstance(error, RayTaskError) and not isinstance(error, EngineFailed):
            raise RuntimeError(f"a replica failed with {error.cause!r}") from error
        raise EngineFailed(f"the replica is lost ({type(error).__name__})") from error


async def await_response(response: Any) -> Any:
    """Ray's responses are no coroutines, which a task needs."""
    return await response


class Fleet:
    """The replicas that there are, kept in a service."""

    def __init__(self, service: Service, config: PipelineConfig, handle: Any) -> None:
        """`handle`: of the engines' deployment."""
        self.service, self.config, self.handle = service, config, handle
        self.replicas: dict[str, FleetReplica] = {}  # by name, as long as the service asks them

    async def follow(self) -> None:
        """Look who is there, for ever. A look that fails leaves everything as it was."""
        while True:
            try:
                await self.take(await self.members())
            except Exception as error:  # whatever Ray raises while its controller starts anew: the next look may be better
                log.warning("cannot see which replicas there are: %s: %s", type(error).__name__, error)
            await asyncio.sleep(LOOK_EVERY_S if self.replicas else LOOK_EVERY_S / 5)

    async def members(self) -> list[Member]:
        """Those that answer; none where the deployment has none."""
        from ray.serve.exceptions import DeploymentUnavailableError

        response = Context().run(self.handle.broadcast, "member")
        try:
            said = await response.results_async(timeout_s=ANSWER_S, return_exceptions=True)
        except DeploymentUnavailableError:
            return []
        return [member for member in said if isinstance(member, Member)]

    async def take(self, members: Sequence[Member]) -> None:
        """Have these, and no others."""
        service, there = self.service, {member.name: member for member in members if member.vitals.alive}
        asked = {life.name for life in service.replicas.lives}
        for name in asked - there.keys():
            service.leave(name)
        self.replicas = {name: each for name, each in self.replicas.items() if name in asked & there.keys()}
        for name, member in there.items():
            if name in self.replicas:
                self.replicas[name].member = member
                continue
            if not service.winner.facts:
                await self.introduce(member)
            self.replicas[name] = there_is = FleetReplica(self.config, self.handle, member)
            service.join(name, starter(there_is))

    async def introduce(self, member: Member) -> None:
        """Show what is served, and on which machine, as the first one says it."""
        winner: Winner = await await_response(Call(self.handle, member.id).begin("introduce"))
        self.service.winner = winner
        self.service.telemetry.introduce(winner.labels)


def starter(replica: FleetReplica) -> Any:
    """It was started by Ray."""

    async def start() -> FleetReplica:
        return replica

    return start
