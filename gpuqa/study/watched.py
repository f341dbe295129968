"""What a study has done so far, for those who look at it while it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from gpuqa.config.measurement import WorkloadConfig
from gpuqa.measure.cell import Cell
from gpuqa.measure.metrics import chars
from gpuqa.measure.statistics import mean_estimate
from gpuqa.records import Interval, Pass, Trial
from gpuqa.selection.comparison import speed
from gpuqa.study.durations import Durations
from gpuqa.study.grid import group_by_engine
from gpuqa.study.guesses import CellWork, work_of

FEWEST_FOR_INTERVAL = 3  # passes; the interval of two says nothing


@dataclass(frozen=True, slots=True)
class EngineState:
    """What the engine of a cell is doing, and since when by the clock of the study."""

    cell: Cell
    answers: bool  # else it starts
    since: float


@dataclass(frozen=True, slots=True)
class LastPass:
    """The newest pass, and the cell that it is of."""

    key: str
    name: str
    measured: Pass


@dataclass(slots=True)
class Watched:
    """The state of a study, told of its events."""

    cells: Sequence[Cell]
    limit: int | None = None  # of the passes of a finalist; other cells have their repeats
    at_once: int = 1  # engines that run side by side
    clock: Callable[[], float] = time.monotonic
    durations: Durations = field(default_factory=Durations)
    counts: dict[str, int] = field(default_factory=dict)  # of passes over all questions, by the key of their cell
    speeds: dict[str, list[float]] = field(default_factory=dict)  # of those from an empty prefix cache, chars/s
    ended: dict[str, Trial] = field(default_factory=dict)
    engines: dict[str, EngineState] = field(default_factory=dict)  # by the key of the engine; the last is the newest
    starts: int = 0
    last: LastPass | None = None
    began: float = 0.0
    work: dict[str, CellWork] = field(default_factory=dict)  # all passes of each cell, at most, by its key

    def __post_init__(self) -> None:
        self.began = self.clock()
        self.work = {cell.key: work_of(cell, self.limit or most_passes(cell.config.workload)) for cell in self.cells}

    def engine_starts(self, cell: Cell) -> None:
        """An engine is about to start."""
        self.starts += 1
        for key in [key for key in self.engines if self.at_once == 1 or key == cell.engine_key]:
            del self.engines[key]
        self.engines[cell.engine_key] = EngineState(cell, answers=False, since=self.clock())

    def pass_done(self, cell: Cell, measured: Pass) -> None:
        """A pass was measured."""
        if not self.engines.get(cell.engine_key, EngineState(cell, False, 0.0)).answers:
            self.engines[cell.engine_key] = EngineState(cell, answers=True, since=self.clock())
        if measured.slice is None:
            self.durations.learn(self.work[cell.key], measured)
            self.counts[cell.key] = self.counts.get(cell.key, 0) + 1
            if not measured.prefix_cached and (speed := speed_of(measured)) > 0:
                self.speeds.setdefault(cell.key, []).append(speed)
        self.last = LastPass(cell.key, cell.name, measured)

    def trial_done(self, trial: Trial) -> None:
        """A trial ended, or is known from an earlier run."""
        self.ended[trial.key] = trial

    @property
    def left(self) -> dict[str, int]:
        """The passes that cells still need, by their key; of finalists and searches the most that they may need."""
        left = {key: work.passes - self.counts.get(key, 0) for key, work in self.work.items() if key not in self.ended}
        return {key: count for key, count in left.items() if count > 0}

    @property
    def engines_left(self) -> dict[str, list[str]]:
        """The keys of the cells that still need passes, by the key of their engine."""
        left = self.left
        groups = group_by_engine([cell for cell in self.cells if cell.key in left])
        return {group[0].engine_key: [cell.key for cell in group] for group in groups}

    @property
    def seconds(self) -> float:
        """Since the study began."""
        return self.clock() - self.began

    @property
    def seconds_left(self) -> float | None:
        """What the rest takes; None while nothing is known."""
        if not self.durations.known:
            return None
        left, running = self.left, list(self.engines)[-1] if self.engines and self.at_once == 1 else None
        took = [
            self.durations.seconds({key: replace(self.work[key], passes=left[key]) for key in keys}, runs=engine == running)
            for engine, keys in self.engines_left.items()
        ]
        return max(sum(took) / self.at_once, *took) if took else 0.0

    @property
    def best(self) -> Trial | None:
        """The fastest trial that has ended."""
        return max(self.ended.values(), key=speed, default=None)

    @property
    def failures(self) -> int:
        """Trials that failed."""
        return sum(trial.error is not None for trial in self.ended.values())

    def speed_so_far(self, key: str) -> tuple[float, Interval | None]:
        """Characters per second of the passes of a cell from an empty prefix cache: geometric mean and 95 % interval, none of
        fewer than three passes."""
        return mean_speed(self.speeds.get(key, ()))


def speed_of(measured: Pass) -> float:
    """Characters per second of a pass."""
    return chars(measured.answered.completions) / measured.answered.seconds


def mean_speed(speeds: Sequence[float]) -> tuple[float, Interval | None]:
    """The geometric mean of speeds and its 95 % interval by Student's t; 0 of none, no interval of fewer than three."""
    logs = [math.log(speed) for speed in speeds]
    mean = math.exp(math.fsum(logs) / len(logs)) if logs else 0.0
    estimate = mean_estimate(logs) if len(logs) >= FEWEST_FOR_INTERVAL else None
    if estimate is None:
        return mean, None
    interval = estimate.interval(0.95)
    return mean, Interval(math.exp(interval.low), math.exp(interval.high))


def most_passes(workload: WorkloadConfig) -> int:
    """The passes of one cell; of a search the most that it may take."""
    return workload.search.max_passes if workload.searches else workload.repeats + workload.prefix_cached_repeats
