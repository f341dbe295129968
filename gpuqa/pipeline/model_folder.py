"""A model's folder, read without any library: what an engine would stumble over is said before one starts.

Users bring adapters without their base model, pointers that git-LFS left in place of the weights, and downloads that broke
off. An engine takes seconds to minutes to fail on them, and then names something else.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gpuqa.config import UserError
from gpuqa.config.model_files import (
    ADAPTER_CONFIG,
    SHARD_LIST,
    TENSOR_FILES,
    TOKENIZER_FILES,
    VOCABULARY_FILES,
    WEIGHT_FILES,
)
from gpuqa.config.pipeline import EngineConfig
from gpuqa.pipeline.file_kinds import BEGINNING, POINTER, ZIP, kind_of

AGAIN = "download it again"
LONG_ALLOWED = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"
LENGTHS = (  # keys of config.json with how many positions a model has (vLLM 0.32, model_arch_config_convertor.py)
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
# Kinds of RoPE whose lengths in config.json are the stretched ones.
SCALED = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")


def check_weights(folder: Path) -> None:
    """Refuse a folder that holds no whole model.

    Raises:
        UserError: one line that names the file, what is wrong with it, and what to do.
    """
    if not folder.is_dir():
        raise UserError(f"model.path: {folder} is a file; allowed is the folder that holds config.json and the weights")
    refuse_adapter(folder)
    refuse_other_kinds(folder, WEIGHT_FILES)
    if not (read_json(folder / "config.json") or read_json(folder / "params.json")):  # the latter is Mistral's
        raise UserError(f"model.path: {folder} has no config.json ({present(folder)}); allowed is the folder of a whole model")
    files = matching(folder, TENSOR_FILES)
    if not files:
        raise UserError(f"model.path: {folder} has no weights ({present(folder)}): none of {', '.join(TENSOR_FILES)}; {AGAIN}")
    for file in files:
        if reason := damage(file):
            raise UserError(f"model.path: {file} {reason}; {AGAIN}")
    for listing in matching(folder, [SHARD_LIST]):
        refuse_missing_shards(listing)


def check_tokenizer(folder: Path) -> None:
    """Refuse a folder without the files of a tokenizer, of which transformers would make an empty one.

    Raises:
        UserError: one line that names the folder and what it holds, or a file that is something else.
    """
    refuse_adapter(folder)
    refuse_other_kinds(folder, TOKENIZER_FILES)
    if not matching(folder, VOCABULARY_FILES):
        needed = f"none of {', '.join(VOCABULARY_FILES)}"
        raise UserError(f"model.path: {folder} holds no usable tokenizer ({present(folder)}): {needed}; {AGAIN}")


def refuse_other_kinds(folder: Path, patterns: Iterable[str]) -> None:
    """Raise a UserError for what git-LFS left in the place of a file, or what a browser or a proxy brought instead of it."""
    for file in matching(folder, patterns):
        with file.open("rb") as stream:
            kind = kind_of(beginning := stream.read(BEGINNING))
        is_tensors = beginning[8:9] == b"{" if file.suffix == ".safetensors" else kind == ZIP  # PyTorch's form
        if kind is not None and not is_tensors:
            remedy = f"run `git lfs pull` in its folder, or {AGAIN}" if kind == POINTER else AGAIN
            raise UserError(f"model.path: {file} is {kind}, not the file itself; {remedy}")


def refuse_adapter(folder: Path) -> None:
    """Raise a UserError for a LoRA adapter: vLLM would leave it out, and transformers would load another model under it."""
    if (folder / ADAPTER_CONFIG).is_file():
        base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
        raise UserError(
            f"model.path: {folder} holds a LoRA adapter of {base!r} ({ADAPTER_CONFIG}); allowed is a whole model: merge it "
            f"first (PEFT's merge_and_unload, then save_pretrained of model and tokenizer) and name the merged folder"
        )


def damage(file: Path) -> str | None:
    """What is wrong with a weight file, as the end of a sentence; None where its beginning and its size say nothing."""
    size = file.stat().st_size
    if size == 0:
        return "is empty"
    if file.suffix != ".safetensors":
        with file.open("rb") as stream:
            is_zip = stream.read(4) == b"PK\x03\x04"  # PyTorch's form, whose table of contents is its end
        return "is cut: it has no end" if is_zip and not zipfile.is_zipfile(file) else None
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > size - 8:
            return f"is cut or not a safetensors file: it has {size:,} bytes, and its header alone should have {length:,}"
        try:
            header = json.loads(stream.read(length))
            end = 8 + length + max(tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__")
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
            return "is not a safetensors file: its header cannot be read"
    return None if size == end else f"is cut or damaged: it has {size:,} bytes, by its header {end:,}"


def refuse_missing_shards(listing: Path) -> None:
    """Raise a UserError unless the folder has every weight file that the index of a checkpoint names."""
    shards = read_json(listing).get("weight_map")
    if not isinstance(shards, dict):
        raise UserError(f"model.path: {listing} is damaged: it has no weight_map; {AGAIN}")
    named = sorted({str(shard) for shard in shards.values()})
    missing = [shard for shard in named if not (listing.parent / shard).is_file()]
    if missing:
        raise UserError(
            f"model.path: {listing.parent} lacks {len(missing)} of the {len(named)} weight files that {listing.name} names, "
            f"such as {missing[0]}; download them again"
        )


def check_length(folder: Path, engine: EngineConfig) -> None:
    """Refuse a context that is longer than the model's; vLLM does so when it starts, and transformers answers nonsense.

    Raises:
        UserError: names both lengths, or the file whose numbers make no length.
    """
    file = folder / "config.json"
    try:
        longest = longest_context(read_json(file))
    except (OverflowError, ValueError) as error:
        reason = "its number of positions times its RoPE factor must be a finite number"
        raise UserError(f"model.path: {file}: {reason} ({error}); correct it or {AGAIN}") from error
    allowed = {**os.environ, **engine.env}.get(LONG_ALLOWED, "0").lower() in ("1", "true")
    if longest is not None and engine.max_model_len > longest and not allowed and not engine.args.get("hf_overrides"):
        raise UserError(
            f"engine.args.max_model_len: got {engine.max_model_len}, allowed is at most {longest}, the most tokens that the "
            f"model in {folder} was made for (config.json)"
        )


def longest_context(config: Mapping[str, Any]) -> int | None:
    """Tokens that a model has positions for, as vLLM derives them from config.json; None where that does not say.

    Raises:
        OverflowError, ValueError: RoPE stretches the positions to infinity, or by what is no number.
    """
    text = config.get("text_config")
    inner: Mapping[str, Any] = text if isinstance(text, dict) else config
    lengths = [inner[key] for key in LENGTHS if isinstance(inner.get(key), int)]
    stretched = [int(min(lengths) * rope_factor(inner))] if lengths else []
    own = config.get("model_max_length")
    return max([*stretched, *([own] if isinstance(own, int) else [])], default=None)


def rope_factor(config: Mapping[str, Any]) -> float:
    """By how much RoPE stretches the positions of config.json, where these are not the stretched ones already."""
    ropes = [rope for key in ("rope_parameters", "rope_scaling") for rope in dicts_in(config.get(key))]
    kinds = [(rope.get("rope_type", rope.get("type")), rope.get("factor")) for rope in ropes]
    if "gemma3" in str(config.get("model_type")):
        return 1.0
    return next((factor for kind, factor in kinds if isinstance(factor, int | float) and kind not in SCALED), 1.0)


def dicts_in(value: Any) -> Iterator[dict[str, Any]]:
    """A mapping and those in it: the parameters of RoPE may differ by kinds of layers."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from dicts_in(item)


def read_json(file: Path) -> dict[str, Any]:
    """The content of a JSON file; nothing where there is none.

    Raises:
        UserError: it cannot be read as a mapping.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
        reason = f"it holds a {type(content).__name__}, not a mapping"
    except RecursionError:
        reason = "it is nested too deeply"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise UserError(f"model.path: {file} cannot be read: {reason}; {AGAIN}")


def matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """The files of a folder that match one of the patterns, by name."""
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


def present(folder: Path) -> str:
    """What a folder holds, for messages."""
    return f"there is: {', '.join(sorted(path.name for path in folder.glob('*'))[:12]) or 'nothing'}"
