"""What can be configured: the typed groups, the config of each command, and how a command is entered."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from enum import Enum
from typing import Any

RENAMED = {  # keys of gpuqa 0.1 -> what they are called now
    "prompt.cleanup": "prompt.postprocess",
    "selection.guard": "selection.constraint_test",
    "workload.warm_repeats": "workload.prefix_cached_repeats",
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


def one_line(text: str) -> str:
    """The lines of a message as one."""
    return "; ".join(filter(None, (" ".join(line.split()) for line in text.splitlines())))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question that names the known word that is nearest, "" where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
