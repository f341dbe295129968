"""The bound of a trial on a GPU: no decoder can read its weights and its KV cache faster than memory delivers them.

    step_s >= (weight_bytes + sequences * context * kv_bytes_per_token) / bandwidth

One step makes one token for every running sequence (Pope et al., "Efficiently Scaling Transformer Inference", 2022,
section 2). The shared prefix is counted once a sequence; a kernel that reads it once for all may beat that term.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from gpuqa.config import Issue, UserError
from gpuqa.places import find
from gpuqa.records import Measurement
from gpuqa.roots import CellConfig

BYTES = {"auto": 2, "bfloat16": 2, "float16": 2, "half": 2, "float32": 4, "float": 4}


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a decoder decides how many bytes a step reads."""

    weight_bytes: int
    layers: int
    kv_heads: int
    head_dim: int

    def kv_bytes_per_token(self, bytes_per_value: int) -> int:
        """Keys and values of all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_per_value


def read_shape(folder: Path) -> Shape:
    """The shape of a Hugging Face checkpoint.

    Raises:
        UserError: the folder has no readable config.json.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        heads = config["num_attention_heads"]
        return Shape(
            weight_bytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
            layers=config["num_hidden_layers"],
            kv_heads=config.get("num_key_value_heads", heads),
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"model.path: {folder} has no readable config.json: {error!r}") from error


def decode_tokens_per_s(
    shape: Shape, sequences: int, context: float, kv_bytes: int, weight_scale: float, gb_per_s: float
) -> float:
    """Most output tokens per second of `sequences` sequences that hold `context` tokens each on average."""
    step_bytes = shape.weight_bytes * weight_scale + sequences * context * shape.kv_bytes_per_token(kv_bytes)
    return sequences * gb_per_s * 1e9 / step_bytes


def with_fraction(measurement: Measurement, cell: CellConfig) -> Measurement:
    """The measurement with `roofline_fraction` filled in, where a GPU is named."""
    if cell.gpu.bandwidth_gb_per_s is None:
        return measurement
    args = cell.engine_args()
    passes = measurement.questions * measurement.repeats
    context = (measurement.prompt_tokens + measurement.output_tokens / 2) / passes
    width = args.get("max_num_seqs") or args.get("batch_size") or measurement.questions
    kv_dtype = str(args.get("kv_cache_dtype", "auto"))
    bound = decode_tokens_per_s(
        read_shape(find(cell.model.path, "model.path")),
        sequences=1 if cell.workload.issue is Issue.serial else min(measurement.questions, int(width)),
        context=context,
        kv_bytes=BYTES.get(kv_dtype, 1),
        weight_scale=0.5 if "8" in str(args.get("quantization", "")) else 1.0,
        gb_per_s=cell.gpu.bandwidth_gb_per_s,
    )
    return replace(measurement, roofline_fraction=measurement.output_tokens_per_s / bound)
