"""vLLM through AsyncLLM, which serves the sweep and the server alike. Token ids only; text is made elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import itertools
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

from gpuqa.config import UserError
from gpuqa.config.pipeline import EngineConfig, SamplingConfig
from gpuqa.engines import FOLLOWED, EngineFailed, refuse_unknown
from gpuqa.engines.vllm.overrides import REPEATS_STEPS, attention_args, scheduler_args, version
from gpuqa.machine.child_processes import children, kill_children, tie_forked_children
from gpuqa.records import Generation, GenerationDelta, Override

YOUNG_OBJECTS = 10_000  # that the collector lets come before it looks at them; with Python's 700 a tenth of a server's CPU time


class VllmEngine:
    """One AsyncLLM."""

    def __init__(self, llm: Any, start_s: float, undo: contextlib.ExitStack) -> None:
        self.llm, self.start_s, self._undo = llm, start_s, undo
        self._ids = itertools.count()
        self._params: tuple[Any, Any] = (None, None)  # what was asked of `sampling_params` last, and what it made

    @classmethod
    def check_args(cls, args: dict[str, Any]) -> None:
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
        except ImportError as error:
            raise UserError(
                f"engine.backend: got 'vllm', but vLLM cannot be imported: {error}; install gpuqa[gpu] or gpuqa[cpu]"
            ) from error
        refuse_unknown(args, [field.name for field in fields(AsyncEngineArgs)], f"vLLM {version()}")

    @classmethod
    async def start(cls, folder: Path, trust_remote_code: bool, config: EngineConfig, args: dict[str, Any]) -> Self:
        os.environ.update(config.env)
        tie_forked_children()
        sockets = Path(tempfile.mkdtemp(prefix="gpuqa-"))
        os.environ["VLLM_RPC_BASE_PATH"] = str(sockets)
        begin, before = time.perf_counter(), children()
        with contextlib.ExitStack() as undo:  # when the engine closes, or if its start fails or is cancelled
            undo.callback(shutil.rmtree, sockets, ignore_errors=True)  # vLLM leaves its sockets behind
            undo.callback(gc.unfreeze)  # a server that starts another engine shall not keep this one
            try:
                args = {**args, **scheduler_args(config), **attention_args(config, args)}
                building = in_new_thread(build, folder, trust_remote_code, args, config.env)
                llm = await asyncio.wait_for(building, config.start_timeout_s)
                if args.get("worker_extension_cls") == REPEATS_STEPS:
                    await llm.collective_rpc("repeat_steps")
            except TimeoutError as error:
                kill_children(before)
                reason = f"vLLM did not start within engine.start_timeout_s={config.start_timeout_s:g} s"
                raise EngineFailed(reason) from error
            except Exception as error:  # whatever stops vLLM from starting is this engine's failure, not the study's
                raise EngineFailed(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
            gc.collect()
            gc.freeze()  # else the collector walks over all of PyTorch and vLLM again and again while questions come in
            gc.set_threshold(YOUNG_OBJECTS)  # for good: a process that had one engine will have others, and they may overlap
            return cls(llm, time.perf_counter() - begin, undo.pop_all())

    async def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: SamplingConfig,
        stop: Sequence[int],
        finished: dict[int, Generation] | None = None,
    ) -> list[Generation]:
        params = self._sampling_params(sampling, stop, "FINAL_ONLY")
        done = {} if finished is None else finished
        one_each = (
            self._generate_one(prompt, followed_by(params, len(prompts) - 1 - place), time.time(), done, place)
            for place, prompt in enumerate(prompts)
        )
        return await asyncio.gather(*one_each)

    def alive(self) -> bool:
        return not self.llm.errored

    def overrides(self) -> list[Override]:
        return []

    def numbers(self) -> dict[str, float]:
        numbers: dict[str, float] = self.llm.logger_manager.numbers
        return numbers

    def _sampling_params(self, sampling: SamplingConfig, stop: Sequence[int], output_kind: str) -> Any:
        """`sampling_params`, made anew only when something else is asked for: every request gets a copy of vLLM's own."""
        if self._params[0] != (asked := (sampling, list(stop), output_kind)):
            self._params = asked, sampling_params(*asked)
        return self._params[1]

    def _request(self, prompt: list[int], params: Any) -> AsyncGenerator[Any]:
        """vLLM's outputs for one prompt; closing it aborts the request."""
        outputs: AsyncGenerator[Any] = self.llm.generate(
            {"type": "token", "prompt_token_ids": prompt}, params, f"{id(self)}-{next(self._ids)}"
        )
        return outputs

    async def _generate_one(
        self, prompt: list[int], params: Any, called: float, done: dict[int, Generation], place: int
    ) -> Generation:
        try:
            with death_is_failure():
                async for output in self._request(prompt, params):
                    answer, metrics = output.outputs[0], output.metrics
        except EngineFailed:
            raise
        except Exception as error:  # one refused prompt must not fail the others of its batch
            done[place] = Generation(error=f"{type(error).__name__}: {error}")
            return done[place]
        first = metrics.arrival_time - called + metrics.first_token_latency
        done[place] = Generation(
            token_ids=list(answer.token_ids),
            finish_reason=answer.finish_reason,
            cached_tokens=output.num_cached_tokens or 0,
            first_token_s=first,
            # two clocks: a first token that was noticed late must not put the last one later than now
            last_token_s=min(first + metrics.last_token_ts - metrics.first_token_ts, time.time() - called),
            queue_s=metrics.scheduled_ts - metrics.queued_ts,
        )
        return done[place]

    async def stream(self, prompt: list[int], sampling: SamplingConfig, stop: Sequence[int]) -> AsyncGenerator[GenerationDelta]:
        outputs = self._request(prompt, self._sampling_params(sampling, stop, "DELTA"))
        try:
            with death_is_failure():
                async with contextlib.aclosing(outputs):
                    async for output in outputs:
                        answer = output.outputs[0]
                        yield GenerationDelta(list(answer.token_ids), answer.finish_reason, output.num_cached_tokens or 0)
        except EngineFailed:
            raise
        except Exception as error:  # a refused prompt is a failed answer, as in `generate`
            yield GenerationDelta(finish_reason="error", error=f"{type(error).__name__}: {error}")

    async def reset_prefix_cache(self) -> None:
        with death_is_failure():
            done = await self.llm.reset_prefix_cache()
        if not done:
            raise EngineFailed("vLLM could not reset its prefix cache")

    async def close(self) -> None:
        if self.llm.output_handler is not None:
            self.llm.output_handler.cancel()  # else it reports the shutdown below as a death of the engine
        await asyncio.to_thread(self.llm.shutdown)
        self._undo.close()


