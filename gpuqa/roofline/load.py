"""What decides the bounds of a cell beside its model: its engine's arguments, its card, and the load of one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from gpuqa.config.commands import CellConfig
from gpuqa.config.measurement import GpuConfig, Issue
from gpuqa.config.pipeline import Backend
from gpuqa.engines import width_of_engine
from gpuqa.records import Measurement, Trial

USUAL_UTILIZATION = 0.92  # of a GPU's memory, where none is set: vLLM's own (vllm/config/cache.py of 0.32)
L2_BYTES = 100e6  # the largest L2 cache of the cards in conf/gpu is the RTX 5090's, 96 MB


@dataclass(frozen=True, slots=True)
class Setup:
    """What of a configuration decides its bounds; a finished trial has it in plain values."""

    model_path: str
    backend: Backend
    args: Mapping[str, Any]  # engine and quantization together, under the backend's names
    asked_at_once: int | None  # questions that are unanswered at one time; None where nothing but their number bounds them
    gpu: GpuConfig

    @classmethod
    def of_config(cls, config: CellConfig) -> Setup:
        """Of a cell that has not run."""
        return cls(config.model.path, config.engine.backend, config.engine_args(), config.workload.most_at_once, config.gpu)

    @classmethod
    def of_trial(cls, trial: Trial) -> Setup:
        """Of a trial, from the values that it was configured with (resolving its whole configuration takes 0.1 s)."""
        engine, workload = trial.pipeline["engine"], trial.setting["workload"]
        at_once = 1 if workload["issue"] == Issue.serial.name else workload["concurrency"]
        args = {**engine["args"], **trial.pipeline["quantization"]["args"]}
        gpu = GpuConfig(**trial.setting["gpu"])
        return cls(trial.pipeline["model"]["path"], Backend[engine["backend"]], args, at_once, gpu)


@dataclass(frozen=True, slots=True)
class Load:
    """What one pass asks of the engine; lengths in tokens, means over the questions."""

    questions: int
    width: int  # most sequences that run at once
    prompt: float
    prefix: float  # of the prompt: shared by all questions and cached once; 0 without prefix caching
    answer: float


def load(prompts: Sequence[list[int]], setup: Setup, answer_tokens: float) -> Load:
    """What one pass over these prompts asks of the engine."""
    return Load(
        questions=len(prompts),
        width=width_of(setup, len(prompts)),
        prompt=fmean(map(len, prompts)),
        prefix=shared_tokens(prompts, setup),
        answer=answer_tokens,
    )


def measured_load(measurement: Measurement, setup: Setup) -> Load:
    """The load of a trial; what came out of the prefix cache is what its prompts share.

    The first question fills the cache for the other N - 1, so the prefix is N / (N - 1) of the mean that was cached.
    """
    count = measurement.questions
    answers = count * measurement.repeats
    prompt, cached = measurement.prompt_tokens / answers, measurement.cached_tokens / answers
    prefix = min(prompt, cached * count / max(count - 1, 1))
    return Load(count, width_of(setup, count), prompt, prefix, measurement.output_tokens / answers)


def width_of(setup: Setup, questions: int) -> int:
    """Sequences that run at once: no more than there are questions, or than are asked at once."""
    return min(setup.asked_at_once or questions, questions, slots_of(setup, questions))


def slots_of(setup: Setup, otherwise: int) -> int:
    """Sequences that the engine would run at once, under the backend's own name for them; `otherwise` where none is set."""
    return width_of_engine(setup.backend, setup.args) or otherwise


def block_of(setup: Setup) -> int:
    """Tokens in a block of the KV cache, vLLM's 16 unless the engine is told otherwise; only whole blocks are shared."""
    return int(setup.args.get("block_size") or 16)


def shared_tokens(prompts: Sequence[list[int]], setup: Setup) -> int:
    """Tokens that all prompts begin with and the cache keeps once: whole blocks, where the engine caches prefixes.

    vLLM does unless it is told not to; a single prompt shares with no other.
    """
    caching = setup.backend is Backend.vllm and setup.args.get("enable_prefix_caching") is not False
    if not caching or len(prompts) < 2:
        return 0
    block = block_of(setup)
    return common_prefix(min(prompts), max(prompts)) // block * block  # what these share, all share


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return [*(left == right for left, right in zip(first, second, strict=False)), False].index(False)
