"""A replica's process without an engine, for what a front costs: it answers when an H200 would, and computes nothing.

One replica on an H200 took 1.38 s for 358 questions at once and 0.88 s for 179, of 256 tokens each (`one.post` and `two.post`
of experiments/h200/replicas.json, prefix 500); a line through both. With STUB_AT_ONCE=1 in its environment it answers at once.
The answers are 400 Chinese characters, about what 256 tokens make.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Self
from unittest import mock

from gpuqa.config.pipeline import PipelineConfig
from gpuqa.machine.log_lines import Logs
from gpuqa.machine.places import Part
from gpuqa.records import Completion, CompletionDelta, Override
from gpuqa.serving import replica, replica_process

ALONE_S, EACH_S = 0.38, 0.0028
TEXT = "同一个线程束里的线程执行同一条指令。" * 23
TOKENS = 256


class StubPipeline:
    """What `replica_process` calls of a pipeline and of its engine."""

    def __init__(self) -> None:
        self.engine, self.questions = self, 0
        self.at_once = "STUB_AT_ONCE" in os.environ

    @classmethod
    async def start(cls, _: PipelineConfig) -> Self:
        return cls()

    async def answer_in_time(self, questions: Sequence[str], clock: asyncio.Timeout) -> list[Completion]:
        self.questions += len(questions)
        async with clock:
            await asyncio.sleep(0 if self.at_once else ALONE_S + EACH_S * self.questions)
        self.questions -= len(questions)
        return [Completion(TEXT, "length", 540, TOKENS, 500, False, 0.1, 0.9, 0.01) for _ in questions]

    async def stream(self, question: str) -> AsyncGenerator[CompletionDelta]:
        [completion] = await self.answer_in_time([question], asyncio.timeout(None))
        yield CompletionDelta(completion.text, completion)

    def alive(self) -> bool:
        return True

    def overrides(self) -> list[Override]:
        return []

    def numbers(self) -> dict[str, float]:
        return {"vllm:num_requests_running": float(self.questions)}

    async def close(self) -> None:
        """It holds nothing."""


async def warm_up(*_: Any) -> int:
    """It is warm."""
    return 0


def work() -> None:
    """The process."""
    with mock.patch.multiple(replica_process, Pipeline=StubPipeline, warm_up=warm_up):
        replica_process.work()


async def start(config: PipelineConfig, place: Part, environment: Mapping[str, str]) -> replica.Replica:
    """As `Replica.start`; the folder of this module has to be on the environment's PYTHONPATH."""
    with mock.patch.object(replica, "replica_process", SimpleNamespace(__name__=__name__)):
        return await replica.Replica.start(config, place, environment, Logs.text)
