"""Two trials against each other: the difference in what a rule ranks by, its interval and its p-value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import stdev

from gpuqa.config.measurement import Rule, SelectionConfig
from gpuqa.measure.statistics import Estimate, added, holm, paired_interval, sign_flip_p_value, times, welch
from gpuqa.records import Interval, Trial
from gpuqa.selection.constraints import Answers, paired, scores_of


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

    def tells(self, most_ratio: float) -> bool:
        """Whether the interval is narrow enough to call what it holds a tie."""
        return narrow(self.interval, most_ratio)


def narrow(interval: Interval | None, most_ratio: float) -> bool:
    """Whether high end / low end of a relative difference is small enough; without an interval it is not."""
    return interval is not None and interval.low > -1 and (1 + interval.high) / (1 + interval.low) <= most_ratio


def compare_all(first: Trial, others: Sequence[Trial], rule: SelectionConfig, answers: Answers) -> list[Comparison]:
    """The first trial against each of the others, by what the rule ranks by."""
    compare = {
        Rule.fastest: by_speed,
        Rule.best_quality: by_quality,
        Rule.weighted: by_both,
        Rule.knee: without_a_test,  # a corner of a curve has no sampling distribution that anybody agrees on
    }[rule.rule]
    found = [compare(first, other, rule, answers) for other in others]
    tested = [one.p_value for one in found if one.p_value is not None]
    corrected = iter(holm(tested))
    return [one if one.p_value is None else replace(one, p_value=next(corrected)) for one in found]


def by_speed(ours: Trial, theirs: Trial, rule: SelectionConfig, _: Answers) -> Comparison:
    """The ratio of speeds by Welch's test on the logs of the repeats."""
    found = speed_estimate(ours, theirs)
    lead = speed(ours) / speed(theirs) - 1 if speed(theirs) else 0.0
    return Comparison(theirs, lead) if found is None else of_logs(theirs, found, rule)


def by_quality(ours: Trial, theirs: Trial, rule: SelectionConfig, answers: Answers) -> Comparison:
    """The difference of rouge_l_f1 as a share of theirs: bootstrap interval and sign-flip test over the same questions."""
    mean = quality(theirs)
    pairs = scores_of(paired(answers.get(ours.key, ()), answers.get(theirs.key, ())))
    lead = quality(ours) / mean - 1 if mean else 0.0
    if not pairs or not mean:
        return Comparison(theirs, lead)
    scores = [one for one, _ in pairs], [other for _, other in pairs]
    found = paired_interval(*scores, rule.confidence)
    return Comparison(theirs, lead, Interval(found.low / mean, found.high / mean), sign_flip_p_value(*scores))


def by_both(ours: Trial, theirs: Trial, rule: SelectionConfig, answers: Answers) -> Comparison:
    """The ratio of weighted geometric means, in logs the sum of both weighted leads."""
    fast = speed_estimate(ours, theirs)
    pairs = scores_of(paired(answers.get(ours.key, ()), answers.get(theirs.key, ())))
    weight = rule.speed_weight
    if fast is None or len(pairs) < 2 or min(quality(ours), quality(theirs)) <= 0:
        return without_a_test(ours, theirs, rule, answers)
    lead = math.log(quality(ours) / quality(theirs))
    spread = stdev(one / quality(ours) - other / quality(theirs) for one, other in pairs)
    good = Estimate(lead, spread / math.sqrt(len(pairs)), len(pairs) - 1)
    return of_logs(theirs, added(times(fast, weight), good, 1 - weight), rule)


def without_a_test(ours: Trial, theirs: Trial, rule: SelectionConfig, _: Answers) -> Comparison:
    """The lead in the rule's own merit, as it was measured."""
    return Comparison(theirs, math.exp(merit(ours, rule) - merit(theirs, rule)) - 1 if merit(theirs, rule) > -math.inf else 0.0)


def of_logs(other: Trial, found: Estimate, rule: SelectionConfig) -> Comparison:
    """A difference of logs as a relative one."""
    return Comparison(other, relative(found.difference), relative_interval(found, rule.confidence), found.p_value)


def relative_interval(found: Estimate, confidence: float) -> Interval:
    """The interval of a difference of logs as shares."""
    ends = found.interval(confidence)
    return Interval(relative(ends.low), relative(ends.high))


def relative(logs: float) -> float:
    """A difference of logs as a share; the interval of two repeats may run out of a float's range."""
    return math.expm1(min(logs, 700.0))


def speed_estimate(ours: Trial, theirs: Trial) -> Estimate | None:
    """The difference in log speed; None where the repeats allow no test."""
    if ours.measurement is None or theirs.measurement is None:
        return None
    return welch(ours.measurement.chars_per_s_repeats, theirs.measurement.chars_per_s_repeats)


def merit(trial: Trial, rule: SelectionConfig) -> float:
    """What the weighted rule ranks by, in logs."""
    both = speed(trial), quality(trial)
    if min(both) <= 0:
        return -math.inf
    weight = rule.speed_weight
    return weight * math.log(both[0]) + (1 - weight) * math.log(both[1])


def speed(trial: Trial) -> float:
    """Characters per second, 0 for a failure."""
    return trial.measurement.chars_per_s if trial.measurement else 0.0


def quality(trial: Trial) -> float:
    """The F1 that sees Chinese, 0 for a failure or where nothing was scored."""
    return (trial.measurement.rouge_l_f1 or 0.0) if trial.measurement else 0.0
