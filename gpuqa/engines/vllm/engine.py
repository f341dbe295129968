"""vLLM through AsyncLLM, which serves the sweep and the server alike. Token ids only; text is made elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import itertools
import os
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

from gpuqa.config import UserError
from gpuqa.config.pipeline import EngineConfig, SamplingConfig
from gpuqa.engines import FOLLOWED, PLAIN_CACHES, EngineFailed, refuse_unknown
from gpuqa.engines.vllm.build import build, end_of_building, forget_environment, in_new_thread, quiet
from gpuqa.engines.vllm.compat import unsupported_names, version
from gpuqa.engines.vllm.override_reports import REPORTS_FILE, read_reports
from gpuqa.engines.vllm.overrides import REPEATS_STEPS, Choice, choose, register_attention, what_ran
from gpuqa.machine.child_processes import children, tie_forked_children, tied
from gpuqa.machine.private_folder import private_folder
from gpuqa.machine.process_state import ProcessState
from gpuqa.records import Generation, GenerationDelta, Override

YOUNG_OBJECTS = 10_000  # that the collector lets come before it looks at them; with Python's 700 a tenth of a server's CPU time

LOOKS_EVERY_S = 0.5  # whether the engine is alive, while it answers a call that is no request


class VllmEngine:
    """One AsyncLLM."""

    def __init__(self, llm: Any, start_s: float, choices: list[Choice], reports: Path, undo: contextlib.ExitStack) -> None:
        """`reports`: the file into which the engine's processes write whether the overrides run, see `override_reports`."""
        self.llm, self.start_s, self._undo = llm, start_s, undo
        self._choices, self._reports = choices, reports
        self._ids = itertools.count()
        self._params: tuple[Any, Any] = (None, None)  # what was asked of `sampling_params` last, and what it made

    @classmethod
    def check_args(cls, args: dict[str, Any]) -> None:
        try:
            with quiet("vllm.triton_utils.importing"):  # its CPU build warns of a Triton that it would not use
                from vllm.engine.arg_utils import AsyncEngineArgs
        except ImportError as error:
            raise UserError(
                f"engine.backend: got 'vllm', but vLLM cannot be imported: {error}; install gpuqa[gpu] or gpuqa[cpu]"
            ) from error
        refuse_unknown(args, [field.name for field in fields(AsyncEngineArgs)], f"vLLM {version()}")

    @classmethod
    def check_sampling(cls, sampling: SamplingConfig) -> None:
        """vLLM has all of `sampling`."""

    @classmethod
    async def start(cls, folder: Path, trust_remote_code: bool, config: EngineConfig, args: dict[str, Any]) -> Self:
        await asyncio.to_thread(cls.check_args, args)  # imports vLLM, which changes the environment for good: see ProcessState
        if reason := await asyncio.to_thread(unsupported_names) or unread_cache(args):
            raise EngineFailed(reason)
        tie_forked_children()
        begin = time.perf_counter()
        with contextlib.ExitStack() as undo:  # when the engine closes, or if its start fails or is cancelled
            state = ProcessState()
            undo.callback(state.restore)
            undo.callback(forget_environment)
            private = undo.enter_context(private_folder())  # vLLM leaves its sockets behind
            undo.callback(gc.unfreeze)  # a server that starts another engine shall not keep this one
            os.environ.update(config.env)
            os.environ.update({"VLLM_RPC_BASE_PATH": str(private), REPORTS_FILE: str(private / "overrides.jsonl")})
            choices = await asyncio.to_thread(choose, config, args)
            if any(choice.part == "attention" and choice.args for choice in choices):
                undo.callback(register_attention(args))
            args = {**args, **{name: value for choice in choices for name, value in choice.args.items()}}
            before = children()
            llm = await cls._build(folder, trust_remote_code, config, args)
            if os.environ.get("VLLM_WORKER_MULTIPROC_METHOD") != "fork":  # vLLM itself sets it where this process has used CUDA
                undo.enter_context(tied(children() - before))
            undo.enter_context(quiet("vllm.renderers.base"))  # it warns of the missing tokenizer, see `build`
            gc.collect()
            gc.freeze()  # else the collector walks over all of PyTorch and vLLM again and again while questions come in
            gc.set_threshold(YOUNG_OBJECTS)
            state.engine_started()
            return cls(llm, time.perf_counter() - begin, choices, private / "overrides.jsonl", undo.pop_all())

    @staticmethod
    async def _build(folder: Path, trust_remote_code: bool, config: EngineConfig, args: dict[str, Any]) -> Any:
        """The AsyncLLM, in time; what it raises where it is not is EngineFailed."""
        before = children()
        building = in_new_thread(build, folder, trust_remote_code, args, config.env)
        try:
            llm = await asyncio.wait_for(asyncio.wrap_future(building), config.start_timeout_s)
            if args.get("worker_extension_cls") == REPEATS_STEPS:
                await llm.collective_rpc("repeat_steps")
        except asyncio.CancelledError:  # its process would be waited for at the end of this one, for ever
            await end_of_building(building, before)
            raise
        except TimeoutError as error:
            await end_of_building(building, before)
            raise EngineFailed(f"vLLM did not start within engine.start_timeout_s={config.start_timeout_s:g} s") from error
        except Exception as error:  # whatever stops vLLM from starting is this engine's failure, not the study's
            raise EngineFailed(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
        return llm

    async def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: SamplingConfig,
        stop: Sequence[int],
        finished: dict[int, Generation] | None = None,
    ) -> list[Generation]:
        params = self._sampling_params(sampling, stop, "FINAL_ONLY")
        done = {} if finished is None else finished
        answers = (
            self._generate_one(prompt, followed_by(params, len(prompts) - 1 - place), time.time(), done, place)
            for place, prompt in enumerate(prompts)
        )
        return await asyncio.gather(*answers)

    def alive(self) -> bool:
        return not self.llm.errored

    def overrides(self) -> list[Override]:
        reports = read_reports(self._reports)
        return [what_ran(choice, reports) for choice in self._choices]

    def numbers(self) -> dict[str, float]:
        numbers: dict[str, float] = self.llm.logger_manager.numbers
        return numbers

    def _sampling_params(self, sampling: SamplingConfig, stop: Sequence[int], output_kind: str) -> Any:
        """`sampling_params`, made anew only when something else is asked for: every request gets a copy of vLLM's own."""
        if sampling.stop_strings and self.llm.output_processor.tokenizer is None:  # `build` spares the others that time
            self.llm.output_processor.tokenizer = tokenizer_of(self.llm.model_config)
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
            done = await self._while_alive(self.llm.reset_prefix_cache())
        if not done:
            raise EngineFailed("vLLM could not reset its prefix cache")

    async def _while_alive(self, call: Coroutine[Any, Any, Any]) -> Any:
        """The answer to a call. vLLM waits for ever for one that its engine's process died before it gave."""
        task = asyncio.ensure_future(call)
        try:
            while not (await asyncio.wait([task], timeout=LOOKS_EVERY_S))[0]:
                if not self.alive():
                    raise EngineFailed("vLLM's engine process died")
            return task.result()
        finally:
            task.cancel()

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


