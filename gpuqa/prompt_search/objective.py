"""Which prompt is better: the rule of `selection`, on what a search has seen of its prompts so far."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, TypeVar

import numpy as np

from gpuqa.config import UserError
from gpuqa.config.measurement import Rule, SelectionConfig
from gpuqa.config.prompt_search import Against, PromptSearchConfig, Quality

Key = TypeVar("Key", bound=Hashable)
RULES = (Rule.fastest, Rule.best_quality, Rule.weighted, Rule.knee)  # what the others count, a slice of questions does not have

QUALITIES = {Quality.rouge_l_f1: "quality", Quality.rouge_l_f1_judge: "judge"}  # where an outcome has them


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a prompt made of a slice of questions. Lists are in the order of the questions."""

    quality: list[float]  # rouge_l_f1
    judge: list[float]  # rouge_l_f1_judge
    chars: list[int]
    output_tokens: list[int]
    computed_tokens: int  # of the prompts, those that did not come out of the prefix cache
    seconds: float  # of the pass
    ttft_s: list[float]
    latency_s: list[float]  # from a question to its whole answer
    empty: int = 0
    truncated: int = 0


@dataclass(frozen=True, slots=True)
class Score:
    """What is known of a prompt over some slices."""

    quality: float  # mean of the score that the search goes by
    judge: float
    chars_per_s: float
    speed: float  # of `search.against`, the more the better
    empty: float  # share of the answers
    truncated: float
    ttft_ms_p95: float | None  # of the answers so far, however few they are; None: nothing limits it
    e2e_latency_ms_p95: float | None
    questions: int


@dataclass(frozen=True)
class Objective:
    """What is looked for."""

    rule: SelectionConfig
    config: PromptSearchConfig
    least_speed: float = 0.0  # of `search.at_least_as_fast`, on the same questions

    def __post_init__(self) -> None:
        if self.rule.rule not in RULES:
            names = ", ".join(rule.name for rule in RULES)
            raise UserError(f"selection.rule: got {self.rule.rule.name!r}, a search goes by one of {names}")

    def score(self, outcomes: Sequence[Outcome], seconds: float | None = None) -> Score:
        """Of a prompt's outcomes over slices.

        Args:
            seconds: of all of them, as their tokens tell it; None: as they were measured.
        """
        whole = together(outcomes)
        count, chars_per_s = len(whole.quality), sum(whole.chars) / (seconds or whole.seconds)
        speeds = {
            Against.chars_per_s: chars_per_s,
            Against.output_tokens: count / max(1, sum(whole.output_tokens)),
            Against.ttft_ms: 1 / max(1e-9, fmean(whole.ttft_s)),
        }
        return Score(
            quality=fmean(getattr(whole, QUALITIES[self.config.quality])),
            judge=fmean(whole.judge),
            chars_per_s=chars_per_s,
            speed=speeds[self.config.against],
            empty=whole.empty / count,
            truncated=whole.truncated / count,
            ttft_ms_p95=p95_ms(whole.ttft_s) if self.rule.max_ttft_ms_p95 else None,
            e2e_latency_ms_p95=p95_ms(whole.latency_s) if self.rule.max_e2e_latency_ms_p95 else None,
            questions=count,
        )

    def order(self, scores: Mapping[Key, Score]) -> list[Key]:
        """The prompts, the best first: those that miss a limit come last, by how far they miss it."""
        best = max((score.quality for score in scores.values()), default=0.0)
        short = {key: self.shortfall(score, best) for key, score in scores.items()}
        if self.rule.rule is Rule.knee:
            ranks = front_ranks({key: (score.quality, score.speed) for key, score in scores.items()})
            return sorted(scores, key=lambda key: (short[key], *ranks[key]))
        return sorted(scores, key=lambda key: (short[key], -self.merit(scores[key])))

    def merit(self, score: Score) -> float:
        """What the rule ranks by, in logs where both count."""
        if self.rule.rule is Rule.fastest:
            return score.speed
        if self.rule.rule is Rule.weighted:
            weight = self.rule.speed_weight
            return weight * log(score.speed) + (1 - weight) * log(score.quality)
        return score.quality

    def shortfall(self, score: Score, best_quality: float) -> float:
        """By how much a prompt misses the limits, each as a share of it; 0 where it keeps them."""
        rule = self.rule
        missed = [
            below(score.judge, rule.min_rouge_l_f1_judge),
            below(score.quality, rule.min_rouge_l_f1_of_best * best_quality),
            below(score.chars_per_s, rule.min_chars_per_s),
            below(score.speed, self.least_speed),
            max(0.0, score.empty - rule.max_empty_fraction),
            max(0.0, score.truncated - rule.max_truncated_fraction),
            above(score.ttft_ms_p95, rule.max_ttft_ms_p95),
            above(score.e2e_latency_ms_p95, rule.max_e2e_latency_ms_p95),
        ]
        return sum(missed)

    def hopeless(self, bound: float, best: Score | None) -> bool:
        """Whether a prompt that is at most so fast (chars/s) can neither keep the limits nor be better than the best.

        Its quality is not known and may be 1, so that only rules in which speed weighs can tell.
        """
        if bound < self.rule.min_chars_per_s:
            return True
        if self.config.against is not Against.chars_per_s:
            return False
        if bound < self.least_speed:
            return True
        ranked = self.rule.rule in (Rule.fastest, Rule.weighted)
        if best is None or not ranked or self.shortfall(best, best.quality):
            return False
        return self.merit(replace(best, quality=1.0, speed=bound)) < self.merit(best)


