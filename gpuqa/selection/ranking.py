"""The selection rules in one table: what each ranks by, how its lead is tested, and how a race bounds it.

A new rule is a member of `gpuqa.config.measurement.Rule` and a row of `RANKINGS`. It needs more only if it ranks by a
quantity that is neither speed nor quality: then its test goes into `gpuqa.selection.comparison`, and its lag into
`Lag` and `gpuqa.study.racing.elimination`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from gpuqa.config.measurement import Rule, SelectionConfig
from gpuqa.records import Trial
from gpuqa.selection.comparison import (
    GOODPUT,
    TOKENS_PER_JOULE,
    Comparison,
    Known,
    by_both,
    by_energy,
    by_goodput,
    by_quality,
    by_speed,
    merit,
    quality,
    speed,
    without_a_test,
)
from gpuqa.selection.constraints import quantization_of

Key = Callable[[Trial], Any]


class Lag(Enum):
    """A quantity in which a race can show that one cell is behind another."""

    speed = "speed"  # log chars/s
    quality = "quality"  # mean rouge_l_f1
    merit = "merit"  # the weighted sum of both logs


@dataclass(frozen=True, slots=True)
class RaceBound:
    """What a race must have shown before it drops a cell: the cell is behind a leader in every quantity of `lags`.

    Behind means by more than the verdict would still call a tie (`selection.max_interval_ratio`), or a race would drop cells
    that share the first place.
    """

    lags: tuple[Lag, ...]
    name: str  # how a message calls a cell that is behind in all of them: "slower" in "slower than prompt=bare"
    leader_is_any: bool = False  # every cell without a violation is a leader, not only the first by the rule

    @property
    def is_speed_alone(self) -> bool:
        """Whether speed decides, so that a card's bound can drop a cell that nobody has measured."""
        return self.lags == (Lag.speed,)


@dataclass(frozen=True, slots=True)
class Ranking:
    """All that the verdict and the race know of one rule."""

    title: str  # of the first by the rule, as in "the fastest of 12 eligible trials"
    order: Callable[[Sequence[Trial], SelectionConfig], Key]  # eligible trials -> a sort key, which is highest for the best
    compare: Callable[[Trial, Trial, SelectionConfig, Known], Comparison]  # the first by the rule with another
    speed_weight: float | None  # of speed beside quality in the figure that a race sorts by; None: selection.speed_weight
    race: RaceBound | None  # None: no race can be run by this rule
    repeats_decide: bool = False  # more passes make the test sharper
    number: str | None = None  # the metric that it ranks by, where a verdict would not name it anyway
    untested: str | None = None  # why no lead can be tested, where `compare` is `without_a_test`


def by_fastest(_: Sequence[Trial], __: SelectionConfig) -> Key:
    """Speed alone."""
    return speed


def by_best_quality(_: Sequence[Trial], __: SelectionConfig) -> Key:
    """Quality, then speed."""
    return lambda trial: (quality(trial), speed(trial))


def by_most_goodput(_: Sequence[Trial], __: SelectionConfig) -> Key:
    """Goodput, then speed."""
    return lambda trial: (GOODPUT.of(trial), speed(trial))


def by_least_energy(_: Sequence[Trial], __: SelectionConfig) -> Key:
    """Output tokens per joule, then speed."""
    return lambda trial: (TOKENS_PER_JOULE.of(trial), speed(trial))


def by_merit(_: Sequence[Trial], rule: SelectionConfig) -> Key:
    """The weighted figure."""
    return lambda trial: merit(trial, rule)


def by_knee(eligible: Sequence[Trial], _: SelectionConfig) -> Key:
    """Height above the line between the ends of the Pareto front, both axes scaled to it (Satopää et al., "Kneedle", 2011).

    What is not on the front comes after it.
    """
    front = pareto_front(eligible)
    ends = [
        (min(values), max(values))
        for values in ([speed(trial) for trial in front], [quality(trial) for trial in front])
        if values
    ]

    def height(trial: Trial) -> tuple[bool, float]:
        values = zip((speed(trial), quality(trial)), ends, strict=True)
        above = sum((value - low) / (high - low) if high > low else 0.0 for value, (low, high) in values)
        return any(member is trial for member in front), above

    return height


