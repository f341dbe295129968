"""The places of this machine where engines can run side by side: sets of GPUs, or of processor cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuqa.config import UserError, check
from gpuqa.config.commands import CellConfig
from gpuqa.config.executor import ExecutorConfig
from gpuqa.engines import gpus_of_engine
from gpuqa.machine import hardware
from gpuqa.machine.places import Part, sets_of_cores, sets_of_gpus, usable_cores
from gpuqa.study.executors.worker import WorkerSession


@dataclass(frozen=True, slots=True)
class LocalPlace(Part):
    """A part of this machine, where one process serves all plans."""

    per_plan: bool = False
    environment: Mapping[str, Any] = field(default_factory=dict)

    def session(self, log: Path) -> WorkerSession:
        """A process of its own."""
        return WorkerSession(self, log)


def places_for(configs: Sequence[CellConfig]) -> list[LocalPlace]:
    """The places of a study with these cells; see `places_of`. That asks nvidia-smi, so a study does it once."""
    return places_of(configs[0].executor, max(gpus_of_engine(config.engine_args()) for config in configs))


def places_of(config: ExecutorConfig, engine_gpus: int) -> list[LocalPlace]:
    """The places of a study; none where its engines run in its own process.

    Args:
        engine_gpus: how many GPUs the largest engine of the study computes on.

    Raises:
        UserError: the machine does not have them.
    """
    if config.workers is not None:
        allowed = f"at most {len(usable_cores())}: this process may use so many cores"
        check(config.workers <= len(usable_cores()), "executor.workers", config.workers, allowed)
        return [local(part) for part in sets_of_cores(config.workers)]
    if config.gpus is None:
        return []
    models = hardware.visible_gpu_models()
    ids = chosen_gpus(config, list(models))
    takes = "engines of this study compute on none; executor.workers=2 runs them side by side on cores"
    check(engine_gpus > 0, "executor.gpus", config.gpus, f"null here: {takes}")
    parts = sets_of_gpus(ids, engine_gpus, models)
    if not parts:
        raise UserError(f"executor.gpus: got {config.gpus!r}, {len(ids)} in all; an engine of this study takes {engine_gpus}")
    return [local(part) for part in parts]


def local(part: Part) -> LocalPlace:
    """The place that a part of this machine is."""
    return LocalPlace(part.name, part.env, part.cores, part.model)


def chosen_gpus(config: ExecutorConfig, here: Sequence[str]) -> list[str]:
    """The ids that the config names, of those that are here."""
    none = "null here: this machine shows no GPU; executor.workers=2 runs engines side by side on cores"
    check(bool(here), "executor.gpus", config.gpus, none)
    there = f"this machine shows {', '.join(here)}"
    if config.gpus == "all":
        return list(here)
    if isinstance(config.gpus, int):
        check(config.gpus <= len(here), "executor.gpus", config.gpus, f"at most {len(here)}: {there}")
        return list(here[: config.gpus])
    ids = [str(id_) for id_ in config.gpus]
    absent = [id_ for id_ in ids if id_ not in here]
    check(not absent, "executor.gpus", config.gpus, f"ids of GPUs: {there}, not {', '.join(absent)}")
    return ids
