"""Plans at several places at once, each of which gets the longest that is left; without places one after the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Generic, TypeVar

from gpuqa.study.engine_session import EngineSession, Event, Steps, drive
from gpuqa.study.executors.leases import Leases
from gpuqa.study.executors.places import Place, PlaceNotThere

Plan = TypeVar("Plan", bound=Steps)
Handed = tuple[Plan, Event, asyncio.Future[None]]  # an event of a plan, and what tells that it was taken
Queue = asyncio.Queue[Handed[Plan] | PlaceNotThere | None]


async def run_plans(plans: Sequence[Plan], log: Path, places: Sequence[Place]) -> AsyncGenerator[tuple[Plan, Event]]:
    """The events of all plans: plan after plan in their order in this process, or at each place one at a time.

    Raises:
        PlaceNotThere: plans are left that have no place to run at; those at other places are broken off.
    """
    if not places:
        for plan in plans:
            async with aclosing(drive(plan, EngineSession(log))) as events:
                async for event in events:
                    yield plan, event
        return
    handed: Queue[Plan] = asyncio.Queue()
    leases = Leases(plans, len(places))
    at_work = [asyncio.create_task(Worker(number, place, log, handed).work(leases)) for number, place in enumerate(places)]
    try:
        for _ in at_work:
            while (message := await handed.get()) is not None:
                if isinstance(message, PlaceNotThere):
                    raise message
                plan, event, taken = message
                yield plan, event
                taken.set_result(None)
        await asyncio.gather(*at_work)
    finally:
        for task in at_work:
            task.cancel()
        await asyncio.gather(*at_work, return_exceptions=True)


class Worker(Generic[Plan]):
    """One place at work."""

    def __init__(self, number: int, place: Place, log: Path, handed: Queue[Plan]) -> None:
        """
        Args:
            log: of all places; each has a file of its own beside it meanwhile.
            handed: takes the events, each when the one before was taken, and None in the end.
        """
        self.number, self.place, self.log, self.handed = number, place, log, handed
        name = place.name.replace(" ", "_").replace(",", "")
        self.own = log.with_name(f"{log.stem}.{name}{log.suffix}")
        self.session = place.session(self.own)

    async def work(self, leases: Leases[Plan]) -> None:
        """Run plans until none is left."""
        try:
            while await self.is_open(leases) and (plan := leases.take(self.number)) is not None:
                async with aclosing(drive(plan, self.session)) as events:
                    async for event in events:
                        leases.learn(plan, event)
                        taken = asyncio.get_running_loop().create_future()
                        self.handed.put_nowait((plan, event, taken))
                        await taken
                if self.place.per_plan and plan.place is None:
                    await self.session.end()
        except PlaceNotThere as error:
            if leases.give_up(self.number):
                self.handed.put_nowait(error)
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(self.session.end())
            if self.own.exists():  # the reason of a failure is looked for in one file
                with self.log.open("ab") as whole:
                    whole.write(self.own.read_bytes())
                self.own.unlink()
            self.handed.put_nowait(None)

    async def is_open(self, leases: Leases[Plan]) -> bool:
        """Have the place; no longer needed where others have taken all plans meanwhile.

        Raises:
            PlaceNotThere: it cannot be had.
        """
        if not leases.fitting(self.number):
            return False
        tasks = [asyncio.create_task(self.session.open()), asyncio.create_task(leases.none_left(self.number))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done() and not tasks[1].done():
                tasks[0].result()
                return True
            return False
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
