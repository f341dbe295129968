"""How an AsyncLLM is built, and what is undone when it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from gpuqa.machine.child_processes import kill_children

END_PATIENCE_S = 30.0  # for a start that took too long to notice that its processes were ended


def in_new_thread(function: Callable[..., Any], *args: Any) -> Future[Any]:
    """Call a blocking function in a thread that has never computed: a process forked from one with OpenMP workers hangs."""
    thread = ThreadPoolExecutor(1, "vllm-start")
    future = thread.submit(function, *args)
    thread.shutdown(wait=False)
    return future


async def end_of_building(building: Future[Any], spared: set[psutil.Process]) -> None:
    """Wait until a start that took too long is over, ending the processes that it started, all but those `spared`: as long
    as its thread lives, it may still change the environment."""
    deadline = time.monotonic() + END_PATIENCE_S
    while not building.done() and time.monotonic() < deadline:
        kill_children(spared)
        await asyncio.sleep(0.05)
    kill_children(spared)
    if building.done() and building.exception() is None:  # it was ready a moment too late
        await asyncio.to_thread(building.result().shutdown)


def build(folder: Path, trust_remote_code: bool, args: dict[str, Any], env: dict[str, str]) -> Any:
    """Construct the engine; blocks for as long as loading, compiling and capturing take."""
    import torch
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    if "OMP_NUM_THREADS" in env:  # too late for the environment: PyTorch is loaded, and a forked engine inherits its setting
        torch.set_num_threads(int(env["OMP_NUM_THREADS"]))
    # Per-request metrics come with log_stats; vLLM prints them only where somebody asks it to.
    # It needs no tokenizer: prompts, answers and end tokens are token ids. For stop strings it gets one, see `VllmEngine`.
    ours = {"trust_remote_code": trust_remote_code, "disable_log_stats": False, "skip_tokenizer_init": True}
    import_model(folder)
    engine_args = AsyncEngineArgs(model=str(folder), **{**ours, **args})
    vllm_config = engine_args.create_engine_config()
    os.environ.update(env)  # again: vLLM's CPU platform overwrites VLLM_WORKER_MULTIPROC_METHOD in the line above
    gc.freeze()  # for a forked engine: vLLM collects garbage by hand as it starts, half a second each time over all imports
    llm = AsyncLLM.from_vllm_config(vllm_config)
    llm.logger_manager = SchedulerNumbers()
    return llm


def import_model(folder: Path) -> None:
    """Import vLLM's code of the model: asked about a model that no cache of its knows, it starts a process that imports vLLM
    and PyTorch once more, only to answer. A model that vLLM does not ship is left to vLLM."""
    from vllm import ModelRegistry

    config = folder / "config.json"
    for name in json.loads(config.read_text(encoding="utf-8")).get("architectures") or () if config.is_file() else ():
        if (known := ModelRegistry.models.get(name)) is not None:
            ModelRegistry.register_model(name, known.load_model_cls())


class SchedulerNumbers:
    """Stands where vLLM keeps its statistics loggers and holds what its scheduler says, under vLLM's Prometheus names.

    vLLM's own Prometheus logger also fills histograms for every request, which costs 0.15 ms a question.
    """

    def __init__(self) -> None:
        gauges = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        counters = ("prefix_cache_queries_total", "prefix_cache_hits_total", "num_preemptions_total")
        self.numbers: dict[str, float] = dict.fromkeys((f"vllm:{name}" for name in (*gauges, *counters)), 0.0)

    def record(self, scheduler_stats: Any, iteration_stats: Any, **_: Any) -> None:
        """One step of the engine, or a few where nothing was handed out; called by vLLM, either may be None."""
        numbers = self.numbers
        if scheduler_stats is not None:
            numbers["vllm:num_requests_running"] = scheduler_stats.num_running_reqs
            numbers["vllm:num_requests_waiting"] = scheduler_stats.num_waiting_reqs
            numbers["vllm:kv_cache_usage_perc"] = scheduler_stats.kv_cache_usage
            numbers["vllm:prefix_cache_queries_total"] += scheduler_stats.prefix_cache_stats.queries
            numbers["vllm:prefix_cache_hits_total"] += scheduler_stats.prefix_cache_stats.hits
        if iteration_stats is not None:
            numbers["vllm:num_preemptions_total"] += iteration_stats.num_preempted_reqs


def forget_environment() -> None:
    """Let vLLM read its environment variables anew.

    Its engine's process keeps the values of all of them (`enable_envs_cache`); this one would, too, if it ran an engine's
    core itself. What cannot be undone, here or in any way: what a module of vLLM or PyTorch reads once, as it is imported.
    These are VLLM_LOGGING_* and VLLM_CONFIGURE_LOGGING, TORCHINDUCTOR_* and, for OpenMP's own default, OMP_NUM_THREADS, for
    which `build` sets the number of threads itself. Such a variable in `engine.env` reaches an engine only where its process
    imports vLLM again (VLLM_WORKER_MULTIPROC_METHOD=spawn). It does the same for every engine of this process, in any order.
    """
    import vllm.envs

    vllm.envs.disable_envs_cache()


@contextlib.contextmanager
def quiet(name: str) -> Iterator[None]:
    """A logger that says errors only, as long as the block lasts."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
