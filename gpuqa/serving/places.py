"""The places of a server's replicas: those of `gpuqa.machine.places` that `http.replicas` asks for."""

from __future__ import annotations

from gpuqa.config import check
from gpuqa.config.pipeline import PipelineConfig
from gpuqa.engines import gpus_of_engine
from gpuqa.machine import hardware
from gpuqa.machine.places import Part, sets_of_cores, sets_of_gpus, usable_cores


def places_of(replicas: int | str, pipeline: PipelineConfig) -> list[Part]:
    """Where each replica runs; none where there is one engine, in the server's own process.

    Sets of GPUs, as many in each as the engine takes. Without a GPU, or for an engine that computes on none, sets of cores;
    "auto" is one engine then, since cores of one processor share its memory.

    Raises:
        UserError: the machine has fewer.
    """
    if replicas == 1:
        return []
    size = gpus_of_engine(pipeline.engine_args())
    models = hardware.visible_gpu_models() if size else {}
    if not models:
        cores = len(usable_cores())
        there = f"at most {cores}: without a GPU each takes cores of its own, and this process may use so many"
        check(replicas == "auto" or int(replicas) <= cores, "http.replicas", replicas, there)
        return [] if replicas == "auto" else sets_of_cores(int(replicas))
    places = sets_of_gpus(list(models), size, models)
    takes = f"this machine shows GPU {', '.join(models)}, and an engine takes {size}"
    check(replicas == "auto" or int(replicas) <= len(places), "http.replicas", replicas, f"at most {len(places)}: {takes}")
    chosen = places if replicas == "auto" else places[: int(replicas)]
    return chosen if len(chosen) > 1 else []
