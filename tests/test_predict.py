"""The command that predicts, as a user runs it: bounds of every cell, and neither an engine nor a card."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, run_python

from gpuqa.predict import Row, merged

pytestmark = pytest.mark.slow


def rows(out: str) -> list[list[str]]:
    """The table's lines below its rule, in columns."""
    table = out[out.rindex("─") + 1 :].strip().splitlines()
    return [line.split() for line in itertools.takewhile(str.strip, table)]


WITHOUT_VLLM = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module('gpuqa.predict', run_name='__main__', alter_sys=True)"  # noqa: E501


@pytest.fixture
def predict_without_vllm(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command where importing vLLM ends the process. A fake, because the real one would not complain."""
    folder = tmp_path / "no_vllm"
    folder.mkdir()
    (folder / "vllm.py").write_text("raise SystemExit('imported vllm')\n")
    return partial(run_python, "-c", WITHOUT_VLLM, str(folder))


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A working folder of its own, to see that nothing is written."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def test_every_cell_of_a_study_has_its_bounds_without_an_engine(predict_without_vllm: Any, here: Path) -> None:
    axes = ("quantization=none,fp8", "engine.args.enable_prefix_caching=true,false", "engine.args.max_num_seqs=256")
    run = predict_without_vllm("gpu=rtx5090", *axes, cwd=here)
    assert (run.returncode, run.stderr) == (0, "")
    found = rows(run.stdout)
    assert [row[:2] for row in found] == [["none", "True"], ["none", "False"], ["fp8", "True"], ["fp8", "False"]]
    assert [row[2] for row in found] == ["80+40", "0+120"] * 2, "5 blocks of 16 tokens are shared where prefixes are cached"
    speed = [float(row[3].replace(",", "")) for row in found]
    assert speed[2] > speed[0] > speed[1], "fp8 over bf16 over a prefix of one's own"
    # 589,824 values in the layers' matrices, 1,280 in norms, 524,288 in the embedding.
    assert "weights: embedded, none: 2.2 MB a step by its weight files" in run.stdout
    assert "weights: embedded, fp8: 1.6 MB a step by its weight files" in run.stdout
    assert "assumed: 80 questions of embedded, every answer 256 tokens (sampling.max_tokens)" in run.stdout
    assert "Bounds, not promises" in run.stdout
    assert "DEMONSTRATION MODEL" in run.stdout
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+engine.args.max_num_sequences=3"], "the installed vLLM has no such argument; nearest: max_num_seqs"),
        (["+quantization.args.kv_cache_type=fp8"], "the installed vLLM has no such argument; nearest: kv_cache_dtype"),
        (
            ["engine=transformers", "+engine.args.batchsize=3"],
            "the transformers backend has no such argument; nearest: batch_size",
        ),
        (["engine.args.max_num_seqs=true"], "engine.args.max_num_seqs: got True, allowed is a whole number above 0"),
        (["engine.args.max_num_seqs=0"], "engine.args.max_num_seqs: got 0, allowed is a whole number above 0"),
    ],
)
def test_an_engine_argument_that_no_engine_takes_is_refused(command: Any, here: Path, words: list[str], message: str) -> None:
    run = command("predict", "gpu=rtx5090", *words, cwd=here)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("error: engine.args.")
    assert message in run.stderr
    assert run.stderr.count("\n") == 1


def test_without_vllm_its_arguments_cannot_be_checked_and_that_is_said(predict_without_vllm: Any, here: Path) -> None:
    run = predict_without_vllm("gpu=rtx5090", "+engine.args.max_num_sequences=3", cwd=here)
    assert (run.returncode, run.stderr) == (0, "")
    assert "note: the names of engine arguments are not checked, because vLLM is not installed here" in run.stdout


def test_cells_that_come_out_the_same_are_one_row_that_says_how_many_they_are(command: Any, here: Path) -> None:
    axes = ("engine.attention=default,shared_prefix", "quantization=none,fp8", "engine.args.max_num_seqs=64,80,256")
    run = command("predict", "gpu=rtx5090", *axes, cwd=here)
    assert (run.returncode, run.stderr) == (0, "")
    both = "default,shared_prefix"
    assert [(row[:3], row[-1]) for row in rows(run.stdout)] == [
        ([both, "none", "64"], "2"),
        ([both, "none", "80,256"], "4"),
        ([both, "fp8", "64"], "2"),
        ([both, "fp8", "80,256"], "4"),
    ], "of 80 questions no more than 80 are answered at once"


def test_rows_are_merged_only_where_they_stand_for_all_combinations_of_what_they_show() -> None:
    numbers = {("a", "x"): "1", ("a", "y"): "1", ("b", "x"): "1", ("b", "y"): "2", ("c", "x"): "2", ("c", "y"): "1"}
    table = merged([Row({"p": (first,), "q": (second,)}, [number]) for (first, second), number in numbers.items()])
    shown = [(",".join(row.axes["p"]), ",".join(row.axes["q"]), *row.numbers) for row in table]
    assert shown == [("a,b", "x", "1"), ("a,c", "y", "1"), ("b", "y", "2"), ("c", "x", "2")]


def test_a_model_without_weights_is_estimated_and_a_lone_first_token_costs_one_read_of_them(command: Any, here: Path) -> None:
    model = here / "model"
    shutil.copytree(ROOT / "gpuqa/embedded/model", model, ignore=shutil.ignore_patterns("*.safetensors"))
    card = ("gpu=rtx5090", "gpu.bandwidth_gb_per_s=1", "gpu.bf16_tflops=null", "gpu.fp8_tflops=null")
    run = command("predict", *card, f"model.path={model}", "dataset.limit=1", "answer_tokens=1", cwd=here)
    assert (run.returncode, run.stderr) == (0, "")
    assert "2.2 MB a step ESTIMATED from config.json: no weight files" in run.stdout
    assert "assumed: 1 questions of embedded, every answer 1 tokens (answer_tokens)" in run.stdout
    # (589,824 + 524,288) x 2 bytes at 1 GB/s: 2.228 ms for the only token of the only answer.
    _, tokens_per_s, questions_per_s, _, _, prefill_s, _, fits = rows(run.stdout)[0]
    assert (tokens_per_s, questions_per_s, prefill_s, fits) == ("449", "448.8", "0.00223", "yes")


def test_a_model_whose_weights_are_not_here_is_taken_as_its_configuration_assumes(command: Any, here: Path) -> None:
    one_cell = ("prompt=bare", "quantization=none", "engine.args.max_num_seqs=256", "engine.attention=default")
    run = command("predict", "experiment=rtx5090", *one_cell, cwd=here)
    assert (run.returncode, run.stderr) == (0, "")
    # Qwen: 0.44 B parameters without the embedding, 0.6 B with it; 28 x 1024 x (2 x 24 x 128 + 3 x 3072) + 151936 x 1024
    assert "weights: qwen3_0_6b_gpu_pro, none: 1,192.0 MB a step ASSUMED, by model.assumed.shape" in run.stdout
    assert "assumed: 256 questions of gpuqa/embedded/questions/train.json in place of qwen_zh_basic, every" in run.stdout
    assert "is not in local-model/Iammarcus/Qwen3-0.6B-GPU-Pro: its shape is model.assumed.shape, tokens are" in run.stdout
    assert "fetch the weights with: python -m gpuqa.download model=qwen3_0_6b_gpu_pro" in run.stdout
    assert len(rows(run.stdout)) == 1
    assert not list(here.iterdir())


def test_weights_that_are_here_are_never_assumed(command: Any, here: Path) -> None:
    folder = here / "local-model" / "Iammarcus" / "Qwen3-0.6B-GPU-Pro"
    shutil.copytree(ROOT / "gpuqa/embedded/model", folder)
    shutil.copy(ROOT / "gpuqa/embedded/questions/warmup.json", folder / "qwen-zh-basic.json")
    model = ("model=qwen3_0_6b_gpu_pro", "dataset=qwen_zh_basic")
    run = command("predict", "gpu=rtx5090", *model, "prompt=bare", cwd=here)
    assert (run.returncode, run.stderr) == (0, "")
    assert "assumed: 16 questions of qwen_zh_basic, every answer" in run.stdout
    assert "2.2 MB a step by its weight files" in run.stdout
    assert "model.assumed" not in run.stdout


@pytest.mark.parametrize("name", ["predict", "sweep"])
def test_absent_weights_are_refused_with_the_command_that_fetches_them(name: str, command: Any, here: Path) -> None:
    model = (
        "model=qwen3_0_6b_gpu_pro",
        "dataset=qwen_zh_basic",
        "model.assumed=null",
        "gpu=rtx5090",
        "prompt=bare",
        "quantization=none",
    )
    run = command(name, *model, cwd=here)
    assert (run.returncode, run.stdout) == (2, "")
    [line] = run.stderr.splitlines()
    assert line.startswith("error: model.path: 'local-model/Iammarcus/Qwen3-0.6B-GPU-Pro' does not exist; looked for ")
    assert line.endswith("; fetch the weights with: python -m gpuqa.download model=qwen3_0_6b_gpu_pro")
    assert not list(here.iterdir())


def test_a_setting_that_memory_cannot_hold_is_said_to_not_fit(command: Any, here: Path) -> None:
    # 13 MB at 0.95 less 2.2 MB leave 10.1 MB of 768 bytes a token: 13,176 tokens, 80 of them once for all.
    sizes = "engine.args.max_num_seqs=8,16,256"
    run = command("predict", "gpu=rtx5090", "gpu.memory_gb=0.013", sizes, "quantization=none", cwd=here)
    assert run.returncode == 0, run.stderr
    full = (13_176 - 80) // (1024 - 80)
    assert [re.sub(r".*\|", "", row[-2]) for row in rows(run.stdout)] == [str(full)] * 3
    assert [row[-1] for row in rows(run.stdout)] == ["yes", "here", "no"]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            [],
            "gpu: no card is named; say for which one: gpu=NAME, with one of a100, h100, h200, l4, rtx4090, rtx5090, or a file",
        ),
        (
            ["gpu.name=mine"],
            "gpu: the file of 'mine' has no bandwidth_gb_per_s; say for which one: gpu=NAME, with one of a100,",
        ),
        (
            ["gpu=rtx5090", "answer_tokens=257"],
            "answer_tokens: got 257, allowed is an integer from 1 to sampling.max_tokens",
        ),
        (
            ["gpu=rtx5090", "+engine.args.tensor_parallel_size=2"],
            "got {'tensor_parallel_size': 2}, allowed is one card",
        ),
        (
            ["gpu=rtx5090", "+quantization.args.quantization=w4a8"],
            "engine.args.quantization: no bound: the format 'w4a8' is not in the table",
        ),
    ],
)
def test_what_has_no_bound_is_refused_with_what_is_allowed(overrides: list[str], told: str, command: Any, here: Path) -> None:
    run = command("predict", *overrides, cwd=here)
    assert run.returncode == 2
    assert told in run.stderr
    assert "Traceback" not in run.stdout + run.stderr
