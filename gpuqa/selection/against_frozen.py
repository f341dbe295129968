"""Numbers that were measured again beside those of a frozen winner: did they come out as they would if nothing changed?

A speed did where it lies in the interval of the next measurement (`gpuqa.measure.speed_prediction`). A score did where its
answers are not shown to differ from the frozen ones, question by question; where those are not at hand, where it lies in the
interval that was frozen with it, which is far wider: it is that of other questions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import fmean
from typing import Any

from gpuqa.config.measurement import Issue
from gpuqa.measure.metric_table import METRICS, shown
from gpuqa.measure.speed_prediction import next_of, next_speed
from gpuqa.measure.speed_tests import SpeedNoise
from gpuqa.measure.statistics import holm
from gpuqa.records import Interval, Measurement
from gpuqa.selection.comparison import WIDEST_RATIO
from gpuqa.selection.pairing import AnswerPairs, paired_test, scores_of

SCORES = ("rouge_l_f1_judge", "rouge_l_f1")
NUMBERS = ("chars_per_s", *SCORES)  # what is frozen with an interval
CONFIDENCE = 0.95
TOO_NOISY = "too noisy to say: the highest speed that fits is more than twice the lowest"
COVERED = {2: 0.77, 3: 0.84, 4: 0.89, 5: 0.92}  # of next speeds, by repeats, where some are slow (docs/verdict_rates.md)
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
    def noisy(self) -> bool:
        """Whether it is a speed whose interval says nothing."""
        return self.name not in SCORES and self.interval is not None and too_noisy(self.interval)

    @property
    def inside(self) -> bool | None:
        """Whether it came out as it was frozen; None without an interval, and within one that says nothing."""
        if self.p_value is not None:
            return self.p_value > 1 - CONFIDENCE
        if self.interval is None:
            return None
        lies_within = self.interval.low <= self.here <= self.interval.high
        return None if lies_within and self.noisy else lies_within

    @property
    def word(self) -> str:
        """The same for people."""
        return {True: "inside", False: "OUTSIDE", None: "too noisy" if self.noisy else "no interval"}[self.inside]

    @property
    def ends(self) -> str:
        """The interval for people; of a difference with signs."""
        if self.interval is None or self.noisy:
            return "too noisy" if self.noisy else "n/a"
        sign = "" if self.p_value is None else "+"
        return f"{self.interval:{sign}{METRICS[self.name].form}}"


def too_noisy(speed: Interval) -> bool:
    """Whether the interval of a speed is too wide to be told as a result."""
    return speed.low <= 0 or speed.high / speed.low > WIDEST_RATIO


def next_text(measurement: Measurement, noise: SpeedNoise | None) -> str:
    """Where the next measurement of a winner's speed lies, and where that is less sure than it looks, a sentence.

    Args:
        noise: as the study knows it; None where it has no two passes of one start.
    """
    interval = next_of(measurement, noise)
    if interval is None:
        return "Where its next measurement lies is not known: that takes two repeats (workload.repeats)."
    if too_noisy(interval):
        return f"Where its next measurement lies is {TOO_NOISY}."
    covered = COVERED.get(measurement.repeats) if noise is not None and noise.start_freedom == 0 else None
    alike = f"{measurement.repeats} repeats on one start may all be alike"
    but = f"; {covered:.0%} where passes are fast or slow by chance, since {alike}" if covered else ""
    return f"Its next measurement lies within {interval:,.0f} chars/s (95% interval{but})."


def against_frozen(then: Mapping[str, Any], now: Mapping[str, Any], pairs: AnswerPairs | None = None) -> list[FrozenNumber]:
    """Every number of `NUMBERS` that both sides have.

    Args:
        then: the `measurement` of a frozen file, with `{name}_interval` beside its numbers. It may come from elsewhere: what is
            no number is left out.
        now: values by the same names. `chars_per_s_repeats`, all on one start of an engine, show how much passes vary, too:
            if nothing changed, as much as those of then. Without them the speed of now is of one pass.
        pairs: the answers of now with the frozen ones; of few or none the scores are compared by their means.
    """
    both = [name for name in NUMBERS if is_number(then.get(name)) and is_number(now.get(name))]
    numbers = [FrozenNumber(name, then[name], interval_of(then.get(f"{name}_interval")), now[name]) for name in both]
    speed = [with_speed(number, then, now) for number in numbers if number.name not in SCORES]
    scores = [with_pairs(number, pairs or []) for number in numbers if number.name in SCORES]
    p_values = iter(holm([number.p_value for number in scores if number.p_value is not None]))
    return [*speed, *(number if number.p_value is None else replace(number, p_value=next(p_values)) for number in scores)]


def with_speed(number: FrozenNumber, then: Mapping[str, Any], now: Mapping[str, Any]) -> FrozenNumber:
    """The speed with the interval for the passes of now, where the file tells the noise that it follows from."""
    noise, engines = noise_of(then.get("chars_per_s_noise")), then.get("engine_ids")
    if noise is None:
        return number
    starts = len(set(map(str, engines))) if isinstance(engines, list) and engines else 1
    repeats = now.get("chars_per_s_repeats") or [number.here]
    logs = list(map(math.log, repeats)) if min(repeats) > 0 else [0.0] * len(repeats)
    return replace(number, interval=next_speed(number.frozen, starts, noise.with_passes(logs), len(logs), CONFIDENCE))


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


def noise_of(values: Any) -> SpeedNoise | None:
    """The noise in a frozen file; None where there is none, or no possible one."""
    names = [field.name for field in fields(SpeedNoise)]
    if not isinstance(values, dict) or not all(is_number(values.get(name)) and values[name] >= 0 for name in names):
        return None
    noise = SpeedNoise(**{name: values[name] for name in names})
    least = min(noise.usual_freedom, noise.pass_freedom, noise.passes)
    return noise if least >= 1 and noise.usual_sd > 0 else None


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
