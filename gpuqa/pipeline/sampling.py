"""What a model's own files say about the end of an answer and about drawing tokens, and what of that is used."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpuqa.config import UserError
from gpuqa.config.model_files import GENERATION_CONFIG
from gpuqa.config.paths import find_model
from gpuqa.config.pipeline import PipelineConfig
from gpuqa.pipeline.chat_template import CHATML_END
from gpuqa.pipeline.model_folder import read_json

NEUTRAL = {  # keys of generation_config.json that draw tokens -> the value that changes nothing
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}


def stop_token_ids(tokenizer: Any, config: PipelineConfig) -> list[int]:
    """Ids of the tokens that end an answer, each once: those that the tokenizer, the model's files and the chat template name,
    and `sampling.stop` beside them. None where the answers run to their length (`sampling.ignore_eos`).

    Raises:
        UserError: a configured stop is not one token, or there is no end token at all.
    """
    vocabulary, named = tokenizer.get_vocab(), list(config.sampling.stop)
    special = ", ".join(sorted(map(str, tokenizer.all_special_tokens)))
    for stop in named:
        if stop not in vocabulary:
            allowed = f"tokens of the model's vocabulary, such as {special}; text goes into sampling.stop_strings"
            raise UserError(f"sampling.stop: got {stop!r}, allowed are {allowed}")
    if config.sampling.ignore_eos:
        return []
    named += [CHATML_END] if config.prompt.template == "chatml" else []
    own = [tokenizer.eos_token_id, *end_token_ids(find_model(config.model))]
    ids = dict.fromkeys(token for token in [*map(vocabulary.get, named), *own] if token is not None)
    if not ids:
        raise UserError(
            f"sampling.stop: got [], and no file in model.path={config.model.path} names an end token, so every answer would "
            f"run to sampling.max_tokens; name the token that ends an answer, such as one of {special or 'the vocabulary'}"
        )
    return list(ids)


def sampling_notes(configs: Iterable[PipelineConfig]) -> list[str]:
    """A sentence for each model whose generation_config.json would draw tokens as none of the model's configurations does."""
    by_model: dict[str, list[PipelineConfig]] = {}
    for config in configs:
        by_model.setdefault(config.model.path, []).append(config)
    notes = []
    for group in by_model.values():
        recommended = recommended_sampling(find_model(group[0].model))
        used = {key for key, value in recommended.items() for config in group if getattr(config.sampling, key, None) == value}
        if unused := [f"{key}={value}" for key, value in recommended.items() if key not in used]:
            what = f"model={group[0].model.name}: its generation_config.json recommends {', '.join(unused)}"
            notes.append(f"{what}, which is not used: the group `sampling` alone decides how tokens are drawn")
    return notes


def end_token_ids(folder: Path) -> list[int]:
    """The end tokens that generation_config.json names, else those of config.json."""
    files = [read_json(folder / name) for name in (GENERATION_CONFIG, "config.json")]
    value: Any = next((content["eos_token_id"] for content in files if content.get("eos_token_id") is not None), [])
    return [token for token in (value if isinstance(value, list) else [value]) if isinstance(token, int)]


def recommended_sampling(folder: Path) -> dict[str, Any]:
    """How generation_config.json would draw tokens, where that changes anything."""
    content = read_json(folder / GENERATION_CONFIG)
    return {key: content[key] for key, neutral in NEUTRAL.items() if content.get(key) not in (None, neutral)}
