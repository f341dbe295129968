"""Quantize a checkpoint beforehand, in the four file formats that people bring: to try what an engine makes of them.

    python experiments/formats/checkpoints.py gpuqa/embedded/model /tmp/checkpoints

writes w8a8_int8, w8a8_fp8 (compressed-tensors), gptq_int4 and awq_int4 below the second folder. Every value is rounded to the
nearest of its format, without calibration data: this shows which files an engine reads, how fast it is with them, and an upper
bound of what they cost in quality. Real GPTQ and AWQ choose their roundings by activations and lose less.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

GROUP = 128  # values of an int4 matrix that share a scale, along the inputs
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # of the eight columns in an int32: AutoAWQ 0.2.9, awq/modules/linear/gemm.py
Tensors = dict[str, torch.Tensor]
DYNAMIC_TOKEN = {"symmetric": True, "strategy": "token", "dynamic": True}


def main() -> None:
    """Write all formats."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    weights = {name: tensor for file in arguments.model.glob("*.safetensors") for name, tensor in load_file(file).items()}
    for name, (quantized, config) in FORMATS.items():
        write(arguments.model, arguments.out / name, of_layers(weights, quantized), config)
        print(arguments.out / name)


def of_layers(weights: Tensors, quantized: Callable[[torch.Tensor], Tensors]) -> Tensors:
    """All tensors, the matrices of the decoder's layers replaced by what `quantized` makes of each."""
    made: Tensors = {}
    for name, tensor in weights.items():
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and layer.endswith("_proj"):
            made |= {f"{layer}.{part}": value.contiguous() for part, value in quantized(tensor.float()).items()}
        else:
            made[name] = tensor.contiguous()
    return made


def write(model: Path, out: Path, tensors: Tensors, quantization: dict[str, object]) -> None:
    """A folder with the model's other files, these weights, and a config.json that says how they are quantized."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(model, out, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (out / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}, indent=2), encoding="utf-8")


def int8(weight: torch.Tensor) -> Tensors:
    """[out, in] -> int8 of the same shape, a scale for each output channel."""
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    return {"weight": (weight / scale).round().clamp(-128, 127).to(torch.int8), "weight_scale": scale}


def fp8(weight: torch.Tensor) -> Tensors:
    """[out, in] -> float8_e4m3fn of the same shape, a scale for each output channel."""
    scale = weight.abs().amax(dim=1, keepdim=True) / torch.finfo(torch.float8_e4m3fn).max
    return {"weight": (weight / scale).to(torch.float8_e4m3fn), "weight_scale": scale}


def gptq(weight: torch.Tensor) -> Tensors:
    """[out, in] -> symmetric int4, eight inputs of an output in an int32; zero points are written less one (version 1)."""
    values, scales, zeros = int4(weight, symmetric=True)
    return {
        "qweight": packed(values.T, range(8)).T,  # [in / 8, out]
        "qzeros": packed(zeros - 1, range(8)),  # [in / GROUP, out / 8]
        "scales": scales,
        "g_idx": torch.arange(weight.shape[1], dtype=torch.int32) // GROUP,
    }


def awq(weight: torch.Tensor) -> Tensors:
    """[out, in] -> int4 with zero points, eight outputs of an input in an int32."""
    values, scales, zeros = int4(weight, symmetric=False)
    return {"qweight": packed(values, AWQ_ORDER), "qzeros": packed(zeros, AWQ_ORDER), "scales": scales}


def int4(weight: torch.Tensor, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[out, in] -> values from 0 to 15 [in, out], float16 scales [in / GROUP, out], zero points of the same shape."""
    groups = weight.T.reshape(-1, GROUP, weight.shape[0])  # [in / GROUP, GROUP, out]
    low, high = groups.amin(dim=1).clamp(max=0), groups.amax(dim=1).clamp(min=0)
    span = 2 * torch.maximum(-low, high) if symmetric else high - low
    scales = (span / 15).clamp(min=1e-8).to(torch.float16)
    zeros = torch.full_like(low, 8) if symmetric else (-low / scales).round().clamp(0, 15)
    values = (groups / scales[:, None] + zeros[:, None]).round().clamp(0, 15)
    return values.reshape(-1, weight.shape[0]).int(), scales, zeros.int()


def packed(values: torch.Tensor, order: range | tuple[int, ...]) -> torch.Tensor:
    """[rows, columns] of values from 0 to 15 -> int32 [rows, columns / 8], the column `order[i]` of each eight at bit 4 i."""
    eights = values.reshape(values.shape[0], -1, 8)[..., list(order)].long()
    words = (eights << (4 * torch.arange(8))).sum(dim=-1)
    return torch.where(words >= 2**31, words - 2**32, words).int()


def compressed(kind: str, bits: dict[str, object]) -> dict[str, object]:
    """The config of compressed-tensors for W8A8: a scale for each output channel, and one for each token as it comes."""
    weights = {**bits, "symmetric": True, "strategy": "channel", "dynamic": False}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": {**bits, **DYNAMIC_TOKEN}}
    return {
        "quant_method": "compressed-tensors",
        "format": kind,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }


FORMATS: dict[str, tuple[Callable[[torch.Tensor], Tensors], dict[str, object]]] = {
    "w8a8_int8": (int8, compressed("int-quantized", {"num_bits": 8, "type": "int"})),
    "w8a8_fp8": (fp8, compressed("float-quantized", {"num_bits": 8, "type": "float"})),
    "gptq_int4": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True, "desc_act": False}),
    "awq_int4": (awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}),
}


if __name__ == "__main__":
    main()
