"""Numbers that were measured again beside those of a frozen winner: did they come out as they would if nothing changed?

A speed did where it lies in the interval of the next measurement (`gpuqa.measure.speed_prediction`). A score did where its
answers are not shown to differ from the frozen ones, question by question; where those are not at hand, where it lies in the
interval that was frozen with it, which is far wider: it is that of other questions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from gpuqa.config.measurement import Issue
from gpuqa.measure.metric_table import METRICS, shown
from gpuqa.measure.speed_prediction import SpeedNoise, next_speed
from gpuqa.measure.statistics import holm
from gpuqa.records import Interval
from gpuqa.selection.pairing import AnswerPairs, paired_test, scores_of

SCORES = ("rouge_l_f1_judge", "rouge_l_f1")
NUMBERS = ("chars_per_s", *SCORES)  # what is frozen with an interval
CONFIDENCE = 0.95
FEWEST_TO_PAIR = 7  # different questions: of fewer, the sign-flip test shows no change of one of two scores


@dataclass(frozen=True, slots=True)
class FrozenNumber:
    """One number, then and now."""

    name: str
    frozen: float
    interval: Interval | None  # where it lies if nothing changed; None where that is not known, as for a speed of one repeat
    here: float
    p_value: float | None = None  # paired, corrected by Holm for both scores; then the interval is that of here - frozen

    @property
    def inside(self) -> bool | None:
        """Whether it came out as it was frozen; None without an interval."""
        if self.p_value is not None:
            return self.p_value > 1 - CONFIDENCE
        return None if self.interval is None else self.interval.low <= self.here <= self.interval.high

    @property
    def word(self) -> str:
        """The same for people."""
        return {True: "inside", False: "OUTSIDE", None: "no interval"}[self.inside]

    @property
    def ends(self) -> str:
        """The interval for people; of a difference with signs."""
        if self.interval is None:
            return "n/a"
        sign = "" if self.p_value is None else "+"
        return f"{self.interval:{sign}{METRICS[self.name].form}}"


def against_frozen(
    then: Mapping[str, Any], now: Mapping[str, Any], passes: int, pairs: AnswerPairs | None = None
) -> list[FrozenNumber]:
    """Every number of `NUMBERS` that both sides have.

    Args:
        then: the `measurement` of a frozen file, with `{name}_interval` beside its numbers. It may come from elsewhere: what is
            no number is left out.
        now: values by the same names.
        passes: that the speed of now is of, all on one start of an engine.
        pairs: the answers of now with the frozen ones; of few or none the scores are compared by their means.
    """
    both = [name for name in NUMBERS if is_number(then.get(name)) and is_number(now.get(name))]
    numbers = [FrozenNumber(name, then[name], interval_of(then.get(f"{name}_interval")), now[name]) for name in both]
    speed = [with_speed(number, then, passes) for number in numbers if number.name not in SCORES]
    scores = [with_pairs(number, pairs or []) for number in numbers if number.name in SCORES]
    p_values = iter(holm([number.p_value for number in scores if number.p_value is not None]))
    return [*speed, *(number if number.p_value is None else replace(number, p_value=next(p_values)) for number in scores)]


def with_speed(number: FrozenNumber, then: Mapping[str, Any], passes: int) -> FrozenNumber:
    """The speed with the interval for so many passes, where the file tells the noise that it follows from."""
    noise, engines = noise_of(then.get("chars_per_s_noise")), then.get("engine_ids")
    if noise is None:
        return number
    starts = len(set(map(str, engines))) if isinstance(engines, list) and engines else 1
    return replace(number, interval=next_speed(number.frozen, starts, noise, passes, CONFIDENCE))


def with_pairs(number: FrozenNumber, pairs: AnswerPairs) -> FrozenNumber:
    """The score with the paired test, where there are answers enough and the frozen score is theirs."""
    scores = scores_of(pairs, number.name)
    if len({pair.question for pair in scores}) < FEWEST_TO_PAIR:
        return number
    if not math.isclose(fmean(pair.second for pair in scores), number.frozen, abs_tol=1e-9):
        return number
    interval, p_value = paired_test(scores, 1.0, CONFIDENCE)
    return replace(number, interval=interval, p_value=p_value)


def comparable(
    frozen: Mapping[str, Any], now: Mapping[str, Any], questions: str, issue: Issue
) -> tuple[list[FrozenNumber], str | None]:
    """The numbers of one pass that can be compared with a frozen file's, and why others cannot.

    Args:
        frozen: what a service tells of its frozen file: `measurement`, `digests` and `setting`, each a mapping of anything.
        now: values by the same names.
        questions: digest of those that were asked.
        issue: how they were asked.
    """
    numbers, setting = against_frozen(frozen["measurement"], now, passes=1), frozen["setting"]
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


def noise_of(values: Any) -> SpeedNoise | None:
    """The noise in a frozen file; None where there is none, or no possible one."""
    names = ("start_variance", "pass_variance", "freedom", "passes")
    if not isinstance(values, dict) or not all(is_number(values.get(name)) and values[name] >= 0 for name in names):
        return None
    noise = SpeedNoise(**{name: values[name] for name in names})
    return noise if noise.freedom >= 1 and noise.passes >= 1 else None


def is_number(value: Any) -> bool:
    """Whether it can be compared."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def lines_of(numbers: Sequence[FrozenNumber]) -> list[str]:
    """A table as text: name, frozen, its interval, here, and where that lies."""
    rows = [("number", "frozen", "interval", "here", "")]
    for number in numbers:
        rows.append((number.name, shown(number.name, number.frozen), number.ends, shown(number.name, number.here), number.word))
    return [f"{name:18}{frozen:>10}{ends:>24}{here:>10}  {word}".rstrip() for name, frozen, ends, here, word in rows]


def paired_or_not(numbers: Sequence[FrozenNumber]) -> str:
    """How the scores were compared, a sentence; unpaired also by how much one must change to lie outside. "" without scores."""
    scores = [number for number in numbers if number.name in SCORES]
    if any(number.p_value is not None for number in scores):
        return "scores: paired with the frozen answers, question by question; their intervals are of here - frozen"
    seen = [number for number in scores if number.interval is not None and number.frozen > 0]
    if not seen:
        return ""
    falls = ", ".join(f"{number.name} by {1 - number.interval.low / number.frozen:.0%}" for number in seen if number.interval)
    why = f"that takes the frozen answers to {FEWEST_TO_PAIR} different questions"
    return f"scores: not paired ({why}), so only a large fall would be OUTSIDE: {falls}"
