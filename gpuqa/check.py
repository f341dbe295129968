"""Is this machine ready for a study? What is here, what is missing, and which overrides of vLLM run; no engine starts.

    python -m gpuqa.check                              # for the default study
    python -m gpuqa.check experiment=rtx5090           # for the study that gpuqa.sweep would run with the same words
    python -m gpuqa.check experiment=none model=qwen3_0_6b_gpu_pro engine=vllm json=true     # or --json: one JSON object

Whether an override runs is said by the function that an engine asks before its start. What only a running engine finds out,
such as a model that an override does not know, a study says when it is there.

Exit codes: 0 the study can run here, 1 it lacks something (lines that begin with "missing", each with what to do), 2 the input
is wrong.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import runpy
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import psutil
from omegaconf import OmegaConf
from rich.text import Text

from gpuqa import __version__
from gpuqa.config import UserError, one_line, plain
from gpuqa.config.app import is_installed, run_command, vllm_on_this_machine
from gpuqa.config.cells import Cells
from gpuqa.config.command_line import command_line, override, terminal
from gpuqa.config.commands import CheckConfig, Config, from_plain, resolve
from gpuqa.config.measurement import DatasetConfig
from gpuqa.config.model_files import TENSOR_FILES
from gpuqa.config.paths import conf_folder
from gpuqa.config.pipeline import Attention, Backend, EngineConfig, ModelConfig, Scheduler
from gpuqa.engines import BACKENDS
from gpuqa.engines.vllm import compat
from gpuqa.engines.vllm.overrides import Choice, choose_attention, choose_scheduler
from gpuqa.machine import hardware
from gpuqa.measure.fingerprint import environment, git_commit
from gpuqa.pipeline.model_folder import check_length, matching
from gpuqa.records import IDLE
from gpuqa.selection.wording import counted
from gpuqa.study.cell_checks import CellChecks
from gpuqa.study.same_effect import asked_for

LEAST_FREE_GIB = 0.5  # for the folder of a study
SIZE = "kv_cache_memory_bytes"
INSTALL = "in an environment of its own, install gpuqa[gpu] for a GPU, or requirements/cpu.txt for a CPU"


class State(Enum):
    """What a finding means for the study."""

    ok = "ok"
    note = "note"  # what a user may not expect
    missing = "missing"  # it does not run


STYLES = {State.ok: "", State.note: "yellow", State.missing: "bold red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer."""

    name: str
    text: str
    state: State = State.ok


def main() -> None:
    """Enter with conf/check.yaml."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # it logs to standard output
    sys.argv = [word if word != "--json" else "json=true" for word in sys.argv]
    run_command(check, "check")


def check(composed: Cells) -> int:
    """All cells (the study sweeper hands them over at once) -> exit code. Of a large study a few have all that is needed."""
    checks = CellChecks()
    cells = list(composed.with_all_values(lambda config: checked(resolve(config, CheckConfig), checks)).values())
    gpus = hardware.gpus()
    findings = [*machine(), *cards(gpus), *backends(cells, gpus), *overrides(cells), *files(cells, checks), room(cells[0])]
    missing = sum(finding.state is State.missing for finding in findings)
    code = int(missing > 0)
    if cells[0].json:
        here = {**environment(), "git_commit": git_commit(), "gpus": [asdict(gpu) for gpu in gpus]}
        found = [asdict(finding) for finding in findings]
        values = plain({"ready": not missing, "exit_code": code, "findings": found, "environment": here})
        print(json.dumps(values, ensure_ascii=False))
        return code
    show(findings)
    print(f"not ready: {counted(missing, 'thing')} missing (exit code 1)" if missing else "ready: this study can run here")
    return code


def checked(config: CheckConfig, checks: CellChecks) -> CheckConfig:
    """A cell, if its engine and its model could do what is asked.

    Raises:
        UserError: they could not; a file that is missing is none of these mistakes.
    """
    checks.check_engine(config)
    try:
        folder = checks.model(config.model)
    except UserError:  # told later, by `weights`
        return config
    check_length(folder, config.engine)
    return config


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


def backends(cells: Sequence[CheckConfig], gpus: Sequence[hardware.Gpu]) -> list[Finding]:
    """The packages that compute, and whether those are there that the study's engines need."""
    used = {cell.engine.backend for cell in cells}
    findings = [*vllm(compat.packages(), gpus), *unsized(cells)] if Backend.vllm in used else []
    lacking = [name for name in BACKENDS[Backend.transformers].packages if not is_installed(name)]
    if Backend.transformers in used and lacking:
        findings.append(Finding("transformers", f"not installed: {', '.join(lacking)}; {INSTALL}", State.missing))
    return [*findings, *torch(gpus)]


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


def unsized(cells: Sequence[CheckConfig]) -> list[Finding]:
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


def overrides(cells: Sequence[CheckConfig]) -> list[Finding]:
    """Each override of vLLM: with which of the study's engines it runs, and why not with the others."""
    engines = {repr((cell.engine, cell.engine_args())): cell for cell in cells if cell.engine.backend is Backend.vllm}
    if not compat.packages():
        return []
    asked = {name for cell in engines.values() for name in asked_for(cell)}
    try:
        tried = [(outcome, cell) for cell in engines.values() for outcome in outcomes(cell.engine, cell.engine_args())]
    except ImportError as error:
        return [Finding("vLLM", f"cannot be imported: {one_line(str(error))}; {INSTALL}", State.missing)]
    findings = []
    for name, runs, reason in dict.fromkeys(outcome for outcome, _ in tried):
        having = [cell for outcome, cell in tried if outcome == (name, runs, reason)]
        names = dict.fromkeys(f"engine={cell.engine.name} quantization={cell.quantization.name}" for cell in having)
        text = "runs" if runs else "is off"
        text += f" with {', '.join(names)}" if len(having) < len(engines) else ""
        text += f": {reason}" if reason else ""
        text += "" if name in asked else " (this study does not ask for it)"
        findings.append(Finding(name, text, State.note if reason else State.ok))
    return findings


