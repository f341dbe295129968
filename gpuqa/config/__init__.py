"""What can be configured: the typed groups, the config of each command, and how a command is entered."""

from __future__ import annotations

import math
import re
from enum import Enum
from typing import Any

RENAMED = {  # keys of format 1 of journal and frozen file -> what they are called now
    "prompt.cleanup": "prompt.postprocess",
    "selection.guard": "selection.constraint_test",
    "workload.warm_repeats": "workload.prefix_cached_repeats",
    "measurement.itl_ms_mean": "measurement.tpot_ms_mean",
    "measurement.warm_repeats": "measurement.prefix_cached_repeats",
    "measurement.warm_chars_per_s": "measurement.prefix_cached_chars_per_s",
    "measurement.warm_output_tokens_per_s": "measurement.prefix_cached_output_tokens_per_s",
    "measurement.warm_ttft_ms_p50": "measurement.prefix_cached_ttft_ms_p50",
    "measurement.warm_ttft_ms_p95": "measurement.prefix_cached_ttft_ms_p95",
    "measurement.warm_prefix_cache_hit_rate": "measurement.prefix_cached_hit_rate",
}
GONE = {  # keys that nothing has taken the place of -> why
    "workload.warmup_questions": "study and server warm up in the same way, see gpuqa.pipeline.pipeline.warm_up",
    "http.max_question_chars": "a question that is too long is cut once, in tokens, as it was when it was measured",
}


class UserError(Exception):
    """A mistake that the user can mend. Commands print its message without a traceback and exit with 2."""


def check(holds: bool, key: str, value: object, allowed: str) -> None:
    """Raise a UserError that names the key, the value and what is allowed, unless the check holds."""
    if not holds:
        raise UserError(f"{key}: got {value!r}, allowed is {allowed}")


def plain(value: Any) -> Any:
    """Nested containers with enums replaced by their names, ready for JSON and YAML."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def outdated_in(text: str) -> str:
    """A line for each old key in a command line or an error message that does not name the new one; "" without any."""
    words = re.findall(r"[\w.]+", text)
    old = [key for key in (*RENAMED, *GONE) if any(f"{word}.".startswith(f"{key}.") for word in words)]
    renamed = [f"\n{key} is called {RENAMED[key]} now" for key in old if key in RENAMED and RENAMED[key] not in words]
    return "".join([*renamed, *(f"\n{key} is gone: {GONE[key]}" for key in old if key in GONE)])
