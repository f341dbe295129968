"""The arithmetic: one token of each sequence against the keys and values before it, of which all share the first blocks.

`query` and `out` [sequences, heads, size] have one dtype: bfloat16, float16 or float32. So have keys and values, unless they
are float8 (e4m3), half the bytes to read: those become float16, which holds each of them exactly, and so do queries and weights
for their products; a query beyond float16's 65,504 would overflow. Scores are q k * scale, without a unit. Softmax is taken
online, in base 2 and float32; what a loop knows so far is (highest score, sum of weights, weighted values). Everything lies on
one GPU, and nothing waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

LOG2_E = 1.4426950408889634
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)  # by Triton's interpreter, which knows no assembly


@dataclass(frozen=True)
class Tuning:
    """How the work is cut; speed depends on it, and answers in the last bit.

    The defaults are the fastest on an H200 that need no more shared memory than an RTX 5090 has: for the shared prefix of 156,
    for own tokens of 27 with both formats of the cache (experiments/LOG.md).
    """

    splits: int = 4  # programs that share the prefix of one tile, since few tiles would leave most of the GPU idle
    prefix_rows: int = 64  # queries in a tile
    prefix_tokens: int = 32  # tokens that a program loads at once
    prefix_warps: int = 4
    prefix_stages: int = 2
    own_tokens: int = 32
    own_warps: int = 2
    own_stages: int = 5


TUNING = Tuning()


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values of all sequences, and which of them are whose.

    The value of a float8 is itself times its scale, which is one number for all keys and one for all values of a layer.
    """

    keys: torch.Tensor  # [blocks, tokens in a block, key heads, size], contiguous in the last dimension
    values: torch.Tensor  # as `keys`
    block_table: torch.Tensor  # int32 [sequences, blocks of the longest], contiguous in the last dimension
    lengths: torch.Tensor  # int32 [sequences] in tokens; 0 is a row of padding
    key_scale: torch.Tensor | None = None  # float32 [1]; none is 1
    value_scale: torch.Tensor | None = None

    @property
    def arguments(self) -> tuple[object, ...]:
        """Keys, values, their strides in elements and the keys' scale, as both kernels take them.

        float8 goes in pairs: a GPU arranges a tile of 16 bits for its products on the way out of shared memory, one of 8 bits
        byte by byte.
        """
        of_8_bits = self.keys.dtype == torch.float8_e4m3fn
        keys, values = (part.view(torch.int16) if of_8_bits else part for part in (self.keys, self.values))
        return (keys, values, *keys.stride()[:3], *values.stride()[:3], self.key_scale)


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
    real = lengths > 0
    same = ((block_table == block_table[:1]) | ~real[:, None]).all(dim=0)
    shortest = torch.where(real, lengths, torch.iinfo(torch.int32).max).amin()
    blocks = torch.minimum(same.int().cumprod(0, dtype=torch.int32).sum(dtype=torch.int32), (shortest - 1) // block_size)
    return (blocks * block_size).to(torch.int32).reshape(1)


def attend(
    query: torch.Tensor, cache: Cache, shared: torch.Tensor, scale: float, out: torch.Tensor, tuning: Tuning = TUNING
) -> None:
    """Fill `out` [sequences, heads, size]; `shared` int32 [1] is what `shared_tokens` gives for the same step. Rows of padding
    get finite values without a meaning."""
    attend_own(query, cache, shared, attend_prefix(query, cache, shared, scale, tuning), scale, out, tuning)


def attend_prefix(query: torch.Tensor, cache: Cache, shared: torch.Tensor, scale: float, tuning: Tuning = TUNING) -> Partial:
    """The shared tokens, for all sequences at once."""
    key_heads, rows = cache.keys.shape[2], len(query) * group_of(query, cache)
    weighted = query.new_empty((tuning.splits, key_heads, rows, query.shape[2]), dtype=torch.float32)
    highest, total = query.new_empty((2, tuning.splits, key_heads, rows), dtype=torch.float32)
    _prefix[(triton.cdiv(rows, tuning.prefix_rows), key_heads, tuning.splits)](
        query, *cache.arguments, cache.block_table, shared, weighted, highest, total, scale * LOG2_E, rows,
        query.stride(0), query.stride(1), **sizes(query, cache), SPLITS=tuning.splits,
        ROWS=tuning.prefix_rows, TOKENS=tuning.prefix_tokens, num_warps=tuning.prefix_warps, num_stages=tuning.prefix_stages,
    )  # fmt: skip
    return Partial(weighted, highest, total)


def attend_own(
    query: torch.Tensor,
    cache: Cache,
    shared: torch.Tensor,
    partial: Partial,
    scale: float,
    out: torch.Tensor,
    tuning: Tuning = TUNING,
) -> None:
    """What `partial` has of the shared tokens, and each sequence's own ones, into `out`."""
    key_heads, group = cache.keys.shape[2], group_of(query, cache)
    _own[(key_heads, len(query))](
        query, *cache.arguments, cache.value_scale, cache.block_table, cache.lengths, shared,
        partial.weighted, partial.highest, partial.total, out, scale * LOG2_E, len(query) * group,
        query.stride(0), query.stride(1), cache.block_table.stride(0), out.stride(0), out.stride(1),
        **sizes(query, cache), SPLITS=tuning.splits, ROWS=max(16, triton.next_power_of_2(group)),
        TOKENS=tuning.own_tokens, num_warps=tuning.own_warps, num_stages=tuning.own_stages,
    )  # fmt: skip


def group_of(query: torch.Tensor, cache: Cache) -> int:
    """Heads that share a key head."""
    return int(query.shape[1] // cache.keys.shape[2])


def sizes(query: torch.Tensor, cache: Cache) -> dict[str, int]:
    """What both kernels are compiled for."""
    return {"GROUP": group_of(query, cache), "SIZE": query.shape[2], "BLOCK": cache.keys.shape[1]}


@triton.jit
def _over(
    begin, end, queries, table, keys, values, k_block, k_token, v_block, v_token, scale,
    ROWS: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """The online softmax over tokens `begin` to `end` of one block table; `keys` and `values` point at one head.

    `begin` is a multiple of BLOCK, or of 32. `queries` [ROWS, SIZE]. `k_block`, `k_token`, `v_block`, `v_token`: strides in
    elements. What is returned is float32: highest scores and sums of weights [ROWS], weighted values [ROWS, SIZE]. Of pairs,
    even and odd dimensions are computed apart.
    """
    PAIRS: tl.constexpr = keys.dtype.element_ty == tl.int16
    highest = tl.full([ROWS], -1e30, tl.float32)  # not -inf, of which the rows of padding would make NaN
    totals = tl.zeros([ROWS, TOKENS], tl.float32)
    weighted = tl.zeros([ROWS, SIZE // 2 if PAIRS else SIZE], tl.float32)
    odd = weighted
    dims = tl.arange(0, SIZE // 2 if PAIRS else SIZE)
    if PAIRS:
        even_queries, odd_queries = tl.split(queries.to(tl.float16).reshape([ROWS, SIZE // 2, 2]))
    for first in range(begin, end, TOKENS):
        token = first + tl.arange(0, TOKENS)
        there = token < end
        if BLOCK % TOKENS == 0 and 32 % TOKENS == 0:  # all of them lie in one block
            block = tl.load(table + first // BLOCK).to(tl.int64)
            within = first % BLOCK + tl.arange(0, TOKENS)
        else:
            block = tl.load(table + token // BLOCK, mask=there, other=0).to(tl.int64)
            within = token % BLOCK
        k_at, v_at = block * k_block + within * k_token, block * v_block + within * v_token
        key = tl.load(keys + k_at[:, None] + dims[None, :], mask=there[:, None], other=0)
        value = tl.load(values + v_at[:, None] + dims[None, :], mask=there[:, None], other=0)
        if PAIRS:
            even_keys, odd_keys = _apart(key)
            products = tl.dot(odd_queries, tl.trans(odd_keys), tl.dot(even_queries, tl.trans(even_keys)))
        else:
            products = tl.dot(queries, tl.trans(key))
        scores = tl.where(there[None, :], products * scale, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(highest - higher)
        totals = totals * shrink[:, None] + weights
        highest = higher
        if PAIRS:
            even_values, odd_values = _apart(value)
            weighted = weighted * shrink[:, None] + tl.dot(weights.to(tl.float16), even_values)
            odd = odd * shrink[:, None] + tl.dot(weights.to(tl.float16), odd_values)
        else:
            weighted = weighted * shrink[:, None] + tl.dot(weights.to(value.dtype), value)
    total = tl.sum(totals, 1)
    return highest, total, tl.interleave(weighted, odd) if PAIRS else weighted


@triton.jit
def _apart(pairs):
    """The lower and the higher number of each pair, as float16. The plain way makes the loop 346 instructions long, this one
    235 (for sm_90, in the shape of Qwen3-0.6B)."""
    if INTERPRETED:
        lower, higher = pairs.to(tl.uint8), (pairs >> 8).to(tl.uint8)
        return lower.to(tl.float8e4nv, bitcast=True).to(tl.float16), higher.to(tl.float8e4nv, bitcast=True).to(tl.float16)
    else:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 sorted; .reg .b16 lower, higher;
            prmt.b32 sorted, $2, $2, 0x3120;
            mov.b32 {lower, higher}, sorted;
            cvt.rn.f16x2.e4m3x2 $0, lower;
            cvt.rn.f16x2.e4m3x2 $1, higher;
            }""",
            "=r,=r,r", [pairs], dtype=(tl.float16, tl.float16), is_pure=True, pack=2,
        )  # fmt: skip


@triton.jit
def _score_scale(scale, key_scale):
    """What a product of query and key is multiplied by; `key_scale` points at a number, or is None."""
    return scale if key_scale is None else scale * tl.load(key_scale)


@triton.jit
def _merged(
    used, place, inside, weighted_in, highest_in, total_in, split_rows,
    ROWS: tl.constexpr, SIZE: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """What `used` splits found for the rows at `place`, where they are `inside`, in the form of `_over`. Unrolled, so that the
    memory is asked for all of them at once, and merged before anything else: a GPU holds it otherwise than a product."""
    dims = tl.arange(0, SIZE)
    highest = tl.full([ROWS], -1e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    weighted = tl.zeros([ROWS, SIZE], tl.float32)
    for split in tl.static_range(SPLITS):
        there, at = inside & (split < used), split * split_rows + place
        found = tl.load(highest_in + at, mask=there, other=-1e30)
        higher = tl.maximum(highest, found)
        shrink, found_shrink = tl.exp2(highest - higher), tl.exp2(found - higher)
        total = total * shrink + tl.load(total_in + at, mask=there, other=0.0) * found_shrink
        more = tl.load(weighted_in + at[:, None] * SIZE + dims[None, :], mask=there[:, None], other=0.0)
        weighted = weighted * shrink[:, None] + more * found_shrink[:, None]
        highest = higher
    return highest, total, weighted


@triton.jit
def _share(tokens, SPLITS: tl.constexpr):
    """Shared tokens of one split: as many for each, in steps of 32 that only the last may lack."""
    return tl.maximum(tl.cdiv(tl.cdiv(tokens, SPLITS), 32), 1) * 32


@triton.jit
def _prefix(
    query, keys, values, k_block, k_token, k_head, v_block, v_token, v_head, key_scale,
    table, shared, weighted_out, highest_out, total_out, scale, rows, q_sequence, q_head,
    GROUP: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """One tile of queries against one split of the shared tokens, which stand in the first sequence's blocks."""
    tile, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row, dims = tile * ROWS + tl.arange(0, ROWS), tl.arange(0, SIZE)
    inside = row < rows
    at = (row // GROUP) * q_sequence + (head * GROUP + row % GROUP) * q_head
    queries = tl.load(query + at[:, None] + dims[None, :], mask=inside[:, None], other=0.0)
    tokens = tl.load(shared)
    share = _share(tokens, SPLITS)
    begin = split * share
    if begin >= tokens:
        return  # what an empty split would store is never read
    highest, total, weighted = _over(
        begin, tl.minimum(begin + share, tokens), queries, table,
        keys + head * k_head, values + head * v_head, k_block, k_token, v_block, v_token, _score_scale(scale, key_scale),
        ROWS, SIZE, BLOCK, TOKENS,
    )  # fmt: skip
    place = (split * tl.num_programs(1) + head) * rows + row
    tl.store(weighted_out + place[:, None] * SIZE + dims[None, :], weighted, mask=inside[:, None])
    tl.store(highest_out + place, highest, mask=inside)
    tl.store(total_out + place, total, mask=inside)


@triton.jit
def _own(
    query, keys, values, k_block, k_token, k_head, v_block, v_token, v_head, key_scale, value_scale,
    table, lengths, shared, weighted_in, highest_in, total_in, out,
    scale, rows, q_sequence, q_head, table_row, out_sequence, out_head,
    GROUP: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """All queries of one sequence and key head: go over the sequence's own tokens, then merge what the splits found."""
    head, sequence = tl.program_id(0), tl.program_id(1)
    row, dims = tl.arange(0, ROWS), tl.arange(0, SIZE)
    inside = row < GROUP
    at = sequence * q_sequence + (head * GROUP + row) * q_head
    queries = tl.load(query + at[:, None] + dims[None, :], mask=inside[:, None], other=0.0)
    begin = tl.load(shared)
    highest, total, weighted = _over(
        begin, tl.load(lengths + sequence), queries, table + sequence * table_row,
        keys + head * k_head, values + head * v_head, k_block, k_token, v_block, v_token, _score_scale(scale, key_scale),
        ROWS, SIZE, BLOCK, TOKENS,
    )  # fmt: skip
    prefix_highest, prefix_total, prefix_weighted = _merged(
        tl.cdiv(begin, _share(begin, SPLITS)), head * rows + sequence * GROUP + row, inside, weighted_in, highest_in, total_in,
        tl.num_programs(0) * rows, ROWS, SIZE, SPLITS,
    )  # fmt: skip
    higher = tl.maximum(highest, prefix_highest)
    shrink, prefix_shrink = tl.exp2(highest - higher), tl.exp2(prefix_highest - higher)
    total = total * shrink + prefix_total * prefix_shrink
    weighted = weighted * shrink[:, None] + prefix_weighted * prefix_shrink[:, None]
    answer = weighted / tl.where(total > 0, total, 1.0)[:, None]
    if value_scale is not None:
        answer *= tl.load(value_scale)
    to = sequence * out_sequence + (head * GROUP + row) * out_head
    tl.store(out + to[:, None] + dims[None, :], answer.to(out.dtype.element_ty), mask=inside[:, None])
