"""Passes of finalists until they are decided, or until `study.max_repeats` or `study.seconds` is spent.

    one engine       rounds, a pass of each finalist in every one of them
    several engines  starts of all engines in turn, the other way round every second time; on each so many passes of each
                     finalist as take the time that the start takes, which is spent anyway

Where a study has several places, each of them is a block: every finalist is measured at every one, by as many passes. Places on
devices of their own measure side by side, others take turns. At each look all of them wait for the last.

After certain numbers of rounds or starts (`gpuqa.measure.speed_tests.LOOKS`) those that are decided by then are left out. The
passes stay in the journal, so that a later command with more time goes on where this one stopped.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gpuqa.config.commands import StudyConfig
from gpuqa.measure.cell import Cell
from gpuqa.measure.speed_tests import LOOKS, Unit
from gpuqa.measure.trial import PassRequest
from gpuqa.records import Pass, Trial
from gpuqa.study.engine_session import LAST, Event, PassDone, Step
from gpuqa.study.executors.places import Place
from gpuqa.study.grid import group_by_engine, in_order
from gpuqa.study.guesses import Work
from gpuqa.study.progress import Progress

Passes = Mapping[str, Sequence[Pass]]  # by the key of their cell
Undecided = Callable[[Passes], Collection[str]]  # by the passes so far, the keys of the cells that are not decided
MOST_ON_A_START = 10  # passes of each cell: more tell little where starts differ, and little where a slow minute is long


@dataclass(frozen=True, slots=True)
class Schedule:
    """When finalists are judged, and where they are measured."""

    a_start: int  # passes of each cell on one start of its engine
    looks: Sequence[int]  # numbers of passes of each cell; each place has as many of them
    places: Sequence[Place] = ()  # none: in the study's own process


def schedule_of(cells: Sequence[Cell], first_round: Sequence[Trial], places: Sequence[Place] = ()) -> Schedule:
    """The schedule of finalists, by what the first round has shown of them."""
    measured = [trial.measurement for trial in first_round if trial.measurement]
    start_s = sum(numbers.engine_start_s + numbers.warmup_s for numbers in measured)
    pass_s = sum(numbers.seconds for numbers in measured)
    in_that_time = min(MOST_ON_A_START, int(start_s / pass_s)) if pass_s else 0
    a_start = max(2, in_that_time, *(cell.config.workload.repeats for cell in cells))  # one pass would tell no noise
    count, most = max(1, len(places)), cells[0].config.study.max_repeats
    a_start = a_start if most is None else max(2, min(a_start, most // count))  # every place has its share
    unit, passes = (Unit.rounds, 1) if len(group_by_engine(cells)) == 1 else (Unit.starts, a_start)
    looks = sorted({math.ceil(look / count) * count * passes for look in LOOKS[unit]})
    limit = most or looks[-1]
    return Schedule(a_start, [look for look in looks if look <= limit] or [limit], places)


class Finals:
    """Which passes the finalists get, and when that ends."""

    def __init__(
        self,
        cells: Sequence[Cell],
        kept: Passes,
        undecided: Undecided,
        schedule: Schedule,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`kept`: passes of an earlier run."""
        self.cells, self.undecided, self.clock = cells, undecided, clock
        self.study: StudyConfig = cells[0].config.study
        self.groups = group_by_engine(cells)
        self.passes = {cell.key: list(kept.get(cell.key, ())) for cell in cells}
        self.a_start, self.looks = schedule.a_start, schedule.looks
        self.places = max(1, len(schedule.places))
        self.take_turns = not all(place.is_a_device for place in schedule.places)
        self.gone: set[str] = set()  # the keys of cells that failed
        self.open: dict[int, list[str]] = {}  # the keys that go on, by the number of passes after which that was decided
        self.began, self.measured, self.under_way = clock(), 0, 0
        self.moved = asyncio.Event()  # a pass has ended

    def stages(self) -> Iterator[list[FinalsPlan]]:
        """The plans of the finals; each needs an engine that nobody has used yet."""
        last, places = self.looks[-1], range(self.places)
        if len(self.groups) == 1:
            yield [FinalsPlan(self, self.groups[0], range(place, last, self.places), place) for place in places]
            return
        for start, first in enumerate(range(0, last, self.a_start * self.places)):
            going_on = self.going_on(first)
            groups = [[cell for cell in group if cell.key in going_on and cell.key not in self.gone] for group in self.groups]
            numbers = [range(begin, min(begin + self.a_start, last)) for begin in range(first, last, self.a_start)]
            yield [
                FinalsPlan(self, group, own, place)
                for place, own in zip(places, numbers, strict=False)
                for group in groups[:: 1 - 2 * ((start + place) % 2)]
                if group
            ]

    def going_on(self, number: int) -> list[str]:
        """The keys of the cells that get another pass after so many."""
        due = max((look for look in [0, *self.looks] if look <= number), default=0)
        if due not in self.open:
            self.open[due] = self.decide(due)
        return self.open[due]

    def decide(self, look: int) -> list[str]:
        """The keys of the cells that go on after a look; none where the time is up."""
        if look == 0:
            return list(self.passes)
        if not (before := self.going_on(look - 1)):
            return []
        upto = {key: [measured for measured in passes if measured.repeat < look] for key, passes in self.passes.items()}
        left = {key: passes for key, passes in upto.items() if passes and key not in self.gone}
        going_on = [key for key in self.undecided(left) if key in before]
        following = next((other for other in self.looks if other > look), look)
        seconds = self.clock() - self.began
        expected = seconds / self.measured * (following - look) * len(going_on) if self.measured else 0.0
        return going_on if seconds + expected <= self.study.seconds else []

    async def may_begin(self, number: int) -> None:
        """Wait until the passes before the last look are there, and until no other place measures where they take turns."""
        due = max(look for look in [0, *self.looks] if look <= number)
        while (self.take_turns and self.under_way) or self.lacks_before(due):
            await self.moved.wait()

    def lacks_before(self, look: int) -> bool:
        """Whether a cell that goes on up to a look lacks passes before it."""
        if look == 0 or look in self.open:
            return False
        going_on = [key for key in self.going_on(look - 1) if key not in self.gone]
        return any(len({measured.repeat for measured in self.passes[key] if measured.repeat < look}) < look for key in going_on)

    def take(self, event: Event) -> None:
        """Remember a pass, and let those go on that wait for it."""
        if isinstance(event, PassDone):
            self.passes[event.key].append(event.measured)
            self.measured += 1
        if isinstance(event, LAST):
            self.under_way -= 1
            self.moved.set()
            self.moved.clear()


class FinalsPlan:
    """The passes of finalists on one start of an engine."""

    def __init__(self, finals: Finals, cells: Sequence[Cell], numbers: range, place: int) -> None:
        """`numbers`: of the passes of each cell, from 0."""
        self.finals, self.numbers = finals, numbers
        self.place: int | None = place
        self.work: Work = {}  # the order of starts is given
        self.progress = Progress(cells, finals.passes)

    async def next(self) -> Step | None:
        """The next pass that is missing; None after the last, or where all is decided."""
        for number in self.numbers:
            await self.finals.may_begin(number)
            left = [cell for key, cell in self.progress.waiting.items() if key not in self.finals.gone]
            going_on = [cell for cell in left if cell.key in self.finals.going_on(number)]
            for cell in in_order(going_on, number):
                if not any(measured.repeat == number for measured in self.progress.passes[cell.key]):
                    self.finals.under_way += 1
                    return Step(going_on, PassRequest(cell, number, cell.questions))
        return None

    def take(self, event: Event) -> None:
        """Learn what happened."""
        self.progress.take(event)
        self.finals.gone |= {trial.key for trial in self.progress.ended}
        self.finals.take(event)