@contextlib.contextmanager
def death_is_failure() -> Iterator[None]:
    """What vLLM raises when its engine's process has died leaves as EngineFailed."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise EngineFailed(f"vLLM's engine process died: {error}") from error


def sampling_params(sampling: SamplingConfig, stop: Sequence[int], output_kind: str) -> Any:
    """vLLM's form of how tokens are drawn and handed out; `output_kind` is a name of its RequestOutputKind."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=None if sampling.temperature == 0 else sampling.seed,
        max_tokens=sampling.max_tokens,
        stop_token_ids=[] if sampling.ignore_eos else list(stop),
        ignore_eos=sampling.ignore_eos,
        detokenize=False,
        output_kind=RequestOutputKind[output_kind],
        skip_clone=True,  # every request gets the same values, so a shallow copy each is enough
    )


def followed_by(params: Any, more: int) -> Any:
    """The parameters of a request that has `more` of its batch right behind it: our scheduler waits for them."""
    if more:
        params = copy.copy(params)
        params.extra_args = {FOLLOWED: more}
    return params


async def in_new_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Call a blocking function in a thread that has never computed: a process forked from one with OpenMP workers hangs."""
    thread = ThreadPoolExecutor(1, "vllm-start")
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, function, *args)
    finally:
        thread.shutdown(wait=False)


def build(folder: Path, trust_remote_code: bool, args: dict[str, Any], env: dict[str, str]) -> Any:
    """Construct the engine; blocks for as long as loading, compiling and capturing take."""
    import torch
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    if "OMP_NUM_THREADS" in env:  # too late for the environment: PyTorch is loaded, and a forked engine inherits its setting
        torch.set_num_threads(int(env["OMP_NUM_THREADS"]))
    # Per-request metrics come with log_stats; vLLM prints them only where somebody asks it to.
    # It needs no tokenizer: prompts and answers are token ids, and the end tokens are in generation_config.json.
    ours = {"trust_remote_code": trust_remote_code, "disable_log_stats": False, "skip_tokenizer_init": True}
    import_model(folder)
    engine_args = AsyncEngineArgs(model=str(folder), **{**ours, **args})
    vllm_config = engine_args.create_engine_config()
    os.environ.update(env)  # again: vLLM's CPU platform overwrites VLLM_WORKER_MULTIPROC_METHOD in the line above
    gc.freeze()  # for a forked engine: vLLM collects garbage by hand as it starts, half a second each time over all imports
    llm = AsyncLLM.from_vllm_config(vllm_config)
    logging.getLogger("vllm.renderers.base").setLevel(logging.ERROR)  # it warns of the missing tokenizer, see above
    llm.logger_manager = SchedulerNumbers()
    return llm


def import_model(folder: Path) -> None:
    """Import vLLM's code of the model: asked about a model that no cache of its knows, it starts a process that imports vLLM
    and PyTorch once more, only to answer. A model of somebody else's it is left to find by itself."""
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
