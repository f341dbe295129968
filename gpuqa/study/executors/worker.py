"""A process for the engines of one place, which `WorkerSession` starts and `work` is all of.

Steps come in at its standard input, events go out at its standard output (`gpuqa.machine.messages`). None in the place of a
step closes the engine, and None goes out when that is done. What engines print goes to a log. The process ends with the one
that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from gpuqa.machine.messages import framed, read, receive
from gpuqa.machine.places import Part
from gpuqa.study.engine_session import LAST, CellFailed, EngineSession, Event, Step

PATIENCE_S = 60.0  # until an engine that is being closed has ended


class WorkerSession:
    """The study's end: an `EngineSession` in another process, which serves many plans."""

    def __init__(self, part: Part, log: Path) -> None:
        """`log`: the file for what the engines of this place print."""
        self.part, self.log = part, log
        self.process: asyncio.subprocess.Process | None = None
        self.busy = False

    async def measure(self, step: Step) -> AsyncGenerator[Event]:
        """As `EngineSession.measure`; a process that is lost is an engine that died."""
        self.busy = True
        try:
            await self.open()
            await self.send(step)
            while True:
                event: Event = await self.receive()
                yield event
                if isinstance(event, LAST):
                    break
        except (EOFError, ConnectionError):
            code = await self.end()
            yield CellFailed(
                step.request.cell.key, f"the engine process died: its worker exited unexpectedly (exit code {code})"
            )
        self.busy = False

    async def open(self) -> None:
        """Have the process."""
        if self.process is None:
            self.process = await self.start()

    async def start(self) -> asyncio.subprocess.Process:
        """The process, in a session of its own: Ctrl-C at the terminal is the study's to answer."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        pipe = asyncio.subprocess.PIPE
        with self.log.open("ab") as log:
            where = [self.part.name, self.part.model, str(self.log), ",".join(map(str, self.part.cores))]
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                f"from {__name__} import work; work()",
                *[str(os.getpid()), *where],
                stdin=pipe,
                stdout=pipe,
                stderr=log,
                env={**os.environ, **self.part.env},
                start_new_session=True,
            )

    async def send(self, message: Any) -> None:
        """Hand a message to the process."""
        pipe = self.process.stdin if self.process else None
        assert pipe is not None, "it was started with one"
        pipe.write(framed(message))
        await pipe.drain()

    async def receive(self) -> Any:
        """The next message of the process.

        Raises:
            EOFError: it has ended (`asyncio.IncompleteReadError` is one).
        """
        pipe = self.process.stdout if self.process else None
        assert pipe is not None, "it was started with one"
        return await receive(pipe)

    async def close(self) -> None:
        """Release the engine; the process stays for the next one, unless it was interrupted."""
        if self.process is None:
            return
        if self.busy:
            await self.end()
            return
        try:
            await self.send(None)
            await asyncio.wait_for(self.receive(), PATIENCE_S)
        except (EOFError, ConnectionError, TimeoutError):
            await self.end()

    async def end(self) -> int | None:
        """End the process and all below it; its exit code."""
        process, self.process, self.busy = self.process, None, False
        if process is None:
            return None
        with contextlib.suppress(psutil.NoSuchProcess):
            leader = psutil.Process(process.pid)
            for one in [*leader.children(recursive=True), leader]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        return await process.wait()


def work() -> None:
    """The other end, told by the command line: the study's process, the place, its device's model, the log, the cores."""
    parent, place, model, log, cores = sys.argv[1:]
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if cores:
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    from gpuqa.machine.child_processes import end_with_parent

    end_with_parent(int(parent))
    asyncio.run(serve(EngineSession(Path(log), place, model), sys.stdin.buffer, out))


async def serve(session: EngineSession, steps: BinaryIO, out: BinaryIO) -> None:
    """Measure steps until no more come in."""
    while True:
        try:
            step = await asyncio.to_thread(read, steps)
        except EOFError:
            break
        if step is None:
            await session.close()
            write(out, None)
            continue
        async with aclosing(session.measure(step)) as events:
            async for event in events:
                write(out, event)
    await session.close()


def write(target: BinaryIO, message: Any) -> None:
    """Hand a message to the study."""
    target.write(framed(message))
    target.flush()