def outcomes(engine: EngineConfig, args: dict[str, Any]) -> list[tuple[str, bool, str]]:
    """For each override, whether the engine asks for it or not: its name, whether it would run, why not or not fully."""
    choices = [choose_scheduler(replace(engine, scheduler=value)) for value in Scheduler if value is not Scheduler.default]
    choices += [attention(engine, args, value) for value in Attention if value is not Attention.default]
    return [
        (f"engine.{choice.part}={choice.asked}", choice.reason is None, choice.reason or "; ".join(choice.limits))
        for choice in choices
    ]


def attention(engine: EngineConfig, args: dict[str, Any], value: Attention) -> Choice:
    """What becomes of an attention in an engine; one whose arguments name another attention has its reason in that."""
    try:
        return choose_attention(replace(engine, attention=value), args)
    except UserError as error:
        return Choice("attention", value.value, reason=str(error))


def files(cells: Sequence[CheckConfig], checks: CellChecks) -> list[Finding]:
    """The models and question files of the study, then those of the other options that come with gpuqa."""
    models = {repr(cell.model): cell.model for cell in cells}
    datasets = {repr(cell.dataset): cell.dataset for cell in cells}
    other_models = others("model", ModelConfig, {model.name for model in models.values()})
    other_datasets = others("dataset", DatasetConfig, {dataset.name for dataset in datasets.values()})
    known = [*models.values(), *other_models]
    needed = [weights(model, checks) for model in models.values()]
    needed += [questions(dataset, checks, known) for dataset in datasets.values()]
    rest = [weights(model, checks) for model in other_models]
    rest += [questions(dataset, checks, known) for dataset in other_datasets]
    return [*needed, *(not_needed(finding) for finding in rest)]


def others(group: str, schema: type[Config], names: set[str]) -> list[Config]:
    """The options of a group in conf/ that have none of these names."""
    found = [file for file in sorted((conf_folder() / group).glob("*.yaml")) if file.stem not in names]
    return [from_plain(OmegaConf.to_container(OmegaConf.load(file)), schema, str(file)) for file in found]  # type: ignore[arg-type]


def not_needed(finding: Finding) -> Finding:
    """What is missing stops nothing where the study does not ask for it."""
    state = State.note if finding.state is State.missing else finding.state
    return replace(finding, text=f"{finding.text} (this study does not ask for it)", state=state)


def weights(model: ModelConfig, checks: CellChecks) -> Finding:
    """Whether a model's folder is whole, and what to do if it is not."""
    try:
        folder = checks.model(model)
    except UserError as error:
        text, fetch = one_line(str(error)), fetch_command(model)
        remedy = f"the command is: {fetch}" if fetch else "or name another folder: model.path=FOLDER"
        return Finding(f"model={model.name}", text if fetch and fetch in text else f"{text}; {remedy}", State.missing)
    size = sum(file.stat().st_size for file in matching(folder, TENSOR_FILES))
    return Finding(f"model={model.name}", f"whole, {size / 1e6:,.1f} MB of weights in {folder}")


def fetch_command(model: ModelConfig) -> str:
    """The command that fetches a model's folder; "" where no hub has it."""
    return command_line("download", override("model", model.name)) if model.download.repository is not None else ""


def questions(dataset: DatasetConfig, checks: CellChecks, models: Sequence[ModelConfig]) -> Finding:
    """Whether a question file can be read; one that is missing may come with the weights of one of the models."""
    try:
        count = len(checks.questions(dataset).questions)
    except UserError as error:
        commands = [fetch_command(model) for model in models if Path(dataset.path).is_relative_to(model.path)]
        remedies = [f"it comes with the weights: {command}" for command in commands if command]
        remedy = "; ".join(remedies) or "or name another file: dataset.path=FILE"
        return Finding(f"dataset={dataset.name}", f"{one_line(str(error))}; {remedy}", State.missing)
    return Finding(f"dataset={dataset.name}", f"{counted(count, 'question')} in {dataset.path}")


def room(config: CheckConfig) -> Finding:
    """Whether the folder of studies can be written to, and how much is free there."""
    root = Path(config.study.root).absolute()
    place = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(place).free / hardware.GIB
    text = f"{root}: {free:.1f} GiB free"
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        text = f"{place} is no folder that can be written to"
    elif free >= LEAST_FREE_GIB:
        return Finding("study.root", text)
    return Finding("study.root", f"{text}; free {LEAST_FREE_GIB} GiB or name another folder: study.root=FOLDER", State.missing)


def show(findings: Sequence[Finding]) -> None:
    """A line for each: its state, what it is about, what was found."""
    console, width = terminal(), max(len(finding.name) for finding in findings)
    for finding in findings:
        line = f"{finding.state.value:<7}  {finding.name:<{width}}  {finding.text}"
        console.print(Text(line, STYLES[finding.state]), soft_wrap=True)


if __name__ == "__main__":
    main()
