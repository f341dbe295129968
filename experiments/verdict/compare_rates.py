"""How often `compare` ends with 0 for a trial that is truly 10 % slower, and for one that is equal.

    python experiments/verdict/compare_rates.py [STUDIES]        # of each figure, 1,000 unless it is said; minutes

Both trials are of studies of their own, so on other starts of an engine. The project's own functions compare their speeds.
Where a row is of finalists, each study also has a first round and finals, whose starts say how much speeds vary.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from itertools import product

import numpy as np
from reproduce_rates import NOISES, REPEATS, START_SDS, start

from gpuqa.measure.speed_tests import Starts
from gpuqa.selection.at_least_as_good import is_as_fast, lead_of

QUIET = {"normal 1 %": (0.01, 0.0, 0.0)}
SIDES = {"one start": (1, 0), "one start of finalists": (1, 4), "three starts": (3, 0)}  # that are compared, and others


def main() -> None:
    """Print the table."""
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"exit code 0 where A is 10 % slower | equal, {studies} studies each; columns: repeats {REPEATS}")
    worst, worst_row = 0.0, ("normal 1 %", 3, 0.0, "one start")
    for sides, noise, start_sd in product(SIDES, (*QUIET, *NOISES), START_SDS):
        texts = []
        for repeats in REPEATS:
            row = noise, repeats, start_sd, sides
            slower, equal = (passes(*row, lead, studies) for lead in (0.9, 1.0))
            worst, worst_row = max((worst, worst_row), (slower, row))
            texts.append(f"{slower:6.1%} | {equal:6.1%}")
        print(f"{sides:22} {noise:13} start sd {start_sd:.0%}   {'  '.join(texts)}", flush=True)
    print(f"the worst row, {worst_row}, {worst:.1%}: {passes(*worst_row, 0.9, 10 * studies):.1%} of {10 * studies}")


def passes(noise: str, repeats: int, start_sd: float, sides: str, lead: float, studies: int) -> float:
    """The share of comparisons that show a trial to be as fast, which has `lead` times the speed of the other."""
    generator, shown = np.random.default_rng([*noise.encode(), repeats, round(start_sd * 1000), len(sides)]), 0
    compared, others = SIDES[sides]
    for _ in range(studies):
        cells = [{**starts(generator, noise, repeats, start_sd, compared + others)} for _ in range(2)]
        cells[0] = {f"A{name}": (np.asarray(logs) + math.log(lead)).tolist() for name, logs in cells[0].items()}
        a, b = ({name: cell[name] for name in list(cell)[:compared]} for cell in cells)
        found = lead_of(a, b, cells)
        assert found is not None
        shown += is_as_fast(found, cells, 0.95)
    return shown / studies


def starts(generator: np.random.Generator, noise: str, repeats: int, start_sd: float, count: int) -> Starts:
    """The log speeds of one cell on so many starts."""
    numbers: Sequence[int] = range(count)
    return {str(number): start(generator, {**NOISES, **QUIET}[noise], [repeats], start_sd)[0] for number in numbers}


if __name__ == "__main__":
    main()
