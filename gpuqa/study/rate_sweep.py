"""Cells that differ in `workload.rate_per_s` alone are the rungs of a ladder: the lowest first, none above a saturated one.

Above the rate that saturates an engine every pass says the same of its throughput, and its latencies say how long the pass
was. So the first saturated pass ends the ladder above it. A ladder of `workload.concurrency` is measured to its end: so many
clients bound the queue themselves, each wider rung is the shorter pass, and where throughput stops growing is what one
looks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gpuqa.measure.cell import Cell
from gpuqa.records import Trial


def ladder_of(cell: Cell) -> str | None:
    """What the rungs of one ladder have in common; None for a cell that nobody paces."""
    if cell.config.workload.rate_per_s is None:
        return None
    lowest = replace(cell.config.workload, rate_per_s=1.0)
    return replace(cell, config=replace(cell.config, workload=lowest)).key


def rate_of(cell: Cell) -> float:
    """Questions a second."""
    return cell.config.workload.rate_per_s or 0.0


def above(cell: Cell, cells: Sequence[Cell]) -> list[Cell]:
    """The higher rungs of a cell's ladder."""
    ladder = ladder_of(cell)
    if ladder is None:
        return []
    return [other for other in cells if rate_of(other) > rate_of(cell) and ladder_of(other) == ladder]


def lowest_first(cells: Sequence[Cell]) -> list[Cell]:
    """The same order, but the rungs of each ladder share out their places among themselves by rate."""
    places: dict[str, list[int]] = {}
    for place, cell in enumerate(cells):
        if (ladder := ladder_of(cell)) is not None:
            places.setdefault(ladder, []).append(place)
    ordered = list(cells)
    for taken in places.values():
        for place, cell in zip(taken, sorted((cells[one] for one in taken), key=rate_of), strict=True):
            ordered[place] = cell
    return ordered


def skipped_by(cells: Sequence[Cell], done: Mapping[str, Trial]) -> list[Trial]:
    """A trial for each cell that is not done and stands above a done one that was saturated."""
    low = [cell for cell in cells if cell.key in done and (found := done[cell.key].measurement) and found.saturated]
    skipped = {}
    for cell in sorted(low, key=rate_of):
        for other in above(cell, cells):
            if other.key not in done and other.key not in skipped:
                skipped[other.key] = skip(other, cell)
    return list(skipped.values())


def skip(cell: Cell, saturated: Cell) -> Trial:
    """A rung that is not measured, and why."""
    return cell.skipped(f"workload.rate_per_s={rate_of(saturated):g} saturates it already, so {rate_of(cell):g} would too")
