"""Numbers and lists as sentences have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self


class Violation(str):
    """Why a trial may not win, in a sentence; `short` says the same in a column of a table."""

    short: str

    def __new__(cls, text: str, short: str) -> Self:
        violation = super().__new__(cls, text)
        violation.short = short
        return violation


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 trial", "2 trials", "2 passes" where `plural` says so."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """A time for people, in two units at most: "40 s", "1 min 40 s", "12 min", "1 d 3 h"; the second unit only below ten."""
    whole = max(1, round(seconds))
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next(place for place, (amount, _) in enumerate(parts) if amount)
    shown = parts[first : first + (2 if parts[first][0] < 10 else 1)]
    return " ".join(f"{amount} {unit}" for amount, unit in shown if amount)


def listed(items: Sequence[str], limit: int = 3) -> str:
    """The first items, and how many more there are."""
    more = [f"{len(items) - limit} more"] if len(items) > limit else []
    return " and ".join(filter(None, [", ".join(items[:limit]), *more]))
