"""The arithmetic: one token of each sequence against the keys and values before it, of which all share the first blocks.

Shapes: `query` and `out` [sequences, heads, size]; `keys` and `values` [blocks, tokens in a block, key heads, size], all four
of one dtype (bfloat16, float16 or float32) and contiguous in their last dimension; `block_table` [sequences, blocks of the
longest], contiguous in its last dimension, and `lengths` [sequences] in tokens, both int32; a length of 0 is a row of padding.
Scores are q k * scale, without a unit. Softmax is taken online, in base 2 and float32; what a loop knows so far is (highest
score, sum of weights, weighted values). Everything lies on one GPU, and nothing waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class Tuning:
    """How the work is cut; speed depends on it, and answers in the last bit.

    The defaults were the fastest of 156 on an H200 that need no more shared memory than an RTX 5090 has (experiments/LOG.md).
    """

    splits: int = 4  # programs that share the prefix of one tile, since few tiles would leave most of the GPU idle
    prefix_rows: int = 64  # queries in a tile
    prefix_tokens: int = 32  # tokens that a program loads at once
    prefix_warps: int = 4
    prefix_stages: int = 2
    rest_tokens: int = 32
    rest_warps: int = 4
    rest_stages: int = 2


TUNING = Tuning()


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
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    block_table: torch.Tensor,
    lengths: torch.Tensor,
    shared: torch.Tensor,
    scale: float,
    out: torch.Tensor,
    tuning: Tuning = TUNING,
) -> None:
    """Fill `out` [sequences, heads, size], in the dtype of `query`; `shared` int32 [1] is what `shared_tokens` gives for the
    same step. Rows of padding get finite values without a meaning.

    Between the two kernels, with rows = sequences * heads / key heads: `partial` [splits, key heads, rows, size], `highest` and
    `total` [splits, key heads, rows], float32.
    """
    sequences, heads, size = query.shape
    block_size, key_heads = keys.shape[1:3]
    group = heads // key_heads
    rows = sequences * group
    partial = query.new_empty((tuning.splits, key_heads, rows, size), dtype=torch.float32)
    highest, total = query.new_empty((2, tuning.splits, key_heads, rows), dtype=torch.float32)
    cache = (keys, values, keys.stride(0), keys.stride(1), keys.stride(2), values.stride(0), values.stride(1), values.stride(2))
    sizes = {"GROUP": group, "SIZE": size, "BLOCK": block_size, "SPLITS": tuning.splits}
    _prefix[(triton.cdiv(rows, tuning.prefix_rows), key_heads, tuning.splits)](
        query, *cache, block_table, shared, partial, highest, total, scale * LOG2_E, rows, query.stride(0), query.stride(1),
        **sizes, ROWS=tuning.prefix_rows, TOKENS=tuning.prefix_tokens,
        num_warps=tuning.prefix_warps, num_stages=tuning.prefix_stages,
    )  # fmt: skip
    _rest[(key_heads, sequences)](
        query, *cache, block_table, lengths, shared, partial, highest, total, out, scale * LOG2_E, rows,
        query.stride(0), query.stride(1), block_table.stride(0), out.stride(0), out.stride(1),
        **sizes, ROWS=max(16, triton.next_power_of_2(group)), TOKENS=tuning.rest_tokens,
        num_warps=tuning.rest_warps, num_stages=tuning.rest_stages,
    )  # fmt: skip


@triton.jit
def _over(
    begin, end, queries, highest, total, weighted, table,
    keys, values, k_block, k_token, v_block, v_token, scale,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """The online softmax over tokens `begin` to `end` of one block table; `keys` and `values` point at one head.

    `queries` [rows, SIZE]; `highest` and `total` [rows], `weighted` [rows, SIZE], all float32: what was found before, and
    returned with these tokens. `k_block`, `k_token`, `v_block`, `v_token`: strides in elements.
    """
    dims = tl.arange(0, SIZE)
    for first in range(begin, end, TOKENS):
        token = first + tl.arange(0, TOKENS)
        there = token < end
        block = tl.load(table + token // BLOCK, mask=there, other=0).to(tl.int64)
        within = token % BLOCK
        key = tl.load(keys + (block * k_block + within * k_token)[:, None] + dims[None, :], mask=there[:, None], other=0.0)
        value = tl.load(values + (block * v_block + within * v_token)[:, None] + dims[None, :], mask=there[:, None], other=0.0)
        scores = tl.where(there[None, :], tl.dot(queries, tl.trans(key)) * scale, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(highest - higher)
        total = total * shrink + tl.sum(weights, 1)
        weighted = weighted * shrink[:, None] + tl.dot(weights.to(value.dtype), value)
        highest = higher
    return highest, total, weighted


@triton.jit
def _share(tokens, SPLITS: tl.constexpr):
    """Shared tokens of one split: as many for each, in steps of 32 that only the last may lack."""
    return tl.maximum(tl.cdiv(tl.cdiv(tokens, SPLITS), 32), 1) * 32


@triton.jit
def _prefix(
    query, keys, values, k_block, k_token, k_head, v_block, v_token, v_head,
    table, shared, partial, highest_out, total_out, scale, rows, q_sequence, q_head,
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
    highest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    weighted = tl.zeros([ROWS, SIZE], tl.float32)
    highest, total, weighted = _over(
        begin, tl.minimum(begin + share, tokens), queries, highest, total, weighted, table,
        keys + head * k_head, values + head * v_head, k_block, k_token, v_block, v_token, scale, SIZE, BLOCK, TOKENS,
    )  # fmt: skip
    place = (split * tl.num_programs(1) + head) * rows + row
    tl.store(partial + place[:, None] * SIZE + dims[None, :], weighted, mask=inside[:, None])
    tl.store(highest_out + place, highest, mask=inside)
    tl.store(total_out + place, total, mask=inside)


@triton.jit
def _rest(
    query, keys, values, k_block, k_token, k_head, v_block, v_token, v_head,
    table, lengths, shared, partial, highest_in, total_in, out,
    scale, rows, q_sequence, q_head, table_row, out_sequence, out_head,
    GROUP: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """All queries of one sequence and key head: merge what the splits found, then go over the sequence's own tokens."""
    head, sequence = tl.program_id(0), tl.program_id(1)
    row, dims = tl.arange(0, ROWS), tl.arange(0, SIZE)
    inside = row < GROUP
    at = sequence * q_sequence + (head * GROUP + row) * q_head
    queries = tl.load(query + at[:, None] + dims[None, :], mask=inside[:, None], other=0.0)
    highest = tl.full([ROWS], -1e30, tl.float32)  # not -inf, of which the rows of padding would make NaN
    total = tl.zeros([ROWS], tl.float32)
    weighted = tl.zeros([ROWS, SIZE], tl.float32)
    begin = tl.load(shared)
    for split in range(tl.cdiv(begin, _share(begin, SPLITS))):
        place = (split * tl.num_programs(0) + head) * rows + sequence * GROUP + row
        split_highest = tl.load(highest_in + place, mask=inside, other=-1e30)
        higher = tl.maximum(highest, split_highest)
        shrink, split_shrink = tl.exp2(highest - higher), tl.exp2(split_highest - higher)
        total = total * shrink + tl.load(total_in + place, mask=inside, other=0.0) * split_shrink
        more = tl.load(partial + place[:, None] * SIZE + dims[None, :], mask=inside[:, None], other=0.0)
        weighted = weighted * shrink[:, None] + more * split_shrink[:, None]
        highest = higher
    highest, total, weighted = _over(
        begin, tl.load(lengths + sequence), queries, highest, total, weighted, table + sequence * table_row,
        keys + head * k_head, values + head * v_head, k_block, k_token, v_block, v_token, scale, SIZE, BLOCK, TOKENS,
    )  # fmt: skip
    answer = weighted / tl.where(total > 0, total, 1.0)[:, None]
    to = sequence * out_sequence + (head * GROUP + row) * out_head
    tl.store(out + to[:, None] + dims[None, :], answer.to(out.dtype.element_ty), mask=inside[:, None])
