"""The bandwidth bound, worked by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpuqa.config import (
    Backend,
    DatasetConfig,
    EngineConfig,
    Executor,
    ExecutorConfig,
    GpuConfig,
    Issue,
    ModelConfig,
    PromptConfig,
    QuantizationConfig,
    SamplingConfig,
    SelectionConfig,
    UserError,
    WorkloadConfig,
)
from gpuqa.records import Interval, Measurement
from gpuqa.roofline import Shape, decode_tokens_per_s, read_shape, with_fraction
from gpuqa.roots import CellConfig, StudyConfig

SHAPE = {"num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16, "hidden_size": 64}
WEIGHT_BYTES = 1_000_000
KV_BYTES_PER_TOKEN = 512  # keys and values, 2 layers, 4 heads of 16 values, 2 bytes each


def checkpoint(folder: Path, **changes: Any) -> Path:
    """A checkpoint as far as the bound reads it: its config.json and the size of its two weight files."""
    shape = {key: value for key, value in {**SHAPE, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(shape))
    (folder / "model-00001-of-00002.safetensors").write_bytes(bytes(WEIGHT_BYTES - 1_000))
    (folder / "model-00002-of-00002.safetensors").write_bytes(bytes(1_000))
    (folder / "tokenizer.json").write_bytes(bytes(5_000))
    return folder


def test_a_checkpoint_is_read_as_it_is(tmp_path: Path) -> None:
    shape = read_shape(checkpoint(tmp_path))
    assert shape == Shape(weight_bytes=WEIGHT_BYTES, layers=2, kv_heads=4, head_dim=16)
    assert shape.kv_bytes_per_token(2) == KV_BYTES_PER_TOKEN


def test_what_a_checkpoint_leaves_out_follows_from_its_heads(tmp_path: Path) -> None:
    assert read_shape(checkpoint(tmp_path, head_dim=None)).head_dim == 64 // 8
    assert read_shape(checkpoint(tmp_path, num_key_value_heads=None)).kv_heads == 8


@pytest.mark.parametrize("content", [None, "not json", "{}", "[]", '{"num_attention_heads": 8}'])
def test_a_folder_without_a_readable_shape_is_refused_by_name(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"model\.path: .* has no readable config\.json") as refused:
        read_shape(tmp_path)
    assert str(tmp_path) in str(refused.value)


def test_qwen3_0_6b_keeps_112_kib_a_token() -> None:
    assert Shape(weight_bytes=1_192_000_000, layers=28, kv_heads=8, head_dim=128).kv_bytes_per_token(2) == 112 * 1024


def test_the_bound_is_the_bandwidth_over_the_bytes_of_a_step() -> None:
    shape = Shape(WEIGHT_BYTES, layers=2, kv_heads=4, head_dim=16)
    # 10 sequences of 100 tokens: 1,000,000 + 10 x 100 x 512 = 1,512,000 bytes a step, of which 1 GB/s makes 661.4 a second.
    bound = decode_tokens_per_s(shape, sequences=10, context=100, kv_bytes=2, weight_scale=1.0, gb_per_s=1)
    assert bound == pytest.approx(10 * 1e9 / 1_512_000)
    # Weights of half the size and values of one byte: 500,000 + 256,000 bytes; and twice the bandwidth.
    bound = decode_tokens_per_s(shape, sequences=10, context=100, kv_bytes=1, weight_scale=0.5, gb_per_s=2)
    assert bound == pytest.approx(10 * 2e9 / 756_000)


# 20 questions, 3 repeats: 60 answers of 40 prompt tokens and 20 output tokens each, so half-way 50 tokens of context.
MEASURED = Measurement(
    questions=20,
    repeats=3,
    seconds=1.0,
    chars_per_s=600.0,
    chars_per_s_mad=0.0,
    output_tokens_per_s=400.0,
    questions_per_s=20.0,
    ttft_ms_p50=None,
    ttft_ms_p95=None,
    itl_ms_mean=None,
    e2e_latency_ms_p50=None,
    e2e_latency_ms_p95=None,
    e2e_latency_ms_p99=None,
    prefix_cache_hit_rate=0.0,
    cached_tokens=0,
    prompt_tokens=60 * 40,
    output_tokens=60 * 20,
    rouge_l_f1_judge=0.4,
    rouge_l_f1_judge_interval=Interval(0.4, 0.4),
    rouge_l_f1=0.4,
    rouge_l_f1_interval=Interval(0.4, 0.4),
    answer_chars_mean=30.0,
    answers_truncated=0,
    truncated_fraction=0.0,
    answers_empty=0,
    answers_multi_line=0,
    answers_failed=0,
    questions_cut=0,
    engine_start_s=1.0,
    warmup_s=1.0,
    peak_memory_gib=1.0,
)


def cell(
    model: Path,
    gb_per_s: float | None = 1.0,
    issue: Issue = Issue.batch,
    backend: Backend = Backend.vllm,
    quantization: dict[str, Any] | None = None,
    **args: Any,
) -> CellConfig:
    """A cell with the given model, bandwidth and engine arguments."""
    return CellConfig(
        model=ModelConfig(name="tiny", path=str(model)),
        prompt=PromptConfig(name="bare"),
        quantization=QuantizationConfig(name="mine", args=quantization or {}),
        engine=EngineConfig(name="mine", backend=backend, args={"max_model_len": 1024, **args}),
        sampling=SamplingConfig(name="greedy"),
        dataset=DatasetConfig(name="mine", path="questions.json"),
        workload=WorkloadConfig(name="mine", issue=issue),
        selection=SelectionConfig(name="mine"),
        gpu=GpuConfig(name="mine", bandwidth_gb_per_s=gb_per_s),
        executor=ExecutorConfig(name="local", kind=Executor.local),
        study=StudyConfig(name="mine"),
    )


@pytest.mark.parametrize(
    ("settings", "sequences", "step_bytes"),
    [
        pytest.param({}, 20, 1_000_000 + 20 * 50 * 512, id="all questions at once"),
        pytest.param({"max_num_seqs": 256}, 20, 1_000_000 + 20 * 50 * 512, id="room for more than there are"),
        pytest.param({"max_num_seqs": 8}, 8, 1_000_000 + 8 * 50 * 512, id="room for eight"),
        pytest.param({"max_num_seqs": None}, 20, 1_000_000 + 20 * 50 * 512, id="the engine's own room"),
        pytest.param(
            {"backend": Backend.transformers, "batch_size": 8}, 8, 1_000_000 + 8 * 50 * 512, id="transformers' batches"
        ),
        pytest.param({"issue": Issue.serial, "max_num_seqs": 8}, 1, 1_000_000 + 50 * 512, id="one question after the other"),
        pytest.param({"quantization": {"quantization": "fp8"}}, 20, 500_000 + 20 * 50 * 512, id="fp8 weights"),
        pytest.param({"quantization": {"kv_cache_dtype": "fp8"}}, 20, 1_000_000 + 20 * 50 * 256, id="fp8 KV"),
        pytest.param({"kv_cache_dtype": "auto"}, 20, 1_000_000 + 20 * 50 * 512, id="KV as the weights"),
        pytest.param(
            {"quantization": {"quantization": "awq"}}, 20, 1_000_000 + 20 * 50 * 512, id="weights that are small on disk"
        ),
        pytest.param({"gb_per_s": 4.0}, 20, (1_000_000 + 20 * 50 * 512) / 4, id="four times the bandwidth"),
    ],
)
def test_a_trial_knows_its_share_of_the_bound(
    settings: dict[str, Any], sequences: int, step_bytes: float, tmp_path: Path
) -> None:
    found = with_fraction(MEASURED, cell(checkpoint(tmp_path), **settings))
    assert found.roofline_fraction == pytest.approx(400 / (sequences * 1e9 / step_bytes))


def test_without_a_named_gpu_there_is_no_bound_and_no_model_is_read(tmp_path: Path) -> None:
    assert with_fraction(MEASURED, cell(tmp_path / "absent", gb_per_s=None)) is MEASURED


def test_nothing_but_the_fraction_is_filled_in(tmp_path: Path) -> None:
    found = with_fraction(MEASURED, cell(checkpoint(tmp_path)))
    assert found.roofline_fraction is not None
    assert replace(found, roofline_fraction=None) == MEASURED
