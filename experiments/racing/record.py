"""Record a study of which every cell was measured in full and on seeded slices, so that a race can be replayed on it.

    python experiments/racing/record.py out=tests/traces/wide.json.gz --sizes 16 --slices 2 --repeats 3 \\
        prompt=bare,expert,few_shot,keywords,structured,structured_short quantization=none,fp8_kv \\
        sampling.max_tokens=128,256 engine.args.max_num_seqs=16,64

What a race would measure is measured: an engine's start, each cell's warm-up, passes over slices and over all questions,
each from a cold prefix cache, those of one engine in a seeded order. Scores are taken when the last engine is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import time
from itertools import product
from pathlib import Path
from typing import Any

from gpuqa.config.app import compose_cell
from gpuqa.engines import Engine, EngineFailed
from gpuqa.machine import hardware
from gpuqa.measure.cell import Cell
from gpuqa.measure.metrics import chars, score_answers
from gpuqa.measure.trial import warm_up
from gpuqa.measure.workload import issue
from gpuqa.pipeline.pipeline import Pipeline
from gpuqa.pipeline.prompts import load_tokenizer
from gpuqa.records import Answered
from gpuqa.study import study
from gpuqa.study.engine_session import start_quietly

AXES = {
    "prompt": "bare,structured,structured_short,keywords",
    "quantization": "none,fp8_per_channel",
    "engine.args.max_num_seqs": "16,64",
}
FIXED = ["experiment=none"]


def main() -> None:
    """Record all cells and write one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="out=FILE axis=value,value", help="axes beside the default study's")
    parser.add_argument("--sizes", default="8,16,32", help="questions in a slice")
    parser.add_argument("--slices", type=int, default=4, help="seeded slices of each size")
    parser.add_argument("--repeats", type=int, default=4, help="passes over all questions")
    arguments = parser.parse_intermixed_args()
    words = dict(word.split("=", 1) for word in arguments.words)
    out = Path(words.pop("out"))
    axes = {key: values.split(",") for key, values in {**AXES, **words}.items()}
    cells = composed([dict(zip(axes, values, strict=True)) for values in product(*axes.values())])
    asks = [(seed, int(size)) for size in arguments.sizes.split(",") for seed in range(arguments.slices)]
    found = asyncio.run(record(cells, asks, arguments.repeats, out.with_suffix(".log")))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(gzip.compress(json.dumps(found, ensure_ascii=False).encode(), mtime=0))
    print(f"{out}: {out.stat().st_size / 1e3:.0f} kB")


def composed(rows: list[dict[str, str]]) -> list[Cell]:
    """The cells of a sweep with these axes."""
    configs = [compose_cell(*FIXED, *(f"{key}={value}" for key, value in row.items())) for row in rows]
    return study.prepare(list(zip(configs, rows, strict=True)))


async def record(cells: list[Cell], asks: list[tuple[int, int]], repeats: int, log: Path) -> dict[str, Any]:
    """Every engine in turn; numbers in seconds and characters."""
    engines: list[dict[str, Any]] = []
    rows: dict[str, dict[str, Any]] = {cell.key: {"axes": cell.axes, "slices": [], "passes": []} for cell in cells}
    for group in study.group_by_engine(cells):
        jobs = [(cell, seed, size) for cell in group for seed, size in asks]
        jobs += [(cell, None, len(cell.questions)) for cell in group for _ in range(repeats)]
        jobs = random.Random(len(engines)).sample(jobs, len(jobs))
        start_s = None
        while jobs:
            engine = await start_quietly(group[0], log)
            start_s = engine.start_s if start_s is None else start_s
            try:
                await measure(engine, group, jobs, rows)
            except EngineFailed as error:
                print(f"{error}; see {log}; going on with {len(jobs)} passes on a new engine", flush=True)
            await engine.close()
        for cell in group:
            rows[cell.key]["engine"] = len(engines)
        engines.append({"start_s": start_s})
        print(f"{time.strftime('%H:%M:%S')} engine {len(engines)}, started in {start_s:.1f} s, done", flush=True)
    for cell in cells:
        rows[cell.key].update(scored(cell, rows[cell.key].pop("first")))
    return {"device": hardware.describe()["device"], "questions": len(cells[0].questions), "engines": engines,
            "cells": [rows[cell.key] for cell in cells]}  # fmt: skip


async def measure(engine: Engine, group: list[Cell], jobs: list[Any], rows: dict[str, dict[str, Any]]) -> None:
    """Warm all cells up and take jobs from the front until none is left.

    Raises:
        EngineFailed: the job that broke it is still the first.
    """
    tokenizer = load_tokenizer(group[0].config.model)
    pipelines = {cell.key: Pipeline(engine, tokenizer, cell.config) for cell in group}
    for cell in group:
        warm = await warm_up(cell, pipelines[cell.key])
        rows[cell.key].setdefault("warmup_s", round(warm.warmup_s, 4))
    while jobs:
        cell, seed, size = jobs[0]
        places = list(range(size)) if seed is None else slice_of(seed, size, len(cell.questions))
        await engine.reset_prefix_cache()
        done = await issue([cell.questions[place] for place in places], pipelines[cell.key].answer, cell.config.workload)
        note(rows[cell.key], done, seed, size)
        del jobs[0]


def slice_of(seed: int, size: int, questions: int) -> list[int]:
    """The first places of a seeded order of all questions, so that slices of one seed lie in each other."""
    return random.Random(seed).sample(range(questions), questions)[:size]


def note(row: dict[str, Any], done: Answered, seed: int | None, size: int) -> None:
    """One pass, its answers only of the first over all questions."""
    numbers = {"seconds": round(done.seconds, 4), "chars": chars(done.completions)}
    if seed is None:
        row.setdefault("first", done)
        row["passes"].append(numbers)
    else:
        row["slices"].append({"seed": seed, "size": size, **numbers})


def scored(cell: Cell, first: Answered) -> dict[str, Any]:
    """What a verdict needs of the answers, one value a question, and of the pipeline."""
    answers = score_answers(cell.questions, first)
    pipeline = cell.config.as_dict()
    return {
        "judge": [round(one.rouge_l_f1_judge, 5) for one in answers],
        "chinese": [round(one.rouge_l_f1, 5) for one in answers],
        "chars": [len(one.answer) for one in answers],
        "truncated": [one.finish_reason == "length" for one in answers],
        "pipeline": {key: pipeline[key] for key in ("prompt", "quantization", "sampling")}
        | {"engine": {key: pipeline["engine"][key] for key in ("args", "scheduler")}},
    }


if __name__ == "__main__":
    main()
