"""The bounds, worked by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import pytest

from gpuqa.config import UserError, plain
from gpuqa.config.commands import CellConfig, StudyConfig
from gpuqa.config.executor import Executor, ExecutorConfig
from gpuqa.config.measurement import DatasetConfig, GpuConfig, Issue, SelectionConfig, WorkloadConfig
from gpuqa.config.pipeline import Backend, EngineConfig, ModelConfig, PromptConfig, QuantizationConfig, SamplingConfig
from gpuqa.records import Dropped, Measurement, Trial
from gpuqa.roofline.checkpoint import Layers, Shape, read_shape
from gpuqa.roofline.formats import KV_FORMATS, PACKED, WEIGHT_FORMATS
from gpuqa.roofline.load import Load, Setup
from gpuqa.roofline.roofline import Roof, bound_of, fraction, most_tokens_per_s, roof_of, sequences_that_fit

CONFIG = {
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "hidden_size": 100,
    "intermediate_size": 200,
    "vocab_size": 1000,
    "tie_word_embeddings": True,
}
PARAMETERS = 196_800  # 2 layers x 100 x (2 x (8 + 4) heads of 16 + 3 x 200)
EMBEDDING = 100_000  # 1000 x 100
WEIGHT_BYTES = 1_000_000  # in the files: 399,000 values in matrices, 1,000 in vectors, 100,000 in the embedding
KV_BYTES_PER_TOKEN = 512  # keys and values, 2 layers, 4 heads of 16 values, 2 bytes each
BLOCK_BYTES = 16 * KV_BYTES_PER_TOKEN
TENSORS: dict[str, tuple[str, list[int], int]] = {
    "model.embed_tokens.weight": ("BF16", [1000, 100], 200_000),
    "lm_head.weight": ("BF16", [1000, 100], 200_000),  # tied, and stored all the same, as in Qwen3-0.6B
    "model.layers.0.mlp.up_proj.weight": ("BF16", [399, 1000], 798_000),
    "model.norm.weight": ("BF16", [1000], 2_000),
}


def write_tensors(file: Path, tensors: dict[str, tuple[str, list[int], int]]) -> None:
    """A weight file as far as the bound reads it: its header."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text)


def checkpoint(folder: Path, tensors: dict[str, tuple[str, list[int], int]] = TENSORS, **changes: Any) -> Path:
    """A checkpoint with its weights in two files, or none; a change to None takes a key out of config.json."""
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    for number, name in enumerate(tensors):
        write_tensors(folder / f"model-{number}.safetensors", {name: tensors[name]})
    return folder


def test_a_checkpoint_is_read_from_its_config_and_the_headers_of_its_files(tmp_path: Path) -> None:
    shape = read_shape(checkpoint(tmp_path))
    assert shape == Shape(2, 8, 4, 16, PARAMETERS, EMBEDDING, tied=True, weights=Layers(399_000, 1_000))


def test_what_a_checkpoint_leaves_out_follows_from_its_heads(tmp_path: Path) -> None:
    assert read_shape(checkpoint(tmp_path, head_dim=None)).head_dim == 100 // 8
    assert read_shape(checkpoint(tmp_path, num_key_value_heads=None)).kv_heads == 8


@pytest.mark.parametrize("content", [None, "not json", "{}", "[]", '{"num_attention_heads": 8}'])
def test_a_folder_without_a_readable_shape_is_refused_by_name(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"model\.path: .* has no readable config\.json") as refused:
        read_shape(tmp_path)
    assert str(tmp_path) in str(refused.value)


def test_a_weight_file_that_is_only_a_pointer_is_refused_by_name(tmp_path: Path) -> None:
    (checkpoint(tmp_path) / "model-9.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=r"model-9\.safetensors is not a safetensors file"):
        read_shape(tmp_path)


@pytest.mark.parametrize("change", [{"num_experts": 8}, {"layer_types": ["full_attention", "sliding_attention"]}])
def test_a_decoder_that_reads_less_than_all_of_itself_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="allowed is a dense decoder with full attention"):
        read_shape(checkpoint(tmp_path, **change))


