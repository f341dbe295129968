"""What a model's own files say about the end of an answer and about drawing tokens, and what of that is used."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpuqa.config import UserError, check
from gpuqa.config.model_files import GENERATION_CONFIG
from gpuqa.config.paths import find_model
from gpuqa.config.pipeline import PipelineConfig
from gpuqa.pipeline.chat_template import CHATML_END
from gpuqa.pipeline.model_folder import AGAIN, read_json

NEUTRAL = {  # keys of generation_config.json that draw tokens -> the value that changes nothing
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}
OF_CHANCE = ("temperature", "top_p", "top_k", "min_p")  # what means nothing where the likeliest token is taken


def stop_token_ids(tokenizer: Any, config: PipelineConfig) -> list[int]:
    """Ids of the tokens that end an answer, each once: those that the tokenizer, the model's files and the chat template name,
    and `sampling.stop` beside them. None where the answers run to their length (`sampling.ignore_eos`).

    Raises:
        UserError: a configured stop is not one token, a file names a token that the model does not have, or nothing names one.
    """
    named = [*config.sampling.stop, *([CHATML_END] if config.prompt.template == "chatml" else [])]
    vocabulary = tokenizer.get_vocab() if named else {}  # which takes long to make
    special = ", ".join(sorted(map(str, tokenizer.all_special_tokens)))
    for stop in config.sampling.stop:
        if stop not in vocabulary:
            allowed = f"tokens of the model's vocabulary, such as {special}; text goes into sampling.stop_strings"
            raise UserError(f"sampling.stop: got {stop!r}, allowed are {allowed}")
    if config.sampling.ignore_eos:
        return []
    own = [tokenizer.eos_token_id, *end_token_ids(find_model(config.model), len(tokenizer))]
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


def end_token_ids(folder: Path, tokens: int) -> list[int]:
    """The end tokens that generation_config.json names, else those of config.json.

    Args:
        tokens: how many the tokenizer has; a model whose embedding is padded has more.

    Raises:
        UserError: what a file names is no id of a token.
    """
    contents = {name: read_json(folder / name) for name in (GENERATION_CONFIG, "config.json")}
    sizes = [tokens, *(size for size in (contents["config.json"].get("vocab_size"),) if isinstance(size, int))]
    for name, content in contents.items():
        if (value := content.get("eos_token_id")) is None:
            continue
        ids: list[Any] = value if isinstance(value, list) else [value]
        for token in ids:
            allowed = f"a token id from 0 to {max(sizes) - 1}; correct the file or {AGAIN}"
            check(type(token) is int and 0 <= token < max(sizes), f"model.path: {folder / name}: eos_token_id", token, allowed)
        return ids
    return []


def recommended_sampling(folder: Path) -> dict[str, Any]:
    """How generation_config.json would draw tokens, where that changes anything: with `do_sample: false` no token is drawn by
    chance, but the penalties hold."""
    content = read_json(folder / GENERATION_CONFIG)
    keys = [key for key in NEUTRAL if content.get("do_sample") is not False or key not in OF_CHANCE]
    return {key: content[key] for key in keys if content.get(key) not in (None, NEUTRAL[key])}
