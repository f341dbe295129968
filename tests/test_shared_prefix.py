"""Attention that reads a shared prefix once, against the formula; without a GPU Triton's interpreter runs the kernels."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from gpuqa.config import UserError
from gpuqa.config.pipeline import Attention, Backend, EngineConfig
from gpuqa.engines import FLOAT8_CACHES
from gpuqa.engines.vllm.overrides import choose, choose_attention, register_attention

pytestmark = [pytest.mark.slow, pytest.mark.no_cover]  # Triton's interpreter

torch = pytest.importorskip("torch")
ON_GPU = torch.cuda.is_available()


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    """The kernels, interpreted where there is no GPU (see conftest.py)."""
    pytest.importorskip("triton")
    from gpuqa.engines.vllm.shared_prefix import kernels

    return kernels


@dataclass(frozen=True)
class Step:
    """One decoding step: queries, a cache of [blocks, tokens, key heads, 2 * size] and who has which blocks of it.

    What is in the cache is a number of float8, or 16 or 32 bits, and stands for itself times `scales`: of keys, of values.
    """

    query: Any
    cache: Any
    table: Any
    lengths: Any
    scales: Any = (None, None)

    @property
    def keys_and_values(self) -> Any:
        return self.cache.split(self.query.shape[-1], dim=-1)


def make_step(own: list[int], shared_blocks: int, heads: tuple[int, int] = (4, 2), block: int = 16, **how: Any) -> Step:
    """A sequence for each of `own`: so many tokens after the shared blocks; 0 makes a row of padding. What no sequence may read
    of the cache is NaN."""
    size, dtype, seed = how.get("size", 16), how.get("dtype", torch.float32), how.get("seed", 0)
    random = torch.Generator().manual_seed(seed)
    count, longest = len(own), shared_blocks + -(-max(own) // block)
    blocks = torch.randperm(count * longest + 1, generator=random).int()
    table = blocks[: count * longest].reshape(count, longest)
    table[:, :shared_blocks] = table[0, :shared_blocks].clone()
    lengths = torch.tensor([tokens and tokens + shared_blocks * block for tokens in own], dtype=torch.int32)
    table[lengths == 0] = 0
    query = torch.randn(count, heads[0], size, generator=random).to(dtype)
    cache = torch.randn(len(blocks), block, heads[1], 2 * size, generator=random)
    readable = torch.zeros(len(blocks), block, dtype=torch.bool)
    for row, length in zip(table.long(), lengths.tolist(), strict=True):
        place = torch.arange(length)
        readable[row[place // block], place % block] = True
    cache[~readable] = float("nan")
    cache = cache.to(how.get("cache", dtype))
    if how.get("heads_first"):  # in memory; vLLM calls it HND
        cache = cache.transpose(1, 2).contiguous().transpose(1, 2)
    device = "cuda" if ON_GPU else "cpu"
    scales = tuple(torch.tensor(scale, device=device) for scale in how.get("scales", ()))
    return Step(*(one.to(device) for one in (query, cache, table, lengths)), scales or (None, None))


def by_the_formula(step: Step) -> Any:
    """softmax(q k / sqrt(size)) v for every sequence by itself, in float64."""
    group = step.query.shape[1] // step.cache.shape[2]
    out = torch.zeros(step.query.shape, dtype=torch.float64, device=step.query.device)
    for row, length in enumerate(step.lengths.tolist()):
        tokens = step.cache[step.table[row].long()].flatten(0, 1)[:length].double().repeat_interleave(group, dim=1)
        keys, values = (part * (1 if by is None else by) for part, by in zip(tokens.chunk(2, dim=-1), step.scales, strict=True))
        scores = torch.einsum("hd,thd->ht", step.query[row].double(), keys) / step.query.shape[-1] ** 0.5
        out[row] = torch.einsum("ht,thd->hd", scores.softmax(-1), values)
    return out


@pytest.mark.parametrize(
    ("own", "blocks", "shared"),
    [
        ([1, 5, 40], 3, 48),
        ([3, 17, 64, 65], 0, 0),
        ([16, 33], 2, 32),
        ([5, 0, 9, 0], 2, 32),  # padding, whose blocks say nothing
        ([7], 2, 32),  # alone: all but its last block
    ],
    ids=["shared", "nothing_shared", "whole_blocks", "padding", "one_sequence"],
)
def test_as_many_tokens_are_shared_as_lie_in_the_same_blocks(
    kernels: ModuleType, own: list[int], blocks: int, shared: int
) -> None:
    step = make_step(own, blocks)
    assert kernels.shared_tokens(step.table, step.lengths, 16).tolist() == [shared]


def test_every_sequence_keeps_a_token_of_its_own(kernels: ModuleType) -> None:
    step = make_step([16, 16], 0)
    same = step.table[:1].expand(2, -1).contiguous()
    assert kernels.shared_tokens(same, step.lengths, 16).tolist() == [0]


CASES: dict[str, dict[str, Any]] = {
    "long_prefix": {"own": [1, 12, 33, 90] * 6, "shared_blocks": 9},  # more than one tile of queries
    "prefix_shorter_than_a_split": {"own": [4, 70], "shared_blocks": 1},
    "nothing_shared": {"own": [1, 31, 32, 33, 100], "shared_blocks": 0},
    "padding": {"own": [20, 0, 3, 0], "shared_blocks": 5},
    "one_query_for_each_key": {"own": [9, 2, 50], "shared_blocks": 3, "heads": (3, 3)},
    "eight_queries_for_each_key": {"own": [9, 2], "shared_blocks": 3, "heads": (8, 1), "block": 32},
    "wide_heads": {"own": [9, 40], "shared_blocks": 3, "size": 128},
    "a_block_for_each_load": {"own": [9, 40, 70], "shared_blocks": 3, "block": 64},
    "heads_first": {"own": [9, 40], "shared_blocks": 3, "heads_first": True},
}


@pytest.mark.parametrize("case", CASES)
def test_attention_is_that_of_the_formula(kernels: ModuleType, case: str) -> None:
    step = make_step(**CASES[case])
    close_to_the_formula(step, attended(kernels, step), 1e-2 if ON_GPU else 1e-5)  # a GPU multiplies float32 in TF32


def test_half_precision_loses_no_more_than_its_rounding(kernels: ModuleType) -> None:
    step = make_step([5, 40, 77] * 4, 6, dtype=torch.bfloat16 if ON_GPU else torch.float16)  # the interpreter has no bfloat16
    close_to_the_formula(step, attended(kernels, step), 2e-2)


FLOAT8 = {"cache": torch.float8_e4m3fn, "scales": (0.5, 3.0), "size": 64}  # of keys and values
FLOAT8_CASES: dict[str, dict[str, Any]] = {
    "long_prefix": {"own": [1, 12, 33, 90], "shared_blocks": 9},
    "nothing_shared": {"own": [1, 31, 32, 33, 100], "shared_blocks": 0, "block": 32},
    "padding": {"own": [20, 0, 3, 0], "shared_blocks": 5},
    "one_sequence": {"own": [70], "shared_blocks": 2, "size": 128},
    "one_query_for_each_key": {"own": [9, 2, 50], "shared_blocks": 3, "heads": (3, 3)},
    "three_queries_for_each_key": {"own": [9, 2, 50], "shared_blocks": 3, "heads": (6, 2)},
    "eight_queries_for_each_key": {"own": [9, 2], "shared_blocks": 3, "heads": (8, 1), "block": 32, "size": 128},
    "heads_first": {"own": [9, 40], "shared_blocks": 3, "heads_first": True},
    "no_scales": {"own": [9, 40], "shared_blocks": 3, "scales": ()},
}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", FLOAT8_CASES)
def test_attention_over_float8_is_that_of_the_formula_with_what_it_stands_for(
    kernels: ModuleType, case: str, dtype: str
) -> None:
    step = make_step(**{**FLOAT8, "dtype": getattr(torch, dtype), **FLOAT8_CASES[case]})
    close_to_the_formula(step, attended(kernels, step), 1e-2)  # products are of float16


def test_every_number_of_float8_is_read_as_what_it_is(kernels: ModuleType) -> None:
    """One token of its own for each sequence, and so its value is the answer: exactly, since a float16 holds all of them."""
    step = make_step([1] * 16, 0, heads=(1, 1), size=16, dtype=torch.float32, cache=torch.float8_e4m3fn)
    numbers = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    numbers[numbers & 0x7F == 0x7F] = 0  # the two that are no numbers
    values = step.keys_and_values[1].view(torch.uint8)
    values[step.table[:, 0].long(), 0, 0] = numbers.to(values.device)
    expected = numbers.view(torch.float8_e4m3fn).float()
    assert torch.equal(attended(kernels, step)[:, 0].cpu(), expected)


def test_the_cut_of_the_work_does_not_change_the_answer(kernels: ModuleType) -> None:
    step = make_step([5, 40, 77] * 4, 6)
    one, other = kernels.Tuning(splits=1, own_tokens=64), kernels.Tuning(splits=8, prefix_rows=16, prefix_tokens=16)
    far = 1e-2 if ON_GPU else 1e-5
    torch.testing.assert_close(attended(kernels, step, one), attended(kernels, step, other), atol=far, rtol=0)


@pytest.mark.parametrize("case", ["long_prefix", "nothing_shared", "padding", "heads_first"])
@pytest.mark.parametrize("number", ["float8", "float32"])
def test_new_tokens_are_written_into_the_cache_and_count(kernels: ModuleType, case: str, number: str) -> None:
    step = make_step(**{**FLOAT8, **FLOAT8_CASES[case]} if number == "float8" else CASES[case])
    complete = step.cache.clone()
    keys, values = (taken_out(step, part, scale) for part, scale in zip(step.keys_and_values, step.scales, strict=True))
    out = attended(kernels, step, new=(keys, values))
    assert torch.equal(step.cache.view(torch.uint8), complete.view(torch.uint8))
    close_to_the_formula(step, out, 1e-2 if ON_GPU or number == "float8" else 1e-5)


def taken_out(step: Step, part: Any, scale: Any) -> Any:
    """Keys or values of each sequence's last token, of which the cache has none from now on."""
    new, real = newest(step, part, scale), step.lengths > 0
    row, token = place_of_newest(step)
    part.view(torch.uint8)[row[real], token[real]] = 0x7F
    return new


