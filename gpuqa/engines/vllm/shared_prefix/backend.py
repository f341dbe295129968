"""The attention backend that vLLM loads; imports vLLM, and so lives in the engine's process only."""

from __future__ import annotations

from typing import Any

import torch
from vllm.logger import init_logger
from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.backends.flash_attn import (
    FlashAttentionBackend,
    FlashAttentionImpl,
    FlashAttentionMetadata,
    FlashAttentionMetadataBuilder,
)

from gpuqa.engines import PLAIN_CACHES, first_that_holds
from gpuqa.engines.vllm.override_reports import State, report
from gpuqa.engines.vllm.shared_prefix.kernels import attend, shared_tokens

log = init_logger(__name__)
HEAD_SIZES = (16, 32, 64, 128, 256)
SHARED_TOKENS = "gpuqa_shared_tokens"  # on a step's metadata, for all layers: the first layer, and what it counted
MIN_SEQUENCES = 48  # below, one program for each of their key heads leaves much of an H200 idle (experiments/LOG.md)


class SharedPrefixBackend(FlashAttentionBackend):  # type: ignore[misc]  # vLLM's modules are skipped by the type checker
    """FlashAttention whose decoding steps of many sequences read the shared prefix once."""

    @staticmethod
    def get_name() -> str:
        return "CUSTOM"

    @staticmethod
    def get_impl_cls() -> type[SharedPrefixImpl]:
        return SharedPrefixImpl

    @staticmethod
    def get_builder_cls() -> type[SharedPrefixBuilder]:
        return SharedPrefixBuilder


class SharedPrefixBuilder(FlashAttentionMetadataBuilder):  # type: ignore[misc]
    """Spares decoding steps of many sequences the plan that FlashAttention would make for them."""

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> FlashAttentionMetadata:
        many = common_attn_metadata.max_query_len == 1 and common_attn_metadata.num_actual_tokens >= MIN_SEQUENCES
        return super().build(common_prefix_len, common_attn_metadata, fast_build or many)


class SharedPrefixImpl(FlashAttentionImpl):  # type: ignore[misc]
    """One layer. Steps and models that the kernels do not know take FlashAttention's own way."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        unsupported = {
            "attention other than a decoder's": self.attn_type != AttentionType.DECODER,
            f"heads of {self.head_size}": self.head_size not in HEAD_SIZES,
            f"a KV cache of {self.kv_cache_dtype}": self.kv_cache_dtype not in PLAIN_CACHES,
            "a sliding window": self.sliding_window != (-1, -1),
            "ALiBi": self.alibi_slopes is not None,
            "attention sinks": self.sinks is not None,
            "a soft cap": bool(self.logits_soft_cap),
            "context parallelism": self.dcp_world_size != 1,
            "batch invariance": self.batch_invariant_enabled,
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
        attn_metadata: FlashAttentionMetadata,
        output: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """vLLM's shapes: `query` and `output` [tokens, heads, head size], `key` and `value` [tokens, key heads, head size],
        padded to the size of a CUDA graph; `kv_cache` [blocks, key heads, tokens in a block, 2 * head size], keys first;
        `block_table` int32 [sequences, blocks], `seq_lens` int32 [sequences] in tokens."""
        if not (self.usable and attn_metadata is not None and decodes_many(attn_metadata)):
            return super().forward(layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs)
        keys, values = kv_cache.transpose(1, 2).split(self.head_size, dim=-1)
        table, lengths, count = attn_metadata.block_table, attn_metadata.seq_lens, attn_metadata.num_actual_tokens
        first, shared = vars(attn_metadata).get(SHARED_TOKENS, (layer, None))
        if first is layer:  # the first layer of a step finds it for all, and again if the step is run again
            shared = shared_tokens(table[:count], lengths[:count], keys.shape[1])
            vars(attn_metadata)[SHARED_TOKENS] = (layer, shared)
        attend(query[:count], keys, values, table, lengths, shared, self.scale, output[:count])
        return output


def decodes_many(step: FlashAttentionMetadata) -> bool:
    """Whether every sequence has one new token, which sees all before it, and there are enough of them."""
    return (
        step.max_query_len == 1
        and step.num_actual_tokens >= MIN_SEQUENCES
        and step.causal is True
        and step.rswa_prefix_lens is None
        and step.mm_prefix_query_range_tensor is None
    )
