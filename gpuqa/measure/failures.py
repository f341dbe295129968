"""Why an engine failed: the kind of failure, and what a user can do about it.

vLLM tells its reasons as text from another process, so they are recognised by their text (vLLM 0.32 and 0.33:
v1/core/kv_cache_utils.py, v1/worker/utils.py; PyTorch's OutOfMemoryError).
"""

from __future__ import annotations

import re
from enum import Enum


class Failure(Enum):
    """What kind of failure a trial's error is."""

    out_of_memory = "out_of_memory"
    start_timeout = "start_timeout"
    engine_died = "engine_died"
    no_answer = "no_answer"
    unsupported = "unsupported"
    bad_config = "bad_config"


MARKS = {  # the first whose pattern is found
    Failure.start_timeout: r"did not start within",
    Failure.no_answer: r"no answer within",
    Failure.out_of_memory: r"out of memory|OutOfMemoryError|MemoryError|No available memory|Cannot allocate memory"
    r"|less than desired GPU memory utilization|KV cache is needed",
    Failure.engine_died: r"engine process died|EngineDeadError|exited unexpectedly",
    Failure.unsupported: r"[Nn]ot supported|[Uu]nsupported|does not support|NotImplementedError|ModuleNotFoundError"
    r"|No valid attention backend|FlashAttention version not detected|Failed to find a kernel|expected at most 0 argument"
    r"|'_OpNamespace'|assert self\.kv_cache_dtype in",
}
FITS = re.compile(r"estimated maximum model length is (\d+)")
HINTS = {
    Failure.out_of_memory: "lower engine.args.max_num_seqs, max_model_len or gpu_memory_utilization, or take"
    " quantization=fp8_kv; python -m gpuqa.predict says what fits",
    Failure.start_timeout: "raise engine.start_timeout_s; a first start compiles",
    Failure.engine_died: "engine.log in the study's folder ends with its last messages",
    Failure.no_answer: "raise workload.answer_timeout_s, or ask for shorter answers (sampling.max_tokens)",
    Failure.unsupported: "this build of vLLM cannot do that on this device: docs/formats.md says which formats ran where",
    Failure.bad_config: "engine.log in the study's folder has the whole message",
}


def kind_of(error: str) -> Failure:
    """The kind of a failure, by the text that names it."""
    return next((kind for kind, pattern in MARKS.items() if re.search(pattern, error)), Failure.bad_config)


def explained(error: str) -> str:
    """The error with its kind and what to do about it."""
    kind = kind_of(error)
    fits = FITS.search(error)
    hint = f"engine.args.max_model_len={fits[1]} would fit" if fits else HINTS[kind]
    return f"{kind.name}: {error}; {hint}"
