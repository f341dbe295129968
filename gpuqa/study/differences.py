"""What differs between two configurations, key by key, without the values of the engine's environment."""

from __future__ import annotations

from typing import Any

ABSENT, SECRET = "(none)", "(a value that is not shown)"
ENVIRONMENT = "engine.env"  # may hold a secret: of its variables only the names are shown


def differences(first: Any, second: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    """The dotted keys whose values are not the same, with both values; `ABSENT` is that of a side that lacks the key."""
    if first == second:
        return {}
    if not all(isinstance(side, dict) or side == ABSENT for side in (first, second)):
        hidden = f"{key}.".startswith(f"{ENVIRONMENT}.")
        return {key: (shown(first, hidden), shown(second, hidden))}
    values, others = (side if isinstance(side, dict) else {} for side in (first, second))
    different: dict[str, tuple[Any, Any]] = {}
    for name in dict.fromkeys([*values, *others]):
        place = f"{key}.{name}" if key else name
        different |= differences(values.get(name, ABSENT), others.get(name, ABSENT), place)
    return different


def shown(value: Any, hidden: bool) -> Any:
    """The value, or that there is one."""
    return SECRET if hidden and value != ABSENT else value


def value_of(value: Any) -> str:
    """A value of a difference as a sentence has it, its first 40 characters."""
    return value if value in (ABSENT, SECRET) else f"{value!r:.40}"