def newest(step: Step, part: Any, scale: Any) -> Any:
    """Keys or values of each sequence's last token [sequences, key heads, size], as the model computes them."""
    return part[place_of_newest(step)].to(step.query.dtype) * (1 if scale is None else scale)


def place_of_newest(step: Step) -> tuple[Any, Any]:
    """The block of each sequence's last token, and its place in the block."""
    block, last = step.cache.shape[1], (step.lengths - 1).clamp(min=0).long()
    return step.table.long()[torch.arange(len(last), device=last.device), last // block], last % block


def attended(kernels: ModuleType, step: Step, tuning: Any = None, new: Any = (None, None)) -> Any:
    """What the kernels make of a step."""
    out, block = torch.full_like(step.query, float("nan")), step.cache.shape[1]
    shared = kernels.shared_tokens(step.table, step.lengths, block)
    scale = step.query.shape[-1] ** -0.5
    cache = kernels.Cache(*step.keys_and_values, step.table, step.lengths, *step.scales, *new)
    kernels.attend(step.query, cache, shared, scale, out, tuning)
    return out


def close_to_the_formula(step: Step, out: Any, tolerance: float) -> None:
    real = step.lengths > 0
    torch.testing.assert_close(out[real].double(), by_the_formula(step)[real], atol=tolerance, rtol=0)
    assert not out.isnan().any(), "a row of padding may hold anything but NaN, which spreads"


# ---------------------------------------------------------------- inside vLLM


@pytest.fixture(scope="module")
def backend(kernels: ModuleType) -> ModuleType:
    """Ours on top of the installed vLLM's FlashAttention, whose own kernels a CPU build lacks."""
    pytest.importorskip("vllm")
    from gpuqa.engines.vllm.shared_prefix import backend

    return backend


FEW_HEADS = {"num_heads": 2, "num_kv_heads": 1}  # the interpreter takes a tenth of a second for each program; CASES have more


def layer_of(backend: ModuleType, monkeypatch: pytest.MonkeyPatch, **model: Any) -> tuple[Any, list[str]]:
    """One layer's attention, and a list that vLLM's own way writes to when it is taken, or when it fills the cache."""
    plain: list[str] = []
    settings = {"num_heads": 4, "num_kv_heads": 2, "head_size": 16, "alibi_slopes": None, "sliding_window": None, **model}
    settings.setdefault("kv_cache_dtype", "auto")
    ours = backend.Float8Impl if settings["kv_cache_dtype"].startswith("fp8") else backend.SharedPrefixImpl
    monkeypatch.setattr(ours.__bases__[1], "forward", lambda *_, **__: plain.append("vLLM's own"))
    monkeypatch.setattr(ours.__bases__[1], "do_kv_cache_update", lambda *_, **__: plain.append("into the cache"))
    return ours(scale=settings["head_size"] ** -0.5, **settings), plain


def metadata(backend: ModuleType, step: Step, **changes: Any) -> Any:
    """What vLLM's own builder says of a decoding step; that of its Triton attention if the cache is of float8."""
    count = len(step.lengths)
    said = {
        "num_actual_tokens": count,
        "max_query_len": 1,
        "query_start_loc": torch.arange(count + 1, dtype=torch.int32),
        "max_seq_len": int(step.lengths.max()),
        "seq_lens": step.lengths,
        "block_table": step.table,
        "slot_mapping": torch.zeros(count, dtype=torch.int64),
    }
    if step.cache.dtype != torch.float8_e4m3fn:
        return backend.FlashAttentionMetadata(**{**said, **changes})
    for_few = ("seq_threshold_3D", "num_par_softmax_segments", "softmax_segm_output", "softmax_segm_max", "softmax_segm_expsum")
    return backend.TritonAttentionMetadata(**{**said, **dict.fromkeys(for_few), "causal": True, **changes})


def forward(attention: Any, layer: object, step: Step, about: Any) -> Any:
    """The call that vLLM makes; its cache has the heads before the tokens of a block, and float8 as bytes."""
    out = torch.zeros_like(step.query)
    key, value = (newest(step, part, scale) for part, scale in zip(step.keys_and_values, step.scales, strict=True))
    cache = step.cache.view(torch.uint8) if step.cache.dtype == torch.float8_e4m3fn else step.cache
    attention.forward(layer, step.query, key, value, cache.transpose(1, 2), about, output=out)
    return out


def test_a_step_of_many_goes_to_the_kernels_and_a_step_run_again_sees_its_own_blocks(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CUDA graph is captured after a warm-up with the same metadata: what is shared must be computed in it, too."""
    attention, plain = layer_of(backend, monkeypatch, **FEW_HEADS)
    first, second = object(), object()
    step = make_step([7, 9, 3, 12] * 12, 1, heads=(2, 1))
    about = metadata(backend, step)
    for layer in (first, second):
        close_to_the_formula(step, forward(attention, layer, step, about), 1e-2 if ON_GPU else 1e-5)
    other = make_step([7, 9, 3, 12] * 12, 1, heads=(2, 1), seed=1)
    about.block_table.copy_(torch.arange(other.table.numel()).reshape(other.table.shape))  # now nothing is shared
    again = Step(other.query, other.cache.nan_to_num(), about.block_table, step.lengths)
    for layer in (first, second):
        close_to_the_formula(again, forward(attention, layer, again, about), 1e-2 if ON_GPU else 1e-5)
    assert plain == []


@dataclass
class ScaledLayer:
    """What vLLM's layer knows of the numbers in its cache."""

    _k_scale: Any
    _v_scale: Any


@pytest.mark.parametrize("name", FLOAT8_CACHES)
def test_a_step_of_many_over_a_cache_of_float8_goes_to_the_kernels_with_the_scales_of_its_layer(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    attention, plain = layer_of(backend, monkeypatch, kv_cache_dtype=name, head_size=64, **FEW_HEADS)
    step = make_step([7, 9, 3, 12] * 12, 1, heads=(2, 1), **FLOAT8)
    close_to_the_formula(step, forward(attention, ScaledLayer(*step.scales), step, metadata(backend, step)), 1e-2)
    assert plain == []
    assert not attention.supports_quant_query_input, "vLLM would make the queries float8, too"


@pytest.mark.parametrize(
    "changes",
    [{"max_query_len": 2}, {"causal": False}, {"mm_prefix_range_tensor": torch.zeros(48, 1, 2, dtype=torch.int32)}],
    ids=["prefill", "not_causal", "images"],
)
def test_other_steps_over_a_cache_of_float8_go_to_vllms_triton_attention(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    attention, plain = layer_of(backend, monkeypatch, kv_cache_dtype="fp8", head_size=64)
    step = make_step([3] * 48, 1, **FLOAT8)
    forward(attention, ScaledLayer(*step.scales), step, metadata(backend, step, **changes))
    assert plain == ["into the cache", "vLLM's own"]


@pytest.mark.parametrize(
    ("rows", "model", "changes"),
    [
        (2, {}, {}),
        (47, {}, {}),
        (48, {}, {"max_query_len": 2}),
        (48, {}, {"causal": False}),
        (48, {}, {"mm_prefix_query_range_tensor": torch.zeros(48, 2, dtype=torch.int32)}),
        (48, {"sliding_window": 64}, {}),
        (48, {"alibi_slopes": [0.5] * 4}, {}),
        (48, {"logits_soft_cap": 30.0}, {}),
    ],
    ids=["two", "few", "prefill", "not_causal", "images", "window", "alibi", "soft_cap"],
)
def test_what_the_kernels_do_not_know_takes_vllms_own_way(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch, rows: int, model: dict[str, Any], changes: dict[str, Any]
) -> None:
    attention, plain = layer_of(backend, monkeypatch, **model)
    step = make_step([3] * rows, 2)
    forward(attention, object(), step, metadata(backend, step, **changes))
    assert plain == ["into the cache", "vLLM's own"]


@pytest.mark.parametrize("rows", [47, 48])
def test_a_layer_that_reads_the_cache_of_another_writes_nothing(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    attention, plain = layer_of(backend, monkeypatch, kv_sharing_target_layer_name="the layer before")
    step = make_step([3] * rows, 2)
    before = step.cache.clone()
    step.cache[place_of_newest(step)] += 1
    changed = step.cache.clone()
    about = metadata(backend, step)
    old = Step(step.query, before, step.table, step.lengths)
    out = torch.zeros_like(step.query)
    key, value = (newest(old, part, None) for part in old.keys_and_values)
    attention.forward(object(), step.query, key, value, step.cache.transpose(1, 2), about, output=out)
    assert plain == (["vLLM's own"] if rows == 47 else [])
    assert torch.equal(step.cache.nan_to_num(), changed.nan_to_num())


def test_a_single_sequence_goes_to_the_kernels(backend: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    attention, plain = layer_of(backend, monkeypatch)
    step = make_step([70], 9)
    close_to_the_formula(step, forward(attention, object(), step, metadata(backend, step)), 1e-2 if ON_GPU else 1e-5)
    assert plain == []


def test_what_layers_have_that_the_kernels_do_not_know_is_said_once(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(backend.log, "warning", lambda message, *words, **_: said.append(message % words))
    for _ in range(2):
        attention, _ = layer_of(backend, monkeypatch, head_size=96)
        assert not attention.usable
    assert said == ["engine.attention=shared_prefix is off: it does not know heads of 96"]


# ---------------------------------------------------------------- the setting


def engine_config(**changes: Any) -> EngineConfig:
    args = {"max_model_len": 1024, **changes.pop("args", {})}
    fork = {"VLLM_WORKER_MULTIPROC_METHOD": "fork"}
    return EngineConfig(name="x", backend=Backend.vllm, args=args, **{"env": fork, **changes})


def test_two_attentions_at_once_are_refused() -> None:
    with pytest.raises(UserError, match=r"engine.args.attention_config.backend: got 'FLASH_ATTN'.*attention=shared_prefix"):
        engine_config(args={"attention_config": {"backend": "FLASH_ATTN"}}, attention=Attention.shared_prefix)


@pytest.mark.parametrize(
    ("cuda", "changes", "args", "reason"),
    [
        (False, {}, {}, "there is no CUDA device"),
        (True, {"env": {}}, {}, "it needs engine.env.VLLM_WORKER_MULTIPROC_METHOD=fork"),
        (True, {}, {"kv_cache_dtype": "fp8_e5m2"}, "it does not read a KV cache of fp8_e5m2"),
        (True, {}, {"kv_cache_dtype": "int8_per_token_head"}, "it does not read a KV cache of int8_per_token_head"),
        (True, {}, {"kv_cache_dtype": "fp8"}, "a KV cache of fp8 needs a card of compute capability 8.9 or more"),
    ],
    ids=["no_cuda", "spawn", "fp8_e5m2", "int8", "fp8_on_an_a100"],
)
def test_an_engine_that_cannot_have_it_keeps_vllms_attention_and_says_so(
    cuda: bool,
    changes: dict[str, Any],
    args: dict[str, Any],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    platforms = pytest.importorskip("vllm.platforms")
    monkeypatch.setattr(type(platforms.current_platform), "is_cuda", lambda _: cuda)
    monkeypatch.setattr(type(platforms.current_platform), "has_device_capability", lambda _, least: least <= 80)
    with caplog.at_level(logging.WARNING, "gpuqa.engines"):
        [_, attention] = choose(engine_config(attention=Attention.shared_prefix, **changes), args)
    assert (attention.args, attention.reason) == ({}, reason)
    assert caplog.messages == [f"engine.attention=shared_prefix is off: {reason}"]


def test_vllm_is_told_of_ours_and_what_else_is_said_about_attention_stays(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm import platforms
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    monkeypatch.setattr(type(platforms.current_platform), "is_cuda", lambda _: True)
    splits = {"flash_attn_max_num_splits_for_cuda_graph": 1}
    config = engine_config(attention=Attention.shared_prefix)
    for args in ({"attention_config": splits}, {"attention_config": splits, "kv_cache_dtype": "bfloat16"}):
        assert choose_attention(config, args).args == {"attention_config": {**splits, "backend": "CUSTOM"}}
    monkeypatch.setattr(type(platforms.current_platform), "has_device_capability", lambda _, least: least <= 89)
    assert choose_attention(config, {"kv_cache_dtype": "fp8"}).args == {"attention_config": {"backend": "CUSTOM"}}
    classes = {"auto": backend.SharedPrefixBackend, **dict.fromkeys(FLOAT8_CACHES, backend.Float8Backend)}
    for name, backend_class in classes.items():
        take_back = register_attention({"kv_cache_dtype": name})
        assert AttentionBackendEnum.CUSTOM.get_class() is backend_class
        take_back()
        assert not AttentionBackendEnum.CUSTOM.is_overridden()
    assert backend.SharedPrefixBackend.get_impl_cls() is backend.SharedPrefixImpl
    assert backend.SharedPrefixBackend.get_builder_cls() is backend.SharedPrefixBuilder
    assert choose_attention(engine_config(), {}).args == {}


@pytest.mark.skipif(ON_GPU, reason="vLLM asks for this card's FlashAttention, whatever card is named")
@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (12, 0)])
def test_vllm_takes_ours_with_a_cache_of_float8_on_cards_for_which_its_flash_attention_refuses_it(
    backend: ModuleType, capability: tuple[int, int]
) -> None:
    from vllm.platforms.interface import DeviceCapability

    asked = {"head_size": 128, "dtype": torch.bfloat16, "kv_cache_dtype": "fp8", "block_size": 32, "attn_type": "decoder"}
    asked |= dict.fromkeys(("use_mla", "has_sink", "use_sparse", "use_mm_prefix", "use_per_head_quant_scales"), False)
    on = DeviceCapability(*capability)
    assert backend.Float8Backend.validate_configuration(**asked, device_capability=on) == []
    assert backend.SharedPrefixBackend.validate_configuration(**asked, device_capability=on)
