"""What the contestants are started with: the same engine arguments for all, a CPU's for a test without a GPU."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHARED = {
    "dtype": "bfloat16",
    "max_model_len": 1024,
    "max_num_seqs": 1024,  # this and the next: vLLM's own defaults for `LLM` on an 80 GB card
    "max_num_batched_tokens": 16384,
    "gpu_memory_utilization": 0.05,  # checked at the start only: the KV cache is sized below, side by side
    "seed": 0,
}
ON_A_CPU = {
    "dtype": "float32",
    "max_model_len": 1024,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 2048,
    "kv_cache_memory_bytes": 128 * 2**20,
    "block_size": 32,
    "enforce_eager": True,
    "seed": 0,
}
CPU_ENV = {"OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


def task_of(name: str, arguments: argparse.Namespace, systems: dict[int, str]) -> dict[str, Any]:
    """The fields of `contestant.Task` for one contestant."""
    extra = arguments.ours_args if name.startswith("ours") else arguments.seed_args if name == "seed" else []
    return {
        "model": str(arguments.model),
        "systems": {str(prefix): text for prefix, text in systems.items()},
        "tokens": arguments.tokens,
        "engine_args": engine_args(arguments),
        "engine": arguments.engine or ("vllm_cpu" if arguments.tiny else "vllm"),
        "extra_args": dict(extra),
    }


def engine_args(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of every vLLM here, the command line's above the defaults."""
    sized = {"kv_cache_memory_bytes": int(arguments.kv_gib * 2**30)}
    return {**(ON_A_CPU if arguments.tiny else {**SHARED, **sized}), **dict(arguments.engine_args)}


def child_env(arguments: argparse.Namespace, checkout: Path = ROOT) -> dict[str, str]:
    """The environment as given, with a checkout importable; a CPU's settings stand where nobody set them."""
    path = os.pathsep.join(part for part in (str(checkout), os.environ.get("PYTHONPATH")) if part)
    return {**(CPU_ENV if arguments.tiny else {}), **os.environ, "PYTHONPATH": path}
