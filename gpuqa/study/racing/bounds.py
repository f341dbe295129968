"""The most that a cell could reach on its card, for a race that measures the promising engines first."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from gpuqa.config import UserError
from gpuqa.config.paths import find
from gpuqa.measure.cell import Cell
from gpuqa.pipeline.pipeline import encoder_for
from gpuqa.pipeline.prompts import load_tokenizer
from gpuqa.roofline.checkpoint import read_shape
from gpuqa.roofline.load import L2_BYTES, Load, Setup, load
from gpuqa.roofline.roofline import most_tokens_per_s, roof_of


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
        return load(prompts, Setup.of_config(cell.config), 1.0)

    def bound(key: str, answer_tokens: float) -> float | None:
        config = by_key[key].config
        if config.gpu.bandwidth_gb_per_s is None:
            return None
        try:
            roof = roof_of(read_shape(find(config.model.path, "model.path")), Setup.of_config(config))
        except UserError:
            return None
        if roof.weight_bytes < L2_BYTES:
            return None
        known = load_of(key)
        return most_tokens_per_s(roof, Load(known.questions, known.width, known.prompt, known.prefix, max(1.0, answer_tokens)))

    return bound
