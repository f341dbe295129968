"""A place where engines of a study can run, beside others, and the session there. Each kind of executor has its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gpuqa.config import UserError
from gpuqa.config.commands import CellConfig
from gpuqa.config.executor import ExecutorConfig
from gpuqa.study.engine_session import Session


class PlaceNotThere(UserError):
    """A place cannot be had: no job or actor came up in time, or its machine is not set up as this one."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a study wants of an executor."""

    configs: Sequence[CellConfig]
    gpus: int  # that its largest engine computes on; 0: on processors
    say: Callable[[str], object] = print  # tells the user what is waited for

    @property
    def config(self) -> ExecutorConfig:
        """One for all cells."""
        return self.configs[0].executor


class PlaceSession(Session, Protocol):
    """A session in another process. One that is lost is an engine that died: the next step starts both again."""

    async def open(self) -> None:
        """Have the place, so that the next step runs at once.

        Raises:
            PlaceNotThere: with the reason.
        """

    async def end(self) -> object:
        """Give the place up, with all that runs there."""


class Place(Protocol):
    """Where one engine runs at a time."""

    @property
    def name(self) -> str:
        """For the user, such as "GPU 0"."""

    @property
    def model(self) -> str:
        """Of its device; "" where that is the machine's, or not known yet."""

    @property
    def is_a_device(self) -> bool:
        """Whether what runs at other places does not slow it down."""

    @property
    def per_plan(self) -> bool:
        """Whether it is given up after each plan that might have run elsewhere as well."""

    @property
    def environment(self) -> Mapping[str, Any]:
        """Of its machine, as `gpuqa.measure.fingerprint.environment` says it; empty for this machine."""

    def session(self, log: Path) -> PlaceSession:
        """A session for many plans. `log`: what engines print there, as far as this machine sees it."""


@dataclass
class RemotePlace:
    """A job or an actor, and another one where it is lost."""

    name: str
    is_a_device: bool
    environment: Mapping[str, Any]
    start: Callable[[Path], PlaceSession]  # with the log; another session
    per_plan: bool
    model: str = ""
    opened: list[PlaceSession] = field(default_factory=list)  # the session that is there already

    def session(self, log: Path) -> PlaceSession:
        """One after the other."""
        return self.opened.pop() if self.opened else self.start(log)


def unlike(places: Sequence[Place]) -> str:
    """A sentence about places on devices of several models; "" where all are alike, or are not known."""
    if len({place.model for place in places}) < 2:
        return ""
    named = "; ".join(f"{place.name}: {place.model}" for place in places)
    return f"the GPUs are not alike ({named}): speeds are compared on one GPU only, and the finalists are measured on every one"
