"""The attention backends that vLLM loads; imports vLLM, and so lives in the engine's process only."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from vllm import envs
from vllm.logger import init_logger
from vllm.v1.attention.backend import AttentionImpl, AttentionType
from vllm.v1.attention.backends.flash_attn import (
    FlashAttentionBackend,
    FlashAttentionImpl,
    FlashAttentionMetadata,
    FlashAttentionMetadataBuilder,
)
from vllm.v1.attention.backends.triton_attn import TritonAttentionBackend, TritonAttentionImpl, TritonAttentionMetadata

from gpuqa.engines import FLOAT8_CACHES, PLAIN_CACHES, first_that_holds
from gpuqa.engines.vllm.override_reports import State, report
from gpuqa.engines.vllm.shared_prefix.kernels import Cache, attend, shared_tokens

log = init_logger(__name__)
HEAD_SIZES = (16, 32, 64, 128, 256)
SHARED_TOKENS = "gpuqa_shared_tokens"  # on a step's metadata, for all layers: the first layer, and what it counted
MIN_SEQUENCES = 48  # below, one program for each of their key heads leaves much of an H200 idle (experiments/LOG.md)


def pays(sequences: int) -> bool:
    """Whether the kernels are faster than vLLM's with so many: with a single one, too, which is shared out to many programs."""
    return sequences == 1 or sequences >= MIN_SEQUENCES


class SharedPrefix(AttentionImpl):  # type: ignore[misc]  # vLLM's modules are skipped by the type checker
    """One layer, before the class of vLLM that takes the steps and models which the kernels do not know."""

    float8: ClassVar[bool]  # the numbers of its cache, or 16 bits
    image_ranges: ClassVar[str]  # what the step's metadata calls tokens that see later ones

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        unsupported = {
            "attention other than a decoder's": self.attn_type != AttentionType.DECODER,
            f"heads of {self.head_size}": self.head_size not in HEAD_SIZES,
            f"a KV cache of {self.kv_cache_dtype}": self.kv_cache_dtype not in (FLOAT8_CACHES if self.float8 else PLAIN_CACHES),
            "a sliding window": self.sliding_window != (-1, -1),
            "ALiBi": self.alibi_slopes is not None,
            "attention sinks": self.sinks is not None,
            "a soft cap": bool(self.logits_soft_cap),
            "context parallelism": self.dcp_world_size != 1,
            "batch invariance": envs.VLLM_BATCH_INVARIANT,
        }
        reason = first_that_holds(unsupported)
        self.usable = reason is None
        report("attention", State.on if self.usable else State.off, f"it does not know {reason}" if reason else "")
        if reason:
            log.warning_once("engine.attention=shared_prefix is off: it does not know %s", reason)

    def forward(
        self,
        layer: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: FlashAttentionMetadata | TritonAttentionMetadata,
        output: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """vLLM's shapes: `query` and `output` [tokens, heads, head size], `key` and `value` [tokens, key heads, head size],
        padded to the size of a CUDA graph; `kv_cache` [blocks, key heads, tokens in a block, 2 * head size], keys first, and
        uint8 where it is of float8; `block_table` int32 [sequences, blocks], `seq_lens` int32 [sequences] in tokens."""
        writes = self.kv_sharing_target_layer_name is None
        if not (self.usable and attn_metadata is not None and self.decodes_here(attn_metadata)):
            if writes and attn_metadata is not None:
                self.do_kv_cache_update(layer, key, value, kv_cache, attn_metadata.slot_mapping)
            return super().forward(layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs)
        table, lengths, count = attn_metadata.block_table, attn_metadata.seq_lens, attn_metadata.num_actual_tokens
        numbers = kv_cache.view(torch.float8_e4m3fn) if self.float8 else kv_cache
        keys, values = numbers.transpose(1, 2).split(self.head_size, dim=-1)
        scales = (layer._k_scale, layer._v_scale) if self.float8 else (None, None)
        new = (key[:count], value[:count]) if writes else (None, None)
        cache = Cache(keys, values, table, lengths, *scales, *new)
        first, shared = vars(attn_metadata).get(SHARED_TOKENS, (layer, None))
        if first is layer:  # the first layer of a step finds it for all, and again if the step is run again
            shared = shared_tokens(table[:count], lengths[:count], cache.keys.shape[1])
            vars(attn_metadata)[SHARED_TOKENS] = (layer, shared)
        attend(query[:count], cache, shared, self.scale, output[:count])
        return output

    def decodes_here(self, step: FlashAttentionMetadata | TritonAttentionMetadata) -> bool:
        """Whether every sequence has one new token, which sees all before it, and there are enough of them."""
        return (
            step.max_query_len == 1
            and pays(step.num_actual_tokens)
            and step.causal is True
            and step.rswa_prefix_lens is None
            and vars(step)[self.image_ranges] is None
        )


class SharedPrefixImpl(SharedPrefix, FlashAttentionImpl):  # type: ignore[misc]
    """For a cache of 16 bits; FlashAttention takes the rest."""

    float8 = False
    image_ranges = "mm_prefix_query_range_tensor"


class SharedPrefixBuilder(FlashAttentionMetadataBuilder):  # type: ignore[misc]
    """Spares decoding steps of many sequences the plan that FlashAttention would make for them."""

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> FlashAttentionMetadata:
        many = common_attn_metadata.max_query_len == 1 and pays(common_attn_metadata.num_actual_tokens)
        return super().build(common_prefix_len, common_attn_metadata, fast_build or many)


class SharedPrefixBackend(FlashAttentionBackend):  # type: ignore[misc]
    """FlashAttention whose decoding steps of many sequences read the shared prefix once."""

    forward_includes_kv_cache_update = True  # the kernels write a new token themselves, a launch less

    @staticmethod
    def get_name() -> str:
        return "CUSTOM"

    @staticmethod
    def get_impl_cls() -> type[SharedPrefixImpl]:
        return SharedPrefixImpl

    @staticmethod
    def get_builder_cls() -> type[SharedPrefixBuilder]:
        return SharedPrefixBuilder


class Float8Impl(SharedPrefix, TritonAttentionImpl):  # type: ignore[misc]
    """For a cache of float8; vLLM's Triton attention takes the rest, on every card that has the format. FlashAttention reads
    it on some cards only, and wants float8 queries, which lose more than the cache does."""

    float8 = True
    image_ranges = "mm_prefix_range_tensor"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.supports_quant_query_input = False

    def fused_output_quant_supported(self, *_: Any) -> bool:
        """The kernels write numbers of 16 bits."""
        return False


class Float8Backend(TritonAttentionBackend):  # type: ignore[misc]
    """vLLM's Triton attention with a cache of float8, whose decoding steps of many sequences read the shared prefix once."""

    forward_includes_kv_cache_update = True  # the kernels write a new token themselves, a launch less

    @staticmethod
    def get_name() -> str:
        return "CUSTOM"

    @staticmethod
    def get_impl_cls() -> type[Float8Impl]:
        return Float8Impl
