"""Where engines run: for each kind of executor what opens its places, listed in EXECUTORS.

A new kind is a member of `gpuqa.config.executor.Executor`, a module in this folder with its function, a line in EXECUTORS, and
a file under conf/executor. Its function opens the places of a study (`gpuqa.study.executors.places.Place`) for as long as its
context lasts; none: engines run in the study's own process. All else is one code for all kinds: which plan a place gets next
(`leases`), how plans run side by side (`side_by_side`), and the study, which alone writes the journal.

A plan decides the passes of the cells of one engine key. `await plan.next()` gives the next `Step`, or None when its engine can
be closed. Plans stay in the study's process: they know the passes of earlier runs and wait for scores. The session of a place
(`PlaceSession`)

    runs every step of a plan in one `EngineSession`, on a machine and a device of its choice. A `Step`, an `Event` and the path
    of the log are all that cross to another process, and they can be pickled.

    yields the events of a step as they come, the end of its pass last. The study writes that pass to the journal before it
    asks the plan for the next step.

    yields `CellFailed` where its place is lost (a process died, a job was cancelled); the next step needs a new one.

    leaves no engine behind when it ends, nor when the study's process is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from gpuqa.config.app import vllm_on_this_machine
from gpuqa.config.commands import CellConfig
from gpuqa.config.executor import Executor
from gpuqa.config.pipeline import Backend
from gpuqa.engines import gpus_of_engine
from gpuqa.study.executors.actors import ray_places
from gpuqa.study.executors.local import places_for
from gpuqa.study.executors.places import Place, Wanted
from gpuqa.study.executors.slurm import slurm_places

Open = Callable[[Wanted], AbstractContextManager[Sequence[Place]]]

EXECUTORS: Mapping[Executor, Open] = {
    Executor.local: lambda wanted: nullcontext(places_for(wanted.configs)),
    Executor.slurm: slurm_places,
    Executor.ray: ray_places,
}


def opened(
    configs: Sequence[CellConfig], say: Callable[[str], object] = print, ahead: bool = False
) -> AbstractContextManager[Sequence[Place]]:
    """The places of a study with these cells, as long as the context lasts; none: in this process.

    Args:
        say: tells the user what is waited for.
        ahead: nothing is to start, so that only the places of this machine are known.

    Raises:
        UserError: there are none, with the reason.
    """
    kind = configs[0].executor.kind
    if ahead and kind is not Executor.local:
        return nullcontext([])
    return EXECUTORS[kind](Wanted(configs, max(map(gpus_of, configs)), say))


def gpus_of(config: CellConfig) -> int:
    """How many GPUs an engine would take where there are some."""
    on_cpu = config.engine.backend is Backend.vllm and vllm_on_this_machine() == "vllm_cpu"
    return 0 if on_cpu else gpus_of_engine(config.engine_args())
