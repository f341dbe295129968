"""What a place costs before its engine starts: a job of submitit's local cluster, an actor of Ray with its cluster.

    python experiments/executors/start_cost.py [jobs] [actors]

Each is opened three times, and the median is printed: the first place there, and another one beside it. An engine's start comes
on top, as everywhere. The cluster's own queue is not in it.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from gpuqa.config.app import compose_cell
from gpuqa.study.executors import opened

KINDS = {"jobs": ["executor=slurm", "executor.cluster=local"], "actors": ["executor=ray", "executor.workers=2"]}
REPEATS = 3


def main() -> None:
    """Print a row for each kind."""
    for kind in sys.argv[1:] or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            words = ["experiment=none", "engine=transformers", f"study.root={folder}", *KINDS[kind]]
            rows = [seconds_of(words, Path(folder)) for _ in range(REPEATS)]
        first, second, end = (median(column) for column in zip(*rows, strict=True))
        print(f"{kind}: the first place is there after {first:.1f} s, another one after {second:.1f} s; all end in {end:.1f} s")


def seconds_of(words: list[str], folder: Path) -> tuple[float, float, float]:
    """Of the first place, of another one beside it, and of the end of both."""
    config, began = compose_cell(*words), time.perf_counter()
    with opened([config], len) as places:
        first = time.perf_counter() - began
        began, session = time.perf_counter(), places[1].session(folder / "engine.log")
        asyncio.run(session.open())
        second = time.perf_counter() - began
        began = time.perf_counter()
        asyncio.run(session.end())
    return first, second, time.perf_counter() - began


if __name__ == "__main__":
    main()
