"""What every contestant is told and must do, and the loop in which its process obeys the yardstick."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import uvicorn

Reply = dict[str, Any]
HOST = "127.0.0.1"
SERVERS: list[asyncio.Task[None]] = []  # asyncio itself keeps weak references only


@dataclass(frozen=True)
class Task:
    """What a contestant is told. `systems` and addresses are keyed by the prefix, "500" and the like."""

    model: str
    systems: dict[str, str]
    tokens: int
    engine_args: dict[str, Any]  # the same for every contestant that has a vLLM
    engine: str  # ours: the option of conf/engine, below the arguments above
    scheduler: str | None = None  # ours: engine.scheduler and engine.attention; None is what the option says
    attention: str | None = None
    extra_args: dict[str, Any] | None = None  # for this contestant alone, above all others
    batch_size: int = 64  # transformers

    @property
    def args(self) -> dict[str, Any]:
        """The engine's arguments."""
        return {**self.engine_args, **(self.extra_args or {})}

    @property
    def sampling(self) -> dict[str, Any]:
        """Greedy, and exactly so many tokens, under vLLM's names."""
        return {"temperature": 0.0, "max_tokens": self.tokens, "ignore_eos": True}


class Contestant:
    """One way of driving a model. `addresses`: prefix -> [port, path], of those that answer over HTTP."""

    serves = False

    def __init__(self, task: Task) -> None:
        self.task = task
        self.addresses: dict[str, tuple[int, str]] = {}

    async def start(self) -> Reply:
        raise NotImplementedError

    async def measure(self, batch: Batch) -> Reply:
        """The seconds of one batch inside this process."""
        raise NotImplementedError(f"{type(self).__name__} answers over HTTP only")

    async def profile(self, on: bool) -> Reply:
        """Switch vLLM's own profiler."""
        raise NotImplementedError(f"{type(self).__name__} has no profiler")

    def chat_texts(self, tokenizer: Any, batch: Batch) -> list[str]:
        """The chat template, once a question, as the seed does it."""
        system = {"role": "system", "content": self.task.systems[batch.prefix]}
        return [
            tokenizer.apply_chat_template(
                [system, {"role": "user", "content": question}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
            for question in batch.questions
        ]

    def chat_ids(self, tokenizer: Any, batch: Batch) -> list[list[int]]:
        """Template and tokeniser, once a question."""
        return [tokenizer.encode(text, add_special_tokens=False) for text in self.chat_texts(tokenizer, batch)]


@dataclass(frozen=True)
class Batch:
    """Questions to answer. `how`: "text" or "ids", from what the clock runs; "direct" where there is no choice."""

    how: str
    prefix: str
    questions: list[str]


async def obey(contestant: Contestant, say: Callable[[Reply], None]) -> None:
    """Start, then answer commands until stdin ends."""
    began = time.perf_counter()
    started = await caught(contestant.start())
    say({**started, "start_s": time.perf_counter() - began, "addresses": contestant.addresses})
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        if "measure" in command:
            doing = contestant.measure(Batch(**command["measure"]))
        else:
            doing = contestant.profile(command["profile"])
        say(await caught(doing))
    os._exit(0)  # engines' threads would keep it; the yardstick ends its children


async def caught(doing: Awaitable[Reply]) -> Reply:
    """The reply, or the error: one contestant's failure is a result, whatever it is."""
    try:
        return await doing
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}


async def listen(app: Any) -> int:
    """Serve an app with the settings of `gpuqa.serve` on a free port, which is returned."""
    config = uvicorn.Config(app, host=HOST, port=0, log_config=None, timeout_graceful_shutdown=330, access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        if serving.done():
            raise RuntimeError("uvicorn ended while it started; see the log")
        await asyncio.sleep(0.02)
    SERVERS.append(serving)
    return int(server.servers[0].sockets[0].getsockname()[1])
