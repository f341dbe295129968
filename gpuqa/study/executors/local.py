"""One group after the other, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

Group = TypeVar("Group")
Result = TypeVar("Result")


async def run_local(groups: Sequence[Group], run_group: Callable[[Group], AsyncIterator[Result]]) -> AsyncIterator[Result]:
    """Yield every result as soon as it is there."""
    for group in groups:
        async for result in run_group(group):
            yield result