def together(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcomes of several slices as one."""

    def rows(name: str) -> list[Any]:
        return [value for one in outcomes for value in getattr(one, name)]

    return Outcome(
        quality=rows("quality"),
        judge=rows("judge"),
        chars=rows("chars"),
        output_tokens=rows("output_tokens"),
        computed_tokens=sum(one.computed_tokens for one in outcomes),
        seconds=sum(one.seconds for one in outcomes),
        ttft_s=rows("ttft_s"),
        latency_s=rows("latency_s"),
        empty=sum(one.empty for one in outcomes),
        truncated=sum(one.truncated for one in outcomes),
    )


def below(value: float, limit: float) -> float:
    """By what share of a limit a value lies below it."""
    return max(0.0, 1 - value / limit) if limit > 0 else 0.0


def above(value: float | None, limit: float | None) -> float:
    """By what share of a limit a value lies above it."""
    return max(0.0, value / limit - 1) if value is not None and limit is not None else 0.0


def p95_ms(seconds: Sequence[float]) -> float:
    """The 95th percentile, linear between neighbours."""
    return 1000 * float(np.percentile(seconds, 95))


def log(value: float) -> float:
    """The logarithm, -inf of nothing."""
    return math.log(value) if value > 0 else -math.inf


def front_ranks(points: Mapping[Key, tuple[float, float]]) -> dict[Key, tuple[int, float]]:
    """By which front a prompt is on, 0 for one that none is better than in both, then the lonelier on it the earlier.

    That is how NSGA-II sorts (K. Deb et al., IEEE Transactions on Evolutionary Computation 6, 2002).
    """
    left, ranks, number = dict(points), dict[Key, tuple[int, float]](), 0
    while left:
        front = [key for key in left if not any(dominates(other, left[key]) for other in left.values())]
        gaps = crowding({key: left[key] for key in front})
        for key in front:
            ranks[key] = number, -gaps[key]
            del left[key]
        number += 1
    return ranks


def dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether one is as good in both and better in one."""
    return one[0] >= other[0] and one[1] >= other[1] and one != other


def crowding(points: Mapping[Key, tuple[float, float]]) -> dict[Key, float]:
    """How far the neighbours of each point on a front are apart; without end for those at the ends."""
    gaps = dict.fromkeys(points, 0.0)
    for axis in (0, 1):
        keys = sorted(points, key=lambda key: points[key][axis])
        spread = points[keys[-1]][axis] - points[keys[0]][axis] if keys else 0.0
        for place, key in enumerate(keys):
            at_end = place in (0, len(keys) - 1)
            between = 0.0 if at_end else points[keys[place + 1]][axis] - points[keys[place - 1]][axis]
            gaps[key] += math.inf if at_end else between / spread if spread else 0.0
    return gaps
