"""Which plan a place gets next: of those that may run there the longest, so that none runs alone in the end.

Handed out longest first, the last one ends after at most 4/3 of the time that the best order would take (R. L. Graham, SIAM
Journal on Applied Mathematics 17, 1969). How long a plan takes is guessed (`gpuqa.study.guesses`) and corrected by every pass
that is measured meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from gpuqa.study.engine_session import Event, PassDone, Steps
from gpuqa.study.guesses import Work

Plan = TypeVar("Plan", bound=Steps)
USUAL_START_S = 15.0  # of an engine, before one was measured


@dataclass(slots=True)
class Ratio:
    """What came out over what was guessed, or a mean."""

    measured: float = 0.0
    guessed: float = 0.0

    def add(self, measured: float, guessed: float = 1.0) -> None:
        """One more."""
        self.measured += measured
        self.guessed += guessed

    def or_else(self, usual: float) -> float:
        """The ratio; `usual` before anything was measured."""
        return self.measured / self.guessed if self.guessed else usual


class Leases(Generic[Plan]):
    """The plans of one call of an executor that no place has got yet, and what was learnt from those that run."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.left, self.works = list(plans), {id(plan): plan.work for plan in plans}
        self.kinds = {cell.kind for work in self.works.values() for cell in work.values()}
        self.start_s, self.warmup_s = Ratio(), Ratio()
        self.passes: dict[tuple[str, ...], Ratio] = defaultdict(Ratio)  # by the first parts of the kind of their cell, () all

    def take(self, place: int) -> Plan | None:
        """The next plan for a place; None where there is none. Plans of one place are handed out in their order."""
        fitting = [plan for plan in self.left if plan.place in (None, place)]
        if not fitting:
            return None
        factors = {kind: self.factor(kind) for kind in self.kinds}
        longest = max(fitting, key=lambda plan: self.seconds(self.works[id(plan)], factors))
        self.left.remove(longest)
        return longest

    def learn(self, plan: Plan, event: Event) -> None:
        """Take into account what a pass took."""
        cell = self.works[id(plan)].get(event.key)
        if cell is None or not isinstance(event, PassDone):
            return
        measured = event.measured
        for parts in range(len(cell.kind) + 1):
            self.passes[cell.kind[:parts]].add(measured.answered.seconds, cell.pass_s)
        self.start_s.add(measured.engine_start_s)
        self.warmup_s.add(measured.warmup_s)

    def seconds(self, work: Work, factors: Mapping[tuple[str, ...], float]) -> float:
        """How long a plan may take; `factors`: what guesses of each kind are multiplied with."""
        warmup_s = self.warmup_s.or_else(0.0)
        cells = (warmup_s + cell.passes * cell.pass_s * factors[cell.kind] for cell in work.values())
        return self.start_s.or_else(USUAL_START_S) + sum(cells)

    def factor(self, kind: tuple[str, ...]) -> float:
        """Measured over guessed seconds of passes, by the cells that share most parts of the kind; 1 where none was."""
        known = next((parts for parts in range(len(kind), 0, -1) if kind[:parts] in self.passes), 0)
        return self.passes[kind[:known]].or_else(1.0)
