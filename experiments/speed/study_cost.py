"""What does sharing an engine save? One study of 24 cells on 6 engines, beside a process for each cell.

    python experiments/speed/study_cost.py model=/tmp/bench_model out=/tmp/cost
    python experiments/speed/study_cost.py model=/tmp/tiny_model out=/tmp/cost --tiny   # on a CPU: 4 cells, 2 engines

The study runs twice, first with empty compile caches. The processes are `python -m gpuqa.sweep` with one cell each, after
that and so with full caches; a few of them are measured and taken for all. With empty caches they would compile what the study
compiles, once for each engine, so what that took is added to theirs. The engine's idle share is the time between the first
and the last measured second of an engine that belongs to no repeat.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from statistics import fmean

from startup import CACHES

from gpuqa.config.app import compose_cell
from gpuqa.measure.cell import Cell
from gpuqa.records import Pass, Trial
from gpuqa.study import study
from gpuqa.study.journal import Journal

STATES = ("cold", "warm")  # of the compile caches
ENGINE = "vllm.v1.engine.async_llm"
AXES = {
    "prompt": ["structured_short", "few_shot"],
    "sampling.max_tokens": ["64", "128"],
    "quantization": ["none", "fp8"],
    "engine.args.max_num_seqs": ["128", "256", "512"],
}
TINY_AXES = {"prompt": ["bare", "structured"], "sampling.max_tokens": ["8"], "engine.args.max_num_seqs": ["8", "16"]}


def main() -> None:
    """Run the study, then some of its cells alone."""
    arguments = parse()
    axes = TINY_AXES if arguments.tiny else AXES
    rows = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    os.environ.update({name: str(arguments.out / "caches" / name) for name in CACHES})
    importlib.import_module(ENGINE)  # as `import_s` does
    imports_s, timed = import_s(), {state: Timed() for state in STATES}
    study_s, engines = {}, {}
    for state in STATES:
        begun = time.perf_counter()
        engines[state] = asyncio.run(run_study(arguments, rows, timed[state], state))
        study_s[state] = time.perf_counter() - begun + imports_s
    chosen = rows[:: max(1, len(rows) // arguments.alone)][: arguments.alone]
    alone_s = [alone(arguments, row, place) for place, row in enumerate(chosen)]
    processes_s = {"warm": fmean(alone_s) * len(rows)}
    processes_s["cold"] = processes_s["warm"] + study_s["cold"] - study_s["warm"]
    found = {
        "cells": len(rows),
        "engines": engines,
        "study_s": study_s,
        "imports_s": imports_s,
        "one_cell_alone_s": alone_s,
        "a_process_per_cell_s": processes_s,
        "ratio": {state: processes_s[state] / study_s[state] for state in STATES},
        "idle": {state: timed[state].idle() for state in STATES},
    }
    (arguments.out / "study_cost.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs=2, metavar="model=FOLDER out=FOLDER")
    parser.add_argument("--alone", type=int, default=3, help="cells that are run in a process of their own")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], help="overrides for all cells")
    arguments = parser.parse_args()
    places = dict(word.split("=", 1) for word in arguments.places)
    arguments.model, arguments.out = Path(places["model"]).absolute(), Path(places["out"]).absolute()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if any(arguments.out.iterdir()):
        parser.error(f"out: {arguments.out} is not empty; a study keeps what an earlier run measured, so choose another folder")
    return arguments


def overrides(arguments: argparse.Namespace, row: dict[str, str]) -> list[str]:
    """One cell as the command line of a sweep."""
    engine = "vllm_cpu" if arguments.tiny else "vllm_hopper"
    fixed = ["experiment=none", "model=random_qwen3_0_6b", f"model.path={arguments.model}", f"engine={engine}"]
    speed = ["sampling=fixed_length", "selection=fastest", "dataset=embedded_train"]
    return [*fixed, *speed, *arguments.set, *(f"{key}={value}" for key, value in row.items())]


async def run_study(arguments: argparse.Namespace, rows: list[dict[str, str]], timed: Timed, name: str) -> int:
    """All cells in this process, as a sweep runs them -> engine starts."""
    configs = [compose_cell(*overrides(arguments, row)) for row in rows]
    cells = study.prepare(list(zip(configs, rows, strict=True)))
    journal = Journal(arguments.out / name)
    journal.write_study([(cell.key, cell.axes) for cell in cells])
    outcome = await study.run(cells, journal, timed)
    return outcome.engine_starts


def import_s() -> float:
    """What a process pays for its imports; the study's own are paid before its clock starts."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import gpuqa.sweep, {ENGINE}"], check=True, capture_output=True)
    return time.perf_counter() - begun


def alone(arguments: argparse.Namespace, row: dict[str, str], place: int) -> float:
    """Seconds of one cell in a process of its own."""
    words = [*overrides(arguments, row), f"study.root={arguments.out}", f"study.name=alone{place}"]
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "gpuqa.sweep", *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.perf_counter() - begun


class Timed:
    """An observer that also notes when every pass was measured."""

    def __init__(self) -> None:
        self.passes: dict[str, list[tuple[float, float]]] = {}  # engine key -> began at, seconds

    def pass_done(self, cell: Cell, measured: Pass) -> None:
        self.passes.setdefault(cell.engine_key, []).append((measured.began_at, measured.answered.seconds))

    def engine_starts(self, cell: Cell) -> None:
        print(f"starting {cell.axes}", flush=True)

    def trial_done(self, trial: Trial, kept: bool) -> None:
        del kept
        speed = f"{trial.measurement.output_tokens_per_s:,.0f} tokens/s" if trial.measurement else trial.error
        print(f"  {trial.name}: {speed}", flush=True)

    def idle(self) -> list[float]:
        """The idle share of each engine with two passes or more; its cells take turns, all warm before the first."""
        engines = [passes for passes in self.passes.values() if len(passes) > 1]
        return [1 - sum(seconds for _, seconds in one) / (sum(one[-1]) - one[0][0]) for one in engines]


if __name__ == "__main__":
    main()
