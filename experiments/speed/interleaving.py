"""Does it matter in which order the repeats of equal cells are measured? One long series of passes, dealt in both ways.

    python -m gpuqa.sweep experiment=none prompt=structured_short dataset.limit=8 sampling.max_tokens=48 \
        workload.repeats=144 study.name=order study.finalists=0 selection=fastest
    python experiments/speed/interleaving.py experiments/order

Consecutive passes, from every third one on (so studies overlap), become studies of equal cells, once cell after cell and once
in shuffled turns, so that both see the very same noise. Printed: the spread of the cells' medians, which would be 0 without
noise, and how often Welch's test finds a difference between the first and the last cell measured, which is always wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from gpuqa.measure.statistics import median_and_mad, trend, welch
from gpuqa.study.journal import Journal

CELLS, REPEATS, SEEDS = 8, 3, 50


def main() -> None:
    """Deal the passes of the study's only trial."""
    (trial,) = Journal(Path(sys.argv[1])).read_study()
    found = trial.measurement
    assert found is not None
    speeds = np.asarray(found.chars_per_s_repeats)
    studies = [speeds[begin : begin + CELLS * REPEATS] for begin in range(0, len(speeds) - CELLS * REPEATS + 1, REPEATS)]
    print(f"{len(speeds)} passes of {found.seconds:.2f} s: {found.chars_per_s:,.0f} chars/s, MAD {mad(speeds):.1%}")
    steps = [abs(one) for one in np.diff(np.log(speeds))]
    print(f"neighbours differ by {np.median(steps):.1%} (median); {len(studies)} studies of {CELLS} cells x {REPEATS} repeats")
    generator = np.random.default_rng(0)
    told("cell after cell", [one.reshape(CELLS, REPEATS) for one in studies])
    turns = [[generator.permutation(CELLS) for _ in range(REPEATS)] for _ in range(SEEDS)]
    told("in turns", [deal(one, order) for one in studies for order in turns])
    drift = [trend([list(map(float, range(len(one))))], [one.tolist()]) for one in studies]
    print(f"a trend (p <= 0.05) in {np.mean([one is not None and one.p_value <= 0.05 for one in drift]):.0%} of the studies")


def mad(speeds: np.ndarray) -> float:
    """Median absolute deviation as a share of the median."""
    middle, spread = median_and_mad(speeds.tolist())
    return spread / middle


def deal(passes: np.ndarray, turns: list[np.ndarray]) -> np.ndarray:
    """Passes in the order of time -> a row a cell, where every repeat goes round all cells in its own order."""
    rows = np.empty((CELLS, REPEATS))
    for repeat, order in enumerate(turns):
        rows[order, repeat] = passes[repeat * CELLS : (repeat + 1) * CELLS]
    return rows


def told(how: str, dealt: list[np.ndarray]) -> None:
    """The spread of equal cells and the rate of wrong findings."""
    spread = np.mean([np.log(np.median(rows, axis=1)).std(ddof=1) for rows in dealt])
    pairs = [welch(rows[first].tolist(), rows[last].tolist()) for rows in dealt for first, last in ((0, -1),)]
    wrong = np.mean([found is not None and found.p_value <= 0.05 for found in pairs])
    print(f"{how}: standard deviation of the cells' medians {spread:.2%}; first and last differ at p <= 0.05 in {wrong:.1%}")


if __name__ == "__main__":
    main()