# 20 questions, 3 repeats: 60 answers of 40 prompt tokens and 20 output tokens each, so half-way 50 tokens of context.
MEASURED = Measurement(
    questions=20,
    repeats=3,
    seconds=1.0,
    chars_per_s=600.0,
    chars_per_s_mad=0.0,
    chars_per_s_repeats=[600.0, 600.0, 600.0],
    output_tokens_per_s=400.0,
    questions_per_s=20.0,
    ttft_ms_p50=None,
    ttft_ms_p95=None,
    tpot_ms_mean=None,
    e2e_latency_ms_p50=None,
    e2e_latency_ms_p95=None,
    e2e_latency_ms_p99=None,
    prefix_cache_hit_rate=0.0,
    cached_tokens=0,
    prompt_tokens=60 * 40,
    output_tokens=60 * 20,
    rouge_l_f1_judge=0.4,
    rouge_l_f1=0.4,
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


def config(
    model: Path,
    gb_per_s: float | None = 1.0,
    card: dict[str, Any] | None = None,
    issue: Issue = Issue.batch,
    backend: Backend = Backend.vllm,
    quantization: dict[str, Any] | None = None,
    **args: Any,
) -> CellConfig:
    """A cell with the given model, card and engine arguments."""
    return CellConfig(
        model=ModelConfig(name="tiny", path=str(model)),
        prompt=PromptConfig(name="bare"),
        quantization=QuantizationConfig(name="mine", args=quantization or {}),
        engine=EngineConfig(name="mine", backend=backend, args={"max_model_len": 1024, **args}),
        sampling=SamplingConfig(name="greedy"),
        dataset=DatasetConfig(name="mine", path="questions.json"),
        workload=WorkloadConfig(name="mine", issue=issue),
        selection=SelectionConfig(name="mine"),
        gpu=GpuConfig(name="mine", bandwidth_gb_per_s=gb_per_s, **(card or {})),
        executor=ExecutorConfig(name="local", kind=Executor.local),
        study=StudyConfig(name="mine"),
    )


def cell(model: Path, **settings: Any) -> Setup:
    """What of such a cell decides its bounds."""
    return Setup.of_config(config(model, **settings))


def trial(cell_config: CellConfig, measurement: Measurement | None = MEASURED) -> Trial:
    """A trial of such a cell, as the journal would hold it."""
    setting = plain({key: asdict(getattr(cell_config, key)) for key in ("dataset", "workload", "gpu")})
    return Trial("key", {}, cell_config.as_dict(), {}, measurement, setting=setting)


@pytest.mark.parametrize(
    ("settings", "sequences", "read_bytes"),
    [
        # Of 20 tokens the first reads no cache; the others find 40 to 58 tokens before their own, 49 on average.
        pytest.param({}, 20, WEIGHT_BYTES + 0.95 * 20 * 49 * 512, id="all questions at once"),
        pytest.param({"max_num_seqs": 256}, 20, WEIGHT_BYTES + 0.95 * 20 * 49 * 512, id="room for more than there are"),
        pytest.param({"max_num_seqs": 8}, 8, WEIGHT_BYTES + 0.95 * 8 * 49 * 512, id="room for eight"),
        pytest.param(
            {"backend": Backend.transformers, "batch_size": 8}, 8, WEIGHT_BYTES + 0.95 * 8 * 49 * 512, id="transformers"
        ),
        pytest.param({"issue": Issue.serial}, 1, WEIGHT_BYTES + 0.95 * 49 * 512, id="one question after the other"),
        pytest.param(
            {"quantization": {"quantization": "fp8"}},
            20,
            399_000 + 2 * (1_000 + EMBEDDING) + 0.95 * 20 * 49 * 512,
            id="fp8 made online, embedding and norms untouched",
        ),
        pytest.param(
            {"quantization": {"kv_cache_dtype": "fp8"}}, 20, WEIGHT_BYTES + 0.95 * 20 * 49 * 256, id="one byte a value of KV"
        ),
        pytest.param({"gb_per_s": 4.0}, 20, (WEIGHT_BYTES + 0.95 * 20 * 49 * 512) / 4, id="four times the bandwidth"),
    ],
)
def test_a_trial_knows_its_share_of_the_bandwidth(
    settings: dict[str, Any], sequences: int, read_bytes: float, tmp_path: Path
) -> None:
    found = fraction(trial(config(checkpoint(tmp_path), **settings)))
    assert found == pytest.approx(400 / (sequences * 1e9 / read_bytes))


def test_a_prefix_that_came_out_of_the_cache_counts_once_a_step(tmp_path: Path) -> None:
    # 19 of 20 questions found 20 tokens of their 40 in the cache: 20 for all, and 20 + 9 for each.
    found = fraction(trial(config(checkpoint(tmp_path)), replace(MEASURED, cached_tokens=3 * 19 * 20)))
    assert found == pytest.approx(400 / (20 * 1e9 / (WEIGHT_BYTES + 0.95 * (20 + 20 * 29) * 512)))


def test_without_a_named_gpu_there_is_no_fraction_and_no_model_is_read(tmp_path: Path) -> None:
    assert fraction(trial(config(tmp_path / "absent", gb_per_s=None))) is None


def test_a_trial_whose_bound_is_not_known_has_no_fraction(tmp_path: Path) -> None:
    assert fraction(trial(config(checkpoint(tmp_path), speculative_config={"method": "ngram"}))) is None
    assert fraction(trial(config(tmp_path), replace(MEASURED, output_tokens=0, output_tokens_per_s=0.0))) is None
    assert fraction(trial(config(tmp_path), None)) is None
    assert fraction(trial(config(tmp_path, quantization={"quantization": "w4a8"}))) is None
    assert fraction(trial(config(checkpoint(tmp_path, num_experts=8)))) is None
    assert fraction(trial(config(tmp_path / "moved away"))) is None


def test_a_dropped_trial_has_the_fraction_of_what_it_was_asked(tmp_path: Path) -> None:
    whole = trial(config(checkpoint(tmp_path)))
    assert fraction(replace(whole, measurement=None, dropped=Dropped("slower", MEASURED))) == fraction(whole)


@pytest.mark.slow
def test_the_formats_of_the_installed_vllm_are_in_the_tables_or_are_of_no_dense_decoder() -> None:
    cache, quantization = pytest.importorskip("vllm.config.cache"), pytest.importorskip("vllm.config.quantization")
    assert set(get_args(cache.CacheDType)) - set(KV_FORMATS) == {"fp8_ds_mla", "nvfp4_ds_mla"}
    assert set(quantization.ONLINE_QUANT_SHORTHAND_NAMES) - set(WEIGHT_FORMATS) == {"online"}  # its own argument says what


@pytest.mark.parametrize(
    ("name", "head_bytes"),
    [
        ("auto", 2 * 2 * 16),
        ("fp8_e5m2", 2 * 16),
        ("fp8_per_token_head", 2 * (16 + 4)),
        ("int8_per_token_head", 2 * (16 + 4)),
        ("int4_per_token_head", 2 * (8 + 4)),
        ("nvfp4", 2 * (8 + 1)),
        ("turboquant_k8v4", 16 + (8 + 4)),
        ("turboquant_4bit_nc", (8 + 2) + (8 + 4)),
        ("turboquant_k3v4_nc", (6 + 2) + (8 + 4)),
        ("turboquant_3bit_nc", (6 + 2) + (6 + 4)),
    ],
)
def test_keys_and_values_count_with_their_scales_by_the_name_of_the_format(name: str, head_bytes: int, tmp_path: Path) -> None:
    shape = replace(read_shape(checkpoint(tmp_path)), layers=6)
    plain_layers = 4 if name.startswith("turboquant") else 0  # the first two and the last two
    wanted = 4 * ((6 - plain_layers) * head_bytes + plain_layers * 64)
    assert roof_of(shape, cell(tmp_path, quantization={"kv_cache_dtype": name})).kv_bytes == wanted


@pytest.mark.slow
def test_the_kv_sizes_of_packed_formats_are_those_of_the_installed_vllm() -> None:
    turboquant = pytest.importorskip("vllm.model_executor.layers.quantization.turboquant.config")
    ultraquant = pytest.importorskip("vllm.v1.attention.ops.ultraquant.format")
    for name in turboquant.TQ_PRESETS:
        preset = turboquant.TurboQuantConfig.from_cache_dtype(name, 128)
        assert KV_FORMATS[name].bytes_of(128, 2.0) == preset.slot_size_aligned
    assert KV_FORMATS["ultraquant_4bit"].bytes_of(128, 2.0) == ultraquant.slot_size(128)
    torch_utils = pytest.importorskip("vllm.utils.torch_utils")
    assert KV_FORMATS["nvfp4"].bytes_of(128, 2.0) == 2 * torch_utils.nvfp4_kv_cache_full_dim(128)


@pytest.mark.parametrize(
    ("name", "matrix_bytes", "tflops"),
    [
        (None, 2.0, 1.0),
        ("fp8_per_channel", 1.0, 2.0),
        ("mxfp8", 1.03125, 2.0),
        ("int8_per_channel_weight_only", 2.0, 1.0),  # of experts only: a dense decoder stays as it is
        ("nvfp4_per_token", 2.0, 1.0),
        ("mxfp4", 0.53125, None),  # no rate for fp4 in conf/gpu: operations are left out
    ],
)
def test_weights_have_the_bytes_and_the_arithmetic_of_their_format(
    name: str | None, matrix_bytes: float, tflops: float | None, tmp_path: Path
) -> None:
    card = {"bf16_tflops": 1.0, "fp8_tflops": 2.0}
    roof = roof_of(read_shape(checkpoint(tmp_path)), cell(tmp_path, card=card, quantization={"quantization": name}))
    assert roof.weight_bytes == pytest.approx(399_000 * matrix_bytes + 2 * (1_000 + EMBEDDING))
    assert roof.layers_s == pytest.approx(2 * PARAMETERS / (tflops * 1e12) if tflops else 0.0)


@pytest.mark.parametrize(
    ("argument", "name"), [("quantization", "w4a8"), ("kv_cache_dtype", "fp8_ds_mla"), ("dtype", "float8")]
)
def test_a_format_that_is_not_in_the_table_has_no_bound(argument: str, name: str, tmp_path: Path) -> None:
    told = rf"engine\.args\.{argument}: no bound: the format '{name}' is not in the table; it has "
    with pytest.raises(UserError, match=told):
        roof_of(read_shape(checkpoint(tmp_path)), cell(tmp_path, quantization={argument: name}))


@pytest.mark.parametrize(("dtype", "tflops"), [("F8_E4M3", 2.0), ("I32", 1.0), ("I8", None)])
def test_weights_that_a_checkpoint_packed_compute_as_their_files_say(dtype: str, tflops: float | None, tmp_path: Path) -> None:
    packed = {**TENSORS, "model.layers.1.mlp.up_proj.weight": (dtype, [100, 100], 10_000)}
    setup = cell(tmp_path, card={"bf16_tflops": 1.0, "fp8_tflops": 2.0}, quantization={"quantization": "compressed-tensors"})
    roof = roof_of(read_shape(checkpoint(tmp_path, packed)), setup)
    assert roof.weight_bytes == WEIGHT_BYTES + 10_000
    assert roof.layers_s == pytest.approx(2 * PARAMETERS / (tflops * 1e12) if tflops else 0.0)
    assert (dtype in PACKED) == (tflops is not None)


def test_a_packed_checkpoint_of_unknown_size_has_no_bound_without_its_files(tmp_path: Path) -> None:
    shape = read_shape(checkpoint(tmp_path, {}))
    with pytest.raises(UserError, match="no bound: only weight files say how many bytes this quantization takes"):
        roof_of(shape, cell(tmp_path, quantization={"quantization": "compressed-tensors"}))


def test_weights_that_are_small_on_disk_count_as_they_lie_there(tmp_path: Path) -> None:
    packed = {
        "model.embed_tokens.weight": ("F16", [1000, 100], 200_000),
        "model.layers.0.mlp.up_proj.qweight": ("I32", [125, 100], 50_000),
        "model.layers.0.mlp.up_proj.scales": ("F16", [10, 100], 2_000),
    }
    roof = roof_of(read_shape(checkpoint(tmp_path, packed)), cell(tmp_path, quantization={"quantization": "gptq"}))
    assert roof.weight_bytes == 50_000 + 2_000 + 200_000


def test_without_weight_files_their_size_follows_from_the_config(tmp_path: Path) -> None:
    shape = read_shape(checkpoint(tmp_path, {}))
    assert shape.estimated
    assert roof_of(shape, cell(tmp_path)).weight_bytes == 2 * (PARAMETERS + EMBEDDING)
    assert roof_of(shape, cell(tmp_path, quantization={"quantization": "awq"})).weight_bytes == PARAMETERS / 2 + 200_000


def test_only_an_untied_embedding_takes_memory_beside_the_output_layer(tmp_path: Path) -> None:
    tied = roof_of(read_shape(checkpoint(tmp_path)), cell(tmp_path))
    assert (tied.weight_bytes, tied.resident_bytes) == (WEIGHT_BYTES, WEIGHT_BYTES)
    untied = roof_of(read_shape(checkpoint(tmp_path, tie_word_embeddings=False)), cell(tmp_path))
    assert (untied.weight_bytes, untied.resident_bytes) == (WEIGHT_BYTES, WEIGHT_BYTES + 200_000)


def test_fp8_weights_compute_faster_where_the_card_has_fp8_and_the_output_layer_does_not(tmp_path: Path) -> None:
    shape, fp8 = read_shape(checkpoint(tmp_path)), {"quantization": "fp8"}
    with_fp8 = roof_of(shape, cell(tmp_path, quantization=fp8, card={"bf16_tflops": 1.0, "fp8_tflops": 2.0}))
    without = roof_of(shape, cell(tmp_path, quantization=fp8, card={"bf16_tflops": 1.0}))
    assert with_fp8.layers_s == pytest.approx(2 * PARAMETERS / 2e12)
    assert without.layers_s == pytest.approx(2 * PARAMETERS / 1e12)
    assert with_fp8.head_s == without.head_s == pytest.approx(2 * EMBEDDING / 1e12)
    assert with_fp8.pair_s == pytest.approx(4 * 2 * 8 * 16 / 1e12)


def test_a_step_takes_the_longer_of_reading_and_computing() -> None:
    roof = Roof(bytes_per_s=1000, weight_bytes=100, resident_bytes=100, kv_bytes=1, layers_s=0.01, head_s=0.0, pair_s=0.001)
    assert roof.step_s(2, own=3, prefix=4) == pytest.approx(0.110)  # 100 + 4 + 2 x 3 bytes; 2 x (0.01 + 7 x 0.001) s
    assert roof.step_s(20, own=3, prefix=4) == pytest.approx(0.340)  # 164 bytes; 20 x 0.017 s


def test_more_questions_than_sequences_run_in_waves() -> None:
    roof = Roof(1000, weight_bytes=100, resident_bytes=100, kv_bytes=1, layers_s=0.01, head_s=0.001, pair_s=0.0001)
    bound = bound_of(roof, Load(questions=5, width=2, prompt=10, prefix=4, answer=3))
    # A question's own 6 tokens: 6 x 0.01 + (5 + 6 + ... + 10) x 0.0001 + 0.001 = 0.0655 s; the prefix once: 0.041 s.
    # The last wave computes 0.0655 s but reads the weights for 0.1 s.
    assert bound.prefill_s == pytest.approx((2 * 0.0655 + 0.041) + 2 * 0.0655 + 0.1)
    # Two steps a wave, of 100 + 4 + 2 x 6 and 2 x 7 bytes, twice; then one sequence with 6 and 7 tokens.
    assert bound.decode_s == pytest.approx(2 * (0.116 + 0.118) + 0.110 + 0.111)
    assert bound.questions_per_s == pytest.approx(5 / 1.092)
    assert bound.output_tokens_per_s == pytest.approx(15 / 1.092)


def test_memory_holds_the_weights_one_prefix_and_whole_blocks_for_each_sequence(tmp_path: Path) -> None:
    shape = read_shape(checkpoint(tmp_path))
    card = {"memory_gb": (WEIGHT_BYTES + 102 * BLOCK_BYTES) / 0.92 / 1e9 + 1e-9}  # vLLM takes 0.92 of it
    setup = cell(tmp_path, card=card)
    assert sequences_that_fit(roof_of(shape, setup), setup, tokens=100) == 14  # of 7 blocks each
    assert sequences_that_fit(roof_of(shape, setup), setup, tokens=100, prefix=32) == 20  # 2 blocks and 5 each
    by_hand = cell(tmp_path, card=card, kv_cache_memory_bytes=12 * BLOCK_BYTES)
    assert sequences_that_fit(roof_of(shape, by_hand), by_hand, tokens=100, prefix=32) == 2
    too_small = cell(tmp_path, card={"memory_gb": 0.001})
    assert sequences_that_fit(roof_of(shape, too_small), too_small, tokens=100) == 0
    assert sequences_that_fit(roof_of(shape, too_small), cell(tmp_path), tokens=100) is None


# Qwen3-0.6B in bf16 on an H200: 358 questions of 40 own tokens, 256 new tokens, by bandwidth and by the clock.
QWEN3_0_6B = Shape(28, 16, 8, 128, parameters=440_401_920, embedding=155_582_464, tied=True, weights=Layers(440_401_920))
H200 = {"bf16_tflops": 989.5, "fp8_tflops": 1979.0}


@pytest.mark.parametrize(("prefix", "each_s", "once_s", "kernels_s"), [(500, 1.70, 0.49, 1.88), (50, 0.60, 0.48, 1.23)])
def test_what_was_measured_on_an_h200_stays_behind_its_bound(
    prefix: int, each_s: float, once_s: float, kernels_s: float, tmp_path: Path
) -> None:
    measured_bandwidth = roof_of(QWEN3_0_6B, cell(tmp_path, gb_per_s=4300.0))
    assert measured_bandwidth.weight_bytes == pytest.approx(1.192e9, rel=1e-4)
    assert measured_bandwidth.kv_bytes == 112 * 1024
    # 1.192 GB + 358 x (prefix + 40 + 128) x 114,688 bytes a step: 28.6 GB or 10.1 GB, at 4.3 TB/s, 256 times.
    assert 256 * measured_bandwidth.step_s(358, prefix + 40 + 128) == pytest.approx(each_s, abs=0.005)
    assert 256 * measured_bandwidth.step_s(358, 40 + 128, prefix) == pytest.approx(once_s, abs=0.005)
    on_paper = roof_of(QWEN3_0_6B, cell(tmp_path, gb_per_s=4800.0, card=H200))
    load = Load(questions=358, width=358, prompt=prefix + 40, prefix=prefix, answer=256)
    bound = bound_of(on_paper, load)
    assert bound.prefill_s + bound.decode_s < each_s < kernels_s
    assert 358 * 256 / most_tokens_per_s(on_paper, load) < bound.decode_s * 256 / 255 < kernels_s
