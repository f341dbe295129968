"""One engine's part of a race: as in a group, but the race says after every round what its cells are asked next.

Passes are scored while others are measured; only the end of a round waits for scores. All passes stay in the journal until
the race has ended, and a study that goes on walks through them again first: the same passes lead to the same decisions, and
an engine starts only where the race asks for a pass that is not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial

from gpuqa.config import check, plain
from gpuqa.measure import fingerprint
from gpuqa.measure.cell import Cell
from gpuqa.measure.trial import FinishedTrial, PassRequest, score_trial
from gpuqa.records import Pass, Trial
from gpuqa.selection.constraints import seen_of
from gpuqa.selection.ranking import RANKINGS
from gpuqa.study.engine_session import Desk, Group, in_order
from gpuqa.study.journal import Journal
from gpuqa.study.racing.bounds import bounds_of
from gpuqa.study.racing.evidence import Glimpse, Runner
from gpuqa.study.racing.race import Ask, Race, slices_of


async def run_race(groups: Sequence[Sequence[Cell]], kept: Mapping[str, Trial], desk: Desk) -> AsyncIterator[FinishedTrial]:
    """The trials of a study: of those that stayed as soon as they are complete, of the dropped ones in the end.

    One engine after the other, since each needs the leaders of those before. `kept`: trials of an earlier run, not measured
    again.

    Raises:
        UserError: the rule or the workloads are none that a race can be run by.
    """
    cells = [cell for group in groups for cell in group]
    race, bound = race_of(cells, kept, desk.journal), bounds_of(cells)
    by_engine = {group[0].engine_key: group for group in groups}
    for engine in race.engines(bound):
        race.skip_hopeless(engine, bound)
        if unmeasured := [cell for cell in by_engine[engine] if cell.key not in kept]:
            async for ended in Heat(unmeasured, race, desk).run():
                yield ended
    for engine in race.recall():
        async for ended in Heat(by_engine[engine], race, desk).run():
            yield ended
    for trial in race.trials():
        if trial.dropped and trial.key not in kept:
            signed = replace(trial, dropped=replace(trial.dropped, race=digest_of(cells)))
            yield signed, list(race.runners[trial.key].known)


def race_of(cells: Sequence[Cell], kept: Mapping[str, Trial], journal: Journal) -> Race:
    """A race that has not begun, but for the trials that an earlier run has kept."""
    first = cells[0].config
    rule = first.selection.rule
    check(RANKINGS[rule].race is not None, "study.racing", True, f"false with selection.rule={rule.name}")
    repeats = {cell.config.workload.repeats for cell in cells}
    check(len(repeats) == 1, "workload.repeats", sorted(repeats), "one value for all cells where study.racing=true")
    runners = {cell.key: Runner(cell.trial(None), cell.engine_key, len(cell.questions)) for cell in cells}
    slices = slices_of(cells[0].questions, first.study, first.workload.issue)
    race = Race(runners, first.selection, first.study.racing_confidence, slices, repeats.pop())
    for key, trial in kept.items():
        if trial.dropped:
            race.dropped[key] = trial.dropped.reason
        seen = seen_of(trial)
        if seen is None or seen.questions == runners[key].questions:
            race.measured(replace(trial, measurement=seen, dropped=None), journal.answers(key))
    return race


def digest_of(cells: Sequence[Cell]) -> str:
    """What the decisions of a race depend on beside the passes: who runs, the rule, the settings."""
    config = cells[0].config
    racing = {key: value for key, value in asdict(config.study).items() if key.startswith("racing")}
    return fingerprint.sha256_of([sorted(cell.key for cell in cells), plain(asdict(config.selection)), racing])


class Heat(Group):
    """The cells of one engine key in a race."""

    def __init__(self, cells: Sequence[Cell], race: Race, desk: Desk) -> None:
        super().__init__(cells, desk)
        self.race, self.engine_key = race, cells[0].engine_key
        self.by_key = {cell.key: cell for cell in cells}
        self.glimpses = {
            key: {one.slice: one for one in desk.journal.read_passes(key) if one.slice is not None} for key in self.by_key
        }
        self.scores: dict[Ask, asyncio.Task[FinishedTrial]] = {}

    async def run(self) -> AsyncIterator[FinishedTrial]:
        """Every trial of those that stay; who is dropped ends with the race."""
        await self.walk_again()
        async for ended in super().run():
            yield ended

    async def walk_again(self) -> None:
        """Follow the race along the passes of an earlier run, to the first that is missing; none waits where none is."""
        while asks := self.race.next_round(self.engine_key):
            if not all(map(self.is_kept, asks)):
                break
            await self.judge(asks)
        staying = [self.by_key[one.key] for one in self.race.running() if one.key in self.by_key]
        self.waiting = [self.by_key[ask.key] for ask in asks] or [cell for cell in staying if self.missing(cell)]
        if not self.waiting:
            self.end_all()

    def steps(self) -> Iterator[tuple[Cell, Callable[[], Awaitable[list[FinishedTrial]]]]]:
        """Round after round, then what those that stay still lack."""
        while asks := self.race.next_round(self.engine_key):
            asked = {ask.key: ask for ask in asks}
            cells = in_order([self.by_key[key] for key in asked], asks[0].repeat or 0)
            self.waiting = cells
            yield from self.warm_ups(cells)
            for cell in cells:
                if cell in self.waiting and not self.is_kept(asked[cell.key]):
                    yield cell, partial(self.measure, self.turn(asked[cell.key]))
            yield cells[0], partial(self.judge, asks)
        self.waiting = [self.by_key[one.key] for one in self.race.running() if one.key in self.by_key]
        lacking = [cell for cell in self.waiting if self.missing(cell)]
        yield from self.warm_ups(lacking)
        for cell in lacking:
            for turn in self.missing(cell):
                yield cell, partial(self.measure, turn)
        self.end_all()

    def warm_ups(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Callable[[], Awaitable[list[FinishedTrial]]]]]:
        """Those that are not warm on this engine."""
        for cell in cells:
            if cell.key not in self.ready:
                yield cell, partial(self.warm_up, cell)

    def turn(self, ask: Ask) -> PassRequest:
        """The pass that a race asks for."""
        cell = self.by_key[ask.key]
        if ask.slice is None:
            return next(turn for turn in self.missing(cell) if turn.repeat == ask.repeat and not turn.prefix_cached)
        return PassRequest(cell, 0, self.race.slices[ask.slice], slice=ask.slice)

    def is_kept(self, ask: Ask) -> bool:
        """Whether the journal has that pass."""
        passes = (
            self.glimpses[ask.key]
            if ask.slice is not None
            else {one.repeat for one in self.passes[ask.key] if not one.prefix_cached}
        )
        return (ask.repeat if ask.slice is None else ask.slice) in passes

    def keep(self, cell: Cell, measured: Pass) -> None:
        """Remember a pass, and have it scored while the next is measured."""
        if measured.slice is None:
            super().keep(cell, measured)
        else:
            self.glimpses[cell.key][measured.slice] = measured
        self.score(Ask(cell.key, slice=measured.slice, repeat=measured.repeat if measured.slice is None else None))

    def end_if_complete(self, cell: Cell) -> None:
        """Not before the race says so."""

    def end_all(self) -> None:
        """Have the trials made of those that stay; nobody waits any more."""
        staying = [self.by_key[one.key] for one in self.race.running() if one.key in self.by_key]
        for cell in [one for one in staying if self.passes[one.key] and not self.missing(one)]:
            self.scoring.append(asyncio.create_task(score_trial(cell, self.passes[cell.key], self.desk.scorers)))
        self.waiting = []

    def score(self, ask: Ask) -> asyncio.Task[FinishedTrial]:
        """The trial of a slice, or of the repeats up to this one."""
        if ask not in self.scores:
            cell = self.by_key[ask.key]
            passes = sorted(
                (one for one in self.passes[ask.key] if one.repeat <= (ask.repeat or 0)), key=lambda one: one.repeat
            )
            if ask.slice is not None:
                cell, passes = replace(cell, questions=self.race.slices[ask.slice]), [self.glimpses[ask.key][ask.slice]]
            self.scores[ask] = asyncio.create_task(score_trial(cell, passes, self.desk.scorers))
        return self.scores[ask]

    async def judge(self, asks: Sequence[Ask]) -> list[FinishedTrial]:
        """Tell the race what a round showed, as soon as it is scored."""
        for ask in filter(self.is_kept, asks):  # all but a rung that was skipped meanwhile
            trial, answers = await asyncio.shield(self.score(ask))
            if ask.slice is None:
                self.race.measured(trial, answers)
            elif trial.measurement is not None:
                self.race.saw(ask.key, Glimpse(trial.measurement, answers))
        return []

    def skip_above(self, cell: Cell) -> list[FinishedTrial]:
        """The higher rungs of a ladder that a saturated pass ended."""
        return self.told(super().skip_above(cell))

    async def start(self) -> list[FinishedTrial]:
        """Start the engine; who cannot be measured runs no more."""
        return self.told(await super().start())

    async def fail(self, cell: Cell, error: str) -> list[FinishedTrial]:
        """Give up a cell and its engine."""
        return self.told(await super().fail(cell, error))

    def told(self, ended: list[FinishedTrial]) -> list[FinishedTrial]:
        """The race knows of those that failed or were skipped."""
        for trial, answers in ended:
            self.race.measured(trial, answers)
        return ended
