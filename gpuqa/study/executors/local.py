"""One engine after the other, in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

from gpuqa.study.engine_session import EngineSession, Event, Steps, drive


async def run_local(plans: Sequence[Steps], log: Path) -> AsyncGenerator[Event]:
    """The events of all plans, plan after plan."""
    for plan in plans:
        async with aclosing(drive(plan, EngineSession(log))) as events:
            async for event in events:
                yield event
