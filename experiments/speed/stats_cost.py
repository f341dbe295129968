"""What do the engine's numbers in /metrics cost a batch? The same engine with and without them, in turn.

    PYTHONPATH=. python experiments/speed/stats_cost.py --questions 358 --tokens 32 --repeats 7

`without` hands vLLM no statistics logger at all, `with` the one of `gpuqa.engines.vllm_engine`. vLLM 0.32 reads the logger
from a list for every step, so that it can be exchanged between two batches.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


async def measure(questions: int, tokens: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each batch, by whether the numbers were kept."""
    from dataclasses import replace

    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from gpuqa.door import vllm_on_this_machine
    from gpuqa.pipeline import Pipeline
    from gpuqa.places import conf_folder
    from gpuqa.roots import CellConfig, register_schemas, resolve

    register_schemas()
    OmegaConf.register_new_resolver("vllm_on_this_machine", vllm_on_this_machine, replace=True)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = resolve(compose("sweep", overrides=["experiment=none", "prompt=bare"]), CellConfig)
    config = replace(config, sampling=replace(config.sampling, max_tokens=tokens, ignore_eos=True))
    known = [row["instruction"] for row in json.loads((ROOT / "gpuqa/embedded/questions/test.json").read_text("utf-8"))]
    pipeline = await Pipeline.start(config)
    await pipeline.answer(known)  # vLLM begins to listen to its engine with the first request
    llm = pipeline.engine.llm  # type: ignore[attr-defined]
    loggers = {"without": None, "with": llm.logger_manager}
    seconds: dict[str, list[float]] = {name: [] for name in loggers}
    for repeat in range(repeats):
        for name in sorted(loggers, reverse=bool(repeat % 2)):
            llm._logger_ref[0] = loggers[name]
            texts = [f"{repeat} {name} {place} {known[place % len(known)]}" for place in range(questions)]
            began = time.perf_counter()
            await pipeline.answer(texts)
            seconds[name].append(time.perf_counter() - began)
    await pipeline.close()
    return seconds


def main() -> None:
    """Print the median, its MAD and the ratio."""
    from gpuqa.statistics import median_and_mad

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in (("questions", 358), ("tokens", 32), ("repeats", 7)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    arguments = parser.parse_args()
    seconds = asyncio.run(measure(arguments.questions, arguments.tokens, arguments.repeats))
    medians = {name: median_and_mad(values) for name, values in seconds.items()}
    print(json.dumps({"seconds": seconds, "median_and_mad": medians}))
    print("with / without:", round(medians["with"][0] / medians["without"][0], 3))


if __name__ == "__main__":
    sys.exit(main())
