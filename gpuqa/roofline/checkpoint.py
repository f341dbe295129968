"""What of a checkpoint decides how many bytes and operations a token takes: its decoder's shape, and how its weights are kept.

Read from config.json and the headers of the weight files; no weight is loaded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpuqa.config import UserError, check

PLAIN = ("BF16", "F16", "F32", "F64")  # safetensors' names of what an engine loads in its own dtype
OUTER = ("embed_tokens.weight", "lm_head.weight", "wte.weight")  # what no quantization of the layers reaches
SPARSE = ("num_experts", "num_local_experts", "n_routed_experts", "kv_lora_rank")  # config.json of what is not dense


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers' weights by how an engine keeps them."""

    matrix_values: int  # 16- or 32-bit floats in matrices: what an online quantization makes smaller
    vector_values: int = 0  # norms and biases: always in the engine's dtype
    packed_bytes: int = 0  # formats of the checkpoint's own (int4, fp8, their indices), kept as they are
    packed_dtypes: tuple[str, ...] = ()  # safetensors' names of the dtypes of those, each once


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a decoder decides how many bytes and operations a token takes."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    parameters: int  # of the layers' matrices
    embedding: int  # values of one table, vocabulary x hidden size
    tied: bool  # the output layer is the input embedding: one table in memory, read whole as the output layer
    weights: Layers
    estimated: bool = False  # no weight files: `weights` follows from config.json


def is_dense(folder: Path) -> bool:
    """Whether every token takes all layers, by config.json; where it cannot be read, other checks say so."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and not any(config.get(key) for key in SPARSE)


def read_shape(folder: Path) -> Shape:
    """The shape of a Hugging Face checkpoint of a dense decoder.

    Raises:
        UserError: the folder has no readable config.json, it is no dense decoder's, or a weight file is damaged.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        shape = shape_of(config)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"model.path: {folder} has no readable config.json: {error!r}") from error
    odd = [key for key in SPARSE if config.get(key)]
    odd += [kind for kind in config.get("layer_types") or [] if kind != "full_attention"]
    check(not odd, f"model.path: config.json in {folder}", odd, "a dense decoder with full attention; the bound knows no other")
    tensors = [tensor for file in sorted(folder.glob("*.safetensors")) for tensor in read_tensors(file)]
    return replace(shape, weights=layers_of(tensors), estimated=False) if tensors else shape


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape of a dense decoder by the keys of its config.json alone.

    Raises:
        KeyError, TypeError: a key that it needs is absent, or is no number.
    """
    layers, heads, hidden = config["num_hidden_layers"], config["num_attention_heads"], config["hidden_size"]
    kv_heads, head_dim = config.get("num_key_value_heads", heads), config.get("head_dim") or hidden // heads
    matrices = layers * hidden * (2 * (heads + kv_heads) * head_dim + 3 * config["intermediate_size"])
    embedding, tied = config["vocab_size"] * hidden, bool(config.get("tie_word_embeddings"))
    return Shape(layers, heads, kv_heads, head_dim, matrices, embedding, tied, Layers(matrices), estimated=True)


def read_tensors(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Name and description of every tensor, from a safetensors file's header: its length in 8 bytes, then JSON.

    The file's size would mislead: some checkpoints store a tied embedding twice.
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, 100_000_000)))
        return [(name, tensor) for name, tensor in header.items() if name != "__metadata__"]
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"model.path: {file} is not a safetensors file; download it again: {error!r}") from error


def layers_of(tensors: list[tuple[str, dict[str, Any]]]) -> Layers:
    """All tensors but embedding and output layer, summed by how an engine keeps them."""
    inner = [tensor for name, tensor in tensors if not name.endswith(OUTER)]
    plain = [tensor["shape"] for tensor in inner if tensor["dtype"] in PLAIN]
    packed = [tensor for tensor in inner if tensor["dtype"] not in PLAIN]
    return Layers(
        matrix_values=sum(math.prod(shape) for shape in plain if len(shape) > 1),
        vector_values=sum(math.prod(shape) for shape in plain if len(shape) < 2),
        packed_bytes=sum(end - begin for begin, end in (tensor["data_offsets"] for tensor in packed)),
        packed_dtypes=tuple(sorted({tensor["dtype"] for tensor in packed})),
    )
