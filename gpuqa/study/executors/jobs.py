"""The jobs of a study's command on a cluster, and the session in one of them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuqa.config import one_line
from gpuqa.config.executor import Cluster, ExecutorConfig
from gpuqa.measure import fingerprint
from gpuqa.study.engine_session import LAST, CellFailed, Event, StartFailed, Step
from gpuqa.study.executors.job import END, EVENTS, GONE, LOG, PULSE, STEPS, Ask, work
from gpuqa.study.executors.mail import Mail, Pulse, pause_s
from gpuqa.study.executors.outpost import Hello, differences, refuse_other_overrides, with_overrides
from gpuqa.study.executors.places import PlaceNotThere, Wanted

LOOK_S = 3.0  # how often the cluster is asked about a job that gives no sign of life
END_S = 5.0  # until a job that is to end is cancelled
CLOSE_S = 90.0  # until an engine that is being closed has ended


class Jobs:
    """The jobs of one command."""

    def __init__(self, submitit: Any, folder: Path, config: ExecutorConfig) -> None:
        self.submitit, self.folder, self.config = submitit, folder, config
        self.submitted: list[Job] = []
        self.one_at_a_time = threading.Lock()
        self.environment = fingerprint.environment()  # of this machine

    def submit(self) -> Job:
        """A new job, which waits for its turn.

        Raises:
            PlaceNotThere: the cluster refuses it.
        """
        with self.one_at_a_time:
            folder = self.folder / str(len(self.submitted))
            folder.mkdir()
            for name in (STEPS, EVENTS):
                (folder / name).touch()
            try:
                with contextlib.redirect_stderr(io.StringIO()):  # submitit repeats there what sbatch says
                    submitted = self.submitit.submit(work, str(folder), os.getcwd(), self.config.lost_after_s)
            except (RuntimeError, OSError) as error:
                raise PlaceNotThere(f"executor=slurm: the cluster refuses the job: {one_line(str(error))}") from None
            job = Job(submitted, folder)
            if self.config.cluster is Cluster.debug:
                job.thread = threading.Thread(target=submitted.submission().result, daemon=True)
                job.thread.start()
            self.submitted.append(job)
            return job

    def end(self) -> None:
        """End all that have not ended, at the same time."""
        left = [threading.Thread(target=job.end) for job in self.submitted if not job.is_ended]
        for thread in left:
            thread.start()
        for thread in left:
            thread.join()


@dataclass
class Job:
    """One job."""

    submitted: Any  # submitit's
    folder: Path
    thread: threading.Thread | None = None  # of cluster=debug
    is_ended: bool = False
    has_started: bool = False

    def __post_init__(self) -> None:
        self.steps, self.events, self.pulse = Mail(self.folder / STEPS), Mail(self.folder / EVENTS), Pulse(self.folder / PULSE)

    @property
    def name(self) -> str:
        """As the cluster knows it."""
        return f"job {self.submitted.job_id}"

    def has_ended(self) -> bool:
        """What the cluster says, which may take it seconds. A job that waits for its turn is asked for less and less often."""
        done = not self.thread.is_alive() if self.thread else bool(self.submitted.done(force_check=self.has_started))
        self.is_ended = self.is_ended or done
        return done

    def why(self) -> str:
        """How it ended, with the last line that it printed."""
        printed = [] if self.thread else [line for line in (self.submitted.stderr() or "").splitlines() if line.strip()]
        state = "" if self.thread else f" ({self.submitted.state})"
        return f"{self.name} has ended{state}" + (f": {printed[-1].strip()}" if printed else "")

    def end(self) -> None:
        """Ask it to end, and cancel it if it does not."""
        if self.is_ended:
            return
        self.is_ended = True
        with contextlib.suppress(FileNotFoundError):
            (self.folder / END).touch()
        deadline = time.monotonic() + (END_S if self.has_started else 0)
        while not (self.folder / GONE).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        if not (self.folder / GONE).exists() and not self.thread:
            self.submitted.cancel(check=False)


class JobSession:
    """The study's end of a job; see `PlaceSession`."""

    def __init__(self, jobs: Jobs, log: Path) -> None:
        self.jobs, self.log = jobs, log
        self.job: Job | None = None
        self.busy = False

    async def open(self) -> None:
        """Have a job that runs."""
        if self.job is not None:
            return
        submitting, limit = asyncio.ensure_future(asyncio.to_thread(self.jobs.submit)), self.jobs.config.start_timeout_s
        try:
            await asyncio.shield(submitting)
        finally:  # a job that nobody waits for any more has to be known, too
            self.job = await submitting
        try:
            async with asyncio.timeout(limit):
                hello: Hello = await self.receive()
        except TimeoutError:
            late = f"executor.start_timeout_s={limit:g}: {self.job.name} did not start in that time"
            await self.end()
            raise PlaceNotThere(f"{late}; ask the cluster why it waits, then run the same command again") from None
        except EOFError as error:
            await self.end()
            lost = "before it could say a word; do its machines see the study's folder, and this Python?"
            raise PlaceNotThere(f"executor=slurm: {error}; {lost} ({self.jobs.folder}, {sys.executable})") from None
        self.job.has_started = True
        if other := differences(self.jobs.environment, hello.environment):
            await self.end()
            raise PlaceNotThere(f"executor=slurm: {hello.host} has another installation than this machine: {other}")
        self.hello = hello

    async def looked_at(self, wanted: Wanted) -> Hello:
        """Have a job that is set up as this machine; what it says of its own."""
        limit = self.jobs.config.start_timeout_s or 0
        wanted.say(f"waiting for the first job to start, {limit:g} s at most (executor.start_timeout_s)")
        await self.open()
        assert self.job is not None, "it is open"
        configs = with_overrides(wanted.configs)
        self.job.steps.send(Ask(configs))
        refuse_other_overrides(configs, await self.receive())
        return self.hello

    async def measure(self, step: Step) -> AsyncGenerator[Event]:
        """As `EngineSession.measure`; a job that is lost is an engine that died."""
        key = step.request.cell.key
        try:
            await self.open()
        except PlaceNotThere as error:
            yield StartFailed(key, str(error))
            return
        assert self.job is not None, "it is open"
        self.busy = True
        try:
            self.job.steps.send(step)
            while True:
                event: Event = await self.receive()
                yield event
                if isinstance(event, LAST):
                    break
        except EOFError as error:
            await self.end()
            yield CellFailed(key, f"the engine process died: {error}")
        self.busy = False

    async def receive(self) -> Any:
        """The next message of the job.

        Raises:
            EOFError: it has ended; with the reason.
        """
        job, began = self.job, time.monotonic()
        assert job is not None, "it is open"
        looked = began
        while not (messages := job.events.take()):
            silent_s, limit = job.pulse.silent_s(), self.jobs.config.lost_after_s or 0
            if silent_s > LOOK_S and time.monotonic() - looked > LOOK_S:
                looked = time.monotonic()
                lost = job.has_started and silent_s > limit
                if (await asyncio.to_thread(job.has_ended) or lost) and not (messages := job.events.take()):
                    silence = f"{job.name} gave no sign of life for {silent_s:.0f} s (executor.lost_after_s)"
                    raise EOFError(silence if lost else await asyncio.to_thread(job.why))
                if messages:
                    break
            await asyncio.sleep(pause_s(time.monotonic() - began))
        return messages[0]

    async def close(self) -> None:
        """Release the engine; the job stays for the next one, unless it was interrupted."""
        if self.job is None:
            return
        if self.busy:
            await self.end()
            return
        self.job.steps.send(None)
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.receive()
        except (EOFError, TimeoutError):
            await self.end()

    async def end(self) -> None:
        """End the job, and keep what its engines printed."""
        job, self.job, self.busy = self.job, None, False
        if job is not None:
            await asyncio.to_thread(job.end)
            with contextlib.suppress(FileNotFoundError):
                printed = (job.folder / LOG).read_bytes()
                with self.log.open("ab") as whole:
                    whole.write(printed)
