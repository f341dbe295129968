"""Engines of this machine: one after the other in this process, or side by side, each in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Generic, TypeVar

from gpuqa.machine.places import Place
from gpuqa.study.engine_session import EngineSession, Event, Steps, drive
from gpuqa.study.executors.leases import Leases
from gpuqa.study.executors.worker import WorkerSession

Plan = TypeVar("Plan", bound=Steps)
Handed = tuple[Plan, Event, asyncio.Future[None]]  # an event of a plan, and what tells that it was taken


async def run_local(plans: Sequence[Plan], log: Path, places: Sequence[Place]) -> AsyncGenerator[tuple[Plan, Event]]:
    """The events of all plans: plan after plan in their order, or at each place one at a time."""
    if not places:
        for plan in plans:
            async with aclosing(drive(plan, EngineSession(log))) as events:
                async for event in events:
                    yield plan, event
        return
    handed: asyncio.Queue[Handed[Plan] | None] = asyncio.Queue()
    leases = Leases(plans)
    at_work = [asyncio.create_task(Worker(number, place, log, handed).work(leases)) for number, place in enumerate(places)]
    try:
        for _ in at_work:
            while (next_event := await handed.get()) is not None:
                plan, event, taken = next_event
                yield plan, event
                taken.set_result(None)
        await asyncio.gather(*at_work)
    finally:
        for task in at_work:
            task.cancel()
        await asyncio.gather(*at_work, return_exceptions=True)


class Worker(Generic[Plan]):
    """One place at work."""

    def __init__(self, number: int, place: Place, log: Path, handed: asyncio.Queue[Handed[Plan] | None]) -> None:
        """
        Args:
            log: of all places; each has a file of its own beside it meanwhile.
            handed: takes the events, each when the one before was taken, and None in the end.
        """
        self.number, self.log, self.handed = number, log, handed
        name = place.name.replace(" ", "_").replace(",", "")
        self.own = log.with_name(f"{log.stem}.{name}{log.suffix}")
        self.session = WorkerSession(place, self.own)

    async def work(self, leases: Leases[Plan]) -> None:
        """Run plans until none is left."""
        try:
            while (plan := leases.take(self.number)) is not None:
                async with aclosing(drive(plan, self.session)) as events:
                    async for event in events:
                        leases.learn(plan, event)
                        taken = asyncio.get_running_loop().create_future()
                        self.handed.put_nowait((plan, event, taken))
                        await taken
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(self.session.end())
            if self.own.exists():  # the reason of a failure is looked for in one file
                with self.log.open("ab") as whole:
                    whole.write(self.own.read_bytes())
                self.own.unlink()
            self.handed.put_nowait(None)
