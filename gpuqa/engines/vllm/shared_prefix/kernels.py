"""The arithmetic: one token of each sequence against the keys and values before it, of which all share the first blocks.

`query` and `out` [sequences, heads, size] have one dtype: bfloat16, float16 or float32. So have keys and values, unless they
are float8 (e4m3), half the bytes to read: those become float16, which holds each of them exactly, and so do queries and weights
for their products; a query beyond float16's 65,504 would overflow. Scores are q k * scale, without a unit. Softmax is taken
online, in base 2 and float32; what a loop knows so far is (highest score, sum of weights, weighted values). Everything lies on
one GPU, and nothing waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache as remembered

import torch
import triton

from gpuqa.engines.vllm.shared_prefix import programs

LOG2_E = 1.4426950408889634
HOPPER = 9  # compute capability


@dataclass(frozen=True)
class Tuning:
    """How the work is cut; speed depends on it, and answers in the last bit.

    The defaults are the fastest on an H200 that need no more shared memory than an RTX 5090 has, of 64 for the shared prefix
    and of 27 for own tokens with both formats of the cache (experiments/LOG.md).
    """

    splits: int = 2  # programs that share the prefix of one tile, since few tiles would leave most of the GPU idle
    prefix_rows: int = 64  # queries in a tile
    prefix_tokens: int = 64  # tokens that a program loads at once
    prefix_warps: int = 4
    prefix_stages: int = 2
    own_tokens: int = 32
    own_warps: int = 2
    own_stages: int = 5


MANY, FEW, ONE = Tuning(), Tuning(splits=4), Tuning(splits=16, prefix_rows=16)
FEW_SEQUENCES = 128  # below; 64 and 358 were measured


def tuned_for(sequences: int) -> Tuning:
    """The fastest cut for so many queries of each head. All blocks but the last of a single sequence count as shared."""
    return ONE if sequences == 1 else FEW if sequences < FEW_SEQUENCES else MANY


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values of all sequences, and which of them are whose.

    The value of a float8 is itself times its scale, which is one number for all keys and one for all values of a layer.
    `new_keys` and `new_values` are of the last token of each sequence, which `lengths` counts and the cache lacks until it is
    written there. Without them the cache has all tokens.
    """

    keys: torch.Tensor  # [blocks, tokens in a block, key heads, size], contiguous in the last dimension
    values: torch.Tensor  # as `keys`
    block_table: torch.Tensor  # int32 [sequences, blocks of the longest], contiguous in the last dimension
    lengths: torch.Tensor  # int32 [sequences] in tokens; 0 is a row of padding
    key_scale: torch.Tensor | None = None  # float32 [1]; none is 1
    value_scale: torch.Tensor | None = None
    new_keys: torch.Tensor | None = None  # [sequences, key heads, size], as the queries
    new_values: torch.Tensor | None = None

    def arguments(self, in_pairs: bool) -> tuple[object, ...]:
        """Keys, values, their strides in elements and the keys' scale, as both kernels take them.

        float8 goes in pairs where a tile goes through registers on its way to a product: a GPU arranges one of 16 bits on the
        way out of shared memory, one of 8 bits byte by byte. Hopper multiplies 64 rows out of shared memory.
        """
        keys, values = self.keys, self.values
        if keys.dtype == torch.float8_e4m3fn:
            bits = torch.int16 if in_pairs and keys.shape[3] >= 32 else torch.uint8  # products are of 16 dimensions at least
            keys, values = keys.view(bits), values.view(bits)
        return (keys, values, *keys.stride()[:3], *values.stride()[:3], self.key_scale)

    @property
    def newest(self) -> tuple[object, ...]:
        """New keys and values, and their strides in elements."""
        if self.new_keys is None or self.new_values is None:
            return (None, None, 0, 0, 0, 0)
        return (self.new_keys, self.new_values, *self.new_keys.stride()[:2], *self.new_values.stride()[:2])


@dataclass(frozen=True, slots=True)
class Partial:
    """What the splits found in the shared prefix, float32, with rows = sequences * heads / key heads. Nothing is written for a
    split without tokens."""

    weighted: torch.Tensor  # [splits, key heads, rows, size]
    highest: torch.Tensor  # [splits, key heads, rows]
    total: torch.Tensor  # as `highest`


