"""A race on real engines: the race says after every round which passes its cells get next, and a plan asks for them.

Passes are scored while others are measured; only the end of a round waits for scores. All passes stay in the journal until
the race has ended, and a study that goes on walks through them again first: the same passes lead to the same decisions, and
an engine starts only where the race asks for a pass that is not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace

from gpuqa.config import check, plain
from gpuqa.measure import fingerprint
from gpuqa.measure.cell import Cell
from gpuqa.measure.trial import FinishedTrial, PassRequest
from gpuqa.records import Answer, Pass, Trial
from gpuqa.selection.constraints import seen_of
from gpuqa.selection.ranking import RANKINGS
from gpuqa.study.engine_session import CellFailed, Event, PassDone, StartFailed, Step
from gpuqa.study.grid import in_order
from gpuqa.study.progress import Progress
from gpuqa.study.racing.bounds import bounds_of
from gpuqa.study.racing.evidence import Glimpse, Runner
from gpuqa.study.racing.race import Ask, Race, slices_of

Score = Callable[[Cell, Sequence[Pass]], Awaitable[FinishedTrial]]


def race_of(cells: Sequence[Cell], kept: Mapping[str, Trial], answers: Callable[[str], list[Answer]]) -> Race:
    """A race that has not begun, but for the trials that an earlier run has kept.

    Args:
        answers: of a kept trial, by its key.

    Raises:
        UserError: the rule or the workloads are none that a race can be run by.
    """
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
            race.measured(replace(trial, measurement=seen, dropped=None), answers(key))
    return race


def digest_of(cells: Sequence[Cell]) -> str:
    """What the decisions of a race depend on beside the passes: which cells run, the rule, the settings."""
    config = cells[0].config
    racing = {key: value for key, value in asdict(config.study).items() if key.startswith("racing")}
    return fingerprint.sha256_of([sorted(cell.key for cell in cells), plain(asdict(config.selection)), racing])


def race_stages(
    race: Race, groups: Sequence[Sequence[Cell]], passes: Callable[[str], list[Pass]], done: Mapping[str, Trial], score: Score
) -> Iterator[list[RacePlan]]:
    """The plans of a race. Those of one stage may run at the same time; a stage needs the results of those before.

    Args:
        groups: the cells that share an engine.
        passes: of an earlier run, by the key of their cell.
        done: trials that exist by now.
    """
    cells = [cell for group in groups for cell in group]
    bound, by_engine = bounds_of(cells), {group[0].engine_key: group for group in groups}
    for engine in race.engines(bound):
        race.skip_hopeless(engine, bound)
        if unmeasured := [cell for cell in by_engine[engine] if cell.key not in done]:
            yield [RacePlan(unmeasured, race, {cell.key: passes(cell.key) for cell in unmeasured}, score)]
    recalled = []
    for engine in race.recall():
        missing = [cell for cell in by_engine[engine] if cell.key in race.recalled]
        recalled.append(RacePlan(missing, race, {cell.key: passes(cell.key) for cell in missing}, score))
    yield recalled


def dropped_trials(race: Race, digest: str) -> list[FinishedTrial]:
    """The trials of the cells that the race dropped, signed with the race's digest, and the answers that they gave."""
    dropped = [trial for trial in race.trials() if trial.dropped]
    signed = [replace(trial, dropped=replace(trial.dropped, race=digest)) for trial in dropped if trial.dropped]
    return [(trial, list(race.runners[trial.key].known)) for trial in signed]


