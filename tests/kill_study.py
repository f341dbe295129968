"""Run a study in a forked process and kill it, again and again; then let it end. Prints a JSON summary.

    python tests/kill_study.py FOLDER SEED KILLS

One process imports vLLM once and forks for every run, so that twenty runs of the real engine take two minutes.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gpuqa import study
from gpuqa.door import vllm_on_this_machine
from gpuqa.journal import Journal
from gpuqa.places import conf_folder
from gpuqa.roots import CellConfig, register_schemas, resolve
from gpuqa.trial import Cell

FIXED = [
    "experiment=none",
    "quantization=none",
    "engine.args.max_num_seqs=16",
    "dataset.limit=3",
    "workload.repeats=1",
    "workload.warmup_questions=1",
]


class Teller:
    """An observer that sends a letter for every trial that ended in this run."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def engine_starts(self, cell: Cell) -> None: ...

    def trial_done(self, trial: Any, kept: bool) -> None:
        if not kept:
            os.write(self.pipe, b"t")


def main() -> None:
    """Kill at seeded moments, then finish."""
    import vllm.engine.arg_utils
    import vllm.v1.engine.async_llm  # noqa: F401  # once, before the first fork; not where the scoring process would import it too

    folder, seed, kills = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    cells = all_cells()
    journal, rng = Journal(folder), random.Random(seed)
    journal.write_study([(cell.key, cell.axes) for cell in cells])
    kept: list[int] = []
    seen: dict[str, str] = {}
    for _ in range(kills):
        child, letters = run_in_child(cells, journal)
        trials = rng.choice([0, 0, 1, 1, 2])  # so many end before the kill; with none, it comes while the engine starts
        for _ in range(trials):
            os.read(letters, 1)
        time.sleep(rng.uniform(0.0, 0.3) if trials else rng.uniform(0.1, 3.0))
        os.close(letters)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        now = {key: json.dumps(trial.measurement.seconds) for key, trial in journal.read().items() if trial.measurement}
        assert all(now.get(key) == value for key, value in seen.items()), "a finished trial was lost or measured again"
        seen = now
        kept.append(len(now))
    child, _ = run_in_child(cells, journal)
    _, status = os.waitpid(child, 0)
    lines = [json.loads(line) for line in journal.file.read_bytes().split(b"\n") if complete(line)]
    measured = [line["key"] for line in lines if line["error"] is None]
    print(
        json.dumps(
            {
                "kept_after_each_kill": kept,
                "exit": os.waitstatus_to_exitcode(status),
                "cells": len(cells),
                "measured": len(measured),
                "distinct": len(set(measured)),
                "names": [trial.name for trial in journal.read_study()],
                "expected_names": [cell.failed("").name for cell in cells],
            }
        )
    )


def all_cells() -> list[Cell]:
    """Twenty-four cells of one engine."""
    register_schemas()
    OmegaConf.register_new_resolver("vllm_on_this_machine", vllm_on_this_machine, replace=True)
    rows = [{"prompt": prompt, "sampling.max_tokens": str(4 + n)} for prompt in ("bare", "keywords") for n in range(12)]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        words = [[*FIXED, *(f"{key}={value}" for key, value in row.items())] for row in rows]
        configs = [resolve(compose("sweep", overrides=one), CellConfig) for one in words]
    return study.prepare(list(zip(configs, rows, strict=True)))


def run_in_child(cells: list[Cell], journal: Journal) -> tuple[int, int]:
    """Fork; the child holds the study's lock and runs what is missing. Returns its id and where its letters arrive."""
    letters, pipe = os.pipe()
    if child := os.fork():
        os.close(pipe)
        return child, letters
    try:
        with journal.locked():
            asyncio.run(study.run(cells, journal, Teller(pipe)))
        os._exit(0)
    finally:
        os._exit(1)


def complete(line: bytes) -> bool:
    """Whether a line of the journal was written to its end."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    main()
