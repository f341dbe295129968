"""transformers' `generate` with left padding: the plain base line, and a second opinion on every answer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from gpuqa.config import check
from gpuqa.config.pipeline import EngineConfig, SamplingConfig
from gpuqa.engines import EngineFailed, refuse_unknown
from gpuqa.machine.process_state import ProcessState
from gpuqa.records import Generation, GenerationDelta, Override

NOT_DONE: dict[str, Any] = {"repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "stop_strings": []}
ARGUMENTS = ("dtype", "max_model_len", "batch_size", "attn_implementation", "device")


class GivenUp(Exception):
    """The caller of `generate` gave up: its answers are not needed any more."""


class Streamer:
    """What `generate` of transformers tells each token of its one sequence."""

    def __init__(self, tell: Callable[[int], Any]) -> None:
        self.tell = tell
        self.prompt_is_over = False  # it begins with the prompt

    def put(self, token_ids: Any) -> None:
        if self.prompt_is_over:
            self.tell(int(token_ids))
        self.prompt_is_over = True

    def end(self) -> None:
        """The generation itself says so."""


@dataclass
class Call:
    """One call of `generate`, as its thread sees it."""

    sampling: SamplingConfig
    stop: list[int]
    finished: dict[int, Generation]
    streamer: Streamer | None = None
    given_up: threading.Event = field(default_factory=threading.Event)
    began: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class Settings:
    """What an engine was started with."""

    args: dict[str, Any]  # engine's and quantization's together
    config: EngineConfig
    threads: int  # of the CPU, for each of its calls


class TransformersEngine:
    """One AutoModelForCausalLM."""

    def __init__(self, model: Any, settings: Settings, start_s: float, undo: contextlib.ExitStack) -> None:
        self.model, self.start_s, self.threads, self._undo = model, start_s, settings.threads, undo
        self.config, args = settings.config, settings.args
        self.batch_size, self.max_model_len = int(args.get("batch_size", 64)), int(args["max_model_len"])

    @classmethod
    def check_args(cls, args: dict[str, Any]) -> None:
        refuse_unknown(args, ARGUMENTS, "the transformers backend")

    @classmethod
    def check_sampling(cls, sampling: SamplingConfig) -> None:
        """transformers has no penalty for the answer's tokens alone, and its own for repetition counts the padding, too."""
        for key, neutral in NOT_DONE.items():
            value = getattr(sampling, key)
            check(value == neutral, f"sampling.{key}", value, f"{neutral} with engine=transformers; vLLM's engines do it")

    @classmethod
    async def start(cls, folder: Path, trust_remote_code: bool, config: EngineConfig, args: dict[str, Any]) -> Self:
        await asyncio.to_thread(importlib.import_module, "torch")
        begin = time.perf_counter()
        with contextlib.ExitStack() as undo:  # when the engine closes, or if its start fails or is cancelled
            state = ProcessState()
            undo.callback(state.restore)
            os.environ.update(config.env)
            threads = int(config.env.get("OMP_NUM_THREADS") or state.threads or 1)
            try:
                model = await asyncio.to_thread(load, folder, trust_remote_code, args, threads)
            except Exception as error:  # whatever stops it from loading is this engine's failure, not the study's
                raise EngineFailed(f"{type(error).__name__}: {error}") from error
            state.engine_started()
            return cls(model, Settings(args, config, threads), time.perf_counter() - begin, undo.pop_all())

    async def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: SamplingConfig,
        stop: Sequence[int],
        finished: dict[int, Generation] | None = None,
    ) -> list[Generation]:
        call = Call(sampling, self._ends(sampling, stop), {} if finished is None else finished)
        try:
            await asyncio.to_thread(self._generate, prompts, call)
        finally:
            call.given_up.set()  # a thread cannot be cancelled: it looks
        return [call.finished[place] for place in range(len(prompts))]

    async def stream(self, prompt: list[int], sampling: SamplingConfig, stop: Sequence[int]) -> AsyncGenerator[GenerationDelta]:
        loop = asyncio.get_running_loop()
        deltas: asyncio.Queue[GenerationDelta] = asyncio.Queue()
        streamer = Streamer(lambda token: loop.call_soon_threadsafe(deltas.put_nowait, GenerationDelta([token])))
        call = Call(sampling, self._ends(sampling, stop), {}, streamer)
        generating = asyncio.create_task(asyncio.to_thread(self._generate_alone, prompt, call))
        generating.add_done_callback(lambda task: deltas.put_nowait(last_delta(task.result())))
        try:
            while (delta := await deltas.get()).finish_reason is None:
                yield delta
            yield delta
        finally:
            call.given_up.set()
            await asyncio.wait([generating])

    def _ends(self, sampling: SamplingConfig, stop: Sequence[int]) -> list[int]:
        """The tokens that end an answer: the configured ones and, as in vLLM, the model's own."""
        own = self.model.generation_config.eos_token_id
        return [] if sampling.ignore_eos else [*stop, *(own if isinstance(own, list) else [] if own is None else [own])]

    def alive(self) -> bool:
        return True  # it lives in this process

    def overrides(self) -> list[Override]:
        asked = {"scheduler": self.config.scheduler.value, "attention": self.config.attention.value}
        reason = "the transformers backend has none to replace"
        return [Override(part, word, "default", reason) for part, word in asked.items() if word != "default"]

    def numbers(self) -> dict[str, float]:
        return {}

    def _generate(self, prompts: Sequence[list[int]], call: Call) -> None:
        for begin in range(0, len(prompts), self.batch_size):
            batch = prompts[begin : begin + self.batch_size]
            try:
                generations = self._generate_batch(batch, call)
            except GivenUp:
                return
            except Exception:  # find the prompt that fails, so that it does not fail its batch
                generations = [self._generate_alone(prompt, call) for prompt in batch]
            call.finished.update(enumerate(generations, begin))

    def _generate_alone(self, prompt: list[int], call: Call) -> Generation:
        try:
            return self._generate_batch([prompt], call)[0]
        except Exception as error:  # counted as a failed answer
            return Generation(error=f"{type(error).__name__}: {error}")

    def _generate_batch(self, prompts: Sequence[list[int]], call: Call) -> list[Generation]:
        import torch

        longest = max(map(len, prompts))
        if longest + 1 > self.max_model_len or min(map(len, prompts)) == 0:
            raise ValueError(f"a prompt must have 1 to {self.max_model_len - 1} tokens, the longest here has {longest}")
        sampling, stop = call.sampling, call.stop
        pad = stop[0] if stop else 0
        token_ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=self.model.device)
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=self.model.device)
        step_ends: list[float] = []

        def note_step(_: Any, scores: Any) -> Any:
            step_ends.append(time.perf_counter() - call.began)
            if call.given_up.is_set():
                raise GivenUp
            return scores

        torch.set_num_threads(self.threads)  # each of the threads that calls come in has a number of its own
        with torch.inference_mode():
            torch.manual_seed(sampling.seed)
            output = self.model.generate(
                token_ids,
                attention_mask=mask,
                max_new_tokens=sampling.max_tokens,
                min_new_tokens=sampling.min_tokens or None,
                eos_token_id=stop or None,
                pad_token_id=pad,
                logits_processor=[note_step],
                streamer=call.streamer,
                **drawing(sampling),
            )
        rows = output[:, longest:].tolist()
        step_ends.append(time.perf_counter() - call.began)  # step i is over when step i + 1 has its scores
        return [to_generation(row, stop, step_ends) for row in rows]

    async def reset_prefix_cache(self) -> None:
        """There is none: every batch starts from nothing."""

    async def close(self) -> None:
        import torch

        del self.model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._undo.close()


