"""Number formats of weights and KV cache by the engines' names for them: bytes a value, and which arithmetic computes them.

A format that is not in these tables has no bound: what its name looks like says nothing (`w4a8` is neither 4 nor 8). The
names are those of vLLM 0.32 and 0.33 and of transformers' `dtype`; sizes with scales are from the sources that stand beside
them. The formats `fp8_ds_mla` and `nvfp4_ds_mla` are left out: they belong to an attention that no dense decoder has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from gpuqa.config import UserError

Entry = TypeVar("Entry")


class Arithmetic(Enum):
    """At which of a card's rates a format computes."""

    bf16 = "bf16"  # also formats that are unpacked to 16 bits first
    fp8 = "fp8"
    unknown = "unknown"  # int8 and fp4, whose rates conf/gpu does not have: operations are left out of the bound


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """What a quantization makes of the layers' matrices of a dense decoder."""

    bits: float | None  # of a value that the checkpoint keeps in 16 or 32 bits; None: it stays in the engine's dtype
    arithmetic: Arithmetic
    in_files: bool = False  # the checkpoint was quantized beforehand, and its files say how
    estimated_bits: float | None = None  # the bits of such a value without the files; None: no estimate is known


@dataclass(frozen=True, slots=True)
class KvFormat:
    """Keys and values of one token in one KV head."""

    key_bits: float | None  # of one of its `head_dim` values, group scales included; None: the engine's dtype
    value_bits: float | None
    arithmetic: Arithmetic
    scale_bytes: int = 0  # beside the values, for key and value together
    plain_layers: int = 0  # so many layers, half of them the first and half the last, stay in the engine's dtype

    def bytes_of(self, head_dim: int, dtype_bytes: float) -> float:
        """Bytes of key and value of one token in one head, in a layer that is not kept plain."""
        if self.key_bits is None or self.value_bits is None:
            return 2 * head_dim * dtype_bytes
        return math.ceil(head_dim * self.key_bits / 8) + math.ceil(head_dim * self.value_bits / 8) + self.scale_bytes


DTYPES = {  # bytes; `auto` is the checkpoint's, of which vLLM takes float32 down to 16 bits
    "auto": 2.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "half": 2.0,
    "float32": 4.0,
    "float": 4.0,
}

MX_BITS = 8 / 32  # one 8-bit scale for 32 values: Open Compute Project, Microscaling Formats (MX) Specification 1.0, 2023
FP8_WEIGHT = WeightFormat(8, Arithmetic.fp8)  # a scale a tensor or a channel is too little to count
INT4_CHECKPOINT = WeightFormat(None, Arithmetic.bf16, in_files=True, estimated_bits=4)  # unpacked to 16 bits
OTHER_CHECKPOINT = WeightFormat(None, Arithmetic.bf16, in_files=True)
EXPERTS_ONLY = WeightFormat(None, Arithmetic.bf16)  # a dense model stays as it is: no `linear` in vllm/config/quantization.py

WEIGHT_FORMATS: Mapping[str | None, WeightFormat] = {  # engine argument `quantization`
    None: WeightFormat(None, Arithmetic.bf16),
    "fp8": FP8_WEIGHT,
    "fp8_per_tensor": FP8_WEIGHT,
    "fp8_per_channel": FP8_WEIGHT,
    "fp8_per_block": WeightFormat(8 + 32 / 128**2, Arithmetic.fp8),  # a float32 for 128 x 128 values
    "mxfp8": WeightFormat(8 + MX_BITS, Arithmetic.fp8),
    "mxfp4": WeightFormat(4 + MX_BITS, Arithmetic.unknown),
    "int8_per_channel_weight_only": EXPERTS_ONLY,
    "nvfp4_per_token": EXPERTS_ONLY,
    "awq": INT4_CHECKPOINT,
    "auto_awq": INT4_CHECKPOINT,
    "awq_marlin": INT4_CHECKPOINT,
    "gptq": INT4_CHECKPOINT,
    "auto_gptq": INT4_CHECKPOINT,
    "gptq_marlin": INT4_CHECKPOINT,
    "compressed-tensors": OTHER_CHECKPOINT,
    "modelopt": OTHER_CHECKPOINT,
    "modelopt_fp4": OTHER_CHECKPOINT,
    "modelopt_mxfp8": OTHER_CHECKPOINT,
}