class RacePlan:
    """The cells of one engine key in a race."""

    def __init__(self, cells: Sequence[Cell], race: Race, kept: Mapping[str, Sequence[Pass]], score: Score) -> None:
        self.race, self.score, self.engine_key = race, score, cells[0].engine_key
        self.cells = {cell.key: cell for cell in cells}
        self.progress = Progress(cells, kept)
        self.round: list[Ask] = []  # what the race asked for and has not been told of yet
        self.scores: dict[Ask, asyncio.Task[FinishedTrial]] = {}
        self.report(self.progress.ended)

    async def next(self) -> Step | None:
        """The next pass of the round; after the last round, what the cells that stay still lack."""
        while asks := self.round or self.race.next_round(self.engine_key):
            self.round = asks
            cells = in_order([self.cells[ask.key] for ask in asks], asks[0].repeat or 0)
            asked = {ask.key: ask for ask in asks}
            missing = [cell for cell in cells if not self.is_kept(asked[cell.key])]
            if missing:
                return Step(cells, self.request(asked[missing[0].key]))
            await self.close_round()
        lacking = [cell for cell in self.staying() if self.progress.missing(cell)]
        if lacking:
            return Step(lacking, self.progress.missing(lacking[0])[0])
        for cell in self.staying():
            self.progress.finish(cell)
        return None

    def take(self, event: Event) -> None:
        """Learn what happened. After a failure the race is asked for a new round."""
        if isinstance(event, StartFailed | CellFailed):
            open_cells = {ask.key for ask in self.round} | {cell.key for cell in self.staying()}
            self.progress.waiting = {key: cell for key, cell in self.progress.waiting.items() if key in open_cells}
            self.round = []
        ended = len(self.progress.ended)
        self.progress.take(event)
        self.report(self.progress.ended[ended:])
        if isinstance(event, PassDone):
            part, repeat = event.measured.slice, event.measured.repeat
            self.scored(Ask(event.key, slice=part) if part is not None else Ask(event.key, repeat=repeat))

    def report(self, ended: Sequence[Trial]) -> None:
        """Tell the race of cells that failed or were skipped; they leave the round."""
        for trial in ended:
            self.race.measured(trial, [])
        gone = {trial.key for trial in ended}
        self.round = [ask for ask in self.round if ask.key not in gone]

    def staying(self) -> list[Cell]:
        """The cells of this engine that may still win."""
        running = {runner.key for runner in self.race.running()}
        return [cell for key, cell in self.progress.waiting.items() if key in running]

    def request(self, ask: Ask) -> PassRequest:
        """The pass that the race asks for."""
        cell = self.cells[ask.key]
        if ask.slice is not None:
            return PassRequest(cell, 0, self.race.slices[ask.slice], slice=ask.slice)
        assert ask.repeat is not None, "an ask is for a slice or for a repeat"
        return PassRequest(cell, ask.repeat, cell.questions)

    def is_kept(self, ask: Ask) -> bool:
        """Whether that pass was measured."""
        if ask.slice is not None:
            return ask.slice in self.progress.slices[ask.key]
        return any(measured.repeat == ask.repeat for measured in self.progress.passes[ask.key] if not measured.prefix_cached)

    def scored(self, ask: Ask) -> asyncio.Task[FinishedTrial]:
        """The trial of a slice, or of the repeats up to this one; its scoring begins with the first call."""
        if ask not in self.scores:
            cell, passes = self.cells[ask.key], self.progress.passes[ask.key]
            if ask.slice is not None:
                cell = replace(cell, questions=self.race.slices[ask.slice])
                upto = [self.progress.slices[ask.key][ask.slice]]
            else:
                upto = sorted((one for one in passes if one.repeat <= (ask.repeat or 0)), key=lambda one: one.repeat)
            self.scores[ask] = asyncio.ensure_future(self.score(cell, upto))
        return self.scores[ask]

    async def close_round(self) -> None:
        """Tell the race what the round showed, as soon as it is scored."""
        asks, self.round = self.round, []
        for ask in asks:
            trial, answers = await asyncio.shield(self.scored(ask))
            if trial.measurement is None:  # it could not be scored
                self.progress.end([trial])
                self.report([trial])
            elif ask.slice is None:
                self.race.measured(trial, answers)
            else:
                self.race.saw(ask.key, Glimpse(trial.measurement, answers))
