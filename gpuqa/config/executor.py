"""Where a study runs its engines: the keys of each kind of executor, and their checks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from gpuqa.config import check, plain


class Executor(Enum):
    """The kinds of places where a study may run its engines; `gpuqa.study.executors.EXECUTORS` has one function for each."""

    local = "local"
    slurm = "slurm"
    ray = "ray"


class Cluster(Enum):
    """What submitit hands jobs to."""

    slurm = "slurm"
    local = "local"  # processes of this machine
    debug = "debug"  # threads of this process


OF_KIND = {  # keys of an executor -> the kinds that have them; with the others they must be null
    "gpus": (Executor.local,),
    "cluster": (Executor.slurm,),
    "parameters": (Executor.slurm,),
    "python": (Executor.slurm,),
    "address": (Executor.ray,),
    "lost_after_s": (Executor.slurm,),
    "start_timeout_s": (Executor.slurm, Executor.ray),
}


@dataclass
class ExecutorConfig:
    """The places where a study runs its engines. Of executor=local, with neither `gpus` nor `workers`: in its own process."""

    name: str = MISSING
    kind: Executor = MISSING
    gpus: Any = None  # "all", how many, or a list of ids: engines run side by side, each on GPUs of its own
    workers: int | None = None  # so many engines at once: on cores of their own, in jobs, in actors (null: as many as fit)
    cluster: Cluster | None = None
    parameters: dict[str, Any] = field(default_factory=dict)  # of sbatch, as submitit names them
    python: str | None = None  # the command for Python in a job; null: as this one
    address: str | None = None  # of a Ray cluster that runs; null: one on this machine, for as long as the study takes
    start_timeout_s: float | None = None  # until a job or an actor is there
    lost_after_s: float | None = None  # without a sign of life the study gives a job up, and a job ends itself

    def __post_init__(self) -> None:
        for key, kinds in OF_KIND.items():
            value, owners = plain(getattr(self, key)), " or ".join(f"executor={kind.value}" for kind in kinds)
            check(value in (None, {}) or self.kind in kinds, f"executor.{key}", value, f"null here; it belongs to {owners}")
        ids, workers = self.gpus if isinstance(self.gpus, list) else None, self.workers
        count = type(self.gpus) is int and self.gpus >= 1
        known = self.gpus is None or self.gpus == "all" or count or bool(ids)
        check(known, "executor.gpus", self.gpus, "null, all, how many (at least 1), or a list of ids such as [0,1]")
        check(len(set(map(str, ids or ()))) == len(ids or ()), "executor.gpus", ids, "a list that has each id once")
        jobs = self.kind is Executor.slurm
        allowed = f"an integer of at least 1{'' if jobs else ', or null'}"
        check((not jobs if workers is None else workers >= 1), "executor.workers", workers, allowed)
        check(self.gpus is None or workers is None, "executor.workers", workers, "null beside executor.gpus")
        host, _, port = (self.address or "").rpartition(":")
        fits = self.address in (None, "auto") or bool(host and "/" not in host and port.isdecimal())
        check(fits, "executor.address", self.address, "auto, HOST:PORT, or null for a cluster on this machine")
        for key in ("start_timeout_s", "lost_after_s"):
            limit, waits = getattr(self, key), self.kind in OF_KIND[key]
            fits = 0 < limit < math.inf if limit is not None else not waits
            check(fits, f"executor.{key}", limit, "a number of seconds above 0")
        check(self.cluster is not None or not jobs, "executor.cluster", None, "slurm, local or debug")
