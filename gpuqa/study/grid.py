"""Every cell in full: all are warmed up, then every repeat goes round all of them, each time in another order.

Speeds drift: a GPU heats up, a neighbour starts a job. If one cell came after the other, the last ones alone would pay for
it; in rounds that are shuffled anew for every repeat, it is noise for all. The order follows from the cells' keys, so that a
study that goes on after an interruption keeps it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from gpuqa.measure.cell import Cell
from gpuqa.measure.trial import PassRequest
from gpuqa.records import Pass
from gpuqa.study.engine_session import Event, Step
from gpuqa.study.guesses import Work, work_of
from gpuqa.study.progress import Progress
from gpuqa.study.rate_sweep import lowest_first


class GridPlan:
    """The passes of the cells of one engine key."""

    place: int | None = None

    def __init__(self, cells: Sequence[Cell], kept: Mapping[str, Sequence[Pass]]) -> None:
        """`kept`: passes of an earlier run by the key of their cell."""
        self.progress = Progress(cells, kept)
        repeats = range(max(cell.config.workload.repeats for cell in cells))
        fixed = [cell for cell in cells if not cell.config.workload.searches]  # the others know their passes one by one
        self.rounds = [[cell.key for cell in lowest_first(in_order(fixed, repeat))] for repeat in repeats]
        self.finish_complete()

    @property
    def work(self) -> Work:
        """The passes that are missing."""
        return {key: work_of(cell, len(self.progress.missing(cell))) for key, cell in self.progress.waiting.items()}

    async def next(self) -> Step | None:
        """The next pass that is missing."""
        request = next(self.requests(), None)
        return None if request is None else Step(list(self.progress.waiting.values()), request)

    def requests(self) -> Iterator[PassRequest]:
        """All passes that are missing, in order; those with a filled prefix cache at once after the last cold one.

        Searches take turns after that.
        """
        for repeat, keys in enumerate(self.rounds):
            for cell in [self.progress.waiting[key] for key in keys if key in self.progress.waiting]:
                last = repeat == cell.config.workload.repeats - 1
                for request in self.progress.missing(cell):
                    if last if request.prefix_cached else request.repeat == repeat:
                        yield request
        searches = [cell for cell in self.progress.waiting.values() if cell.config.workload.searches]
        for cell in sorted(searches, key=lambda cell: len(self.progress.passes[cell.key])):
            yield from self.progress.missing(cell)

    def take(self, event: Event) -> None:
        """Learn what happened."""
        self.progress.take(event)
        self.finish_complete()

    def finish_complete(self) -> None:
        """Let the study score the cells that lack nothing."""
        for cell in list(self.progress.waiting.values()):
            if not self.progress.missing(cell):
                self.progress.finish(cell)


def in_order(cells: Sequence[Cell], repeat: int) -> list[Cell]:
    """The cells in the order of one repeat: by a digest of repeat and key, which shuffles and never changes."""
    return sorted(cells, key=lambda cell: hashlib.sha256(f"{repeat} {cell.key}".encode()).digest())


def group_by_engine(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that can share an engine together, in the order of their first appearance."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.engine_key, []).append(cell)
    return list(groups.values())