def last_delta(generation: Generation) -> GenerationDelta:
    """How a generation ended whose tokens are known."""
    return GenerationDelta(finish_reason=generation.finish_reason, error=generation.error)


def load(folder: Path, trust_remote_code: bool, args: dict[str, Any], threads: int) -> Any:
    """Weights in memory, ready to run."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    torch.set_num_threads(threads)  # the environment is too late: PyTorch is loaded
    device = args.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=args.get("dtype", "bfloat16"),
        attn_implementation=args.get("attn_implementation"),
        trust_remote_code=trust_remote_code,
        local_files_only=True,
    )
    # What its publisher recommends (a penalty, top-k) would be mixed into what the configuration says.
    model.generation_config = GenerationConfig(eos_token_id=model.generation_config.eos_token_id)
    return model.to(device).eval()


def drawing(sampling: SamplingConfig) -> dict[str, Any]:
    """transformers' names for how tokens are drawn."""
    if sampling.temperature == 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    shares = {"top_p": sampling.top_p, "top_k": sampling.top_k, "min_p": sampling.min_p or None}
    return {"do_sample": True, "temperature": sampling.temperature, **shares}


def to_generation(row: list[int], stop: list[int], step_ends: list[float]) -> Generation:
    """One row of the output up to and with its stop token; what follows is padding."""
    length = next((place + 1 for place, token in enumerate(row) if token in stop), len(row))
    return Generation(
        token_ids=row[:length],
        finish_reason="stop" if length and row[length - 1] in stop else "length",
        first_token_s=step_ends[1],
        last_token_s=step_ends[min(length, len(step_ends) - 1)],
    )
