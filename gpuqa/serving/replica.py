"""The server's end of a pipeline that runs in a process of its own (`gpuqa.serving.replica_process`).

One process a replica, each with its own tokenizer and its own engine: the host's work for each token is then shared out like
the GPU's (docs/many_gpus.md). Engines that one process drives leave all of it to one core.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol, Self

import psutil

from gpuqa.config.pipeline import PipelineConfig
from gpuqa.engines import EngineFailed
from gpuqa.machine.log_lines import Logs
from gpuqa.machine.messages import framed, receive
from gpuqa.machine.places import Part
from gpuqa.pipeline.pipeline import completion_of
from gpuqa.records import Completion, CompletionDelta, EncodedPrompt, Generation, Override
from gpuqa.serving import replica_process
from gpuqa.serving.replica_process import Ask, Reply, Vitals, What

EXPIRY_S = 5.0  # how long after its clock ran out an answer is waited for
PATIENCE_S = 20.0  # until a process that was told to end has ended
LATE = Generation(finish_reason="late", error="the deadline came before the answer")


class Remote(Protocol):
    """A pipeline that runs elsewhere, with what a service calls of `gpuqa.pipeline.pipeline.Pipeline` and of its engine."""

    config: PipelineConfig

    async def warm_up(self, questions: Sequence[str], batch: int | None) -> int:
        """As `gpuqa.pipeline.pipeline.warm_up`."""

    async def answer_in_time(self, questions: Sequence[str], clock: asyncio.Timeout) -> list[Completion]:
        """As `Pipeline.answer_in_time`."""

    def stream(self, question: str) -> AsyncGenerator[CompletionDelta]:
        """As `Pipeline.stream`."""

    def alive(self) -> bool:
        """Whether it could answer now."""

    def overrides(self) -> list[Override]:
        """Those of its engine."""

    def numbers(self) -> dict[str, float]:
        """Those of its engine, at most a moment old."""

    async def close(self) -> None:
        """End it."""


class Replica:
    """A pipeline in another process, with what a service calls of `gpuqa.pipeline.pipeline.Pipeline`."""

    def __init__(self, config: PipelineConfig, process: subprocess.Popen[bytes], *streams: Any) -> None:
        """`streams`: reader and writer of the socket to the process."""
        self.config, self.process = config, process
        self._reader: asyncio.StreamReader = streams[0]
        self._writer: asyncio.StreamWriter = streams[1]
        self._numbers, self._vitals, self._gone = itertools.count(1), Vitals(), False
        self._waiting: dict[int, asyncio.Queue[Reply]] = {}
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, config: PipelineConfig, place: Part, environment: Mapping[str, str], logs: Logs) -> Self:
        """Start the process at its place, and the pipeline in it.

        `environment`: of a process in which no engine was started, which would leave its settings to the next one.

        Raises:
            UserError, EngineFailed: as `Pipeline.start`; the process has ended.
        """
        ours, theirs = socket.socketpair()
        cores = ",".join(map(str, place.cores))
        words = [str(os.getpid()), str(theirs.fileno()), place.name, cores, logs.name]
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", f"from {replica_process.__name__} import work; work()", *words],
                stdin=subprocess.DEVNULL,
                env={**environment, **place.env},
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C at the terminal is the server's to answer
            )
        replica = cls(config, process, *await asyncio.open_unix_connection(sock=ours))
        try:
            with replica._asked(What.start, config) as (_, replies):
                value_of(await replies.get())
        except BaseException:
            await replica.close()
            raise
        return replica

    async def warm_up(self, questions: Sequence[str], batch: int | None) -> int:
        """As `gpuqa.pipeline.pipeline.warm_up`."""
        with self._asked(What.warm_up, (list(questions), batch)) as (_, replies):
            answered: int = value_of(await replies.get())
        return answered

    async def answer_in_time(self, questions: Sequence[str], clock: asyncio.Timeout) -> list[Completion]:
        """As `Pipeline.answer_in_time`. A process that is lost takes the answers along that it had done."""
        completions: list[Completion]
        with self._asked(What.answer, list(questions)) as (number, replies):
            try:
                async with clock:
                    completions = value_of(await replies.get())
            except TimeoutError:
                self._send(Ask(number, What.expire))
                try:
                    completions = value_of(await asyncio.wait_for(replies.get(), EXPIRY_S))
                except TimeoutError:
                    completions = [completion_of(EncodedPrompt([], False), LATE, "")] * len(questions)
        return completions

    async def stream(self, question: str) -> AsyncGenerator[CompletionDelta]:
        """As `Pipeline.stream`."""
        with self._asked(What.stream, question) as (_, replies):
            while True:
                delta: CompletionDelta = value_of(await replies.get())
                yield delta
                if delta.completion is not None:
                    return

    def alive(self) -> bool:
        """Whether it could answer now."""
        return not self._gone and self._vitals.alive

    def overrides(self) -> list[Override]:
        """Those of its engine."""
        return self._vitals.overrides

    def numbers(self) -> dict[str, float]:
        """Those of its engine, at most a moment old."""
        return self._vitals.numbers

    async def close(self) -> None:
        """End the engine and the process, and whatever the process has left behind."""
        self._writer.close()
        await asyncio.to_thread(end, self.process)
        self._listening.cancel()

    @contextmanager
    def _asked(self, what: What, value: Any) -> Generator[tuple[int, asyncio.Queue[Reply]]]:
        """Ask for something -> its number, and the replies as they come. Who leaves before the last one does not want it."""
        if self._gone:
            raise EngineFailed("the replica's process has ended")
        number, replies = next(self._numbers), asyncio.Queue[Reply]()
        self._waiting[number] = replies
        self._send(Ask(number, what, value))
        try:
            yield number, replies
        except BaseException:
            self._send(Ask(number, What.abort))
            raise
        finally:
            del self._waiting[number]

    def _send(self, ask: Ask) -> None:
        if not self._writer.is_closing():
            self._writer.write(framed(ask))

    async def _listen(self) -> None:
        """Hand out what the process says, until it is gone."""
        try:
            with suppress(EOFError, ConnectionError):
                while True:
                    message: Reply | Vitals = await receive(self._reader)
                    if isinstance(message, Vitals):
                        self._vitals = message
                    elif message.number in self._waiting:
                        self._waiting[message.number].put_nowait(message)
        finally:  # whatever ended it, nobody may wait for ever
            self._gone = True
            for number, replies in self._waiting.items():
                replies.put_nowait(Reply(number, EngineFailed("the replica's process ended unexpectedly")))


def value_of(reply: Reply) -> Any:
    """What a reply says, raised where it is an exception."""
    if isinstance(reply.value, Exception):
        raise reply.value
    return reply.value


def end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that was told to end, then end what is left of it and below it."""
    below: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
    with suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE_S)
    process.kill()
    for child in below:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()