RANKINGS: dict[Rule, Ranking] = {
    Rule.fastest: Ranking(
        title="fastest",
        order=by_fastest,
        compare=by_speed,
        speed_weight=1.0,
        race=RaceBound((Lag.speed,), "slower"),  # however good: above the floors only speed ranks
        repeats_decide=True,
    ),
    Rule.best_quality: Ranking(
        title="best in rouge_l_f1",
        order=by_best_quality,
        compare=by_quality,
        speed_weight=0.0,
        race=RaceBound((Lag.quality,), "worse"),  # however fast
    ),
    Rule.weighted: Ranking(
        title="best by weight",
        order=by_merit,
        compare=by_both,
        speed_weight=None,
        race=RaceBound((Lag.merit,), "behind by weight"),
        repeats_decide=True,
    ),
    Rule.knee: Ranking(
        title="knee",
        order=by_knee,
        compare=without_a_test,
        speed_weight=0.5,
        # Slower and worse than one other cell: then it is not on the Pareto front, whose corner the knee is.
        race=RaceBound((Lag.speed, Lag.quality), "slower and worse", leader_is_any=True),
        untested="no test is known for the knee of a front",
    ),
    Rule.goodput: Ranking(
        title="highest in goodput",
        order=by_most_goodput,
        compare=by_goodput,
        speed_weight=1.0,
        race=None,  # a slice's load is not the whole's
        repeats_decide=True,
        number="goodput_questions_per_s",
    ),
    Rule.cheapest: Ranking(
        title="cheapest in joules per output token",
        order=by_least_energy,
        compare=by_energy,
        speed_weight=1.0,
        race=None,  # a slice is too short for the counter of energy
        repeats_decide=True,
        number="joules_per_output_token",
    ),
}


def rank(eligible: Sequence[Trial], rule: SelectionConfig) -> list[Trial]:
    """The eligible trials from best to worst by the rule."""
    return sorted(eligible, key=RANKINGS[rule.rule].order(eligible, rule), reverse=True)


def compare_all(first: Trial, others: Sequence[Trial], rule: SelectionConfig, known: Known) -> list[Comparison]:
    """The first trial against each of the others, by what the rule ranks by.

    Nothing is corrected for their number: a win needs every one of them to be beaten, which is no easier with more of them.
    """
    return [RANKINGS[rule.rule].compare(first, other, rule, known) for other in others]


def simplicity(rule: SelectionConfig) -> Key:
    """Sorts the simplest first: unquantized, then the shorter prompt, then smaller engine settings, then the faster."""

    def key(trial: Trial) -> tuple[Any, ...]:
        prompt, engine = trial.pipeline["prompt"], trial.pipeline["engine"]
        examples = sum(len(example["question"]) + len(example["answer"]) for example in prompt["examples"])
        settings = {**engine["args"], "max_tokens": trial.pipeline["sampling"]["max_tokens"]}
        sizes = [(name, value) for name, value in sorted(settings.items()) if isinstance(value, int | float)]
        prompt_chars = len(prompt["system"] or "") + len(prompt["user"]) + examples
        overrides = sum(engine.get(part, "default") != "default" for part in ("scheduler", "attention"))
        return (quantization_of(trial) != rule.baseline_quantization, prompt_chars, overrides, sizes, -speed(trial))

    return key


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Measured trials of which no other has more chars/s and as much rouge_l_f1, or the other way round."""
    points = [(trial, speed(trial), quality(trial)) for trial in trials if trial.measurement]
    return [
        trial
        for trial, fast, good in points
        if not any(other[1] >= fast and other[2] >= good and (other[1] > fast or other[2] > good) for other in points)
    ]
