"""A pipeline in a process of its own, which `gpuqa.serving.replica.Replica` starts and `work` is all of.

Questions come in and texts go out, so that the tokenizer and all that happens at each step of the engine is here, and the
server's process has HTTP alone. The messages below cross a Unix socket (`gpuqa.machine.messages`), many questions at a time.
When the socket ends, so does the engine and the process; it ends with the one that started it also where that was killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, assert_never

from gpuqa.config import UserError
from gpuqa.engines import EngineFailed
from gpuqa.machine.child_processes import end_with_parent
from gpuqa.machine.log_lines import Logs
from gpuqa.machine.messages import framed, receive
from gpuqa.pipeline.pipeline import Pipeline, warm_up
from gpuqa.records import Override
from gpuqa.serving.telemetry import ABOUT, log_to_stderr

LOOK_EVERY_S = 0.05  # between two looks at how the engine fares: /metrics shows the last one
log = logging.getLogger("gpuqa.serve")


class What(Enum):
    """What the server asks for, and what comes with it."""

    start = "start"  # PipelineConfig; once, before all else
    warm_up = "warm_up"  # arguments of `gpuqa.pipeline.pipeline.warm_up` behind the pipeline
    answer = "answer"  # questions: a list of texts
    stream = "stream"  # a question; there are many replies to it
    expire = "expire"  # the clock of an answer has run out: reply with what is done
    abort = "abort"  # nobody waits for this any more: no reply


@dataclass(frozen=True, slots=True)
class Ask:
    """From the server."""

    number: int  # of what is asked; that of another one in `expire` and `abort`
    what: What
    value: Any = None


@dataclass(frozen=True, slots=True)
class Reply:
    """To it: a value, or an exception that is to be raised there."""

    number: int
    value: Any


@dataclass(frozen=True, slots=True)
class Vitals:
    """How the engine fares, told whenever that has changed."""

    alive: bool = False
    overrides: list[Override] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)


def work() -> None:
    """The process, told by its command line: the server's process, the socket, the replica's name, its cores, kind of logs."""
    parent, descriptor, name, cores, logs = sys.argv[1:]
    if cores:
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    end_with_parent(int(parent))
    connection = socket.socket(fileno=int(descriptor))
    connection.set_inheritable(False)
    os.register_at_fork(after_in_child=connection.close)  # the server shall see the end of this process, not of its engine's
    log_to_stderr(Logs[logs])
    ABOUT.set({"replica": name} if name else None)
    import uvicorn  # after the cores are set

    with asyncio.Runner(loop_factory=uvicorn.Config(app="").get_loop_factory()) as runner:  # the loop of a server
        runner.run(serve(connection))
        os._exit(0)  # the engine is closed; to take down PyTorch's modules one by one needs seconds


async def serve(connection: socket.socket) -> None:
    """Obey until the server is gone."""
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    worker = Worker(lambda message: writer.write(framed(message)))
    telling = asyncio.create_task(worker.tell())
    with suppress(EOFError, ConnectionError):
        while True:
            worker.obey(await receive(reader))
            await asyncio.sleep(0)  # so that what was asked has begun when the next message is about it
    telling.cancel()
    await worker.close()


class Worker:
    """The pipeline, and what is being done with it."""

    def __init__(self, send: Callable[[Reply | Vitals], None]) -> None:
        self.send = send
        self.pipeline: Pipeline | None = None
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.clocks: dict[int, asyncio.Timeout] = {}

    def obey(self, ask: Ask) -> None:
        """Begin what is asked for, or end what was."""
        if ask.what is What.abort:
            if task := self.tasks.get(ask.number):
                task.cancel()
        elif ask.what is What.expire:
            if clock := self.clocks.get(ask.number):
                clock.reschedule(asyncio.get_running_loop().time())
        else:
            self.tasks[ask.number] = task = asyncio.create_task(self.reply(ask))
            task.add_done_callback(lambda _: self.tasks.pop(ask.number, None))

    async def reply(self, ask: Ask) -> None:
        """Do what is asked for, and say what came of it."""
        value: Any
        try:
            value = await self.do(ask)
        except (EngineFailed, UserError) as error:
            value = error
        except Exception as error:
            log.exception("this replica failed at %s", ask.what.name)
            value = RuntimeError(f"a replica failed with {type(error).__name__}: {error}")
        self.send(Reply(ask.number, value))

    async def do(self, ask: Ask) -> Any:
        """The reply's value."""
        if ask.what is What.start:
            self.pipeline = await Pipeline.start(ask.value)
            self.send(self.vitals())
            return None
        assert self.pipeline is not None, "it was started first"
        match ask.what:
            case What.warm_up:
                return await warm_up(self.pipeline, *ask.value)
            case What.answer:
                self.clocks[ask.number] = clock = asyncio.timeout(None)
                try:
                    return await self.pipeline.answer_in_time(ask.value, clock)
                finally:
                    del self.clocks[ask.number]
            case What.stream:
                async for delta in self.pipeline.stream(ask.value):
                    self.send(Reply(ask.number, delta))
                return None
            case What.expire | What.abort:
                raise AssertionError("these are obeyed at once")
        assert_never(ask.what)

    def vitals(self) -> Vitals:
        """How the engine fares now."""
        if self.pipeline is None:
            return Vitals()
        engine = self.pipeline.engine
        return Vitals(engine.alive(), engine.overrides(), dict(engine.numbers()))

    async def tell(self) -> None:
        """Say how the engine fares, when it changes."""
        said = Vitals()
        while True:
            if (now := self.vitals()) != said:
                self.send(now)
                said = now
            await asyncio.sleep(LOOK_EVERY_S)

    async def close(self) -> None:
        """End what is being done, and the engine."""
        tasks = list(self.tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.pipeline is not None:
            with suppress(EngineFailed):
                await self.pipeline.close()
