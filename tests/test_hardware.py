"""What the machine is, and how much memory a study took."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from small_study import prepared, run

from gpuqa.engines import gpus_of_engine
from gpuqa.machine import hardware
from gpuqa.records import Conditions

MIB = 2**20


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Puts a fake nvidia-smi on the PATH, because a test machine has no GPU or not two of them."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")

    def install(names: str = "", used: str = "", code: int = 0) -> None:
        script = tmp_path / "nvidia-smi"
        script.write_text(
            f"#!/bin/sh\ncase \"$1\" in\n*name*) printf '{names}' ;;\n*memory.used*) printf '{used}' ;;\nesac\nexit {code}\n"
        )
        script.chmod(0o755)

    return install


@pytest.fixture
def no_gpu(tmp_path, monkeypatch):
    """A PATH without nvidia-smi, whatever machine this is."""
    monkeypatch.setenv("PATH", str(tmp_path))


def test_without_a_gpu_the_device_is_the_processor_and_there_is_no_driver(no_gpu):
    found = hardware.describe()
    model, _, cores = found["device"].rpartition(", ")
    assert model
    assert cores == f"{os.cpu_count()} cores"
    assert found["driver"] == ""


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("NVIDIA H200, 580.95.05\\n", {"device": "NVIDIA H200", "driver": "580.95.05"}),
        ("NVIDIA L4, 550.1\\nNVIDIA L4, 550.1\\n", {"device": "2x NVIDIA L4", "driver": "550.1"}),
    ],
)
def test_gpus_are_named_and_counted_with_their_driver(smi, names, expected):
    smi(names)
    assert hardware.describe() == expected


@pytest.mark.parametrize("code", [6, 9, 127])
def test_a_failing_nvidia_smi_counts_as_no_gpu(smi, code):
    smi("NVIDIA-SMI has failed because it could not communicate with the driver\\n", code=code)
    assert hardware.describe()["device"].endswith(" cores")


def test_gpu_memory_in_use_is_added_and_what_is_not_a_number_is_not(smi, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if it were not installed
    smi(used="")
    without = hardware.peak_memory_gib()
    smi(used="1024\\n2048\\n[N/A]\\n")
    assert hardware.peak_memory_gib() - without == pytest.approx(3, abs=0.1)


PEAK = f"""
import sys
from gpuqa.engines import gpus_of_engine
from gpuqa.machine import hardware
before = hardware.peak_memory_gib()
block = bytearray({400 * MIB})
del block
print(before, hardware.peak_memory_gib())
"""


def test_the_peak_stays_after_the_memory_is_free_again(no_gpu):
    before, after = map(
        float, subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True).stdout.split()
    )
    assert after - before == pytest.approx(400 / 1024, abs=0.1)
    assert 0 < before < 1  # GiB, not bytes


CHILD = f"block = bytearray(b'x' * {300 * MIB}); print('up', flush=True); input()"


def test_the_memory_of_living_children_and_grandchildren_counts(no_gpu):
    before = hardware.peak_memory_gib()
    grandchild = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", grandchild], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "up\n"
        during = hardware.peak_memory_gib()
        child.communicate("\n")
    assert during - before > 300 / 1024
    assert hardware.peak_memory_gib() - before < 0.1  # gone with the children


def test_a_process_that_is_gone_held_no_memory():
    with subprocess.Popen(["sleep", "0"]) as process:
        process.wait()
    assert not Path(f"/proc/{process.pid}").exists()
    assert hardware.high_water_bytes(process.pid) == 0


class StandInNvml(ModuleType):
    """A stand-in for nvidia-ml-py's `pynvml` with one GPU, because a test machine has neither; it counts what is left open."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    nvmlMemory_v2 = 0x02000028  # noqa: N815  # without what the driver keeps for itself, as nvidia-smi shows it

    class NVMLError(Exception): ...

    def __init__(self, reasons: int = 0, broken: str = "") -> None:
        super().__init__("pynvml")
        self.reasons, self.broken, self.opened, self.asked = reasons, broken, 0, []
        self.energy_mj = 0

    def _answer(self, name: str, value: object) -> object:
        if name == self.broken:
            raise self.NVMLError("Not Supported")
        return value

    def nvmlInit(self) -> None:  # noqa: N802  # NVML's own names, here and below
        self._answer("init", None)
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.opened -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        self.asked.append(index)
        return f"gpu {index}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self.asked.append(uuid)
        return uuid

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _: str) -> object:  # noqa: N802
        return self._answer("reasons", self.reasons)

    def nvmlDeviceGetClockInfo(self, _: str, clock: int) -> int:  # noqa: N802
        return {self.NVML_CLOCK_SM: 1980, self.NVML_CLOCK_MEM: 3201}[clock]

    def nvmlDeviceGetTemperature(self, _: str, sensor: int) -> int:  # noqa: N802
        return 61

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetMemoryInfo(self, gpu: str, version: int | None = None) -> object:  # noqa: N802
        used = {"gpu 0": 2 * 2**30, "gpu 1": 2**30}[gpu] if version == self.nvmlMemory_v2 else 0
        return self._answer("memory", SimpleNamespace(used=used))

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: str) -> object:  # noqa: N802
        self.energy_mj += 500  # it moves between any two readings
        return self._answer("energy", self.energy_mj + {"gpu 0": 7_000_000, "gpu 1": 90_000_000}.get(gpu, 0))

    def nvmlDeviceGetPowerUsage(self, _: str) -> object:  # noqa: N802
        return self._answer("power", 412_500)


