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
from dataclasses import dataclass, replace

from gpuqa.config import UserError, check
from gpuqa.config.commands import CellConfig
from gpuqa.config.paths import find
from gpuqa.records import Measurement
from gpuqa.roofline.checkpoint import Shape, read_shape

BYTES = {"bfloat16": 2.0, "float16": 2.0, "half": 2.0, "float32": 4.0, "float": 4.0}
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
class Load:
    """What one pass asks of the engine; lengths in tokens, means over the questions."""

    questions: int
    width: int  # most sequences that run at once
    prompt: float
    prefix: float  # of the prompt: shared by all questions and cached once; 0 without prefix caching
    answer: float


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


def with_fraction(measurement: Measurement, cell: CellConfig) -> Measurement:
    """The measurement with `roofline_fraction` filled in, where a GPU is named and the bound is known."""
    if cell.gpu.bandwidth_gb_per_s is None or not measurement.output_tokens:
        return measurement
    try:
        roof = roof_of(read_shape(find(cell.model.path, "model.path")), cell)
    except UserError:  # what was measured stays measured, even if nobody knows its bound
        return measurement
    most = most_tokens_per_s(roof, measured_load(measurement, cell))
    return replace(measurement, roofline_fraction=measurement.output_tokens_per_s / most)


def measured_load(measurement: Measurement, cell: CellConfig) -> Load:
    """The load of a trial; what came out of the prefix cache is what its prompts share.

    The first question fills the cache for the other N - 1, so the prefix is N / (N - 1) of the mean that was cached.
    """
    count = measurement.questions
    passes = count * measurement.repeats
    prompt, cached = measurement.prompt_tokens / passes, measurement.cached_tokens / passes
    prefix = min(prompt, cached * count / max(count - 1, 1))
    return Load(count, width_of(cell, count), prompt, prefix, measurement.output_tokens / passes)


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


def sequences_that_fit(roof: Roof, cell: CellConfig, tokens: int, prefix: int = 0) -> int | None:
    """The most sequences of `tokens` tokens whose KV fits beside the weights; None where the card's memory is unknown.

    The cache is handed out in whole blocks, the shared prefix's once. `memory_gb` counts as 10^9 bytes each: cards have
    up to 7 % more, and what the engine's activations and CUDA graphs take is not counted either.
    """
    args, block = cell.engine_args(), block_of(cell)
    if cell.gpu.memory_gb is None:
        return None
    budget = cell.gpu.memory_gb * 1e9 * float(args.get("gpu_memory_utilization") or 0.9)
    room = min(budget - roof.resident_bytes, float(args.get("kv_cache_memory_bytes") or budget))
    blocks = room / (roof.kv_bytes * block) - prefix / block
    return max(0, int(blocks // math.ceil((tokens - prefix) / block)))


def roof_of(shape: Shape, cell: CellConfig) -> Roof:
    """What a token costs in the number formats of a cell on its card, which must be named.

    fp8 made online and AWQ and GPTQ reach the layers only; embedding and output layer stay in the engine's dtype.
    fp8 weights and fp8 KV compute at the card's fp8 rate, where it has one; int4 ones are unpacked to bf16 first.
    """
    args, gpu = cell.engine_args(), cell.gpu
    beyond = {key: args[key] for key in BEYOND if args.get(key) not in (None, 1)}
    check(not beyond, "engine.args", beyond, "one card and one token a step, where a bound is asked for")
    assert gpu.bandwidth_gb_per_s is not None, "the callers ask for a card first"
    quantization = str(args.get("quantization"))
    dtype = BYTES.get(str(args.get("dtype")), 2.0)
    weight = bytes_of(quantization, dtype)
    if shape.estimated and quantization.startswith(("awq", "gptq")):
        weight = 0.5
    kv = bytes_of(str(args.get("kv_cache_dtype")), dtype)
    kept = shape.weights
    layers = kept.matrix_values * weight + kept.vector_values * dtype + kept.packed_bytes
    table = shape.embedding * dtype
    plain_s = 1e-12 / gpu.bf16_tflops if gpu.bf16_tflops else 0.0  # of one operation
    fp8_s = min(plain_s, 1e-12 / gpu.fp8_tflops) if gpu.fp8_tflops else plain_s
    return Roof(
        bytes_per_s=gpu.bandwidth_gb_per_s * 1e9,
        weight_bytes=layers + table,
        resident_bytes=layers + table * (1 if shape.tied else 2),
        kv_bytes=2 * shape.layers * shape.kv_heads * shape.head_dim * kv,
        layers_s=2 * shape.parameters * (fp8_s if "8" in quantization or kept.fp8 else plain_s),
        head_s=2 * shape.embedding * plain_s,
        pair_s=4 * shape.layers * shape.heads * shape.head_dim * (fp8_s if kv == 1 else plain_s),
    )


def bytes_of(name: str, otherwise: float) -> float:
    """Bytes of a value in a format by the engine's name for it; names that say nothing (`auto`, `awq`) mean `otherwise`."""
    if "8" in name:
        return 1.0
    return 0.5 if "4" in name or name == "bitsandbytes" else BYTES.get(name, otherwise)


def width_of(cell: CellConfig, questions: int) -> int:
    """Sequences that run at once: no more than there are questions, or than are asked at once."""
    return min(cell.workload.most_at_once or questions, questions, slots_of(cell, questions))


def slots_of(cell: CellConfig, otherwise: int) -> int:
    """Sequences that the engine would run at once, under its own name for them."""
    args = cell.engine_args()
    return int(args.get("max_num_seqs") or args.get("batch_size") or otherwise)


def block_of(cell: CellConfig) -> int:
    """Tokens in a block of the KV cache, vLLM's 16 unless the engine says otherwise; only whole blocks are shared."""
    return int(cell.engine_args().get("block_size") or 16)
