"""Rate sweeps: cells that differ in `workload.rate_per_s` alone, the lowest rate first, none above a saturated one.

Above the rate that saturates an engine every pass says the same of its throughput, and its latencies say how long the pass
was. So the first saturated pass ends the sweep above it. A sweep of `workload.concurrency` is measured to its end: so many
clients bound the queue themselves, and the concurrency at which throughput stops growing is what such a sweep looks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gpuqa.measure.cell import Cell
from gpuqa.records import Trial


def sweep_of(cell: Cell) -> str | None:
    """What the cells of one rate sweep have in common; None for a cell without a rate, or with one that changes."""
    workload = cell.config.workload
    if workload.rate_per_s is None or workload.ramp_to_per_s is not None or workload.searches:
        return None
    lowest = replace(workload, rate_per_s=1.0)
    return replace(cell, config=replace(cell.config, workload=lowest)).key


def rate_of(cell: Cell) -> float:
    """Questions a second; 0 for a cell without a rate."""
    return cell.config.workload.rate_per_s or 0.0


def above(cell: Cell, cells: Sequence[Cell]) -> list[Cell]:
    """The cells of the same sweep with a higher rate."""
    sweep = sweep_of(cell)
    if sweep is None:
        return []
    return [other for other in cells if rate_of(other) > rate_of(cell) and sweep_of(other) == sweep]


def lowest_first(cells: Sequence[Cell]) -> list[Cell]:
    """The same order, but in the places that the cells of one sweep have, these follow each other by rate."""
    places: dict[str, list[int]] = {}
    for place, cell in enumerate(cells):
        if (sweep := sweep_of(cell)) is not None:
            places.setdefault(sweep, []).append(place)
    ordered = list(cells)
    for taken in places.values():
        for place, cell in zip(taken, sorted((cells[place] for place in taken), key=rate_of), strict=True):
            ordered[place] = cell
    return ordered


def skipped_by(cells: Sequence[Cell], done: Mapping[str, Trial]) -> list[Trial]:
    """A skipped trial for each cell that is not done and whose sweep has a done, saturated cell with a lower rate."""
    measured = [(cell, done[cell.key].measurement) for cell in cells if cell.key in done]
    saturated = [cell for cell, measurement in measured if measurement and measurement.saturated]
    skipped = {}
    for cell in sorted(saturated, key=rate_of):
        for other in above(cell, cells):
            if other.key not in done and other.key not in skipped:
                skipped[other.key] = skip(other, cell)
    return list(skipped.values())


def skip(cell: Cell, saturated: Cell) -> Trial:
    """A cell that is not measured, and why."""
    return cell.skipped(f"workload.rate_per_s={rate_of(saturated):g} saturates it already, so {rate_of(cell):g} would too")