@pytest.mark.parametrize(
    ("visible", "asked"),
    [(None, 0), ("", 0), ("any", 0), ("3,1", 3), ("GPU-8f2c", "GPU-8f2c"), ("MIG-8f2c,GPU-1", "MIG-8f2c")],
)
def test_the_state_of_the_gpu_that_an_engine_takes_is_read_and_nvml_closed_again(monkeypatch, visible, asked):
    nvml = StandInNvml(reasons=0x4 | 0x40)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert hardware.conditions() == [Conditions(1980, 3201, 61, 412.5, ["sw_power_cap", "hw_thermal_slowdown"])]
    assert (nvml.asked, nvml.opened) == ([asked], 0)


@pytest.mark.parametrize("broken", ["init", "reasons", "power"])
def test_a_gpu_that_does_not_tell_its_state_stops_nothing(monkeypatch, broken):
    nvml = StandInNvml(broken=broken)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert hardware.conditions() == []
    assert nvml.opened == 0


@pytest.mark.parametrize(("broken", "expected"), [("", 3), ("memory", 1), ("init", 1)])
def test_nvml_tells_the_memory_in_use_and_nvidia_smi_where_nvml_does_not(smi, monkeypatch, broken, expected):
    smi(used="")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    without = hardware.peak_memory_gib()
    smi(used="1024\\n")
    monkeypatch.setitem(sys.modules, "pynvml", nvml := StandInNvml(broken=broken))
    assert hardware.peak_memory_gib() - without == pytest.approx(expected, abs=0.1)
    assert nvml.opened == 0


def test_without_nvidia_ml_py_there_are_no_conditions(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if it were not installed
    assert hardware.conditions() == []


@pytest.mark.parametrize(
    ("visible", "gpus", "joules"),
    [
        (None, 1, 7_000.5),
        (None, 2, 7_000.5 + 90_001.0),
        (None, 3, None),  # there are two
        ("1", 1, 90_000.5),
        ("1,0", 2, 90_000.5 + 7_001.0),
        ("1,-1,0", 2, None),  # CUDA looks no further than a name that is none
        (None, 0, None),  # the engine computes on the CPU
    ],
)
def test_the_energy_of_all_gpus_that_an_engine_computes_on_is_added(monkeypatch, visible, gpus, joules):
    monkeypatch.setitem(sys.modules, "pynvml", nvml := StandInNvml())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert hardware.energy_j(gpus) == joules
    assert nvml.opened == 0


@pytest.mark.parametrize("broken", ["init", "energy"])
def test_a_gpu_that_does_not_tell_its_energy_stops_nothing(monkeypatch, broken):
    monkeypatch.setitem(sys.modules, "pynvml", nvml := StandInNvml(broken=broken))
    assert hardware.energy_j(1) is None
    assert nvml.opened == 0


def test_without_nvidia_ml_py_no_energy_is_known(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if it were not installed
    assert hardware.energy_j(1) is None


@pytest.mark.parametrize(
    ("args", "gpus"),
    [
        ({}, 1),
        ({"tensor_parallel_size": 2, "data_parallel_size": 3, "pipeline_parallel_size": None}, 6),
        ({"device": "cpu"}, 0),
        ({"device": "cuda"}, 1),
    ],
)
def test_the_arguments_of_an_engine_say_on_how_many_gpus_it_computes(args, gpus):
    assert gpus_of_engine(args) == gpus


@pytest.mark.engine
@pytest.mark.usefixtures("one_thread")
def test_a_study_measures_the_energy_of_every_pass(tmp_path, monkeypatch):
    cells = prepared({"workload__repeats": 2}, {"workload__repeats": 2, "engine__args__device": "cpu"})
    monkeypatch.setitem(sys.modules, "pynvml", StandInNvml())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    outcome, _ = run(cells, tmp_path)
    found, on_cpu = [trial.measurement for trial in outcome.trials]
    assert found.joules_per_output_token == pytest.approx(2 * 0.5 / found.output_tokens)
    assert sum(found.joules_per_output_token_repeats) / 2 == pytest.approx(found.joules_per_output_token)
    assert (on_cpu.joules_per_output_token, on_cpu.joules_per_output_token_repeats) == (None, [])


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("", {"0": "NVIDIA L4", "1": "NVIDIA H200"}),
        ("1", {"1": "NVIDIA H200"}),
        ("1,7,0", {"1": "NVIDIA H200", "0": "NVIDIA L4"}),
        ("GPU-b2", {"GPU-b2": "NVIDIA H200"}),
        ("MIG-9,GPU-a", {"MIG-9": "NVIDIA L4", "GPU-a": "NVIDIA L4"}),
    ],
)
def test_the_gpus_that_cuda_may_use_are_known_by_their_ids_with_their_models(smi, monkeypatch, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    smi("0, GPU-a1, NVIDIA L4\\n1, GPU-b2, NVIDIA H200\\n")
    found = hardware.visible_gpu_models()
    assert found == expected
    assert list(found) == list(expected), "in CUDA's order"


def test_without_a_gpu_there_are_no_models(no_gpu, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert hardware.visible_gpu_models() == {}
