"""Where groups of cells run. One function for each kind, listed in EXECUTORS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from gpuqa.config.measurement import Executor
from gpuqa.study.executors.local import run_local

Group = TypeVar("Group")
Result = TypeVar("Result")
RunGroup = Callable[[Group], AsyncIterator[Result]]

EXECUTORS: dict[Executor, Callable[[Sequence[Group], RunGroup[Group, Result]], AsyncIterator[Result]]] = {
    Executor.local: run_local
}
