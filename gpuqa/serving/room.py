"""Whether there is memory for a second engine beside the one that is running."""

from __future__ import annotations

import psutil

from gpuqa.config.pipeline import PipelineConfig
from gpuqa.engines import gpus_of_engine
from gpuqa.machine import hardware

USUAL_UTILIZATION = 0.92  # of a GPU's memory; vLLM 0.32 takes it, and starts only where so much is free
SLACK = 1.1  # over what the running engine takes


def has_room_beside(pipeline: PipelineConfig) -> bool:
    """Whether an engine like the running one could start now: so much memory is free as is in use, on each of its GPUs, and the
    share that it asks for; without a GPU, so much of the machine's as this process and its children hold."""
    args = pipeline.engine_args()
    ids = list(hardware.visible_gpu_models())[: gpus_of_engine(args)]
    if not ids:
        me = psutil.Process()
        held = sum(process.memory_info().rss for process in (me, *me.children(recursive=True)) if process.is_running())
        return bool(psutil.virtual_memory().available > SLACK * held)
    share = float(args.get("gpu_memory_utilization", USUAL_UTILIZATION))
    rows = [line.split(", ") for line in hardware.nvidia_smi("index,uuid,memory.used,memory.total")]
    mine = [(float(used), float(total)) for index, uuid, used, total in rows if index in ids or uuid in ids]
    return bool(mine) and all(total - used > max(SLACK * used, share * total) for used, total in mine)
