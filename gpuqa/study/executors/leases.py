"""Which plan a place gets next: of those that may run there the longest, so that none runs alone in the end.

Handed out longest first, the last one ends after at most 4/3 of the time that the best order would take (R. L. Graham, SIAM
Journal on Applied Mathematics 17, 1969). How long a plan takes is guessed (`gpuqa.study.guesses`) and corrected by every pass
that is measured meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Generic, TypeVar

from gpuqa.study.durations import Durations
from gpuqa.study.engine_session import Event, PassDone, Steps

Plan = TypeVar("Plan", bound=Steps)


class Leases(Generic[Plan]):
    """The plans of one call of an executor that no place has got yet, and what was learnt from those that run."""

    def __init__(self, plans: Sequence[Plan], places: int = 0) -> None:
        """`places`: how many there are, numbered from 0."""
        self.left, self.works, self.durations = list(plans), {id(plan): plan.work for plan in plans}, Durations()
        self.kinds = {cell.kind for work in self.works.values() for cell in work.values()}
        self.places, self.taken = set(range(places)), asyncio.Event()

    def take(self, place: int) -> Plan | None:
        """The next plan for a place; None where there is none. Plans of one place are handed out in their order."""
        if not (fitting := self.fitting(place)):
            return None
        factors = {kind: self.durations.factor(kind) for kind in self.kinds}
        longest = max(fitting, key=lambda plan: self.durations.seconds(self.works[id(plan)], factors))
        self.left.remove(longest)
        self.taken.set()
        return longest

    def fitting(self, place: int) -> list[Plan]:
        """The plans that are left and may run at a place."""
        return [plan for plan in self.left if plan.place in (None, place)]

    async def none_left(self, place: int) -> None:
        """Wait until no plan is left that may run at a place."""
        while self.fitting(place):
            self.taken.clear()
            await self.taken.wait()

    def give_up(self, place: int) -> bool:
        """Do without a place; whether plans are left that no other one may run."""
        self.places.discard(place)
        return any(not any(plan in self.fitting(other) for other in self.places) for plan in self.left)

    def learn(self, plan: Plan, event: Event) -> None:
        """Take into account what a pass took."""
        cell = self.works[id(plan)].get(event.key)
        if cell is not None and isinstance(event, PassDone):
            self.durations.learn(cell, event.measured)
