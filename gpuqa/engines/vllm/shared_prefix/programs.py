"""What runs on the GPU: Triton's programs, which `kernels` launches.

Pointers come with the strides between what they point at, in elements. `keys` and `values` are numbers of 16 or 32 bits, float8
one by one (uint8), or float8 in pairs (int16).
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)  # by Triton's interpreter, which knows no assembly


@triton.jit
def shared(
    table, lengths, shared, sequences, blocks, table_row,
    BLOCK: tl.constexpr, ROWS: tl.constexpr = 128, COLUMNS: tl.constexpr = 16,
):  # fmt: skip
    """One program: whole blocks of the shortest sequence, from the left, as long as all others have those of the first."""
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    shortest = tl.full([ROWS], 2**31 - 1, tl.int32)
    for first in range(0, sequences, ROWS):
        length = tl.load(lengths + first + row, mask=first + row < sequences, other=0)
        shortest = tl.minimum(shortest, tl.where(length > 0, length, 2**31 - 1))
    limit = tl.minimum(blocks, (tl.min(shortest, 0) - 1) // BLOCK)
    same, left = 0, 0
    while (left == same) & (left < limit):
        inside = left + column < limit
        expected = tl.load(table + left + column, mask=inside, other=0)
        differs = tl.zeros([ROWS, COLUMNS], tl.int32)
        for first in range(0, sequences, ROWS):
            real = tl.load(lengths + first + row, mask=first + row < sequences, other=0) > 0
            asked = real[:, None] & inside[None, :]
            block = tl.load(table + (first + row)[:, None] * table_row + left + column[None, :], mask=asked, other=0)
            differs |= (asked & (block != expected[None, :])).to(tl.int32)
        equal = inside & (tl.max(differs, 0) == 0)
        same += tl.min(tl.where(equal, COLUMNS, column), 0)
        left += COLUMNS
    tl.store(shared, same * BLOCK)


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
    SINGLE: tl.constexpr = keys.dtype.element_ty == tl.uint8
    highest = tl.full([ROWS], -1e30, tl.float32)  # not -inf, of which the rows of padding would make NaN
    totals = tl.zeros([ROWS, TOKENS], tl.float32)
    weighted = tl.zeros([ROWS, SIZE // 2 if PAIRS else SIZE], tl.float32)
    odd = weighted
    dims = tl.arange(0, SIZE // 2 if PAIRS else SIZE)
    if PAIRS:
        even_queries, odd_queries = tl.split(queries.to(tl.float16).reshape([ROWS, SIZE // 2, 2]))
    elif SINGLE:
        queries = queries.to(tl.float16)
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
        if SINGLE:
            key = key.to(tl.float8e4nv, bitcast=True).to(tl.float16)
            value = value.to(tl.float8e4nv, bitcast=True).to(tl.float16)
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
        found_total = tl.load(total_in + at, mask=there, other=0.0)
        more = tl.load(weighted_in + at[:, None] * SIZE + dims[None, :], mask=there[:, None], other=0.0)
        highest, total, weighted = _both(highest, total, weighted, found, found_total, more)
    return highest, total, weighted


@triton.jit
def _both(highest, total, weighted, other_highest, other_total, other_weighted):
    """What is known of two sets of tokens, in the form of `_over`."""
    higher = tl.maximum(highest, other_highest)
    shrink, other_shrink = tl.exp2(highest - higher), tl.exp2(other_highest - higher)
    total = total * shrink + other_total * other_shrink
    return higher, total, weighted * shrink[:, None] + other_weighted * other_shrink[:, None]


@triton.jit
def _written(part, place, new, there, row, inside, scale, ROWS: tl.constexpr, SIZE: tl.constexpr):
    """Write the newest token's key or value, that `new` points at, into `part` of the cache, if it is `there` -> what that
    then holds, float32 [ROWS, SIZE]: every row that is `inside` reads it, so that no thread needs what another has."""
    dims = tl.zeros([ROWS], tl.int32)[:, None] + tl.arange(0, SIZE)[None, :]
    number = tl.load(new + dims, mask=(inside & there)[:, None], other=0.0)
    writes = (there & (row == 0))[:, None]
    if part.dtype.element_ty == tl.int16 or part.dtype.element_ty == tl.uint8:
        exact = number.to(tl.float32)
        number = (exact if scale is None else exact / tl.load(scale)).to(tl.float8e4nv)
        tl.store((part + place).to(tl.pointer_type(tl.uint8)) + dims, number.to(tl.uint8, bitcast=True), mask=writes)
    else:
        tl.store(part + place + dims, number, mask=writes)
    return number.to(tl.float32)


@triton.jit
def _share(tokens, SPLITS: tl.constexpr):
    """Shared tokens of one split: as many for each, in steps of 32 that only the last may lack."""
    return tl.maximum(tl.cdiv(tl.cdiv(tokens, SPLITS), 32), 1) * 32


@triton.jit
def prefix(
    query, keys, values, k_block, k_token, k_head, v_block, v_token, v_head, key_scale,
    table, shared, weighted_out, highest_out, total_out, scale, rows, q_sequence, q_head,
    GROUP: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One tile of queries against one split of the shared tokens, which stand in the first sequence's blocks."""
    if EARLY:
        gdc_launch_dependents()
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
def own(
    query, keys, values, k_block, k_token, k_head, v_block, v_token, v_head, key_scale, value_scale,
    new_keys, new_values, new_k_sequence, new_k_head, new_v_sequence, new_v_head,
    table, lengths, shared, weighted_in, highest_in, total_in, out,
    scale, rows, q_sequence, q_head, table_row, out_sequence, out_head,
    GROUP: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """All queries of one sequence and key head: go over the sequence's own tokens, then merge what the splits found."""
    head, sequence = tl.program_id(0), tl.program_id(1)
    row, dims = tl.arange(0, ROWS), tl.arange(0, SIZE)
    inside = row < GROUP
    at = sequence * q_sequence + (head * GROUP + row) * q_head
    queries = tl.load(query + at[:, None] + dims[None, :], mask=inside[:, None], other=0.0)
    begin, end, scale = tl.load(shared), tl.load(lengths + sequence), _score_scale(scale, key_scale)
    table, keys, values = table + sequence * table_row, keys + head * k_head, values + head * v_head
    there = end > 0
    if new_keys is not None:
        end -= 1
    highest, total, weighted = _over(
        begin, end, queries, table, keys, values, k_block, k_token, v_block, v_token, scale, ROWS, SIZE, BLOCK, TOKENS
    )
    if new_keys is not None:
        block, within = tl.load(table + end // BLOCK, mask=there, other=0).to(tl.int64), end % BLOCK
        new_keys += sequence * new_k_sequence + head * new_k_head
        new_values += sequence * new_v_sequence + head * new_v_head
        key = _written(keys, block * k_block + within * k_token, new_keys, there, row, inside, key_scale, ROWS, SIZE)
        value = _written(values, block * v_block + within * v_token, new_values, there, row, inside, value_scale, ROWS, SIZE)
    if EARLY:
        gdc_wait()  # for the splits
    rest_highest, rest_total, rest_weighted = _merged(
        tl.cdiv(begin, _share(begin, SPLITS)), head * rows + sequence * GROUP + row,
        inside, weighted_in, highest_in, total_in, tl.num_programs(0) * rows, ROWS, SIZE, SPLITS,
    )  # fmt: skip
    if new_keys is not None:
        score = tl.where(there, tl.sum(queries.to(tl.float32) * key, 1) * scale, -1e30)
        one = tl.zeros([ROWS], tl.float32) + tl.where(there, 1.0, 0.0)
        rest_highest, rest_total, rest_weighted = _both(
            rest_highest, rest_total, rest_weighted, score, one, value * one[:, None]
        )
    _, total, weighted = _both(highest, total, weighted, rest_highest, rest_total, rest_weighted)
    answer = weighted / tl.where(total > 0, total, 1.0)[:, None]
    if value_scale is not None:
        answer *= tl.load(value_scale)
    to = sequence * out_sequence + (head * GROUP + row) * out_head
    tl.store(out + to[:, None] + dims[None, :], answer.to(out.dtype.element_ty), mask=inside[:, None])
