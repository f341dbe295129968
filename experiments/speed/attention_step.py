"""How long does the attention of one decoding step take, read by vLLM's FlashAttention and by gpuqa.engines.vllm.shared_prefix?

    PYTHONPATH=.:$PYTHONPATH python experiments/speed/attention_step.py --steps 358x496,358x48,128x496,64x496,64x48,32x496,32x0

A step is SEQUENCESxPREFIX: so many sequences behind a shared prefix of so many tokens, each with 100 to 220 tokens of its own,
in a paged cache of Qwen3-0.6B's shape (28 layers, 16 heads, 8 key heads of 128, bf16, blocks of 16). All layers, each with a
cache of its own, are captured into one CUDA graph and replayed; milliseconds, the least of three means of 20. The greatest
difference between both answers stands beside them. Needs a CUDA device and vLLM's FlashAttention 3.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from attention_bandwidth import milliseconds
from vllm.v1.attention.backends.fa_utils import flash_attn_varlen_func

from gpuqa.engines.vllm.shared_prefix.kernels import Cache, attend, shared_tokens

LAYERS, HEADS, KEY_HEADS, SIZE, BLOCK = 28, 16, 8, 128, 16
TABLE_WIDTH = 64  # blocks, as for max_model_len 1024
OWN = (100, 220)  # tokens of a sequence behind the prefix


@dataclass(frozen=True)
class Step:
    """Queries [layers, sequences, heads, size], caches of [blocks, tokens, key heads, 2 * size] each, and who has what."""

    queries: Any
    caches: list[Any]
    table: Any
    lengths: Any
    longest: int  # of the lengths


def main() -> None:
    """Print one line a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", default="358x496,64x496")
    for words in parser.parse_args().steps.split(","):
        sequences, prefix = map(int, words.split("x"))
        step = make_step(sequences, prefix)
        theirs, ours = torch.empty_like(step.queries), torch.empty_like(step.queries)
        flash, shared = milliseconds(partial(flash_attention, step, theirs)), milliseconds(partial(shared_prefix, step, ours))
        far = (theirs.float() - ours.float()).abs().max().item()
        print(
            f"{words}: FlashAttention {flash:.2f} ms, shared_prefix {shared:.2f} ms, greatest difference {far:.4f}", flush=True
        )


def make_step(sequences: int, prefix: int) -> Step:
    """A seeded step; the blocks of the cache are handed out in no order."""
    random = torch.Generator().manual_seed(0)
    lengths = (torch.randint(*OWN, (sequences,), generator=random) + prefix).int()
    longest = int(lengths.max())
    shared, most = prefix // BLOCK, -(-longest // BLOCK)
    blocks = torch.randperm(shared + sequences * (most - shared), generator=random).int()
    table = torch.zeros(sequences, TABLE_WIDTH, dtype=torch.int32)
    table[:, :shared] = blocks[:shared]
    table[:, shared:most] = blocks[shared:].reshape(sequences, -1)
    like = {"device": "cuda", "dtype": torch.bfloat16}
    caches = [torch.randn(len(blocks), BLOCK, KEY_HEADS, 2 * SIZE, **like) for _ in range(LAYERS)]
    return Step(torch.randn(LAYERS, sequences, HEADS, SIZE, **like), caches, table.cuda(), lengths.cuda(), longest)


def flash_attention(step: Step, out: Any) -> None:
    """As vLLM calls it for a decoding step, with one split a sequence (`engine=vllm_hopper` without ours)."""
    ends = torch.arange(len(step.lengths) + 1, device="cuda", dtype=torch.int32)
    for layer, cache in enumerate(step.caches):
        keys, values = cache.split(SIZE, dim=-1)
        flash_attn_varlen_func(
            q=step.queries[layer], k=keys, v=values, out=out[layer], cu_seqlens_q=ends, max_seqlen_q=1, seqused_k=step.lengths,
            max_seqlen_k=step.longest, softmax_scale=SIZE**-0.5, causal=True, block_table=step.table, num_splits=1,
            fa_version=3,
        )  # fmt: skip


def shared_prefix(step: Step, out: Any) -> None:
    """As our backend does it: what is shared is found once for all layers."""
    shared = shared_tokens(step.table, step.lengths, BLOCK)
    for layer, cache in enumerate(step.caches):
        keys, values = cache.split(SIZE, dim=-1)
        attend(step.queries[layer], Cache(keys, values, step.table, step.lengths), shared, SIZE**-0.5, out[layer])


if __name__ == "__main__":
    main()