def shared_tokens(block_table: torch.Tensor, lengths: torch.Tensor, block_size: int) -> torch.Tensor:
    """How many leading tokens lie in the same blocks for all sequences -> int32 [1], a multiple of `block_size`.

    Every sequence keeps at least one token of its own, and rows of padding are not asked. `block_size`: tokens in a block.
    """
    shared = lengths.new_empty(1)
    sequences, blocks = block_table.shape
    programs.shared[(1,)](block_table, lengths, shared, sequences, blocks, block_table.stride(0), BLOCK=block_size)
    return shared


def attend(
    query: torch.Tensor, cache: Cache, shared: torch.Tensor, scale: float, out: torch.Tensor, tuning: Tuning | None = None
) -> None:
    """Fill `out` [sequences, heads, size]; `shared` int32 [1] is what `shared_tokens` gives for the same step. Rows of padding
    get finite values without a meaning."""
    tuning = tuning or tuned_for(len(query))
    attend_own(query, cache, shared, attend_prefix(query, cache, shared, scale, tuning), scale, out, tuning)


def attend_prefix(query: torch.Tensor, cache: Cache, shared: torch.Tensor, scale: float, tuning: Tuning) -> Partial:
    """The shared tokens, for all sequences at once."""
    key_heads, rows = cache.keys.shape[2], len(query) * group_of(query, cache)
    card = capability(query.device)
    paired = card != HOPPER or tuning.prefix_rows < 64
    weighted = query.new_empty((tuning.splits, key_heads, rows, query.shape[2]), dtype=torch.float32)
    highest, total = query.new_empty((2, tuning.splits, key_heads, rows), dtype=torch.float32)
    programs.prefix[(triton.cdiv(rows, tuning.prefix_rows), key_heads, tuning.splits)](
        query, *cache.arguments(paired), cache.block_table, shared, weighted, highest, total,
        scale * LOG2_E, rows, query.stride(0), query.stride(1), **sizes(query, cache), SPLITS=tuning.splits,
        ROWS=tuning.prefix_rows, TOKENS=prefix_tokens(tuning, query.shape[2]), EARLY=card >= HOPPER,
        num_warps=tuning.prefix_warps, num_stages=tuning.prefix_stages,
    )  # fmt: skip
    return Partial(weighted, highest, total)


def prefix_tokens(tuning: Tuning, size: int) -> int:
    """Tokens that a program of the shared prefix loads at once: half of them for heads of 256, which take as much room."""
    return min(tuning.prefix_tokens, 8192 // size)


def attend_own(
    query: torch.Tensor,
    cache: Cache,
    shared: torch.Tensor,
    partial: Partial,
    scale: float,
    out: torch.Tensor,
    tuning: Tuning,
) -> None:
    """What `partial` has of the shared tokens, and each sequence's own ones, into `out`. It has to follow `attend_prefix` at
    once: it may begin while that still runs, and waits for it, and for nothing before it, where it needs its result."""
    key_heads, group, early = cache.keys.shape[2], group_of(query, cache), capability(query.device) >= HOPPER
    programs.own[(key_heads, len(query))](
        query, *cache.arguments(in_pairs=True), cache.value_scale, *cache.newest, cache.block_table, cache.lengths, shared,
        partial.weighted, partial.highest, partial.total, out, scale * LOG2_E, len(query) * group,
        query.stride(0), query.stride(1), cache.block_table.stride(0), out.stride(0), out.stride(1),
        **sizes(query, cache), SPLITS=tuning.splits, ROWS=max(16, triton.next_power_of_2(group)),
        TOKENS=tuning.own_tokens, EARLY=early, num_warps=tuning.own_warps, num_stages=tuning.own_stages,
        **({"launch_pdl": True} if early else {}),
    )  # fmt: skip


@remembered
def capability(device: torch.device) -> int:
    """The first number of a GPU's compute capability; 0 where Triton interprets."""
    return torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 0


def group_of(query: torch.Tensor, cache: Cache) -> int:
    """Heads that share a key head."""
    return int(query.shape[1] // cache.keys.shape[2])


def sizes(query: torch.Tensor, cache: Cache) -> dict[str, int]:
    """What both kernels are compiled for."""
    return {"GROUP": group_of(query, cache), "SIZE": query.shape[2], "BLOCK": cache.keys.shape[1]}
