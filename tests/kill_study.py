"""Run studies in forked processes and kill them, again and again; then let each end. Prints a JSON summary a study.

    python tests/kill_study.py FOLDER SEED KILLS
    python tests/kill_study.py FOLDER SEED KILLS workers|jobs|actors

The first study is a grid, whose first kill comes while the engine starts. The second, with one kill after a pass, is a race in
which half of the cells are dropped; the same race is first run undisturbed. One process imports vLLM once and forks for every
run, so that twenty runs of the real engine take two minutes.

With `workers`, `jobs` or `actors` there is one study: a grid on two engines, each in a process, a job (submitit's own processes
stand for a cluster's) or an actor of Ray. It is first run in one process, and its first kill comes after a pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from gpuqa.config.app import compose_cell
from gpuqa.measure.cell import Cell
from gpuqa.records import Pass
from gpuqa.study import study
from gpuqa.study.executors import opened
from gpuqa.study.journal import Journal

FIXED = [
    "experiment=none",
    "quantization=none",
    "engine.args.max_num_seqs=16",
    "workload.repeats=2",
]
GRID = ["dataset.limit=3"]
RACE = [
    "dataset.limit=16",
    "study.racing=true",
    "study.racing_first_slice=4",
    "selection.min_rouge_l_f1_judge=0",
    "selection.min_rouge_l_f1_of_best=0",
    "selection.max_truncated_fraction=0.25",  # four of four that are cut show more
    "selection.max_interval_ratio=1e9",  # no speed, which differs from run to run, is far enough behind
]


SIDE_BY_SIDE = {
    "workers": ["executor.workers=2"],
    "jobs": ["executor=slurm", "executor.cluster=local", "executor.lost_after_s=3"],
    "actors": ["executor=ray", "executor.workers=2"],
}


class Teller:
    """An observer that sends a letter for every pass of this run."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def engine_starts(self, cell: Cell) -> None: ...

    def pass_done(self, cell: Cell, measured: Pass) -> None:
        os.write(self.pipe, b"p")

    def trial_done(self, trial: Any, kept: bool) -> None: ...


def main() -> None:
    """Disturb both studies."""
    folder, seed, kills = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if where := sys.argv[4:]:
        own = [*SIDE_BY_SIDE[where[0]], f"study.root={folder}", "study.name=w"]
        print(json.dumps(disturbed(folder / "w", seed, kills, side_by_side_cells(own))))
        return
    import vllm.engine.arg_utils
    import vllm.v1.engine.async_llm  # noqa: F401  # once, before the first fork; not where the scoring process would import it too

    gc.freeze()
    print(json.dumps(disturbed(folder / "g", seed, kills, all_cells(racing=False))), flush=True)
    print(json.dumps(disturbed(folder / "r", seed, 1, all_cells(racing=True))))


def disturbed(folder: Path, seed: int, kills: int, cells: list[Cell]) -> dict[str, Any]:
    """Kill one study at seeded moments, then let it finish; what was seen."""
    config = cells[0].config
    at_places = config.executor.workers is not None
    journal, rng = Journal(folder), random.Random(seed)
    journal.write_study([(cell.key, cell.axes) for cell in cells])
    undisturbed = Journal(folder / "undisturbed")
    alone = run_to_the_end(cells, undisturbed, False) if config.study.racing or at_places else None
    told, seen, kept = killed_again_and_again(cells, journal, rng, kills, at_places)
    status, last = run_to_the_end(cells, journal, at_places)
    final = passes_in(journal, cells)
    lines = [json.loads(line) for line in journal.file.read_bytes().split(b"\n") if complete(line)]
    measured = [line["key"] for line in lines if line["error"] is None]
    return {
        "kept_after_each_kill": kept,
        "exit": status,
        "cells": len(cells),
        "measured": len(measured),
        "distinct": len(set(measured)),
        "passes": len(final),
        "expected_passes": sum(cell.config.workload.repeats for cell in cells),
        "kept_to_the_end": sum(final.get(name) == began for name, began in seen.items()),
        "passes_told": told + last,
        "undisturbed_passes": alone and alone[1],
        "end": end_of(journal, cells),
        "undisturbed_end": end_of(undisturbed, cells),
        "left_over": [file.name for file in journal.folder.glob("*.passes.jsonl")],
        "names": [trial.name for trial in journal.read_study()],
        "expected_names": [cell.failed("").name for cell in cells],
    }


