"""The bound of a cell that nobody has measured: its prompts tokenised as the pipeline would, its card's memory bandwidth."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from statistics import fmean

from gpuqa.checkpoint import read_shape
from gpuqa.config import Backend, UserError
from gpuqa.pipeline import encoder_for
from gpuqa.places import find
from gpuqa.prompts import load_tokenizer
from gpuqa.roofline import Load, block_of, most_tokens_per_s, roof_of, width_of
from gpuqa.roots import CellConfig
from gpuqa.trial import Cell

L2_BYTES = 100e6  # the largest L2 cache of the cards in conf/gpu is the RTX 5090's, 96 MB


def bounds_of(cells: Sequence[Cell]) -> Callable[[str, float], float | None]:
    """By a cell's key and the mean tokens of its answers: the output tokens a second that no engine exceeds on its card.

    None where no card is named, the model is no dense decoder, or its weights fit a card's cache, which can beat the bound.
    """
    by_key = {cell.key: cell for cell in cells}

    @functools.cache
    def load_of(key: str) -> Load:
        cell = by_key[key]
        encoder = encoder_for(load_tokenizer(cell.config.model), cell.config)
        prompts = [encoder.encode(question.text).token_ids for question in cell.questions]
        return load(prompts, cell.config, 1.0)

    def most(key: str, answer_tokens: float) -> float | None:
        config = by_key[key].config
        if config.gpu.bandwidth_gb_per_s is None:
            return None
        try:
            roof = roof_of(read_shape(find(config.model.path, "model.path")), config)
        except UserError:
            return None
        if roof.weight_bytes < L2_BYTES:
            return None
        known = load_of(key)
        return most_tokens_per_s(roof, Load(known.questions, known.width, known.prompt, known.prefix, max(1.0, answer_tokens)))

    return most


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