PER_TOKEN_HEAD = 2 * 4  # a float32 each for key and value: customize_spec in vllm/v1/attention/backends/triton_attn.py
TURBOQUANT = 4  # 16-bit scale and zero of a value; 2 more for a key's norm: vllm/.../turboquant/config.py, TurboQuantConfig
NVFP4_BITS = 4 + 8 / 16  # an fp8 scale for 16 values: nvfp4_kv_cache_full_dim in vllm/utils/torch_utils.py
FP8_KV = KvFormat(8, 8, Arithmetic.fp8)
PLAIN_KV = KvFormat(16, 16, Arithmetic.bf16)
NVFP4_KV = KvFormat(NVFP4_BITS, NVFP4_BITS, Arithmetic.unknown)

KV_FORMATS: Mapping[str, KvFormat] = {  # engine argument `kv_cache_dtype`
    "auto": KvFormat(None, None, Arithmetic.bf16),
    "float16": PLAIN_KV,
    "bfloat16": PLAIN_KV,
    "fp8": FP8_KV,
    "fp8_e4m3": FP8_KV,
    "fp8_e5m2": FP8_KV,
    "fp8_inc": FP8_KV,
    "fp8_per_token_head": KvFormat(8, 8, Arithmetic.fp8, PER_TOKEN_HEAD),
    "int8_per_token_head": KvFormat(8, 8, Arithmetic.unknown, PER_TOKEN_HEAD),
    "int4_per_token_head": KvFormat(4, 4, Arithmetic.unknown, PER_TOKEN_HEAD),
    "nvfp4": NVFP4_KV,
    "nvfp4_4over6": NVFP4_KV,
    "turboquant_k8v4": KvFormat(8, 4, Arithmetic.fp8, TURBOQUANT, 4),
    "turboquant_4bit_nc": KvFormat(4, 4, Arithmetic.unknown, TURBOQUANT + 2, 4),
    "turboquant_k3v4_nc": KvFormat(3, 4, Arithmetic.unknown, TURBOQUANT + 2, 4),
    "turboquant_3bit_nc": KvFormat(3, 3, Arithmetic.unknown, TURBOQUANT + 2, 4),
    "ultraquant_4bit": KvFormat(4 + MX_BITS, 4 + MX_BITS, Arithmetic.unknown, 0, 4),  # vllm/.../ops/ultraquant/format.py
}

PACKED: Mapping[str, Arithmetic] = {  # safetensors' dtypes of weights that a checkpoint has packed itself
    "F8_E4M3": Arithmetic.fp8,
    "F8_E5M2": Arithmetic.fp8,
    "F8_E8M0": Arithmetic.bf16,  # scales of MX formats
    "I32": Arithmetic.bf16,  # AWQ, GPTQ and compressed-tensors pack int4 into these, and indices are such
    "I64": Arithmetic.bf16,  # indices and shapes
}


def format_of(table: Mapping[str | None, Entry] | Mapping[str, Entry], argument: str, name: str | None) -> Entry:
    """The entry of an engine argument's value.

    Raises:
        UserError: the table does not have it.
    """
    for known, entry in table.items():
        if known == name:
            return entry
    names = ", ".join(sorted(known for known in table if known is not None))
    raise UserError(f"engine.args.{argument}: no bound: the format {name!r} is not in the table; it has {names}")


def packed_arithmetic(dtype: str) -> Arithmetic:
    """The fastest arithmetic that weights of that safetensors dtype may compute with."""
    return PACKED.get(dtype, Arithmetic.unknown)
