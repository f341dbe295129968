"""Engines of this machine: one after the other in this process, or side by side, each in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

from gpuqa.study.engine_session import EngineSession, Event, Steps, drive
from gpuqa.study.executors.places import Place
from gpuqa.study.executors.worker import WorkerSession

Handed = tuple[Event, asyncio.Future[None]]  # an event, and what tells that it was taken


async def run_local(plans: Sequence[Steps], log: Path, places: Sequence[Place]) -> AsyncGenerator[Event]:
    """The events of all plans, plan after plan in their order; at each place one at a time."""
    if not places:
        for plan in plans:
            async with aclosing(drive(plan, EngineSession(log))) as events:
                async for event in events:
                    yield event
        return
    handed: asyncio.Queue[Handed | None] = asyncio.Queue()
    left = list(plans)
    at_work = [asyncio.create_task(work(place, left, log, handed)) for place in places[: len(plans)]]
    try:
        for _ in at_work:
            while (next_event := await handed.get()) is not None:
                event, taken = next_event
                yield event
                taken.set_result(None)
        await asyncio.gather(*at_work)
    finally:
        for task in at_work:
            task.cancel()
        await asyncio.gather(*at_work, return_exceptions=True)


async def work(place: Place, left: list[Steps], log: Path, handed: asyncio.Queue[Handed | None]) -> None:
    """Run plans at one place until none is left, and hand their events on, each when the one before was taken."""
    name = place.name.replace(" ", "_").replace(",", "")
    own = log.with_name(f"{log.stem}.{name}{log.suffix}")
    session = WorkerSession(place, own)
    try:
        while left:
            async with aclosing(drive(left.pop(0), session)) as events:
                async for event in events:
                    taken = asyncio.get_running_loop().create_future()
                    handed.put_nowait((event, taken))
                    await taken
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(session.end())
        if own.exists():  # the reason of a failure is looked for in one file
            with log.open("ab") as whole:
                whole.write(own.read_bytes())
            own.unlink()
        handed.put_nowait(None)
