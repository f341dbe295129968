"""The places of one machine where engines can run side by side: sets of GPUs, or of processor cores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gpuqa.config import UserError, check
from gpuqa.config.commands import CellConfig
from gpuqa.config.measurement import ExecutorConfig
from gpuqa.engines import gpus_of_engine
from gpuqa.machine import hardware


@dataclass(frozen=True, slots=True)
class Place:
    """What an engine's process gets of the machine."""

    name: str  # such as "GPU 0" or "cores 0-3"; passes carry it beside the device
    env: dict[str, str] = field(default_factory=dict)  # set before anything is imported
    cores: tuple[int, ...] = ()  # that it may run on; all where it is empty
    model: str = ""  # of its device; "": the machine's

    @property
    def is_a_device(self) -> bool:
        """Whether what runs at other places does not slow it down. Cores of one processor share its memory."""
        return not self.cores


def places_for(configs: Sequence[CellConfig]) -> list[Place]:
    """The places of a study with these cells; see `places_of`. That asks nvidia-smi, so a study does it once."""
    return places_of(configs[0].executor, max(gpus_of_engine(config.engine_args()) for config in configs))


def places_of(config: ExecutorConfig, engine_gpus: int) -> list[Place]:
    """The places of a study; none where its engines run in its own process.

    Args:
        engine_gpus: how many GPUs the largest engine of the study computes on.

    Raises:
        UserError: the machine does not have them.
    """
    if config.workers is not None:
        return sets_of_cores(config.workers)
    if config.gpus is None:
        return []
    models = hardware.visible_gpu_models()
    ids = chosen_gpus(config, list(models))
    takes = "engines of this study compute on none; executor.workers=2 runs them side by side on cores"
    check(engine_gpus > 0, "executor.gpus", config.gpus, f"null here: {takes}")
    sets = [ids[first : first + engine_gpus] for first in range(0, len(ids) - engine_gpus + 1, engine_gpus)]
    if not sets:
        raise UserError(f"executor.gpus: got {config.gpus!r}, {len(ids)} in all; an engine of this study takes {engine_gpus}")
    return [place_of(each, models) for each in sets]


def place_of(ids: Sequence[str], models: Mapping[str, str]) -> Place:
    """These GPUs alone, numbered as nvidia-smi does it."""
    env = {"CUDA_VISIBLE_DEVICES": ",".join(ids), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return Place(f"GPU {', '.join(ids)}", env, model=" + ".join(dict.fromkeys(models[id_] for id_ in ids)))


def unlike(places: Sequence[Place]) -> str:
    """A sentence about places on devices of several models; "" where all are alike."""
    if len({place.model for place in places}) < 2:
        return ""
    named = "; ".join(f"{place.name}: {place.model}" for place in places)
    return f"the GPUs are not alike ({named}): speeds are compared on one GPU only, and the finalists are measured on every one"


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


def sets_of_cores(workers: int) -> list[Place]:
    """The cores of this process cut into as many sets of one size, neighbours together."""
    cores = sorted(os.sched_getaffinity(0))
    check(workers <= len(cores), "executor.workers", workers, f"at most {len(cores)}: this process may use so many cores")
    size = len(cores) // workers
    sets = [tuple(cores[first : first + size]) for first in range(0, size * workers, size)]
    names = [str(each[0]) if len(each) == 1 else f"{each[0]}-{each[-1]}" for each in sets]
    return [Place(f"cores {name}", {}, each) for name, each in zip(names, sets, strict=True)]
