"""How far the cells of one engine key are: which passes they have, which they lack, and which of them ended without numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, assert_never

from gpuqa.measure.cell import Cell
from gpuqa.measure.failures import Failure, kind_of
from gpuqa.measure.load_search import next_workload
from gpuqa.measure.trial import PassRequest
from gpuqa.records import Pass, Trial
from gpuqa.study.engine_session import CellFailed, CellWarm, EngineStarts, Event, PassDone, StartFailed, Steps
from gpuqa.study.rate_sweep import above, rate_of, skip


class Progress:
    """The cells of one engine key, told of every event of their session."""

    def __init__(self, cells: Sequence[Cell], kept: Mapping[str, Sequence[Pass]], max_failures: int = 3) -> None:
        """
        Args:
            kept: passes of an earlier run by the key of their cell.
            max_failures: of cells in a row; then no other is tried, unless the cells that failed had not even warmed up.
        """
        self.max_failures, self.failures = max_failures, 0
        self.waiting = {cell.key: cell for cell in cells}  # have passes to be measured
        self.passes = {key: [measured for measured in kept.get(key, ()) if measured.slice is None] for key in self.waiting}
        self.slices = {
            key: {measured.slice: measured for measured in kept.get(key, ()) if measured.slice is not None}
            for key in self.waiting
        }
        self.worked: set[str] = set()  # have warmed up on any engine
        self.tried_again: set[str] = set()  # their engine died once; the start of an engine goes by the key of its first cell
        self.complete: list[Cell] = []  # have all their passes; the study takes them from here and has them scored
        self.ended: list[Trial] = []  # failed or skipped; the study takes them from here
        for cell in sorted(cells, key=rate_of):  # a kill may have come between a saturated pass and what follows from it
            self.skip_above(cell)

    def missing(self, cell: Cell) -> list[PassRequest]:
        """The passes over all questions that a cell still needs, those from a cold prefix cache first; of a search the next."""
        workload = cell.config.workload
        if workload.searches:
            tried = self.passes[cell.key]
            wanted_next = next_workload(tried, workload)
            return [PassRequest(cell, len(tried), cell.questions, workload=wanted_next)] if wanted_next else []
        kept = {(measured.prefix_cached, measured.repeat) for measured in self.passes[cell.key]}
        wanted = [(False, repeat) for repeat in range(workload.repeats)]
        wanted += [(True, repeat) for repeat in range(workload.prefix_cached_repeats)]
        return [PassRequest(cell, repeat, cell.questions, cached) for cached, repeat in wanted if (cached, repeat) not in kept]

    def take(self, event: Event) -> None:
        """Learn what happened."""
        match event:
            case EngineStarts():
                pass
            case CellWarm(key):
                self.worked.add(key)
            case PassDone(key, measured):
                self.failures = 0
                self.keep(key, measured)
            case StartFailed(key, error):
                if not self.tries_again(key, error):
                    self.end([cell.failed(error) for cell in self.waiting.values()])
            case CellFailed(key, error):
                if not self.tries_again(key, error):
                    self.fail(self.waiting[key], error)
            case _:
                assert_never(event)

    def keep(self, key: str, measured: Pass) -> None:
        """Remember a pass, which may make others needless."""
        if measured.slice is not None:
            self.slices[key][measured.slice] = measured
        else:
            self.passes[key].append(measured)
            self.skip_above(self.waiting[key])

    def skip_above(self, cell: Cell) -> None:
        """End the cells that differ from a saturated one in a higher rate alone."""
        if any(measured.answered.saturated for measured in self.passes[cell.key] if not measured.prefix_cached):
            self.end([skip(higher, cell) for higher in above(cell, list(self.waiting.values()))])

    def tries_again(self, key: str, error: str) -> bool:
        """Whether a cell stays, to be measured on a fresh engine: its own died, which may be no fault of the cell's.

        Once for each cell; not after another cell's second failure, which suggests that all cells kill this engine.
        """
        again = kind_of(error) is Failure.engine_died and key not in self.tried_again and self.failures == 0
        self.tried_again |= {key} if again else set()
        return again

    def fail(self, cell: Cell, error: str) -> None:
        """Give a cell up; after several in a row also those that got no further than it did."""
        self.end([cell.failed(error)])
        self.failures += 1
        if self.failures < self.max_failures:
            return
        reason = f"skipped after {self.failures} failures in a row on this engine, the last: {error}"
        had_worked = cell.key in self.worked
        self.end([other.failed(reason) for other in self.waiting.values() if had_worked or other.key not in self.worked])
        self.failures = 0

    def finish(self, cell: Cell) -> None:
        """No more passes for a cell that has them all."""
        self.waiting.pop(cell.key, None)
        self.complete.append(cell)

    def end(self, trials: Sequence[Trial]) -> None:
        """No more passes for these cells, which have failed or are not needed."""
        for trial in trials:
            self.waiting.pop(trial.key, None)
        self.ended += trials


class Plan(Steps, Protocol):
    """Which passes the cells of one engine key get, and in which order."""

    progress: Progress

    def take(self, event: Event) -> None:
        """Learn what happened, before `next` is asked again."""
