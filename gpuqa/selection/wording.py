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


def listed(items: Sequence[str], limit: int = 3) -> str:
    """The first items, and how many more there are."""
    more = [f"{len(items) - limit} more"] if len(items) > limit else []
    return " and ".join(filter(None, [", ".join(items[:limit]), *more]))
