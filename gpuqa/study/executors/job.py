"""What a job of a cluster runs: it gets steps from a file and writes events to another, as long as its study wants it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from gpuqa.config.commands import CellConfig
from gpuqa.machine.child_processes import kill_children
from gpuqa.study.executors.mail import Mail, Pulse, pause_s
from gpuqa.study.executors.outpost import Outpost

STEPS, EVENTS, LOG = "steps", "events", "engine.log"  # files of a job: what it gets, what it gives, what its engines print
PULSE, STUDY = "pulse", "study"  # the job's, and in the folder above the command's
END, GONE = "end", "gone"  # are there when the job is to end, and when it has ended by itself
BEAT_S = 0.5


@dataclass(frozen=True, slots=True)
class Ask:
    """Which overrides would be off there?"""

    configs: list[CellConfig]


def work(folder: str, started_in: str, lost_after_s: float) -> None:
    """What a job runs. It ends when it is told to, when its study is gone, and where it runs a second time after the cluster
    requeued it: the study has another job in its place by then."""
    own = Path(folder)
    if (own / PULSE).exists():
        return
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end_now)  # submitit's handlers would wait for SIGKILL, or have the job requeued
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    asyncio.run(serve(own, Outpost(started_in, str(own / LOG)), lost_after_s))


def end_now(*_: object) -> None:
    """End with all that runs below."""
    kill_children(set())
    os._exit(1)


async def serve(folder: Path, outpost: Outpost, lost_after_s: float) -> None:
    """Answer steps as long as the study wants it."""
    pulse, study = Pulse(folder / PULSE), Pulse(folder.parent / STUDY)
    answering = asyncio.create_task(answer(outpost, Mail(folder / STEPS), Mail(folder / EVENTS)))
    while not answering.done() and not (folder / END).exists() and study.silent_s() < lost_after_s:
        pulse.beat()
        await asyncio.wait([answering], timeout=BEAT_S)
    answering.cancel()
    [ended] = await asyncio.gather(answering, return_exceptions=True)
    await outpost.end()
    (folder / GONE).touch()
    if isinstance(ended, Exception):
        raise ended


async def answer(outpost: Outpost, steps: Mail, events: Mail) -> None:
    """Hand messages on, until this task is cancelled."""
    events.send(await asyncio.to_thread(outpost.hello))
    began = time.monotonic()
    while True:
        for message in steps.take():
            if message is None:
                await outpost.close()
                events.send(None)
            elif isinstance(message, Ask):
                events.send(await asyncio.to_thread(outpost.switched_off, message.configs))
            else:
                async with aclosing(outpost.measure(message)) as found:
                    async for event in found:
                        events.send(event)
            began = time.monotonic()
        await asyncio.sleep(pause_s(time.monotonic() - began))
