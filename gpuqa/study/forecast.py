"""How long the rest of a study takes, by what it has shown so far: its engine starts, warm-ups and passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from gpuqa.config.measurement import WorkloadConfig
from gpuqa.records import Pass


@dataclass(slots=True)
class Forecast:
    """What starts, warm-ups and passes took, s; of what has not been seen yet it knows what it was given."""

    starts: dict[str, float] = field(default_factory=dict)  # by the id of the start, or by any other name
    warmups: dict[str, float] = field(default_factory=dict)  # by the key of the cell
    passes: dict[str, list[float]] = field(default_factory=dict)  # by the key of the cell

    def learn(self, key: str, measured: Pass) -> None:
        """Remember what a pass of a cell took. A slice of a race tells of its engine alone."""
        self.starts[measured.engine_id] = measured.engine_start_s
        self.warmups[key] = measured.warmup_s
        if measured.slice is None:
            self.passes.setdefault(key, []).append(measured.answered.seconds)

    def seconds(
        self, groups: Mapping[str, Sequence[str]], left: Mapping[str, int], running: str | None = None, at_once: int = 1
    ) -> float | None:
        """What the rest takes; None while no pass was seen.

        Args:
            groups: the keys of the cells that need passes, by the key of their engine.
            left: the number of passes that each cell needs.
            running: the key of the engine that is up; it needs no start, and its cells have warmed up.
            at_once: engines that run side by side.
        """
        if not self.passes:
            return None
        took = [self.of_group(cells, left, engine == running) for engine, cells in groups.items()]
        return max(sum(took) / at_once, *took) if took else 0.0

    def of_group(self, cells: Sequence[str], left: Mapping[str, int], runs: bool) -> float:
        """What the rest of the cells of one engine takes, its start among it unless it runs."""
        passes = sum(left[cell] * self.of_pass(cell) for cell in cells)
        warmups = fmean(self.warmups.values()) if self.warmups else 0.0
        starts = fmean(self.starts.values()) if self.starts else 0.0
        return passes if runs else passes + starts + len(cells) * warmups

    def of_pass(self, cell: str) -> float:
        """What a pass of a cell takes: by its own passes, else by those of the others, whatever their prompts are."""
        own = self.passes.get(cell)
        return fmean(own) if own else fmean([seconds for passes in self.passes.values() for seconds in passes])


def most_passes(workload: WorkloadConfig) -> int:
    """The passes of one cell; of a search the most that it may take."""
    return workload.search.max_passes if workload.searches else workload.repeats + workload.prefix_cached_repeats


def duration(seconds: float) -> str:
    """Seconds for people: "about 40 seconds", "about 5 minutes"."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