def tokenizer_of(model_config: Any) -> Any:
    """vLLM's tokenizer of a model, in which it looks for stop strings."""
    from vllm.tokenizers.registry import get_tokenizer

    return get_tokenizer(model_config.tokenizer, trust_remote_code=model_config.trust_remote_code)


def sampling_params(sampling: SamplingConfig, stop: Sequence[int], output_kind: str) -> Any:
    """vLLM's form of how tokens are drawn and handed out; `output_kind` is a name of its RequestOutputKind."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        seed=None if sampling.temperature == 0 else sampling.seed,
        max_tokens=sampling.max_tokens,
        min_tokens=sampling.min_tokens,
        stop_token_ids=[] if sampling.ignore_eos else list(stop),
        ignore_eos=sampling.ignore_eos,
        stop=list(sampling.stop_strings),
        detokenize=bool(sampling.stop_strings),  # vLLM looks for them in the text
        output_kind=RequestOutputKind[output_kind],
        skip_clone=True,  # every request gets the same values, so a shallow copy each is enough
    )


def unread_cache(args: dict[str, Any]) -> str | None:
    """Why a CPU cannot read the KV cache that the arguments ask for; None if it can, and on other devices, where vLLM says so.

    On a CPU vLLM 0.32 starts with every format that it has a name for and answers nonsense from those that its attention does
    not know (`CpuPlatform.get_attn_backend_cls` does not ask the attention; since 0.33 it does).
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return None
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    asked = args.get("kv_cache_dtype") or "auto"
    known = dict.fromkeys([*PLAIN_CACHES, *CPUAttentionBackend.supported_kv_cache_dtypes])
    if asked in known:
        return None
    return f"kv_cache_dtype={asked} is not supported by vLLM's attention on a CPU, which reads {', '.join(known)}"


def followed_by(params: Any, more: int) -> Any:
    """The parameters of a request that has `more` of its batch right behind it: our scheduler waits for them."""
    if more:
        params = copy.copy(params)
        params.extra_args = {FOLLOWED: more}
    return params
