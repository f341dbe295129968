"""Our contestants: gpuqa's own pipeline, called directly and over HTTP."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace
from typing import Any

from contestant import HOST, Batch, Contestant, Reply, Task, listen


class Ours(Contestant):
    """One engine, and for each prefix a `Pipeline` and the app of `gpuqa.serving.app`, served as `gpuqa.serve` does it."""

    serves = True

    async def start(self) -> Reply:
        from prometheus_client import CollectorRegistry

        from gpuqa.config.http import HttpConfig
        from gpuqa.pipeline.pipeline import Pipeline, checked_tokenizer, start_engine
        from gpuqa.serving.app import create_app
        from gpuqa.serving.life import State, Winner
        from gpuqa.serving.service import Service
        from gpuqa.serving.telemetry import Telemetry

        configs = {prefix: our_config(self.task, system) for prefix, system in self.task.systems.items()}
        first = next(iter(configs.values()))
        tokenizer = await asyncio.to_thread(checked_tokenizer, first)
        self.engine: Any = await start_engine(first)  # the prefixes differ in their prompt alone
        self.pipelines = {prefix: Pipeline(self.engine, tokenizer, config) for prefix, config in configs.items()}
        for prefix, pipeline in self.pipelines.items():
            http, telemetry = HttpConfig(host=HOST, port=0, warmup_batch=1), Telemetry(CollectorRegistry())
            measured = self.engine.overrides()
            winner = Winner({"": lambda started=pipeline: immediately(started)}, ["Warm?"], measured)  # type: ignore[misc]
            service = Service(winner, http, telemetry, fail)
            app = create_app(service)
            self.addresses[prefix] = (await listen(app), "/predict")
            while service.look() is not State.ready:
                await asyncio.sleep(0.02)
        chosen = {"scheduler": first.engine.scheduler.name, "attention": first.engine.attention.name}
        ran = {override.part: [override.ran, override.reason] for override in self.engine.overrides()}
        return {"engine_args": first.engine_args(), **chosen, "ran": ran}

    async def measure(self, batch: Batch) -> Reply:
        began = time.perf_counter()
        completions = await self.pipelines[batch.prefix].answer(batch.questions)
        seconds = time.perf_counter() - began
        errors = [completion.error for completion in completions if completion.error]
        if errors:
            raise RuntimeError(f"{len(errors)} questions failed, the first with {errors[0]}")
        return {"seconds": seconds, "output_tokens": sum(completion.output_tokens for completion in completions)}

    async def profile(self, on: bool) -> Reply:
        await (self.engine.llm.start_profile() if on else self.engine.llm.stop_profile())
        return {}


def our_config(task: Task, system: str) -> Any:
    """A pipeline's config: the shipped engine file, with the arguments that all contestants share put over it."""
    from gpuqa.config.app import compose_cell
    from gpuqa.config.pipeline import (
        Attention,
        ModelConfig,
        PipelineConfig,
        PromptConfig,
        QuantizationConfig,
        SamplingConfig,
        Scheduler,
    )

    shipped = compose_cell("experiment=none", f"engine={task.engine}").engine
    engine = replace(
        shipped,
        args={**shipped.args, **task.args},
        scheduler=Scheduler[task.scheduler] if task.scheduler else shipped.scheduler,
        attention=Attention[task.attention] if task.attention else shipped.attention,
    )
    return PipelineConfig(
        model=ModelConfig(name="speed", path=task.model),
        prompt=PromptConfig(name="speed", system=system),
        quantization=QuantizationConfig(name="none"),
        engine=engine,
        sampling=SamplingConfig(name="speed", **task.sampling),
    )


async def immediately(pipeline: Any) -> Any:
    """A pipeline that is there already, for an app that expects to start one."""
    return pipeline


def fail(reason: str) -> None:
    """What an app calls when its warm-up failed: there is nothing to measure then."""
    print(f"warm-up failed: {reason}", file=sys.stderr)


class OursOwnAttention(Ours):
    """Ours with vLLM's own attention."""

    def __init__(self, task: Task) -> None:
        super().__init__(replace(task, attention="default"))


class OursPrepared(Ours):
    """Ours with every step of a burst prepared anew, as vLLM's model runner does it."""

    def __init__(self, task: Task) -> None:
        nothing = {"worker_extension_cls": "builtins.object"}  # in the place of ours, which repeats steps
        super().__init__(replace(task, extra_args={**(task.extra_args or {}), **nothing}))


class OursFloat8(Ours):
    """Ours with a KV cache of 8 bits."""

    def __init__(self, task: Task) -> None:
        super().__init__(replace(task, extra_args={**(task.extra_args or {}), "kv_cache_dtype": "fp8"}))


class OursDefault(Ours):
    """Ours with vLLM's own scheduler and attention."""

    def __init__(self, task: Task) -> None:
        super().__init__(replace(task, scheduler="default", attention="default"))