def killed_again_and_again(
    cells: list[Cell], journal: Journal, rng: random.Random, kills: int, at_places: bool
) -> tuple[int, dict[str, float], list[int]]:
    """Of these runs: how many passes were told of, when each that is kept began, and how many were kept after each kill."""
    kept: list[int] = []
    seen: dict[str, float] = {}
    told = 0
    started = at_places or cells[0].config.study.racing  # only the grid is killed at its first start, too
    for number in range(started, started + kills):
        child, letters = run_in_child(cells, journal, at_places)
        passes = rng.choice([1, 3, 5]) if number % 3 else 0  # before the kill; with none, it comes while the engine starts
        for _ in range(passes):
            told += len(os.read(letters, 1))
        time.sleep(rng.uniform(0.0, 0.2) if passes else rng.uniform(0.1, 3.0))
        below = psutil.Process(child).children(recursive=True)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        _, alive = psutil.wait_procs(below, timeout=90)  # of a Ray that had not come up yet, agents look for it that long
        assert not alive, f"these outlive their study: {alive}"
        told += rest(letters)
        now = passes_in(journal, cells)
        assert all(now.get(name) == began for name, began in seen.items()), "a pass was lost or measured again"
        seen = now
        kept.append(len(now))
    return told, seen, kept


def passes_in(journal: Journal, cells: list[Cell]) -> dict[str, float]:
    """When each pass that the journal holds began, by trial, slice and repeat, of ended trials and of others."""
    found = {}
    ended = {key: trial.measurement.repeats_began_at for key, trial in journal.read().items() if trial.measurement}
    for cell in cells:
        kept = journal.read_passes(cell.key)
        numbers = [(one.slice, one.repeat) for one in kept]
        assert len(numbers) == len(set(numbers)), f"a pass of {cell.axes} is there twice"
        began = {(None, repeat): moment for repeat, moment in enumerate(ended.get(cell.key, []))}
        began |= dict(zip(numbers, (one.began_at for one in kept), strict=True))
        found |= {f"{cell.key} {part} {repeat}": moment for (part, repeat), moment in began.items()}
    return found


def end_of(journal: Journal, cells: list[Cell]) -> list[list[Any]]:
    """What became of every cell, without its speed: why it was dropped or failed, how often it was measured, its score."""
    trials = journal.read()
    found = [trials[cell.key] for cell in cells if cell.key in trials]
    seen = [one.dropped.seen if one.dropped else one.measurement for one in found]
    reasons = [one.dropped.reason if one.dropped else one.error for one in found]
    return [
        [reason, number and number.questions, number and number.repeats, number and number.rouge_l_f1]
        for reason, number in zip(reasons, seen, strict=True)
    ]


def all_cells(racing: bool) -> list[Cell]:
    """Cells of one engine: sixteen; in a race four, of which half cut every answer."""
    lengths, fixed = ([4, 200], RACE) if racing else (range(4, 12), GRID)
    rows = [{"prompt": prompt, "sampling.max_tokens": str(most)} for prompt in ("bare", "keywords") for most in lengths]
    configs = [compose_cell(*FIXED, *fixed, *(f"{key}={value}" for key, value in row.items())) for row in rows]
    return study.prepare(list(zip(configs, rows, strict=True)))


def side_by_side_cells(executor: list[str]) -> list[Cell]:
    """Eight cells of two engines."""
    rows = [
        {"prompt": prompt, "sampling.max_tokens": most, "engine.args.batch_size": size}
        for size in ("1", "2")
        for prompt in ("bare", "keywords")
        for most in ("4", "8")
    ]
    fixed = ["experiment=none", "quantization=none", "workload.repeats=2", "engine=transformers", "dataset.limit=3"]
    fixed += ["engine.args.dtype=float32", *executor]
    configs = [compose_cell(*fixed, *(f"{key}={value}" for key, value in row.items())) for row in rows]
    return study.prepare(list(zip(configs, rows, strict=True)))


def run_to_the_end(cells: list[Cell], journal: Journal, at_places: bool) -> tuple[int, int]:
    """Let a child run what is missing; its exit code, and how many passes it told of."""
    child, letters = run_in_child(cells, journal, at_places)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), rest(letters)


def rest(letters: int) -> int:
    """The letters that nobody has read of a child that has ended."""
    with os.fdopen(letters, "rb") as pipe:
        return len(pipe.read())


def run_in_child(cells: list[Cell], journal: Journal, at_places: bool) -> tuple[int, int]:
    """Fork; the child holds the study's lock and runs what is missing. Returns its id and where its letters arrive."""
    letters, pipe = os.pipe()
    if child := os.fork():
        os.close(pipe)
        return child, letters
    try:
        configs = [cell.config for cell in cells]
        with journal.locked(), opened(configs, len) if at_places else contextlib.nullcontext([]) as places:
            asyncio.run(study.run(cells, journal, Teller(pipe), places))
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
