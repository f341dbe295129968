"""How much of the memory's bandwidth do the kernels of gpuqa.engines.vllm.shared_prefix use, by format of the KV cache?

    PYTHONPATH=.:$PYTHONPATH python experiments/speed/attention_bandwidth.py out=/tmp/bandwidth
    PYTHONPATH=.:$PYTHONPATH python experiments/speed/attention_bandwidth.py out=/tmp/bandwidth --tunings all --budget 240

One decoding step of Qwen3-0.6B's shape: 358 sequences behind 480 shared tokens, 30 to 286 tokens of its own in each, blocks of
32. Of its two parts, the shared prefix and each sequence's own tokens, either is captured into a CUDA graph over 28 layers that
have caches of their own, and replayed; so are both with the writing of the newest token, as in an engine, since on Hopper the
second part begins while the first still runs. Milliseconds are the least of three means of 20; the bandwidth counts keys and
values alone, once each, and stands beside the best of plain copies of 4 GiB. With `--tunings all` every line of TUNINGS is
measured for each case, and the best come last; `bandwidth.json` has all of them. A case is a format and how a block lies in
memory: nhd, the heads of a token side by side, or hnd, the tokens of a head (vLLM's VLLM_KV_CACHE_LAYOUT). Needs a CUDA device,
and no vLLM; fp8 needs compute capability 8.9.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gpuqa.engines.vllm.shared_prefix.kernels import MANY, Cache, Tuning, attend, attend_own, attend_prefix, shared_tokens

LAYERS, HEADS, KEY_HEADS, SIZE, BLOCK = 28, 16, 8, 128, 32
SEQUENCES, PREFIX, OWN = 358, 480, (30, 287)
REPLAYS, MEANS, SHOWN = 20, 3, 8
FORMATS = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
STAGES = (2, 5, 7)  # Triton counts two for a tile, whose place in the cache it loads first: 1, 2 and 3 tiles in shared memory
TUNINGS = {
    "own": [
        replace(MANY, own_warps=warps, own_tokens=tokens, own_stages=stages, splits=splits)
        for splits, tokens, warps, stages in itertools.product((4, 2), (32, 64, 16), (4, 2, 1), STAGES)
    ],
    "prefix": [
        replace(MANY, splits=splits, prefix_rows=rows, prefix_warps=warps, prefix_tokens=tokens, prefix_stages=stages)
        for splits, (rows, warps), tokens, stages in itertools.product(
            (4, 2, 8, 1), ((64, 4), (128, 8), (128, 4), (32, 4)), (32, 64), (2, 3)
        )
    ],
}
TUNINGS["default"], TUNINGS["all"] = [MANY], TUNINGS["own"] + TUNINGS["prefix"]


def main() -> int:
    """A line for each format and tuning as it is measured, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=lambda word: Path(word.removeprefix("out=")), metavar="out=FOLDER")
    parser.add_argument("--tunings", choices=TUNINGS, default="default")
    parser.add_argument("--cases", default="bf16.nhd,fp8.nhd,bf16.hnd,fp8.hnd")
    parser.add_argument("--budget", type=float, default=120.0, help="seconds; no tuning is begun after it")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("attention_bandwidth: there is no CUDA device here", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    copied, began = copy_gb_per_s(), time.monotonic()
    print(f"{torch.cuda.get_device_name()}: copies {copied:,.0f} GB/s", flush=True)
    tunings = [MANY, *(one for one in TUNINGS[arguments.tunings] if one != MANY)]
    layers = {case: [make_layer(*case.split("."), seed) for seed in range(LAYERS)] for case in arguments.cases.split(",")}
    found: list[dict[str, Any]] = []
    for tuning, case in itertools.product(tunings, layers):  # in turn, so that a budget leaves all cases as far
        if time.monotonic() - began < arguments.budget:
            found.append({"case": case, **measured(layers[case], tuning, copied), "tuning": asdict(tuning)})
            print(line(found[-1]), flush=True)
    (arguments.out / "bandwidth.json").write_text(json.dumps({"copy_gb_per_s": copied, "found": found}, indent=1) + "\n")
    for case in layers:
        mine = [one for one in found if one["case"] == case and "error" not in one]
        print(f"\n{case}, the default, then the best:")
        print(*map(line, [*mine[:1], *sorted(mine, key=lambda one: one["both_ms"])[:SHOWN]]), sep="\n")
    return 0


def make_layer(number: str, order: str, seed: int) -> tuple[Any, Cache, Any]:
    """Queries [sequences, heads, size], a cache whose blocks are handed out in no order, and how many tokens are shared."""
    random = torch.Generator().manual_seed(seed)
    lengths = (torch.randint(*OWN, (SEQUENCES,), generator=torch.Generator().manual_seed(0)) + PREFIX).int()
    shared, most = PREFIX // BLOCK, -(-int(lengths.max()) // BLOCK)
    blocks = torch.randperm(shared + SEQUENCES * (most - shared), generator=random).int()
    table = (
        torch.cat([blocks[:shared].expand(SEQUENCES, -1), blocks[shared:].reshape(SEQUENCES, -1)], dim=1).contiguous().cuda()
    )
    in_a_block = (BLOCK, KEY_HEADS) if order == "nhd" else (KEY_HEADS, BLOCK)
    cache = torch.randn(len(blocks), *in_a_block, 2 * SIZE, device="cuda", dtype=torch.bfloat16).to(FORMATS[number])
    cache = cache if order == "nhd" else cache.transpose(1, 2)
    scales = [torch.ones(1, device="cuda") for _ in range(2)] if number == "fp8" else []
    read = Cache(*cache.split(SIZE, dim=-1), table, lengths.cuda(), *scales)
    query = torch.randn(SEQUENCES, HEADS, SIZE, device="cuda", dtype=torch.bfloat16)
    return query, read, shared_tokens(table, read.lengths, BLOCK)


def measured(layers: list[Any], tuning: Tuning, copied: float) -> dict[str, Any]:
    """Milliseconds of both parts over all layers, and how much of the copies' bandwidth the own tokens' part has."""
    outs = [torch.empty_like(query) for query, _, _ in layers]
    try:
        partials = [attend_prefix(query, cache, shared, SIZE**-0.5, tuning) for query, cache, shared in layers]
        own_ms = milliseconds(partial(run_own, layers, partials, outs, tuning))
        prefix_ms = milliseconds(partial(run_prefix, layers, tuning))
        both_ms = milliseconds(partial(run_both, layers, outs, tuning))
    except Exception as error:  # a tuning that a card has no room for is a result
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"}
    cache = layers[0][1]
    tokens = int((cache.lengths - PREFIX).sum())
    gb = LAYERS * tokens * KEY_HEADS * 2 * SIZE * cache.keys.element_size() / 1e9
    return {
        "own_ms": own_ms,
        "prefix_ms": prefix_ms,
        "both_ms": both_ms,
        "own_gb_per_s": gb / own_ms * 1e3,
        "share": gb / own_ms * 1e3 / copied,
    }


def run_own(layers: list[Any], partials: list[Any], outs: list[Any], tuning: Tuning) -> None:
    """The part of each sequence's own tokens, all layers."""
    for (query, cache, shared), found, out in zip(layers, partials, outs, strict=True):
        attend_own(query, cache, shared, found, SIZE**-0.5, out, tuning)


def run_prefix(layers: list[Any], tuning: Tuning) -> None:
    """The part of the shared prefix, all layers."""
    for query, cache, shared in layers:
        attend_prefix(query, cache, shared, SIZE**-0.5, tuning)


def run_both(layers: list[Any], outs: list[Any], tuning: Tuning) -> None:
    """All of it, all layers, with the queries' first heads for the newest token's keys and values."""
    for (query, cache, shared), out in zip(layers, outs, strict=True):
        new = query[:, :KEY_HEADS]
        attend(query, replace(cache, new_keys=new, new_values=new), shared, SIZE**-0.5, out, tuning)


def milliseconds(run: Callable[[], None]) -> float:
    """One replay of the captured work."""
    run()  # compiles what is compiled at its first call
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return min(mean_ms(graph.replay) for _ in range(MEANS))


def mean_ms(run: Callable[[], None]) -> float:
    """The mean of some calls, by the GPU's clock."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(REPLAYS):
        run()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end) / REPLAYS)


def copy_gb_per_s() -> float:
    """Bytes read and written a second by the best of some copies of 4 GiB."""
    source = torch.empty(2**32, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.numel() / 1e6 / min(mean_ms(lambda: target.copy_(source)) for _ in range(MEANS))


def line(one: dict[str, Any]) -> str:
    """A result with the tuning's values that are not the default's."""
    default = asdict(MANY)
    changed = " ".join(f"{key}={value}" for key, value in one["tuning"].items() if value != default[key]) or "default"
    if "error" in one:
        return f"{one['case']} {changed}: {one['error']}"
    own = f"own tokens {one['own_ms']:.3f} ms, {one['own_gb_per_s']:,.0f} GB/s, {one['share']:.1%} of copies"
    return f"{one['case']} {changed}: {own}; prefix {one['prefix_ms']:.3f} ms; both {one['both_ms']:.3f} ms"


if __name__ == "__main__":
    sys.exit(main())
