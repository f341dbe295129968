"""How much do two starts of one and the same engine differ, beside batches of one start?

    PYTHONPATH=.:$PYTHONPATH python experiments/speed/start_spread.py model=/tmp/bench_model --starts 6 --batches 5 \\
        --each quantization=none --each quantization=fp8

Each start is a process of its own; the configurations take turns. The last lines are, for each configuration, the standard
deviation within a start and between starts, both in percent of the mean seconds: that between starts is what is left of the
spread of the starts' means when the batches' own spread is taken out (one-way analysis of variance, 0 if it is negative).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from typing import Any


def main() -> None:
    """Starts in turn, then one line for each configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model=FOLDER, as random_model.py writes it")
    parser.add_argument("--starts", type=int, default=6, help="of each configuration")
    parser.add_argument("--batches", type=int, default=5, help="timed ones of each start")
    parser.add_argument("--each", action="append", default=[], help="an override; each one is a configuration")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds; no start begins after it")
    parser.add_argument("--one", help="used by the script itself: one start of this configuration")
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(asyncio.run(batches(arguments.one, arguments.model, arguments.batches))))
        return
    began, seconds = time.monotonic(), {each: [] for each in arguments.each}  # type: dict[str, list[list[float]]]
    for _ in range(arguments.starts):
        for each, starts in seconds.items():
            if time.monotonic() - began < arguments.budget:
                starts.append(one_start(each, arguments))
                print(each, [round(value, 4) for value in starts[-1]], flush=True)
    for each, starts in seconds.items():
        print(each, spread(starts))


def one_start(each: str, arguments: Any) -> list[float]:
    """The seconds of each batch of a fresh process."""
    words = [arguments.model, "--one", each, "--batches", str(arguments.batches)]
    run = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
    return list(json.loads(run.stdout.splitlines()[-1]))


async def batches(override: str, model: str, count: int) -> list[float]:
    """Start, answer one batch that is not timed, then time `count` of them, each from an empty prefix cache."""
    from gpuqa.config.app import compose_cell
    from gpuqa.pipeline import dataset
    from gpuqa.pipeline.pipeline import Pipeline

    words = ["engine=vllm_hopper", "engine.args.gpu_memory_utilization=0.5", "sampling=fixed_length", "sampling.max_tokens=256"]
    words += ["model=random_qwen3_0_6b", f"model.path={model.partition('=')[2]}", "dataset=embedded_train", "prompt=structured"]
    config = compose_cell("experiment=none", *words, override)
    texts = [question.text for question in dataset.load(config.dataset)]
    pipeline = await Pipeline.start(config)
    found = []
    for _ in range(count + 1):
        await pipeline.engine.reset_prefix_cache()
        began = time.perf_counter()
        await pipeline.answer(texts)
        found.append(time.perf_counter() - began)
    await pipeline.close()
    return found[1:]


def spread(starts: list[list[float]]) -> dict[str, float]:
    """Mean seconds, and both standard deviations in percent of it."""
    mean, count = statistics.fmean(value for start in starts for value in start), len(starts[0])
    within = statistics.fmean(statistics.variance(start) for start in starts)
    means = statistics.variance([statistics.fmean(start) for start in starts])
    between = max(means - within / count, 0.0)
    numbers = {"starts": len(starts), "batches": count, "mean_s": round(mean, 4)}
    return {
        **numbers,
        "within_percent": round(within**0.5 / mean * 100, 2),
        "between_percent": round(between**0.5 / mean * 100, 2),
    }


if __name__ == "__main__":
    main()
