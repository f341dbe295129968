"""Engines: token ids in, token ids out. One class for each backend; `backend_class` has the table."""

from __future__ import annotations

import difflib
from collections.abc import AsyncGenerator, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from gpuqa.config import UserError
from gpuqa.config.pipeline import Backend, EngineConfig, SamplingConfig
from gpuqa.records import Generation, GenerationDelta, Override

FOLLOWED = "gpuqa_followed"  # among vLLM's `extra_args` of a request: how many more of its batch are right behind it
PLAIN_CACHES = ("auto", "bfloat16", "float16")  # number formats of a KV cache that `shared_prefix` reads


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
    async def start(cls, folder: Path, trust_remote_code: bool, config: EngineConfig, args: dict[str, Any]) -> Self:
        """Load the model in `folder`; `args` are those of engine and quantization together.

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

        Closing the generator, or cancelling who waits for it, ends the request in the engine too. A prompt that fails is one
        delta with an error.

        Raises:
            EngineFailed: the whole engine is gone.
        """

    def alive(self) -> bool:
        """Whether the engine could answer now; cheap."""

    def overrides(self) -> list[Override]:
        """Which parts of the backend ours replace, as far as it is known by now; empty for a backend without any. Cheap."""

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


def backend_class(backend: Backend) -> type[Engine]:
    """The class of a backend; heavy libraries are imported by its methods, not by its module."""
    from gpuqa.engines.transformers_engine import TransformersEngine
    from gpuqa.engines.vllm.engine import VllmEngine

    table: dict[Backend, type[Engine]] = {Backend.vllm: VllmEngine, Backend.transformers: TransformersEngine}
    return table[backend]


def first_of(obstacles: dict[str, Any]) -> str | None:
    """The name of the first that is there: why a part of ours leaves the work to the backend's own."""
    return next((name for name, present in obstacles.items() if present), None)
