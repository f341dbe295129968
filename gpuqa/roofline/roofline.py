"""The bounds of a trial on a GPU: what its memory's bandwidth, its arithmetic and its memory's size allow at best.

A decode step makes one token for every running sequence. It reads all weights and every cached key and value once:

    step_bytes = weight_bytes + (prefix + sequences * own_context) * kv_bytes_per_token
    step_s    >= max(step_bytes / bandwidth, operations / FLOP/s)

(Pope et al., "Efficiently Scaling Transformer Inference", 2022, section 2). With prefix caching the prompt's shared
part, `prefix`, lies in memory once and may be read once a step: that is the physical bound. vLLM's attention reads it once
for every sequence, `prefix + own_context` each, save what the L2 cache catches; `engine.attention=shared_prefix` shares the
read and beats that number, so `roofline_fraction` never divides by it.

Known limits: dense decoders with full attention on one card, without speculation. A model and cache that fit the card's
L2 (tens of MB) can beat all of this, because then memory is not read at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import assert_never

from gpuqa.config import UserError, check
from gpuqa.config.measurement import GpuConfig
from gpuqa.config.paths import find
from gpuqa.records import Trial
from gpuqa.roofline.checkpoint import Shape, read_shape
from gpuqa.roofline.formats import DTYPES, KV_FORMATS, WEIGHT_FORMATS, Arithmetic, KvFormat, format_of, packed_arithmetic
from gpuqa.roofline.load import USUAL_UTILIZATION, Load, Setup, block_of, measured_load

BEYOND = ("speculative_config", "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


@dataclass(frozen=True, slots=True)
class Roof:
    """A decoder in the number formats of a cell on its card: what a token costs."""

    bytes_per_s: float
    weight_bytes: float  # read by every step: the layers and the output layer
    resident_bytes: float  # lying in memory: an untied input embedding too, of which a step reads a row a token
    kv_bytes: float  # keys and values of one token in all layers
    layers_s: float = 0.0  # one token through the layers' matrices, at the card's FLOP/s
    head_s: float = 0.0  # one token through the output layer
    pair_s: float = 0.0  # one token attending to one other in all layers

    def step_bytes(self, sequences: int, own: float, prefix: float = 0.0) -> float:
        """What one decode step reads: `prefix` cached tokens once for all, `own` more for every sequence."""
        return self.weight_bytes + (prefix + sequences * own) * self.kv_bytes

    def step_s(self, sequences: int, own: float, prefix: float = 0.0) -> float:
        """Least time of one decode step; sharing the prefix saves reads, not operations."""
        operations_s = sequences * (self.layers_s + self.head_s + (prefix + own) * self.pair_s)
        return max(self.step_bytes(sequences, own, prefix) / self.bytes_per_s, operations_s)

    def prompt_s(self, start: float, end: float) -> float:
        """Operations of the prompt tokens `start` to `end`: all layers, and each token attends to itself and all before."""
        return (end - start) * self.layers_s + (end * (end + 1) - start * (start + 1)) / 2 * self.pair_s


@dataclass(frozen=True, slots=True)
class Bound:
    """Least times of one pass, prefill and decode one after the other; steps that mix both may hide some of the shorter."""

    load: Load
    prefill_s: float
    decode_s: float

    @property
    def questions_per_s(self) -> float:
        """Most questions a second."""
        return self.load.questions / (self.prefill_s + self.decode_s)

    @property
    def output_tokens_per_s(self) -> float:
        """Most output tokens a second."""
        return self.load.answer * self.questions_per_s


def fraction(trial: Trial) -> float | None:
    """output_tokens_per_s of a trial / the most that its card's memory bandwidth allows.

    None where no card is named, nothing was measured, or the bound is not known: the model is no dense decoder or no longer
    where it was, or a number format is not in the tables.
    """
    measurement = trial.dropped.seen if trial.dropped else trial.measurement
    if measurement is None or not measurement.output_tokens or trial.setting.get("gpu", {}).get("bandwidth_gb_per_s") is None:
        return None
    setup = Setup.of_trial(trial)
    try:
        roof = roof_of(read_shape(find(setup.model_path, "model.path")), setup)
    except UserError:
        return None
    return measurement.output_tokens_per_s / most_tokens_per_s(roof, measured_load(measurement, setup))


def most_tokens_per_s(roof: Roof, load: Load) -> float:
    """Output tokens a second that no engine exceeds: bandwidth alone, the shared prefix read once a step, `width` always full.

    Operations are left out, since a card clocks above its data sheet, and prefill, since it can hide behind decoding.
    The first token of an answer comes out of the prefill and reads no cache; the n-th finds n - 2 before its own input.
    """
    later = max(0.0, 1 - 1 / load.answer)
    own = load.prompt - load.prefix + max(0.0, load.answer / 2 - 1)
    read = roof.weight_bytes + later * (load.prefix + load.width * own) * roof.kv_bytes
    return load.width * roof.bytes_per_s / read


def bound_of(roof: Roof, load: Load) -> Bound:
    """The bound of a pass in waves of `width` sequences: each wave's prefill, then its decode steps one by one.

    A prefill reads the weights at least once. Its first token is the answer's first; the prefix is computed in the
    first wave alone.
    """
    full, rest = divmod(load.questions, load.width)
    waves = [load.width] * full + [rest] * (rest > 0)
    own, steps = load.prompt - load.prefix, int(load.answer) - 1
    decode = {width: sum(roof.step_s(width, own + step, load.prefix) for step in range(steps)) for width in set(waves)}
    prefill_s = 0.0
    for place, width in enumerate(waves):
        operations_s = width * (roof.prompt_s(load.prefix, load.prompt) + roof.head_s)
        if place == 0:
            operations_s += roof.prompt_s(0, load.prefix)
        prefill_s += max(operations_s, roof.weight_bytes / roof.bytes_per_s)
    return Bound(load, prefill_s, sum(decode[width] for width in waves))


def sequences_that_fit(roof: Roof, setup: Setup, tokens: int, prefix: int = 0) -> int | None:
    """The most sequences of `tokens` tokens whose KV fits beside the weights; None where the card's memory is unknown.

    The cache is handed out in whole blocks, the shared prefix's once. `memory_gb` counts as 10^9 bytes each: cards have
    up to 7 % more, and what the engine's activations and CUDA graphs take is not counted either.
    """
    args, block = setup.args, block_of(setup)
    if setup.gpu.memory_gb is None:
        return None
    budget = setup.gpu.memory_gb * 1e9 * float(args.get("gpu_memory_utilization") or USUAL_UTILIZATION)
    room = min(budget - roof.resident_bytes, float(args.get("kv_cache_memory_bytes") or budget))
    blocks = room / (roof.kv_bytes * block) - prefix / block
    return max(0, int(blocks // math.ceil((tokens - prefix) / block)))


def roof_of(shape: Shape, setup: Setup) -> Roof:
    """What a token costs in the number formats of a cell on its card, which must be named.

    Quantization reaches the layers only; embedding and output layer stay in the engine's dtype.

    Raises:
        UserError: a number format is not in the tables of `gpuqa.roofline.formats`, or the engine uses more than one card.
    """
    args, gpu = setup.args, setup.gpu
    beyond = {key: args[key] for key in BEYOND if args.get(key) not in (None, 1)}
    check(not beyond, "engine.args", beyond, "one card and one token a step, where a bound is asked for")
    assert gpu.bandwidth_gb_per_s is not None, "the callers ask for a card first"
    dtype_bytes = format_of(DTYPES, "dtype", str(args.get("dtype") or "auto"))
    kv_format = format_of(KV_FORMATS, "kv_cache_dtype", str(args.get("kv_cache_dtype") or "auto"))
    weight_format = format_of(WEIGHT_FORMATS, "quantization", args.get("quantization"))
    layers = layer_bytes(shape, args.get("quantization"), dtype_bytes)
    table = shape.embedding * dtype_bytes
    packed = (packed_arithmetic(dtype) for dtype in shape.weights.packed_dtypes)
    return Roof(
        bytes_per_s=gpu.bandwidth_gb_per_s * 1e9,
        weight_bytes=layers + table,
        resident_bytes=layers + table * (1 if shape.tied else 2),
        kv_bytes=kv_bytes(shape, kv_format, dtype_bytes),
        layers_s=2 * shape.parameters * least_s(gpu, [weight_format.arithmetic, *packed]),
        head_s=2 * shape.embedding * least_s(gpu, [Arithmetic.bf16]),
        pair_s=4 * shape.layers * shape.heads * shape.head_dim * least_s(gpu, [kv_format.arithmetic]),
    )


def layer_bytes(shape: Shape, quantization: str | None, dtype_bytes: float) -> float:
    """Bytes of the layers' weights: what the checkpoint has packed as it is, the other matrices as the quantization makes them.

    Raises:
        UserError: only weight files could tell, and there are none.
    """
    weight_format, weights = format_of(WEIGHT_FORMATS, "quantization", quantization), shape.weights
    bits = weight_format.bits
    if weight_format.in_files and shape.estimated:
        bits = weight_format.estimated_bits
        needs = "no bound: only weight files say how many bytes this quantization takes, and model.path has none"
        check(bits is not None, "engine.args.quantization", quantization, f"one with a known size; {needs}")
    matrix_bytes = dtype_bytes if bits is None else bits / 8
    return weights.matrix_values * matrix_bytes + weights.vector_values * dtype_bytes + weights.packed_bytes


def kv_bytes(shape: Shape, kv_format: KvFormat, dtype_bytes: float) -> float:
    """Bytes of the keys and values of one token in all layers."""
    plain = min(kv_format.plain_layers, shape.layers // 2 * 2)
    packed_head, plain_head = kv_format.bytes_of(shape.head_dim, dtype_bytes), 2 * shape.head_dim * dtype_bytes
    return shape.kv_heads * ((shape.layers - plain) * packed_head + plain * plain_head)


def least_s(gpu: GpuConfig, kinds: Iterable[Arithmetic]) -> float:
    """Least seconds of one operation by the fastest of these kinds; 0 where the card's rate for one of them is unknown."""
    plain_s = 1e-12 / gpu.bf16_tflops if gpu.bf16_tflops else 0.0
    times = []
    for kind in kinds:
        match kind:
            case Arithmetic.bf16:
                times.append(plain_s)
            case Arithmetic.fp8:  # a card without it unpacks to 16 bits
                times.append(min(plain_s, 1e-12 / gpu.fp8_tflops) if gpu.fp8_tflops else plain_s)
            case Arithmetic.unknown:
                times.append(0.0)
            case _:
                assert_never(kind)
    return min(times)
