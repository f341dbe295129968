"""A race on real engines: the race says after every round which passes its cells get next, and a plan hands them on.

Passes are scored while others are measured; only the end of a round waits for scores. All passes stay in the journal until
the race has ended, and a study that goes on walks through them again first: the same passes lead to the same decisions, and
an engine starts only where the race wants a pass that is not there.
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
from gpuqa.study.guesses import Work
from gpuqa.study.progress import Progress
from gpuqa.study.racing.bounds import bounds_of
from gpuqa.study.racing.evidence import Candidate, SlicePass
from gpuqa.study.racing.race import Race, WantedPass, slices_of

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
    candidates = {cell.key: Candidate(cell.trial(None), cell.engine_key, len(cell.questions)) for cell in cells}
    slices = slices_of(cells[0].questions, first.study, first.workload.issue)
    race = Race(candidates, first.selection, first.study.racing_confidence, slices, repeats.pop())
    for key, trial in kept.items():
        if trial.dropped:
            race.dropped[key] = trial.dropped.reason
        seen = seen_of(trial)
        if seen is None or seen.questions == candidates[key].questions:
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
    while recall := race.recall():
        for engine, keys in recall.items():
            recalled = [cell for cell in by_engine[engine] if cell.key in keys]
            yield [RacePlan(recalled, race, {cell.key: passes(cell.key) for cell in recalled}, score)]


def dropped_trials(race: Race, digest: str) -> list[FinishedTrial]:
    """The trials of the cells that the race dropped, signed with the race's digest, and the answers that they gave."""
    dropped = [trial for trial in race.trials() if trial.dropped]
    signed = [replace(trial, dropped=replace(trial.dropped, race=digest)) for trial in dropped if trial.dropped]
    return [(trial, list(race.candidates[trial.key].known)) for trial in signed]


class RacePlan:
    """The cells of one engine key in a race."""

    place: int | None = None

    def __init__(self, cells: Sequence[Cell], race: Race, kept: Mapping[str, Sequence[Pass]], score: Score) -> None:
        self.race, self.score, self.engine_key = race, score, cells[0].engine_key
        self.work: Work = {}  # it has no other beside it
        self.cells = {cell.key: cell for cell in cells}
        self.progress = Progress(cells, kept)
        self.round: list[WantedPass] = []  # passes that the race wants and has not learnt of yet
        self.scores: dict[WantedPass, asyncio.Task[FinishedTrial]] = {}
        self.report(self.progress.ended)

    async def next(self) -> Step | None:
        """The next pass of the round; after the last round, what the cells that stay still lack."""
        while wanted_passes := self.round or self.race.next_round(self.engine_key):
            self.round = wanted_passes
            cells = in_order([self.cells[wanted.key] for wanted in wanted_passes], wanted_passes[0].repeat or 0)
            by_key = {wanted.key: wanted for wanted in wanted_passes}
            missing = [cell for cell in cells if not self.is_kept(by_key[cell.key])]
            if missing:
                return Step(cells, self.request(by_key[missing[0].key]))
            await self.close_round()
        lacking = [cell for cell in self.staying() if self.progress.missing(cell)]
        if lacking:
            return Step(lacking, self.progress.missing(lacking[0])[0])
        for cell in self.staying():
            self.progress.finish(cell)
        return None

    def take(self, event: Event) -> None:
        """Learn what happened. After a failure the race makes a new round."""
        if isinstance(event, StartFailed | CellFailed):
            open_cells = {wanted.key for wanted in self.round} | {cell.key for cell in self.staying()}
            self.progress.waiting = {key: cell for key, cell in self.progress.waiting.items() if key in open_cells}
            self.round = []
        ended = len(self.progress.ended)
        self.progress.take(event)
        self.report(self.progress.ended[ended:])
        if isinstance(event, PassDone):
            part, repeat = event.measured.slice, event.measured.repeat
            self.scored(WantedPass(event.key, slice=part) if part is not None else WantedPass(event.key, repeat=repeat))

    def report(self, ended: Sequence[Trial]) -> None:
        """Tell the race of cells that failed or were skipped; they leave the round."""
        for trial in ended:
            self.race.measured(trial, [])
        gone = {trial.key for trial in ended}
        self.round = [wanted for wanted in self.round if wanted.key not in gone]

    def staying(self) -> list[Cell]:
        """The cells of this engine that may still win."""
        running = {candidate.key for candidate in self.race.running()}
        return [cell for key, cell in self.progress.waiting.items() if key in running]

    def request(self, wanted: WantedPass) -> PassRequest:
        """The request for a pass that the race wants."""
        cell = self.cells[wanted.key]
        if wanted.slice is not None:
            return PassRequest(cell, 0, self.race.slices[wanted.slice], slice=wanted.slice)
        assert wanted.repeat is not None, "a pass is over a slice, or a repeat over all questions"
        return PassRequest(cell, wanted.repeat, cell.questions)

    def is_kept(self, wanted: WantedPass) -> bool:
        """Whether that pass was measured."""
        if wanted.slice is not None:
            return wanted.slice in self.progress.slices[wanted.key]
        return any(
            measured.repeat == wanted.repeat for measured in self.progress.passes[wanted.key] if not measured.prefix_cached
        )

    def scored(self, wanted: WantedPass) -> asyncio.Task[FinishedTrial]:
        """The trial of a slice, or of the repeats up to this one; its scoring begins with the first call."""
        if wanted not in self.scores:
            cell, passes = self.cells[wanted.key], self.progress.passes[wanted.key]
            if wanted.slice is not None:
                cell = replace(cell, questions=self.race.slices[wanted.slice])
                upto = [self.progress.slices[wanted.key][wanted.slice]]
            else:
                upto = sorted(
                    (measured for measured in passes if measured.repeat <= (wanted.repeat or 0)),
                    key=lambda measured: measured.repeat,
                )
            self.scores[wanted] = asyncio.ensure_future(self.score(cell, upto))
        return self.scores[wanted]

    async def close_round(self) -> None:
        """Tell the race what the round showed, as soon as it is scored."""
        wanted_passes, self.round = self.round, []
        for wanted in wanted_passes:
            trial, answers = await asyncio.shield(self.scored(wanted))
            if trial.measurement is None:  # it could not be scored
                self.progress.end([trial])
                self.report([trial])
            elif wanted.slice is None:
                self.race.measured(trial, answers)
            else:
                self.race.measured_slice(wanted.key, SlicePass(trial.measurement, answers))
