"""Two trials against each other: by how much one leads in what a rule ranks by, with an interval and a p-value."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from gpuqa.config.measurement import SelectionConfig
from gpuqa.measure.statistics import Estimate, added, mean_estimate, times, welch
from gpuqa.records import Interval, Trial
from gpuqa.selection.pairing import Answers, ScorePairs, paired, paired_test, scores_of

WIDEST_RATIO = 100.0  # high end / low end of an interval that is shown; a wider one, as of two noisy repeats, says nothing


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far the first trial of a rule leads another: 0.05 means 5 % more. No interval where no test is possible."""

    other: Trial
    difference: float
    interval: Interval | None = None
    p_value: float | None = None  # corrected by Holm for all comparisons of the verdict

    def shown(self, confidence: float) -> bool:
        """Whether the lead is more than chance."""
        return self.p_value is not None and self.difference > 0 and self.p_value <= 1 - confidence

    def is_narrow(self, max_ratio: float) -> bool:
        """Whether the interval is narrow enough to call what it holds a tie."""
        return narrow(self.interval, max_ratio)


def narrow(interval: Interval | None, max_ratio: float) -> bool:
    """Whether high end / low end of a relative difference is small enough; without an interval it is not."""
    return interval is not None and interval.low > -1 and (1 + interval.high) / (1 + interval.low) <= max_ratio


def lead_texts(difference: float, interval: Interval | None, p_value: float | None) -> tuple[str, str, str]:
    """A lead, its interval and its p-value as every table and message writes them; "n/a" where there is none to show."""
    tested = "n/a" if interval is None else f"{interval:+.1%}"
    if interval is not None and not narrow(interval, WIDEST_RATIO):
        tested = "n/a: too few values"
    return f"{difference:+.1%}", tested, "n/a" if p_value is None else f"{p_value:.3g}"


def by_speed(first: Trial, other: Trial, rule: SelectionConfig, _: Answers) -> Comparison:
    """The ratio of speeds, by Welch's test on the logs of the repeats."""
    estimate = speed_estimate(first, other)
    if estimate is not None:
        return of_logs(other, estimate, rule)
    return Comparison(other, speed(first) / speed(other) - 1 if speed(other) else 0.0)


def by_quality(first: Trial, other: Trial, rule: SelectionConfig, answers: Answers) -> Comparison:
    """The difference of rouge_l_f1 as a share of the other's: bootstrap interval and sign-flip test over the same questions."""
    scale = quality(other)
    difference = quality(first) / scale - 1 if scale else 0.0
    scores = scores_of(paired(answers.get(first.key, ()), answers.get(other.key, ())))
    if len({pair.question for pair in scores}) < 2 or not scale:
        return Comparison(other, difference)
    return Comparison(other, difference, *paired_test(scores, scale, rule.confidence))


def by_both(first: Trial, other: Trial, rule: SelectionConfig, answers: Answers) -> Comparison:
    """The ratio of weighted geometric means, which in logs is the sum of both weighted leads."""
    fast = speed_estimate(first, other)
    scores = scores_of(paired(answers.get(first.key, ()), answers.get(other.key, ())))
    weight = rule.speed_weight
    good = log_quality_lead(scores, quality(first), quality(other))
    if fast is None or good is None:
        return without_a_test(first, other, rule, answers)
    return of_logs(other, added(times(fast, weight), good, 1 - weight), rule)


def log_quality_lead(scores: ScorePairs, first: float, other: float) -> Estimate | None:
    """The difference in log quality, with the error of a ratio of means to first order; None below two different questions.

    Args:
        first, other: the mean quality of both trials.
    """
    if not scores or min(first, other) <= 0:
        return None
    shares = [pair.first / first - pair.second / other for pair in scores]
    lead = mean_estimate(shares, [pair.question for pair in scores])
    return lead and replace(lead, difference=math.log(first / other))


def without_a_test(first: Trial, other: Trial, rule: SelectionConfig, _: Answers) -> Comparison:
    """The lead in the weighted figure, as it was measured."""
    against = merit(other, rule)
    return Comparison(other, math.exp(merit(first, rule) - against) - 1 if against > -math.inf else 0.0)


def of_logs(other: Trial, estimate: Estimate, rule: SelectionConfig) -> Comparison:
    """A difference of logs as a relative one."""
    interval = relative_interval(estimate, rule.confidence)
    return Comparison(other, relative(estimate.difference), interval, estimate.p_value)


def relative_interval(estimate: Estimate, confidence: float) -> Interval:
    """The interval of a difference of logs as shares."""
    interval = estimate.interval(confidence)
    return Interval(relative(interval.low), relative(interval.high))


def relative(logs: float) -> float:
    """A difference of logs as a share: log 1.05 gives 0.05. Capped, because the interval of two repeats may exceed a float."""
    return math.expm1(min(logs, 700.0))


def speed_estimate(first: Trial, other: Trial) -> Estimate | None:
    """The difference in log speed; None where the repeats allow no test."""
    if first.measurement is None or other.measurement is None:
        return None
    return welch(first.measurement.chars_per_s_repeats, other.measurement.chars_per_s_repeats)


def merit(trial: Trial, rule: SelectionConfig) -> float:
    """What the weighted rule ranks by: speed_weight * log chars/s + (1 - speed_weight) * log rouge_l_f1; -inf if one is 0."""
    both = speed(trial), quality(trial)
    if min(both) <= 0:
        return -math.inf
    weight = rule.speed_weight
    return weight * math.log(both[0]) + (1 - weight) * math.log(both[1])


def speed(trial: Trial) -> float:
    """Characters per second, 0 for a failure."""
    return trial.measurement.chars_per_s if trial.measurement else 0.0


def quality(trial: Trial) -> float:
    """Mean `rouge_l_f1`, in which Chinese words count; 0 for a failed trial and where nothing was scored."""
    return (trial.measurement.rouge_l_f1 or 0.0) if trial.measurement else 0.0
