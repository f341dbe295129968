"""What `gpuqa.check` finds beside packages and overrides: memory, disks, compilers, questions, network, port."""

from __future__ import annotations

import json
import os
import socket
import sysconfig
from dataclasses import replace
from typing import Any

import psutil
import pytest
from small_study import config

from gpuqa.config import UserError
from gpuqa.config.commands import CellConfig
from gpuqa.config.http import HttpConfig
from gpuqa.machine import hardware
from gpuqa.machine.hardware import GIB, Gpu
from gpuqa.readiness import Finding, State
from gpuqa.readiness.disks import disk, disks, expected_gib
from gpuqa.readiness.files import lengths, network, questions
from gpuqa.readiness.machine import in_use, port
from gpuqa.readiness.memory import Room, Source, fit, gpu_room, host_room, memory, source_of
from gpuqa.readiness.packages import compilers
from gpuqa.study.cell_checks import CellChecks

H200 = Gpu("NVIDIA H200", 140.4, "580.95.05", "9.0")
PLAIN = {"sampling__max_tokens": 256, "engine__args__dtype": "bfloat16", "dataset__limit": None}


def cell(**changes: Any) -> CellConfig:
    """A cell of the embedded model; composed without Hydra, which takes a second."""
    return config(**{"engine": "vllm_cpu", **PLAIN, **changes})


def course(**changes: Any) -> CellConfig:
    """A cell of the course's model, which is not here."""
    return cell(**{"model": "qwen3_0_6b_gpu_pro", "dataset": "qwen_zh_basic", "engine": "vllm", **changes})


def course_and_sizes(**changes: Any) -> tuple[CellConfig, Source]:
    source = source_of(course(), CellChecks())
    assert source is not None
    return course(**changes), source


def on(device: float, free: float, is_gpu: bool = True) -> Room:
    return Room("the GPU" if is_gpu else "this machine", free * GIB, device * GIB, is_gpu)


def test_what_an_engine_needs_is_told_in_the_sizes_of_the_roofline():
    found = fit(*course_and_sizes(), on(31.8, 31.5))
    # weights: 28 layers of 1024 x (2 x (16 + 8) x 128 + 3 x 3072) and a table of 151,936 x 1024, 2 bytes each;
    # KV: 28 x 8 x 128 x 2 values of 2 bytes; tokens: (0.95 x 31.8 - 1.11 - 0.95) GiB / 112 KiB
    assert "ASSUMED weights 1.11 GiB, a step about " in found.text
    assert ", 112.0 KiB of KV a token; 31.50 GiB of the GPU are free, and the KV cache holds 263," in found.text
    assert found.text.endswith(" of 512 at once if each is 1,024 long")
    assert found.state is State.ok
    half = fit(*course_and_sizes(quantization="fp8_weights_kv"), on(31.8, 31.5))
    assert ", 56.0 KiB of KV a token" in half.text
    assert "weights 0.70 GiB" in half.text


UTILIZATION, SIZE = "engine__args__gpu_memory_utilization", "engine__args__kv_cache_memory_bytes"
TOO_SMALL = "one answer may have 1,024: lower engine.args.max_model_len, or raise engine.args."


@pytest.mark.parametrize(
    ("changes", "room", "told"),
    [
        (
            {},
            on(31.8, 20.0),
            "vLLM asks for 30.21 GiB at its start, and 20.00 GiB are free: end what uses the GPU, or lower "
            "engine.args.gpu_memory_utilization below 0.63",
        ),
        (
            {"engine": "vllm_defaults", SIZE: 1_000_000_000},
            on(100, 90),
            "vLLM asks for 92.00 GiB at its start, and 90.00 GiB are free: end what uses the GPU, or lower "
            "engine.args.gpu_memory_utilization below 0.90",
        ),
        ({UTILIZATION: 0.06}, on(31.8, 31), f"the KV cache would hold 0 tokens, and {TOO_SMALL}gpu_memory_utilization"),
        ({SIZE: 1_000_000}, on(31.8, 31), f"the KV cache would hold 8 tokens, and {TOO_SMALL}kv_cache_memory_bytes"),
        (
            {SIZE: 40_000_000_000},
            on(31.8, 31.0),
            "that and a KV cache of 37.25 GiB is more than the 31.00 GiB of the GPU that are free: free some, or lower "
            "engine.args.kv_cache_memory_bytes",
        ),
        (
            {"engine": "transformers"},
            on(8, 1, is_gpu=False),
            "that is more than the 1.00 GiB of this machine that are free: free some, or choose a smaller format of the "
            "weights",
        ),
    ],
)
def test_an_engine_that_would_not_start_for_want_of_memory_is_missing_with_what_to_do(changes, room, told):
    found = fit(*course_and_sizes(**changes), room)
    assert (found.state, found.text.partition("a token; ")[2]) == (State.missing, told)


