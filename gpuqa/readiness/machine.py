"""The host and its GPUs: what they are, who uses them, and whether the port of `serve` is free."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence

import psutil

from gpuqa import __version__
from gpuqa.config import UserError
from gpuqa.config.http import HttpConfig
from gpuqa.machine import hardware
from gpuqa.measure.fingerprint import git_commit
from gpuqa.readiness import Finding, State
from gpuqa.records import IDLE
from gpuqa.serving.address import check_port


def machine() -> list[Finding]:
    """gpuqa, Python and the host."""
    memory, commit = psutil.virtual_memory(), git_commit()
    cores = f"{os.cpu_count()} cores, {len(os.sched_getaffinity(0))} of them for this process"
    return [
        Finding("gpuqa", f"{__version__}, {f'commit {commit}' if commit else 'no commit known'}"),
        Finding("Python", platform.python_version()),
        Finding("processor", f"{hardware.processor()}, {cores}"),
        Finding("memory", f"{memory.total / hardware.GIB:.1f} GiB, {memory.available / hardware.GIB:.1f} of them available"),
    ]


def cards(gpus: Sequence[hardware.Gpu]) -> list[Finding]:
    """The GPUs, and what slows down the one that an engine takes."""
    if not gpus:
        return [Finding("GPU", "none, by nvidia-smi")]
    findings = []
    for place, gpu in enumerate(gpus):
        memory = f"{gpu.memory_gib:.1f} GiB" if gpu.memory_gib else "memory unknown"
        text = f"{gpu.name}, {memory}, driver {gpu.driver}, compute capability {gpu.compute_capability}"
        findings.append(Finding(f"GPU {place}", text))
    for now in hardware.conditions():
        reasons = ", ".join(reason for reason in now.throttle_reasons if reason != IDLE)
        text = f"slowed down by {reasons}" if reasons else "nothing slows it down"
        text += f" ({now.sm_clock_mhz} MHz, {now.temperature_c} degrees Celsius, {now.power_w:.0f} W)"
        findings.append(Finding("GPU now", text, State.note if reasons else State.ok))
    return findings


def in_use(gpus: Sequence[hardware.Gpu]) -> list[Finding]:
    """The processes that compute on a GPU now: a study beside them is slower, and may lack memory."""
    rows = hardware.nvidia_smi("pid,process_name,used_memory", of="compute-apps") if gpus else []
    apps = (re.fullmatch(r"(\d+), (.*), (\S+)", row) for row in rows)
    used = [f"{app[2]} (process {app[1]}, {app[3]} MiB)" for app in apps if app]
    mend = "numbers that are measured beside it do not count; end it, or choose a free GPU by CUDA_VISIBLE_DEVICES"
    return [Finding("GPU in use", f"by {', '.join(used)}: {mend}", State.note)] if used else []


def port(http: HttpConfig) -> Finding:
    """Whether `gpuqa.serve` could listen now; a study needs no port."""
    where = f"{http.host}:{http.port}"
    try:
        check_port(http)
    except UserError as error:
        return Finding("port", f"gpuqa.serve would be refused: {error}{holder(http.port)}", State.note)
    return Finding("port", "any free one" if http.port == 0 else f"{where} is free for gpuqa.serve")


def holder(number: int) -> str:
    """Which process listens on a port, as the end of a sentence; "" where the kernel does not tell."""
    try:
        listening = [each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
        pid = next(each.pid for each in listening if each.laddr and each.laddr[1] == number)
        return f"; {psutil.Process(pid).name()} (process {pid}) has it" if pid else "; a process of another user has it"
    except (psutil.Error, OSError, StopIteration):
        return ""
