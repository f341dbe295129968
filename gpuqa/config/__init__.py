"""What can be configured: the typed groups, the config of each command, and how a command is entered."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any


class UserError(Exception):
    """A mistake that the user can mend. Commands print its message without a traceback and exit with 2."""


def check(holds: bool, key: str, value: object, allowed: str) -> None:
    """Raise a UserError in the house's form unless the check holds."""
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
