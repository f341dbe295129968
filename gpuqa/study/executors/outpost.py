"""The far end of a place on another machine: what that machine is, and the process there that engines run in.

A job or an actor holds an `Outpost` and hands steps on to it. The engine runs in a worker process below, as on the study's own
machine: it is spawned, its output goes to a log, and it ends with the job or the actor, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuqa.config import UserError
from gpuqa.config.commands import CellConfig
from gpuqa.config.paths import find_model
from gpuqa.config.pipeline import PipelineConfig
from gpuqa.machine import hardware
from gpuqa.machine.places import Part
from gpuqa.measure import fingerprint
from gpuqa.measure.cell import Cell
from gpuqa.study.engine_session import Event, StartFailed, Step
from gpuqa.study.executors.places import PlaceNotThere
from gpuqa.study.executors.worker import WorkerSession
from gpuqa.study.same_effect import asked_for, switched_off

UNUSED_GIB, STEADY_S, MEMORY_TIMEOUT_S = 1.0, 5.0, 60.0  # of a GPU's memory that an engine of before may still hold


@dataclass(frozen=True, slots=True)
class Hello:
    """What a place says of itself when it is there."""

    host: str
    part: Part
    environment: dict[str, Any]  # as `gpuqa.measure.fingerprint.environment` says it


class Outpost:
    """An engine session on another machine."""

    def __init__(self, folder: str, log: str) -> None:
        """
        Args:
            folder: where the study's command was started, by which relative paths go.
            log: where engines are to print; in a temporary folder where this machine does not have that file's.
        """
        with contextlib.suppress(OSError):
            os.chdir(folder)
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        file, self.part = Path(log), part_of_this_process()
        self.session = WorkerSession(self.part, file if file.parent.is_dir() else Path(tempfile.gettempdir()) / file.name)
        self.models: set[str] = set()  # paths of those that are as they should be

    def hello(self) -> Hello:
        """What this place is, as soon as an engine finds the memory of its GPUs free."""
        wait_for_memory()
        return Hello(platform.node(), self.part, fingerprint.environment())

    def switched_off(self, configs: Sequence[PipelineConfig]) -> list[dict[str, str]]:
        """The overrides that would be off here, of each configuration."""
        return [switched_off(config) for config in configs]

    async def measure(self, step: Step) -> AsyncGenerator[Event]:
        """As `EngineSession.measure`; a model whose files are not those of the study is an engine that does not start."""
        for cell in step.cells:
            if reason := await asyncio.to_thread(self.other_model, cell):
                yield StartFailed(cell.key, reason)
                return
        async with aclosing(self.session.measure(step)) as events:
            async for event in events:
                yield event

    async def close(self) -> None:
        """Release the engine."""
        await self.session.close()

    async def end(self) -> None:
        """End the process below."""
        await self.session.end()

    def other_model(self, cell: Cell) -> str:
        """How a cell's model here differs from the study's; "" where it is the same. Its files are read once."""
        model, known = cell.config.model, cell.fingerprint["digests"]
        assert isinstance(known, dict), "prepare makes it"
        if model.path in self.models:
            return ""
        try:
            here = fingerprint.sha256_of_model(find_model(model))
        except UserError as error:
            return f"on {platform.node()}: {error}"
        if other := [name for name, digest in here.items() if digest != known[name]]:
            return (
                f"on {platform.node()} the {' and '.join(other)} of model.path={model.path} are not those of the study "
                f"({here[other[0]][:12]}, and there {known[other[0]][:12]}): give all machines the same files"
            )
        self.models.add(model.path)
        return ""


def part_of_this_process() -> Part:
    """The GPUs or the cores that this process may use, named in a way that is the same in every job on this machine."""
    rows = [line.split(", ", 2) for line in hardware.nvidia_smi("index,uuid,name")]
    names = hardware.named_gpus() or [index for index, *_ in rows]
    mine = [row for name in names for row in rows if row[0] == name or row[1].startswith(name)]
    if rows and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        cards = ", ".join(uuid.removeprefix("GPU-")[:8] for _, uuid, _ in mine) or ", ".join(names)
        return Part(f"GPU {cards}", model=" + ".join(dict.fromkeys(model for *_, model in mine)))
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == os.cpu_count():
        return Part("", cores=tuple(cores))
    return Part(f"cores {', '.join(map(str, cores))}", cores=tuple(cores))


def wait_for_memory(steady_s: float = STEADY_S, timeout_s: float = MEMORY_TIMEOUT_S) -> None:
    """Wait until an engine of before has given back the memory of this place's GPUs: until it is free, or no longer changes."""
    began = changed = time.monotonic()
    used = hardware.gpu_memory_bytes()
    while used > UNUSED_GIB * hardware.GIB and time.monotonic() < min(changed + steady_s, began + timeout_s):
        time.sleep(steady_s / 10)
        if (now := hardware.gpu_memory_bytes()) != used:
            used, changed = now, time.monotonic()


def with_overrides(configs: Sequence[CellConfig]) -> list[CellConfig]:
    """The first configuration of each engine that asks for an override."""
    asking = {repr((config.engine, config.quantization)): config for config in reversed(configs) if asked_for(config)}
    return list(asking.values())


def refuse_other_overrides(configs: Sequence[PipelineConfig], theirs: Sequence[Mapping[str, str]]) -> None:
    """Raise a PlaceNotThere where an override would run there and not here, or the other way round: which cells are measured
    is decided here.

    Args:
        theirs: what would be off there, of each configuration.
    """
    for config, there in zip(configs, theirs, strict=True):
        here = switched_off(config)
        for override in sorted(here.keys() ^ there.keys()):
            where, other, why = ("here", "there", here) if override in here else ("there", "here", there)
            raise PlaceNotThere(
                f"executor: {override} is off {where} ({why[override]}) and would run {other}, and this machine decides which "
                f"cells are measured: start the command on a machine like those of the executor, or leave the override out"
            )


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """How the installation of another machine differs from this one's, "" where it is the same."""
    names = dict.fromkeys([*ours["versions"], *theirs["versions"]])
    pairs = {name: (ours["versions"].get(name, "none"), theirs["versions"].get(name, "none")) for name in names}
    other = [f"{name} is {here} here and {there} there" for name, (here, there) in pairs.items() if here != there]
    if not other and ours["code"] != theirs["code"]:
        other = ["its code of gpuqa is another"]
    return ", ".join(other)
