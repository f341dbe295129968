"""Compile the attention's kernels for cards that are not here.

`python tests/compile_kernels.py 90,fp8,2,128,32 ...` prints a line of JSON for each word: the bytes of shared memory that a
program of each kernel takes, and how often it reads a single byte of it. A word is compute capability, format of the KV cache,
heads for each key head, their size, and tokens in a block. Triton needs no card, but must not interpret (`TRITON_INTERPRET`).
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gpuqa.engines.vllm.shared_prefix import kernels, programs
from gpuqa.engines.vllm.shared_prefix.kernels import MANY

POINTERS = {
    "query": "bf16",
    "new_keys": "bf16",
    "new_values": "bf16",
    "out": "bf16",
    "table": "i32",
    "lengths": "i32",
    "shared": "i32",
}
POINTERS |= dict.fromkeys(("weighted_in", "weighted_out", "highest_in", "highest_out", "total_in", "total_out"), "fp32")


def main() -> None:
    """Both kernels of each word, as `attend` launches them."""
    for word in sys.argv[1:]:
        capability, cache, *shape = word.split(",")
        group, size, block = map(int, shape)
        sizes = {"GROUP": group, "SIZE": size, "BLOCK": block, "SPLITS": MANY.splits, "EARLY": int(capability) >= 90}
        own = {"ROWS": max(16, triton.next_power_of_2(group)), "TOKENS": MANY.own_tokens}
        prefix = {"ROWS": MANY.prefix_rows, "TOKENS": kernels.prefix_tokens(MANY, size)}
        target = GPUTarget("cuda", int(capability), 32)
        found = {
            "own": compiled(programs.own, cache, {**sizes, **own}, target, MANY.own_warps, MANY.own_stages),
            "prefix": compiled(programs.prefix, cache, {**sizes, **prefix}, target, MANY.prefix_warps, MANY.prefix_stages),
        }
        print(json.dumps(found))


def compiled(kernel: Any, cache: str, constants: dict[str, int], target: GPUTarget, warps: int, stages: int) -> dict[str, int]:
    """One kernel, with pointers and strides that are multiples of 16 as in vLLM's cache."""
    paired = constants["SIZE"] >= 32 and (kernel is programs.own or target.arch // 10 != kernels.HOPPER)
    scales = {} if cache == "fp8" else {"key_scale": None, "value_scale": None}
    fixed = {**constants, **{name: value for name, value in scales.items() if name in kernel.arg_names}}
    of_8_bits = "i16" if paired else "u8"
    types = {name: "constexpr" if name in fixed else type_of(name, cache, of_8_bits) for name in kernel.arg_names}
    places = {name: (place,) for place, name in enumerate(kernel.arg_names)}
    even = {places[name]: [["tt.divisibility", 16]] for name, kind in types.items() if kind[0] == "*" or "_" in name}
    values = {places[name]: value for name, value in fixed.items()}
    source = ASTSource(kernel, types, values, {place: how for place, how in even.items() if place not in values})
    made = triton.compile(source, target=target, options={"num_warps": warps, "num_stages": stages})
    byte_loads = re.findall(r"ld\.shared\S*\.[bsu]8\b", made.asm["ptx"])
    return {"shared_bytes": made.metadata.shared, "byte_loads": len(byte_loads)}


def type_of(name: str, cache: str, of_8_bits: str) -> str:
    """Triton's type of an argument; `of_8_bits`: what stands for float8."""
    if name in ("keys", "values"):
        return f"*{of_8_bits}" if cache == "fp8" else f"*{cache}"
    if name in ("key_scale", "value_scale"):
        return "*fp32"
    return f"*{POINTERS[name]}" if name in POINTERS else "fp32" if name == "scale" else "i32"


if __name__ == "__main__":
    main()
