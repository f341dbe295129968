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


def renamed_in(text: str) -> str:
    """A line for each key that a command line or an error message calls by its old name without the new one; "" without any."""
    words = re.findall(r"[\w.]+", text)
    used = [old for old in RENAMED if RENAMED[old] not in words and any(f"{word}.".startswith(f"{old}.") for word in words)]
    return "".join(f"\n{old} is called {RENAMED[old]} now" for old in used)