def test_several_gpus_an_unknown_format_and_a_cache_that_vllm_sizes_are_not_computed():
    several = fit(*course_and_sizes(engine__args__tensor_parallel_size=2), on(31.8, 31.5))
    assert (several.state, several.text.partition(": ")[2]) == (State.note, "takes several GPUs; not computed here")
    with pytest.raises(UserError, match="no bound: the format 'int2' is not in the table"):
        fit(*course_and_sizes(engine__args__kv_cache_dtype="int2"), on(31.8, 31.5))
    found = fit(*course_and_sizes(), on(64, 60, is_gpu=False))
    assert found.text.endswith("60.00 GiB of this machine are free, and how much the KV cache takes is left to vLLM")


def test_memory_is_that_of_the_gpu_that_cuda_takes_first_and_without_one_of_the_host(monkeypatch):
    """nvidia-smi's rows are made up, because this machine has no card."""
    sizes, names = "index,uuid,memory.free,memory.total", "index,uuid,name"
    rows = {sizes: ["0, GPU-aa, 1000, 2000", "1, GPU-bb, 3000, 4000"], names: ["0, GPU-aa, L4", "1, GPU-bb, L4"]}
    monkeypatch.setattr(hardware, "nvidia_smi", lambda query, of="gpu": rows[query])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpu_room() == Room("the GPU", 3000 * 2**20, 4000 * 2**20, True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa")
    assert gpu_room() == Room("the GPU", 1000 * 2**20, 2000 * 2**20, True)
    rows[sizes] = ["0, GPU-aa, [N/A], [N/A]"]
    assert gpu_room() is None
    assert 0 < host_room().free <= psutil.virtual_memory().total


def test_a_model_that_is_not_here_has_the_sizes_that_are_assumed_or_none():
    absent = course()
    source = source_of(absent, CellChecks())
    assert source is not None
    assert source.assumed
    unknown = replace(absent, model=replace(absent.model, assumed=None))
    assert source_of(unknown, CellChecks()) is None
    assert memory([unknown], CellChecks(), []) == []
    [found] = memory([cell()] * 2, CellChecks(), [])
    assert (found.state, found.text[:56]) == (State.ok, "engine=vllm_cpu quantization=none: weights 0.00 GiB, a s")


def test_a_folder_with_too_little_room_is_missing_and_weights_that_will_come_need_their_size(tmp_path, monkeypatch):
    found = disk("TMPDIR", tmp_path / "new" / "one", 10**9, "set TMPDIR to another folder")
    assert found.state is State.missing
    assert found.text.endswith(" GiB free; free 1000000000.0 GiB or set TMPDIR to another folder")
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    names = {found.name: found.text for found in disks([course()], CellChecks())}
    assert list(names) == ["study.root", "model.path", "TMPDIR", "VLLM_CACHE_ROOT"]
    assert names["VLLM_CACHE_ROOT"].startswith(f"{tmp_path / 'cache'}: ")
    assert expected_gib(course().model) == pytest.approx(1.11, abs=0.01)
    assert [found.name for found in disks([cell(engine="transformers")], CellChecks())] == ["study.root", "TMPDIR"]


def test_without_a_compiler_or_pythons_headers_an_engine_on_a_gpu_would_fail_at_its_start(monkeypatch, tmp_path):
    cells = [course()]
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    compiler, headers = compilers(cells, cuda=True)
    text = "there is none of gcc, clang, and the first start of an engine compiles in C: install one, such as "
    assert compiler == Finding("compiler", f"{text}`apt-get install gcc`", State.missing)
    assert (headers.state, headers.text[-1]) == (State.missing, "`")
    (tmp_path / "gcc").touch(mode=0o755)
    (tmp_path / "Python.h").touch()
    assert [found.state for found in compilers(cells, cuda=True)] == [State.ok, State.ok]
    monkeypatch.setenv("CC", "no-such-compiler")
    assert compilers(cells, cuda=True)[0].text.startswith("CC=no-such-compiler is none, and the first start")


def test_on_a_cpu_only_a_model_that_is_compiled_needs_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert compilers([cell()], cuda=False) == []
    [found] = compilers([cell(engine__args__enforce_eager=False)], cuda=False)
    assert found.state is State.missing
    assert found.text.endswith("or set engine.args.enforce_eager=true")


def test_a_process_that_computes_on_a_gpu_is_named(monkeypatch):
    """nvidia-smi's row is made up, because this machine has no card."""
    monkeypatch.setattr(
        hardware, "nvidia_smi", lambda query, of="gpu": ["4711, /usr/bin/my, python, 5120"] * (of == "compute-apps")
    )
    [found] = in_use([H200])
    assert (found.state, found.text[:57]) == (State.note, "by /usr/bin/my, python (process 4711, 5120 MiB): numbers ")
    assert in_use([]) == []


def test_a_port_that_is_taken_is_noted_with_its_holder():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        number = listening.getsockname()[1]
        found = port(HttpConfig(host="127.0.0.1", port=number))
    assert found.state is State.note
    refusal = (
        f"gpuqa.serve would be refused: http.port: choose another port; 127.0.0.1:{number} cannot be listened on: address "
    )
    assert found.text == f"{refusal}already in use; {psutil.Process().name()} (process {os.getpid()}) has it"
    assert port(HttpConfig(host="127.0.0.1", port=number)).text == f"127.0.0.1:{number} is free for gpuqa.serve"
    assert port(HttpConfig(port=0)).text == "any free one"


def test_what_may_surprise_about_a_question_file_is_noted(tmp_path):
    rows = [{"instruction": "什么是 warp？", "output": output} for output in ("32 threads", "三十二个线程")]
    (tmp_path / "questions.json").write_text(json.dumps(rows), encoding="utf-8")
    found = questions(replace(cell().dataset, path=str(tmp_path / "questions.json")), CellChecks(), [])
    assert found.state is State.note
    assert ", each with a reference, 1 of them without a word that the judge sees; 1 rows repeat a question: " in found.text


@pytest.mark.slow  # loads a tokenizer
def test_prompts_are_counted_in_tokens_and_those_that_do_not_fit_are_told():
    fits = lengths([cell()] * 2, CellChecks())
    room = "engine.args.max_model_len=1024 less sampling.max_tokens=256 leaves 768"
    assert fits == [Finding("prompt=bare", f"at most 44 tokens with a question, and {room}")]
    [cut] = lengths([cell(engine__args__max_model_len=280)], CellChecks())
    assert cut.state is State.note
    limits = "engine.args.max_model_len=280 less sampling.max_tokens=256 leaves"
    assert f" of 80 questions are longer than the 24 tokens that {limits}: their middle is cut; raise the first or " in cut.text
    [none] = lengths([cell(prompt="structured", engine__args__max_model_len=280)], CellChecks())
    assert none.state is State.missing
    assert "shorten the prompt or change one of them" in none.text
    assert lengths([course()], CellChecks()) == [], "its weights are not here"


def test_what_would_be_fetched_is_named_and_a_library_that_may_fetch_is_noted(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    whole, absent = network([cell()], CellChecks()), network([course()], CellChecks())
    assert whole.state is State.ok
    assert whole.text.endswith(" it; nothing has to be fetched, and nothing is (HF_HUB_OFFLINE)")
    assert absent.state is State.note
    assert "gpuqa.download would fetch Iammarcus/Qwen3-0.6B-GPU-Pro from modelscope, and nothing else does" in absent.text
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert network([cell()], CellChecks()).state is State.note
