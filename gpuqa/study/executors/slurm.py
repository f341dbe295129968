"""Engines in jobs of a cluster, which submitit submits: a job for each group of cells that share an engine.

A job and the study's command share a folder below the study's: the command appends steps to one file, the job events to another
(`gpuqa.study.executors.mail`). Each side sees by the other's pulse that it is alive. A job whose command is gone ends itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from gpuqa.config import UserError, one_line
from gpuqa.config.executor import Cluster
from gpuqa.study.executors.job import BEAT_S, STUDY
from gpuqa.study.executors.jobs import Jobs, JobSession
from gpuqa.study.executors.mail import Pulse
from gpuqa.study.executors.places import RemotePlace, Wanted

SHARED = ("timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")  # that all clusters take
OLD_S = 3600.0  # since the last sign of life of a command that was killed: its jobs are gone, and their folder may go
GPU_KEYS = re.compile("gpu|gres")


@contextlib.contextmanager
def slurm_places(wanted: Wanted) -> Iterator[list[RemotePlace]]:
    """The places of a study in jobs. The first job is there on entry, and what it runs in is what this machine has.

    Raises:
        UserError: submitit is not installed, or refuses the parameters.
        PlaceNotThere: the cluster refuses the job, it does not start in time, or its machine is set up otherwise.
    """
    study = wanted.configs[0].study.folder
    folder, stop = (study / "jobs" / uuid4().hex[:12]).absolute(), threading.Event()
    with contextlib.ExitStack() as ending:
        ending.callback(remove, folder)
        for old in (pulse.parent for pulse in folder.parent.glob(f"*/{STUDY}") if time.time() - pulse.stat().st_mtime > OLD_S):
            remove(old)
        jobs = Jobs(submitter(wanted, folder), folder, wanted.config)
        folder.mkdir(parents=True, exist_ok=True)
        threading.Thread(target=keep_beating, args=(Pulse(folder / STUDY), stop), name="pulse", daemon=True).start()
        ending.callback(stop.set)
        ending.callback(jobs.end)
        first = JobSession(jobs, study / "engine.job_1.log")
        hello = asyncio.run(first.looked_at(wanted))
        count = wanted.config.workers or 1
        here, start = (hello.part.is_a_device, hello.environment), partial(JobSession, jobs)
        places = [RemotePlace(f"job {number + 1}", *here, start, per_plan=True) for number in range(count)]
        places[0].opened.append(first)
        yield places


def remove(folder: Path) -> None:
    """Remove a folder, and the one above if nothing else is in it."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def submitter(wanted: Wanted, folder: Path) -> Any:
    """submitit's executor with the parameters of the configuration.

    Raises:
        UserError: it is not installed, has no such parameter, or there is no cluster of that kind here.
    """
    config, kind = wanted.config, wanted.config.cluster
    try:
        os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")  # else its import closes the log handlers of all other modules
        from submitit import AutoExecutor
    except ImportError:
        raise UserError("executor=slurm: submitit is not installed; pip install 'gpuqa[slurm]'") from None
    python = {f"{kind.value}_python": config.python} if kind and config.python else {}
    try:
        executor = AutoExecutor(folder, cluster=kind.value if kind else None, **python)
        executor.update_parameters(name="gpuqa", **options_of(wanted))
    except NameError as error:
        raise UserError(unknown_parameter(str(error))) from None
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"executor.parameters: submitit refuses them: {one_line(str(error))}") from None
    except RuntimeError as error:
        other = "start the command where sbatch is, or try it with executor.cluster=local"
        raise UserError(f"executor.cluster={kind and kind.value}: {one_line(str(error))}; {other}") from None
    return executor


def options_of(wanted: Wanted) -> dict[str, Any]:
    """The parameters of the configuration as submitit takes them, with the GPUs of an engine where none are named."""
    parameters = {name: value for name, value in wanted.config.parameters.items() if value is not None}
    named = [*parameters, *parameters.get("additional_parameters", {})]
    if wanted.config.cluster is not Cluster.slurm:
        if isinstance(parameters.get("time"), int):
            parameters["timeout_min"] = parameters["time"]
    elif wanted.gpus and not any(GPU_KEYS.search(name) for name in named):
        parameters["gpus_per_node"] = wanted.gpus
    return {name if name in SHARED else f"slurm_{name}": value for name, value in parameters.items()}


def unknown_parameter(told: str) -> str:
    """What submitit tells of a parameter that it does not know, in one line with the nearest names."""
    found = re.search(r"Unknown argument '(.+?)' for executor .*Valid arguments: (.*)", told)
    if found is None:
        return f"executor.parameters: submitit refuses them: {one_line(told)}"
    known = sorted({*found[2].split(", "), *SHARED})
    near = difflib.get_close_matches(found[1], known, n=3) or known
    return f"executor.parameters.{found[1]}: submitit has no such parameter for sbatch; nearest: {', '.join(near)}"


def keep_beating(pulse: Pulse, stop: threading.Event) -> None:
    """Show that this process lives, until it is told to stop."""
    with contextlib.suppress(FileNotFoundError):  # the folder is gone
        while not stop.wait(BEAT_S):
            pulse.beat()
