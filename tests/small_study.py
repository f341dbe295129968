"""Small studies on real engines for the tests of `gpuqa.study`: the cells, the run, and what an observer is told.

The transformers backend runs the embedded model, because it starts in a moment. All studies of a test process share one real
scoring process, which would take two seconds of each.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from gpuqa.config.commands import CellConfig, from_plain
from gpuqa.config.paths import conf_folder
from gpuqa.engines import EngineFailed
from gpuqa.measure.cell import Cell
from gpuqa.records import Generation, Pass, Trial
from gpuqa.study import scoring, study
from gpuqa.study.journal import Journal

CHOSEN = {
    "model": "embedded",
    "prompt": "bare",
    "quantization": "none",
    "engine": "transformers",
    "sampling": "greedy",
    "dataset": "embedded",
    "workload": "batch",
    "selection": "fastest_above_floor",
    "gpu": "none",
    "executor": "local",
}
QUICK = {
    "dataset.limit": 2,
    "workload.repeats": 1,
    "sampling.max_tokens": 8,
    "engine.args.dtype": "float32",
    "study": {"name": "mine"},
}
BARE, KEYWORDS, NARROW = {"prompt": "bare"}, {"prompt": "keywords"}, {"prompt": "bare", "engine__args__batch_size": 1}


class SharedPool(ProcessPoolExecutor):
    """A scoring process that outlives the studies that it scores for, and ends with this process."""

    living: SharedPool | None = None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None: ...


def shared_pool() -> ProcessPoolExecutor:
    """The one that lives; a fresh one where none was started or the last was killed."""
    try:
        assert SharedPool.living is not None
        SharedPool.living.submit(int)
    except (AssertionError, BrokenProcessPool):
        SharedPool.living = SharedPool(1, get_context("spawn"), initializer=scoring.give_way, initargs=(os.getpid(),))
    return SharedPool.living


scoring.start_pool = shared_pool


def option(group: str, name: str) -> Any:
    return OmegaConf.to_container(OmegaConf.load(conf_folder() / group / f"{name}.yaml"))


def config(**axes: Any) -> CellConfig:
    """A quick cell with other options for groups (`prompt="bare"`) and other values (`sampling__max_tokens=4`)."""
    chosen = {group: option(group, axes.pop(group, name)) for group, name in CHOSEN.items()}
    values = OmegaConf.create(chosen)
    for key, value in {**QUICK, **{key.replace("__", "."): value for key, value in axes.items()}}.items():
        OmegaConf.update(values, key, value, force_add=True)
    return from_plain(values, CellConfig, "the test")  # type: ignore[arg-type]


def prepared(*rows: dict[str, Any]) -> list[Cell]:
    return study.prepare([(config(**row), {key: str(value) for key, value in row.items()}) for row in rows])


class Recorder:
    """Notes what a study tells its observer; the journal must know a pass and a trial before the observer does."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.starts: list[dict[str, str]] = []
        self.measured: list[dict[str, str]] = []
        self.passes: list[tuple[str, int]] = []
        self.kept: list[dict[str, str]] = []

    def engine_starts(self, cell: Cell) -> None:
        self.starts.append(cell.axes)

    def pass_done(self, cell: Cell, measured: Pass) -> None:
        assert measured in self.journal.read_passes(cell.key)
        self.passes.append((cell.key, measured.repeat))

    def trial_done(self, trial: Trial, kept: bool) -> None:
        assert trial.key in self.journal.read()
        (self.kept if kept else self.measured).append(trial.axes)


def run(cells: Sequence[Cell], folder: Path) -> tuple[study.Outcome, Recorder]:
    journal = Journal(folder)
    recorder = Recorder(journal)
    return asyncio.run(study.run(cells, journal, recorder)), recorder


def die(_: int) -> list[Generation]:
    raise EngineFailed("the engine process died")
