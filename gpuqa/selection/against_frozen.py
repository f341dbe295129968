"""Numbers that were measured again beside those of a frozen winner: which lie inside the interval that was frozen with them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpuqa.config.measurement import Issue
from gpuqa.measure.metrics import METRICS, shown
from gpuqa.records import Interval

NUMBERS = ("chars_per_s", "rouge_l_f1_judge", "rouge_l_f1")  # what is frozen with an interval


@dataclass(frozen=True, slots=True)
class FrozenNumber:
    """One number, then and now."""

    name: str
    frozen: float
    interval: Interval | None  # None where the frozen measurement supports none: a speed of one repeat has no interval
    here: float

    @property
    def inside(self) -> bool | None:
        """Whether it came out as it was frozen; None without an interval."""
        return None if self.interval is None else self.interval.low <= self.here <= self.interval.high

    @property
    def word(self) -> str:
        """The same for people."""
        return {True: "inside", False: "OUTSIDE", None: "no interval"}[self.inside]


def against_frozen(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[FrozenNumber]:
    """Every number of `NUMBERS` that both sides have.

    Args:
        then: the `measurement` of a frozen file, with `{name}_interval` beside its numbers. It may come from elsewhere: what is
            no number is left out.
        now: values by the same names.
    """
    both = [name for name in NUMBERS if is_number(then.get(name)) and is_number(now.get(name))]
    return [FrozenNumber(name, then[name], interval_of(then.get(f"{name}_interval")), now[name]) for name in both]


def comparable(
    frozen: Mapping[str, Any], now: Mapping[str, Any], questions: str, issue: Issue
) -> tuple[list[FrozenNumber], str | None]:
    """The numbers that can be compared with a frozen file's, and why others cannot.

    Args:
        frozen: what a service tells of its frozen file: `measurement`, `digests` and `setting`, each a mapping of anything.
        now: values by the same names.
        questions: digest of those that were asked.
        issue: how they were asked.
    """
    numbers, setting = against_frozen(frozen["measurement"], now), frozen["setting"]
    studied, workload = (setting[key] if isinstance(setting.get(key), dict) else {} for key in ("dataset", "workload"))
    if frozen["digests"].get("dataset") != questions:
        name = f"dataset={studied.get('name')}, dataset.limit={studied.get('limit')}"
        return [], f"the numbers cannot be compared: the study asked other questions ({name})"
    if workload.get("issue") != issue.name:
        reason = f"it was frozen with workload.issue={workload.get('issue')}, and this is {issue.name}"
        return [number for number in numbers if number.name != "chars_per_s"], f"the speed cannot be compared: {reason}"
    return numbers, None


def interval_of(ends: Any) -> Interval | None:
    """The interval in a frozen file; None where there is none."""
    if not isinstance(ends, dict) or not is_number(ends.get("low")) or not is_number(ends.get("high")):
        return None
    return Interval(ends["low"], ends["high"])


def is_number(value: Any) -> bool:
    """Whether it can be compared."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def lines_of(numbers: Sequence[FrozenNumber]) -> list[str]:
    """A table as text: name, frozen, its interval, here, and where that lies."""
    rows = [("number", "frozen", "interval", "here", "")]
    for number in numbers:
        ends = "n/a" if number.interval is None else f"{number.interval:{METRICS[number.name].form}}"
        rows.append((number.name, shown(number.name, number.frozen), ends, shown(number.name, number.here), number.word))
    return [f"{name:18}{frozen:>10}{ends:>24}{here:>10}  {word}".rstrip() for name, frozen, ends, here, word in rows]
