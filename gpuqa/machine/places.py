"""The parts of one machine where engines can run side by side: sets of GPUs, or of processor cores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Part:
    """What an engine's process gets of its machine."""

    name: str  # such as "GPU 0" or "cores 0-3"; passes carry it beside the device
    env: dict[str, str] = field(default_factory=dict)  # set before anything is imported
    cores: tuple[int, ...] = ()  # that it may run on; all where it is empty
    model: str = ""  # of its device; "": the machine's

    @property
    def is_a_device(self) -> bool:
        """Whether what runs in other parts does not slow it down. Cores of one processor share its memory."""
        return not self.cores


def sets_of_gpus(ids: Sequence[str], size: int, models: Mapping[str, str]) -> list[Part]:
    """GPUs in sets of `size`, in their order; those that fill no set are left out. `models`: of each id."""
    sets = [ids[first : first + size] for first in range(0, len(ids) - size + 1, size)]
    return [part_of(each, models) for each in sets]


def part_of(ids: Sequence[str], models: Mapping[str, str]) -> Part:
    """These GPUs alone, numbered as nvidia-smi does it."""
    env = {"CUDA_VISIBLE_DEVICES": ",".join(ids), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return Part(f"GPU {', '.join(ids)}", env, model=" + ".join(dict.fromkeys(models[id_] for id_ in ids)))


def usable_cores() -> list[int]:
    """The cores that this process may run on."""
    return sorted(os.sched_getaffinity(0))


def sets_of_cores(count: int) -> list[Part]:
    """The cores of this process cut into as many sets of one size, neighbours together; at most one for each core."""
    cores = usable_cores()
    size = len(cores) // count
    sets = [tuple(cores[first : first + size]) for first in range(0, size * count, size)]
    names = [str(each[0]) if len(each) == 1 else f"{each[0]}-{each[-1]}" for each in sets]
    return [Part(f"cores {name}", {}, each) for name, each in zip(names, sets, strict=True)]
