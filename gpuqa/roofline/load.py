"""The bound of a cell that nobody has measured: its prompts tokenised as the pipeline would, its card's memory bandwidth."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from gpuqa.config.commands import CellConfig
from gpuqa.config.pipeline import Backend
from gpuqa.roofline.roofline import Load, block_of, width_of

L2_BYTES = 100e6  # the largest L2 cache of the cards in conf/gpu is the RTX 5090's, 96 MB


def load(prompts: Sequence[list[int]], config: CellConfig, answer_tokens: float) -> Load:
    """What one pass over these prompts asks of the engine."""
    return Load(
        questions=len(prompts),
        width=width_of(config, len(prompts)),
        prompt=fmean(map(len, prompts)),
        prefix=shared_tokens(prompts, config),
        answer=answer_tokens,
    )


def shared_tokens(prompts: Sequence[list[int]], config: CellConfig) -> int:
    """Tokens that all prompts begin with and the cache keeps once: whole blocks, where the engine caches prefixes.

    vLLM does unless it is told not to; a single prompt shares with nobody.
    """
    caching = config.engine.backend is Backend.vllm and config.engine_args().get("enable_prefix_caching") is not False
    if not caching or len(prompts) < 2:
        return 0
    block = block_of(config)
    return common_prefix(min(prompts), max(prompts)) // block * block  # what these share, all share


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return [*(ours == theirs for ours, theirs in zip(one, other, strict=False)), False].index(False)
