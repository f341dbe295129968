"""The command that says whether a machine is ready: on this machine, and on others by what they would show."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import run_command
from small_study import config

from gpuqa.check import check
from gpuqa.config import UserError, app
from gpuqa.config.paths import PACKAGE
from gpuqa.engines.vllm import compat
from gpuqa.engines.vllm.overrides import choose_attention
from gpuqa.machine import hardware
from gpuqa.machine.hardware import Gpu
from gpuqa.readiness import State, packages
from gpuqa.readiness.machine import cards
from gpuqa.readiness.overrides import overrides
from gpuqa.readiness.packages import torch, unsized, vllm
from gpuqa.records import Conditions

PLAIN = ("experiment=none", "engine=transformers")  # needs no vLLM
H200 = Gpu("NVIDIA H200", 140.4, "580.95.05", "9.0")
cpu_build = pytest.mark.skipif(app.vllm_on_this_machine() != "vllm_cpu", reason="says what vLLM's CPU build lacks")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """`asked("prompt=bare")` runs the command in this process, in an empty folder -> exit code, lines."""
    app.introduce_to_hydra()
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["gpuqa.check"])
        code = check(app.compose("check", words))
        return code, capsys.readouterr().out.splitlines()

    return run


def about(lines: list[str], name: str) -> list[str]:
    """The lines about one thing, without its name: state and text."""
    return [f"{words[0]} {words[2]}" for line in lines if len(words := line.split(maxsplit=2)) == 3 and words[1] == name]


def test_on_a_machine_that_has_all_a_study_can_run_and_every_line_says_what_is_here(asked):
    code, lines = asked(*PLAIN)
    assert (code, lines[-1]) == (0, "ready: this study can run here")
    assert not [line for line in lines if line.startswith("missing")]
    assert about(lines, "torch")[0].startswith(f"ok {importlib.metadata.version('torch')}, ")
    assert about(lines, "processor")[0].startswith(f"ok {hardware.processor()}, {os.cpu_count()} cores, ")
    assert about(lines, "model=embedded") == [f"ok whole, 2.2 MB of weights in 1 file of {PACKAGE / 'embedded' / 'model'}"]
    assert about(lines, "dataset=embedded") == ["ok 80 questions in gpuqa/embedded/questions/test.json, each with a reference"]
    assert "GiB free" in about(lines, "study.root")[0]


def test_what_an_executor_needs_is_looked_for_only_where_the_study_has_one(asked, monkeypatch):
    assert not [line for line in asked(*PLAIN)[1] if "executor=" in line]
    monkeypatch.setattr(packages, "is_installed", lambda name: name not in ("submitit", "ray"))
    for kind, package in (("slurm", "submitit"), ("ray", "ray")):
        code, lines = asked(*PLAIN, f"executor={kind}")
        assert about(lines, f"executor={kind}") == [f"missing {package} is not installed: pip install 'gpuqa[{kind}]'"]
        assert code == 1
    monkeypatch.setattr(packages, "is_installed", lambda _: True)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.2")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    found = packages.executor(config(executor="slurm").executor)
    assert [finding.text for finding in found if finding.state is State.ok] == ["submitit 1.2"]
    assert "there is no srun here: start the study where the cluster's commands are" in found[1].text
    assert found[1].state is State.missing
    assert len(packages.executor(config(executor="ray").executor)) == 1


@pytest.mark.slow
def test_the_courses_weights_are_missed_where_a_study_needs_them_and_noted_where_it_does_not(asked):
    fetch = "python -m gpuqa.download model=qwen3_0_6b_gpu_pro"
    course = ("model=qwen3_0_6b_gpu_pro", "dataset=qwen_zh_basic")
    code, lines = asked(*PLAIN, *course)
    assert (code, lines[-1]) == (1, "not ready: 2 things missing (exit code 1)")
    [model], [questions] = about(lines, "model=qwen3_0_6b_gpu_pro"), about(lines, "dataset=qwen_zh_basic")
    assert model.startswith("missing model.path: 'local-model/Iammarcus/Qwen3-0.6B-GPU-Pro' does not exist; ")
    assert model.endswith(f"; fetch the weights with: {fetch}")
    assert questions.startswith("missing dataset.path: ")
    assert questions.endswith(f"; it comes with the weights: {fetch}")
    code, lines = asked(*PLAIN)
    [model] = about(lines, "model=qwen3_0_6b_gpu_pro")
    assert (code, model[:5]) == (0, "note ")
    assert model.endswith(f": {fetch} (this study does not ask for it)")


def test_weights_that_are_cut_and_questions_that_cannot_be_read_are_missing_with_what_to_do(asked, tmp_path):
    folder = shutil.copytree(PACKAGE / "embedded" / "model", tmp_path / "model")
    os.truncate(folder / "model.safetensors", 1_000_000)
    (tmp_path / "questions.json").write_text("[]")
    code, lines = asked(*PLAIN, "model.path=model", "dataset.path=questions.json")
    [model], [questions] = about(lines, "model=embedded"), about(lines, "dataset=embedded")
    assert code == 1
    assert "model.safetensors is cut or damaged: it has 1,000,000 bytes" in model
    assert model.endswith("; download it again; or name another folder: model.path=FOLDER")
    assert questions.startswith("missing questions.json: ")
    assert questions.endswith("; or name another file: dataset.path=FILE")


def test_a_folder_of_studies_that_cannot_be_written_to_is_missing(asked, tmp_path):
    (tmp_path / "file").write_text("")
    code, lines = asked(*PLAIN, "study.root=file/studies")
    assert code == 1
    remedy = "free 0.5 GiB or name another folder: study.root=FOLDER"
    assert about(lines, "study.root") == [f"missing {tmp_path / 'file'} is no folder that can be written to; {remedy}"]


@pytest.mark.parametrize("word", ["engine.args.batchsize=4", "engine.args.max_model_len=99999", "workload.repeats=0"])
def test_wrong_input_is_refused_and_not_reported(asked, word):
    with pytest.raises(UserError, match=word.partition("=")[0]):
        asked(*PLAIN, f"+{word}" if "batchsize" in word else word)


@pytest.mark.slow  # imports vLLM
@cpu_build
def test_each_override_is_judged_in_the_engines_of_the_study_by_the_function_that_the_engine_asks(asked):
    caches = ("auto", "fp8_e5m2")
    code, lines = asked("experiment=none", "prompt=bare,expert", f"+engine.args.kv_cache_dtype={','.join(caches)}")
    own = {"engine": "vllm_cpu", "engine__attention": "shared_prefix", "quantization": "none"}
    cells = [config(**own, engine__args__kv_cache_dtype=name) for name in caches]
    reasons = [choose_attention(cell.engine, cell.engine_args()).reason for cell in cells]
    assert reasons == ["there is no CUDA device", "it does not read a KV cache of fp8_e5m2"]
    assert code == 0
    assert about(lines, "engine.scheduler=burst") == ["ok runs"]
    assert about(lines, "engine.attention=shared_prefix") == [
        f"note is off with engine=vllm_cpu quantization=none: {reason} (this study does not ask for it)" for reason in reasons
    ]
    assert not about(lines, "engine=vllm_cpu"), "it sizes its KV cache"
    [vllm_line] = about(lines, "vLLM")
    assert vllm_line.startswith(f"ok {compat.version()} (CPU build), one of the versions that the overrides were run with (0.")


@cpu_build
def test_engine_options_for_a_gpu_are_noted_where_vllm_is_the_cpu_build():
    cells = [config(engine=name) for name in ("vllm", "vllm_cpu", "vllm_defaults", "vllm", "transformers")]
    found = {finding.name: (finding.state.value, finding.text[:44]) for finding in unsized(cells)}
    note = ("note", "leaves engine.args.kv_cache_memory_bytes to ")
    assert found == {"engine=vllm": note, "engine=vllm_defaults": note}


def test_an_engine_that_names_its_attention_has_that_as_the_reason():
    own = config(engine="vllm_cpu", engine__args__attention_config={"backend": "TORCH_SDPA"})
    [attention] = [found for found in overrides([own]) if found.name == "engine.attention=shared_prefix"]
    assert attention.text.startswith("is off: engine.args.attention_config.backend: got 'TORCH_SDPA', allowed is none")


def installed(monkeypatch: pytest.MonkeyPatch, **packages: str) -> dict[str, str]:
    """Stands in for the metadata of another environment than this one."""
    found = {name.replace("_", "-"): number for name, number in packages.items()}
    monkeypatch.setattr(compat, "packages", lambda: found)
    return found


def said(findings: list[Any]) -> list[tuple[str, str]]:
    return [(found.state.value, found.text) for found in findings]


@pytest.mark.parametrize(
    ("packages", "build"),
    [
        ({"vllm-cpu": "0.32.0"}, "CPU"),
        ({"vllm": "0.33.0"}, "CUDA"),
        ({"vllm": "0.33.0+cu129"}, "CUDA"),
        ({"vllm": "0.33.0+cpu"}, "CPU"),
        ({"vllm": "0.33.0+rocm700"}, "rocm700"),
    ],
)
def test_the_build_is_known_by_name_and_version_of_the_package(monkeypatch, packages, build):
    assert compat.build(packages) == build
    monkeypatch.setattr(compat, "packages", lambda: packages)
    assert compat.described() == f"vLLM {next(iter(packages.values()))} ({build} build)"


def test_without_vllm_or_with_both_of_its_builds_a_study_lacks_it(monkeypatch):
    [(state, text)] = said(vllm(installed(monkeypatch), []))
    assert state == "missing"
    assert text.startswith("not installed; in an environment of its own, install gpuqa[gpu] for a GPU, ")
    assert compat.described() == "vLLM not installed"
    assert overrides([config(engine="vllm_cpu")]) == [], "there is nothing that they could replace"
    [(state, text)] = said(vllm(installed(monkeypatch, vllm="0.32.0", vllm_cpu="0.32.0"), []))
    assert (state, text[:36]) == ("missing", "vllm and vllm-cpu are installed, and")


def test_a_build_that_does_not_fit_the_machine_is_told(monkeypatch):
    """The cards and the other build are made up, because this machine has neither."""
    monkeypatch.setattr(hardware, "conditions", list)
    known, (state, text) = said(vllm(installed(monkeypatch, vllm="0.33.0"), []))
    assert known[0] == "ok"
    assert (state, text[:33]) == ("missing", "its CUDA build finds no GPU: have")
    assert [state for state, _ in said(vllm(installed(monkeypatch, vllm="0.33.0"), [H200]))] == ["ok"]
    _, (state, text) = said(vllm(installed(monkeypatch, vllm_cpu="0.32.0"), [H200]))
    assert (state, text[:33]) == ("note", "its CPU build leaves the GPU idle")


def test_a_vllm_that_was_never_run_is_noted_and_its_overrides_are_off(monkeypatch):
    [(state, text)] = said(vllm(installed(monkeypatch, vllm_cpu="0.99.0"), []))
    assert (state, text[:42]) == ("note", "0.99.0 (CPU build), none of the versions t")
    found = overrides([config(engine="vllm_cpu")])
    reason = "is off: this is vLLM 0.99.0, it knows 0.32.*, 0.33.*"
    assert said(found) == [("note", reason), ("note", f"{reason} (this study does not ask for it)")]


def test_a_vllm_that_lacks_what_every_engine_needs_is_missing(monkeypatch):
    """The table is a fake, because the installed vLLM has every name."""
    monkeypatch.setattr(compat, "ENGINE", {"vllm.outputs": ("RequestOutput.renamed",)})
    *_, (state, text) = said(vllm(compat.packages(), []))
    assert state == "missing"
    assert text.endswith("lacks vllm.outputs: RequestOutput.renamed: install one of 0.32, 0.33")


def test_a_vllm_that_cannot_be_imported_is_missing(monkeypatch):
    """The import is made to fail, because a broken installation would break the other tests."""
    monkeypatch.setitem(sys.modules, "vllm.platforms", None)
    [(state, text)] = said(overrides([config(engine="vllm_cpu")]))
    assert (state, text[:20]) == ("missing", "cannot be imported: ")


def test_every_card_is_told_with_what_slows_the_first_one_down(monkeypatch):
    """nvidia-smi's answer and NVML's are made up, because this machine has no card."""
    rows = ["NVIDIA H200, 143771, 580.95.05, 9.0", "NVIDIA GB10, [N/A], 580.95.05, 12.1"]
    monkeypatch.setattr(hardware, "nvidia_smi", lambda query: rows if query.count(",") == 3 else [])
    now = Conditions(1980, 3201, 61, 412.5, ["gpu_idle"])
    monkeypatch.setattr(hardware, "conditions", lambda: [now])
    assert said(cards(hardware.gpus())) == [
        ("ok", "NVIDIA H200, 140.4 GiB, driver 580.95.05, compute capability 9.0"),
        ("ok", "NVIDIA GB10, memory unknown, driver 580.95.05, compute capability 12.1"),
        ("ok", "nothing slows it down (1980 MHz, 61 degrees Celsius, 412 W)"),
    ]
    now.throttle_reasons.append("hw_thermal_slowdown")
    assert said(cards([H200]))[1] == ("note", "slowed down by hw_thermal_slowdown (1980 MHz, 61 degrees Celsius, 412 W)")


@pytest.mark.parametrize("usable", [True, False])
def test_a_driver_that_is_too_old_for_pytorch_is_missing(monkeypatch, tmp_path, usable):
    """PyTorch's CUDA build is a fake, because there is no card here that it could be tried on."""

    def is_available() -> bool:
        if not usable:
            warnings.warn("The NVIDIA driver on your system is too old\n(found version 12020)", stacklevel=1)
        return usable

    (tmp_path / "version.py").write_text("cuda = '13.0'\n")
    fake, cuda = ModuleType("torch"), SimpleNamespace(is_available=is_available)
    fake.__spec__ = importlib.util.spec_from_file_location("torch", tmp_path / "__init__.py")
    monkeypatch.setitem(sys.modules, "torch", fake)
    monkeypatch.setitem(sys.modules, "torch.cuda", cuda)
    [found] = torch([H200])
    built = f"{importlib.metadata.version('torch')}, for CUDA 13.0"
    why = "The NVIDIA driver on your system is too old; (found version 12020)"
    refused = f"{built}, cannot use the GPU: {why}; install a driver for this CUDA"
    assert (found.state, found.text) == ((State.ok, built) if usable else (State.missing, refused))
    assert torch([])[0].text == built, "without a card it is not imported"


@pytest.mark.slow
def test_for_the_default_study_the_command_prints_one_json_object_and_starts_no_engine(tmp_path):
    done = run_command("check", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["ready"], answer["exit_code"]) == (True, 0)
    assert {found["state"] for found in answer["findings"]} <= {state.value for state in State}
    assert {"vLLM", "engine.scheduler=burst", "model=embedded", "study.root"} <= {one["name"] for one in answer["findings"]}
    assert answer["environment"]["versions"]["torch"] == importlib.metadata.version("torch")
    assert {"device", "driver", "git_commit", "gpus"} <= set(answer["environment"])
    assert not list(tmp_path.iterdir()), "it writes nothing"
