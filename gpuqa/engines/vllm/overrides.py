"""Parts of vLLM that this project replaces: which engine arguments ask for them, and which of them really ran.

An override that was asked for may be off for reasons that are known before the start (another version of vLLM, a number
format of the KV cache) and for reasons that only the engine's processes know (`override_reports`). Either way the reason is
logged, and `Engine.overrides` has it for trials, reports and the server.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuqa.config.pipeline import Attention, EngineConfig, Scheduler
from gpuqa.engines import FLOAT8_CACHES, PLAIN_CACHES, first_that_holds
from gpuqa.engines.vllm.compat import unsupported_vllm
from gpuqa.engines.vllm.override_reports import Report, State
from gpuqa.records import Override

log = logging.getLogger("gpuqa.engines")
PREPARED_IN_FULL = "bursts run, and each of their steps is prepared in full, which is slower and changes no answer"
SILENCE = "no process of the engine reported that it runs"
FLOAT8_CAPABILITY = 89  # 10 * major + minor, from which on Triton converts e4m3
REPEATS_STEPS = "gpuqa.engines.vllm.burst.runner.WorkerExtension"


@dataclass(frozen=True, slots=True)
class Choice:
    """One override before the engine starts."""

    part: str  # as in `Override`
    asked: str
    args: dict[str, Any] = field(default_factory=dict)  # engine arguments that ask vLLM for it; none where it is off
    reason: str | None = None  # why it is off although it was asked for
    limits: tuple[str, ...] = ()  # what it does not do here, known before the start


def choose(config: EngineConfig, args: dict[str, Any]) -> list[Choice]:
    """The overrides of an engine whose arguments are `args`, quantization's among them; those that are off are logged."""
    choices = [choose_scheduler(config), choose_attention(config, args)]
    for choice in choices:
        if choice.reason is not None:
            log.warning("engine.%s=%s is off: %s", choice.part, choice.asked, choice.reason)
    return choices


def choose_scheduler(config: EngineConfig) -> Choice:
    """The scheduler, and with it a model runner that may repeat a step."""
    asked = config.scheduler.value
    if config.scheduler is Scheduler.default:
        return Choice("scheduler", asked)
    if reason := unsupported_vllm("scheduler"):
        return Choice("scheduler", asked, reason=reason)
    args = {"scheduler_cls": "gpuqa.engines.vllm.burst.scheduler.BurstScheduler"}
    own_extension, runner = config.args.get("worker_extension_cls"), unsupported_vllm("runner")
    unsupported = {
        f"vLLM takes one worker_extension_cls, here {own_extension!r}": own_extension,
        "tensor parallelism sends each process a copy of a step": config.args.get("tensor_parallel_size", 1) > 1,
        runner or "": runner,
    }
    if reason := first_that_holds(unsupported):
        return Choice("scheduler", asked, args, limits=(f"{PREPARED_IN_FULL}: {reason}",))
    return Choice("scheduler", asked, {**args, "worker_extension_cls": REPEATS_STEPS})


def choose_attention(config: EngineConfig, args: dict[str, Any]) -> Choice:
    """The attention. The table in which vLLM finds it is registered by `register_attention`.

    With a KV cache of a number format that it does not read vLLM chooses for itself.
    """
    asked = config.attention.value
    if config.attention is Attention.default:
        return Choice("attention", asked)
    if reason := unsupported_vllm("attention"):
        return Choice("attention", asked, reason=reason)
    import torch
    from vllm.platforms import current_platform

    kv_cache = args.get("kv_cache_dtype", "auto")
    unsupported = {
        f"it does not read a KV cache of {kv_cache}": kv_cache not in PLAIN_CACHES + FLOAT8_CACHES,
        "it needs engine.env.VLLM_WORKER_MULTIPROC_METHOD=fork": config.env.get("VLLM_WORKER_MULTIPROC_METHOD") != "fork",
        "there is no CUDA device": not current_platform.is_cuda(),
        f"a KV cache of {kv_cache} needs a card of compute capability 8.9 or more": kv_cache in FLOAT8_CACHES
        and not current_platform.has_device_capability(FLOAT8_CAPABILITY),
        "this process has used CUDA, so vLLM spawns the engine's process instead of forking it": torch.cuda.is_initialized(),
    }
    if reason := first_that_holds(unsupported):
        return Choice("attention", asked, reason=reason)
    return Choice("attention", asked, {"attention_config": {**(args.get("attention_config") or {}), "backend": "CUSTOM"}})


def register_attention(args: dict[str, Any]) -> Any:
    """Tell vLLM which class its CUSTOM attention is in an engine with these arguments; returns what takes that back. An
    engine's process has vLLM's table from this one when it is forked from it."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    name = "Float8Backend" if args.get("kv_cache_dtype") in FLOAT8_CACHES else "SharedPrefixBackend"
    register_backend(AttentionBackendEnum.CUSTOM, f"gpuqa.engines.vllm.shared_prefix.backend.{name}")
    return AttentionBackendEnum.CUSTOM.clear_override


def what_ran(choice: Choice, reports: Sequence[Report]) -> Override:
    """A choice beside what the engine's processes reported.

    What ran is the engine's part as a whole: an answer that needs vLLM's own scheduling (one with logprobs) does not make it
    "default". `reason` says so all the same, from that answer on.
    """
    if choice.asked == "default" or choice.reason is not None:
        return Override(choice.part, choice.asked, "default", choice.reason)
    of_part = [report for report in reports if report.part == choice.part]
    if all(report.state is not State.on for report in of_part):
        why_off = [report.reason for report in of_part if report.state is State.off]
        return Override(choice.part, choice.asked, "default", "; ".join(why_off) or SILENCE)
    limits = [*choice.limits, *(report.reason for report in of_part if report.reason)]
    return Override(choice.part, choice.asked, choice.asked, "; ".join(limits) or None, code_digest(choice.asked))


@functools.cache
def code_digest(asked: str) -> str:
    """The first 16 hexadecimal digits of a sha256 over the files of an override, whose folder has the name of the setting."""
    digest = hashlib.sha256()
    for file in sorted((Path(__file__).parent / asked).glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
