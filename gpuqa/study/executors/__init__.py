"""Where engines run: one function for each kind of executor, listed in EXECUTORS.

A new kind is a member of `gpuqa.config.measurement.Executor`, a module in this folder with its function, a line in EXECUTORS,
and a file under conf/executor. Its function gets

    plans   each plans the passes of the cells of one engine key, and needs an engine of its own. `await plan.next()` gives
            the next `Step`, or None when that engine can be closed. Plans stay in the study's process: they know the passes
            of earlier runs and wait for scores. The plans of one call do not depend on each other, so they may run at the
            same time. One that names a place (by its number) runs there alone, after those before it.
    log     the file for what engines print
    places  where they may run at the same time, see `places`; none: all in the study's own process

and yields the events of all plans, each with its plan. It has to

    run every step of a plan in one `EngineSession`, on the machine and the device of its choice. The session goes anywhere:
    a `Step`, an `Event` and the path of the log are all that cross to another process, and they can be pickled. A machine
    that does not share this file system needs the model's folder at the same path, and a log of its own.

    ask a plan for its next step only after all events of the last one were taken: the study learns from an event before it
    asks for the next, and tells the plan what it learnt. A session must not go on before its event was taken, because the
    study writes a pass to the journal before the next one may begin.

    yield `StartFailed` or `CellFailed` where a place is lost (a process died, a job was cancelled), so that the study can
    go on; a new step for that plan then needs a new session.

    close every session when it is closed itself (`aclose`) or cancelled; Ctrl-C does that. No engine may stay behind.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from gpuqa.config.measurement import Executor
from gpuqa.machine.places import Place
from gpuqa.study.engine_session import Event, Steps
from gpuqa.study.executors.local import run_local

Plan = TypeVar("Plan", bound=Steps)


class Run(Protocol):
    """The function of an executor."""

    def __call__(self, plans: Sequence[Plan], log: Path, places: Sequence[Place]) -> AsyncGenerator[tuple[Plan, Event]]:
        """See above."""


EXECUTORS: dict[Executor, Run] = {Executor.local: run_local}
