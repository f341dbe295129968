"""What do the engine's numbers in /metrics cost a batch? The same engine with and without them, in turn.

    PYTHONPATH=. python experiments/speed/stats_cost.py --questions 358 --tokens 32 --repeats 7

Seconds of the clock, of CPU in this process, where the numbers are kept, and of CPU in the engine's: on a machine that others
use, too, only the latter two can tell a difference of a few milliseconds.

`without` hands vLLM no statistics logger at all, `with` the one of `gpuqa.engines.vllm.build`. vLLM 0.32 reads the logger
from a list for every step, so that it can be exchanged between two batches.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]


async def measure(questions: int, tokens: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each batch by the clock and of CPU, by whether the numbers were kept."""
    from dataclasses import replace

    from gpuqa.config.app import compose_cell
    from gpuqa.pipeline.pipeline import Pipeline

    config = compose_cell("experiment=none", "prompt=bare")
    config = replace(config, sampling=replace(config.sampling, max_tokens=tokens, ignore_eos=True))
    known = [row["instruction"] for row in json.loads((ROOT / "gpuqa/embedded/questions/test.json").read_text("utf-8"))]
    pipeline = await Pipeline.start(config)
    await pipeline.answer(known)  # vLLM begins to listen to its engine with the first request
    llm = pipeline.engine.llm  # type: ignore[attr-defined]
    loggers = {"without": None, "with": llm.logger_manager}
    seconds: dict[str, dict[str, list[float]]] = {
        kind: {name: [] for name in loggers} for kind in ("clock", "cpu", "engine_cpu")
    }
    [engine] = [one for one in psutil.Process().children(recursive=True) if "EngineCore" in one.name()]
    for repeat in range(repeats):
        for turn, name in enumerate(sorted(loggers, reverse=bool(repeat % 2))):
            llm._logger_ref[0] = loggers[name]
            # equal in length and in what they share, whoever's turn it is: else the prompts themselves would differ
            texts = [f"{repeat:02}{turn}{place:03} {known[place % len(known)]}" for place in range(questions)]
            began, cpu, engine_cpu = time.perf_counter(), time.process_time(), sum(engine.cpu_times()[:2])
            await pipeline.answer(texts)
            seconds["clock"][name].append(time.perf_counter() - began)
            seconds["cpu"][name].append(time.process_time() - cpu)
            seconds["engine_cpu"][name].append(sum(engine.cpu_times()[:2]) - engine_cpu)
    await pipeline.close()
    return seconds


def main() -> None:
    """Print the median, its MAD and the ratio."""
    from gpuqa.measure.statistics import median_and_mad

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in (("questions", 358), ("tokens", 32), ("repeats", 7)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    arguments = parser.parse_args()
    seconds = asyncio.run(measure(arguments.questions, arguments.tokens, arguments.repeats))
    for kind, by_name in seconds.items():
        medians = {name: median_and_mad(values) for name, values in by_name.items()}
        print(json.dumps({"seconds": by_name, "median_and_mad": medians}))
        print(f"{kind}, with / without:", round(medians["with"][0] / medians["without"][0], 3))


if __name__ == "__main__":
    sys.exit(main())
