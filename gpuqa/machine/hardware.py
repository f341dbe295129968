"""The machine: what it is, how much memory it used, and the processes below this one."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from gpuqa.records import IDLE, Conditions

GIB = 2**30
GPU_NAME = re.compile(r"\d+|(GPU|MIG)-.+")  # of CUDA_VISIBLE_DEVICES
THROTTLE_REASONS = {  # NVML's bits (nvml.h, nvmlClocksEventReason*)
    0x001: IDLE,
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """A card as nvidia-smi describes it."""

    name: str
    memory_gib: float | None  # None where it has none of its own
    driver: str
    compute_capability: str  # "9.0" is Hopper


def gpus() -> list[Gpu]:
    """All cards of this machine, those too that CUDA_VISIBLE_DEVICES hides; empty without a GPU."""
    rows = [line.rsplit(", ", 3) for line in nvidia_smi("name,memory.total,driver_version,compute_cap")]
    return [Gpu(name, int(mib) / 1024 if mib.isdigit() else None, driver, capability) for name, mib, driver, capability in rows]


def describe() -> dict[str, str]:
    """Device and driver as plain text, for keys and frozen files; empty driver without a GPU."""
    gpu = nvidia_smi("name,driver_version")
    if gpu:
        name, _, driver = gpu[0].partition(", ")
        return {"device": f"{len(gpu)}x {name}" if len(gpu) > 1 else name, "driver": driver}
    return {"device": f"{processor()}, {os.cpu_count()} cores", "driver": ""}


def peak_memory_gib() -> float:
    """Most host memory that this process and its living children held, plus GPU memory in use now; GiB.

    The peak is the sum of each process's own peak (VmHWM), an upper bound of the peak of the sum.
    """
    me = psutil.Process()
    host = sum(high_water_bytes(process.pid) for process in [me, *me.children(recursive=True)])
    return (host + gpu_memory_bytes()) / GIB


def gpu_memory_bytes() -> int:
    """Memory in use on all visible GPUs together: NVML says so within milliseconds, nvidia-smi where NVML cannot be asked."""
    with nvml() as asked:
        if asked is not None:
            with contextlib.suppress(asked.NVMLError):  # one that does not tell: nvidia-smi has the others
                gpus = visible_gpus(asked, at_most=asked.nvmlDeviceGetCount())
                return sum(int(asked.nvmlDeviceGetMemoryInfo(gpu, version=asked.nvmlMemory_v2).used) for gpu in gpus)
    return sum(int(line) for line in nvidia_smi("memory.used") if line.isdigit()) * 2**20


def conditions() -> list[Conditions]:
    """Clocks, temperature, power and throttle reasons of the GPU that an engine takes, now; empty without one or without NVML.

    With an engine's context alive that takes milliseconds.
    """
    with nvml() as asked:
        if asked is None:
            return []
        try:
            [gpu] = visible_gpus(asked, at_most=1)
            reasons = asked.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)
            measured = Conditions(
                sm_clock_mhz=asked.nvmlDeviceGetClockInfo(gpu, asked.NVML_CLOCK_SM),
                memory_clock_mhz=asked.nvmlDeviceGetClockInfo(gpu, asked.NVML_CLOCK_MEM),
                temperature_c=asked.nvmlDeviceGetTemperature(gpu, asked.NVML_TEMPERATURE_GPU),
                power_w=asked.nvmlDeviceGetPowerUsage(gpu) / 1000,
                throttle_reasons=[name for bit, name in THROTTLE_REASONS.items() if reasons & bit],
            )
        except asked.NVMLError:  # a card or a container that does not tell: the study goes on without
            return []
        return [measured]


def energy_j(gpus: int) -> float | None:
    """What the first so many visible GPUs have used since their driver was loaded, J: the difference of two readings counts.

    None without NVML, or where any of them does not tell (before Volta, a MIG slice). The counter is the whole board's, idle
    power and other processes included, and not the host's (NVML, nvmlDeviceGetTotalEnergyConsumption). It moves every 20 to
    100 ms (PETSc, PetscLogGpuEnergyMeter), so that a difference is wrong by what is used in one such step: by a twentieth at
    most over two seconds.
    """
    with nvml() as asked:
        if asked is None or gpus == 0:
            return None
        try:
            used_mj = [asked.nvmlDeviceGetTotalEnergyConsumption(gpu) for gpu in visible_gpus(asked, at_most=gpus)]
        except asked.NVMLError:
            return None
        return float(sum(used_mj)) / 1000 if len(used_mj) == gpus else None


@contextlib.contextmanager
def nvml() -> Iterator[Any]:
    """NVML, opened here and closed again: an engine that is forked must not inherit it. None without a driver or without
    nvidia-ml-py (`gpuqa[gpu]`)."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except ImportError:
        yield None
        return
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def visible_gpus(pynvml: Any, at_most: int) -> list[Any]:
    """NVML's handles of the first GPUs that CUDA may use, in CUDA's order; NVML itself numbers all that are there."""
    names = named_gpus() or [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
    by_index, by_uuid = pynvml.nvmlDeviceGetHandleByIndex, pynvml.nvmlDeviceGetHandleByUUID
    return [by_index(int(name)) if name.isdigit() else by_uuid(name) for name in names[:at_most]]


def named_gpus() -> list[str]:
    """The names in CUDA_VISIBLE_DEVICES, up to one that is none: CUDA looks no further."""
    listed = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return list(itertools.takewhile(GPU_NAME.fullmatch, listed))


def visible_gpu_models() -> dict[str, str]:
    """The models of the GPUs that CUDA may use, by their ids as CUDA_VISIBLE_DEVICES names them; empty without a GPU.

    A number is nvidia-smi's; CUDA goes by it with CUDA_DEVICE_ORDER=PCI_BUS_ID. A slice (MIG) goes by the first card's model.
    """
    rows = [line.split(", ", 2) for line in nvidia_smi("index,uuid,name")]
    models = {index: model for index, _, model in rows}
    if not models or not (names := named_gpus()):
        return models
    by_uuid = {id_: model for id_ in names for _, uuid, model in rows if uuid.startswith(id_)}
    slices = dict.fromkeys((id_ for id_ in names if id_.startswith("MIG")), rows[0][2])
    known = {**models, **slices, **by_uuid}
    return {id_: known[id_] for id_ in names if id_ in known}


def high_water_bytes(pid: int) -> int:
    """Largest resident set that a process ever had; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def nvidia_smi(query: str, of: str = "gpu") -> list[str]:
    """One line a GPU, or with `of="compute-apps"` a process on one; empty where there is none."""
    command = ["nvidia-smi", f"--query-{of}={query}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip().splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


def processor() -> str:
    """The CPU's model name where the kernel tells it."""
    return cpuinfo("model name") or platform.processor() or platform.machine()


def processor_flags() -> set[str]:
    """What the CPU can do, in the kernel's words such as `avx512f` and `amx_int8`; empty where it does not tell."""
    return set(cpuinfo("flags").split())


def cpuinfo(field: str) -> str:
    """A field of the first processor; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(": ")[2] for line in lines if line.startswith(field)), "")
