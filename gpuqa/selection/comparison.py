"""Two trials against each other: by how much one leads in what a rule ranks by, with an interval and a p-value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from gpuqa.config.measurement import SelectionConfig
from gpuqa.measure.devices import devices_of
from gpuqa.measure.speed_tests import LOOKS, SignedRank, SpeedLead, StartNoise, speed_lead, starts_of
from gpuqa.measure.statistics import Estimate, added, mean_estimate, times
from gpuqa.records import Interval, Measurement, Trial
from gpuqa.selection.pairing import Answers, ScorePairs, paired, paired_test, scores_of

WIDEST_RATIO = 2.0  # high end / low end of an interval that is shown; a wider one says nothing about the lead


@dataclass(frozen=True, slots=True)
class Figure:
    """What a rule may rank by that every pass of a trial has, the more the better."""

    whole: Callable[[Measurement], float | None]
    repeats: Callable[[Measurement], Sequence[float]]  # by which it is tested

    def of(self, trial: Trial) -> float:
        """Of a trial; 0 where it has none."""
        return (self.whole(trial.measurement) or 0.0) if trial.measurement else 0.0


CHARS_PER_S = Figure(lambda numbers: numbers.chars_per_s, lambda numbers: numbers.chars_per_s_repeats)
GOODPUT = Figure(lambda numbers: numbers.goodput_questions_per_s, lambda numbers: numbers.goodput_questions_per_s_repeats)
TOKENS_PER_JOULE = Figure(
    lambda numbers: 1 / numbers.joules_per_output_token if numbers.joules_per_output_token else None,
    lambda numbers: [1 / joules for joules in numbers.joules_per_output_token_repeats],
)


@dataclass(frozen=True, slots=True)
class Known:
    """What trials are compared by, beside their own numbers."""

    answers: Answers = field(default_factory=dict)  # ratios and quality are tested where they are at hand
    usual: StartNoise = field(default_factory=StartNoise)

    def scores(self, first: Trial, other: Trial) -> ScorePairs:
        """The rouge_l_f1 of both, question by question."""
        return scores_of(paired(self.answers.get(first.key, ()), self.answers.get(other.key, ())))


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far the first trial of a rule leads another: 0.05 means 5 % more. No interval where no test is possible."""

    other: Trial
    difference: float
    interval: Interval | None = None
    p_value: float | None = None  # corrected for the looks that finalists are judged at
    speed: SpeedLead | None = None  # the test of the speeds, where speed alone decides

    def shown(self, rule: SelectionConfig) -> bool:
        """Whether the lead is more than chance, and enough to matter."""
        chance = self.p_value is None or self.p_value > 1 - rule.confidence
        return not chance and self.difference > 0 and self.difference >= rule.min_lead

    def is_level(self, ratio: float) -> bool:
        """Whether both are shown to lie within a ratio of each other: two one-sided tests (D. J. Schuirmann, Journal of
        Pharmacokinetics and Biopharmaceutics 15, 1987), which is that the whole interval lies within."""
        return self.interval is not None and 1 / ratio <= 1 + self.interval.low and 1 + self.interval.high <= ratio


def narrow(interval: Interval | None, max_ratio: float) -> bool:
    """Whether high end / low end of a relative difference is small enough; without an interval it is not."""
    return interval is not None and interval.low > -1 and (1 + interval.high) / (1 + interval.low) <= max_ratio


def lead_texts(difference: float, interval: Interval | None, p_value: float | None) -> tuple[str, str, str]:
    """A lead, its interval and its p-value as every table and message writes them; "n/a" where there is none to show."""
    tested = "n/a" if interval is None else f"{interval:+.1%}"
    if interval is not None and not narrow(interval, WIDEST_RATIO):
        tested = "too noisy"
    return f"{difference:+.1%}", tested, "n/a" if p_value is None else f"{p_value:.3g}"


def by_speed(first: Trial, other: Trial, rule: SelectionConfig, known: Known) -> Comparison:
    """The ratio of speeds; `gpuqa.measure.speed_tests` says by which test."""
    return by_figure(CHARS_PER_S, first, other, rule, known)


def by_goodput(first: Trial, other: Trial, rule: SelectionConfig, known: Known) -> Comparison:
    """The ratio of goodputs, tested as speeds are."""
    return by_figure(GOODPUT, first, other, rule, known)


def by_energy(first: Trial, other: Trial, rule: SelectionConfig, known: Known) -> Comparison:
    """The ratio of output tokens per joule, tested as speeds are."""
    return by_figure(TOKENS_PER_JOULE, first, other, rule, known)


def by_figure(figure: Figure, first: Trial, other: Trial, rule: SelectionConfig, known: Known) -> Comparison:
    """The ratio of a figure that every pass has, such as a speed."""
    lead = speed_lead_of(first, other, known.usual, figure)
    if lead is None:
        return Comparison(other, figure.of(first) / figure.of(other) - 1 if figure.of(other) else 0.0)
    return of_logs(other, lead.test, rule, looks_at(first, other, lead), lead)


def looks_at(first: Trial, other: Trial, lead: SpeedLead) -> int:
    """How often two trials may be compared: finalists are measured on until they are decided, and each look risks an error."""
    return len(LOOKS.get(lead.unit, (0,))) if is_finalist(first) and is_finalist(other) else 1


def is_finalist(trial: Trial) -> bool:
    """Whether the trial's numbers are from measuring it again: then it stands before all that were measured once.

    What was measured once and kept for being the best was lucky, as a rule; see `gpuqa.study.finalists`.
    """
    return trial.measurement is not None and trial.measurement.first_round_chars_per_s is not None


def by_quality(first: Trial, other: Trial, rule: SelectionConfig, known: Known) -> Comparison:
    """The difference of rouge_l_f1 as a share of the other's: bootstrap interval and sign-flip test over the same questions."""
    scale = quality(other)
    difference = quality(first) / scale - 1 if scale else 0.0
    scores = known.scores(first, other)
    if len({pair.question for pair in scores}) < 2 or not scale:
        return Comparison(other, difference)
    return Comparison(other, difference, *paired_test(scores, scale, rule.confidence))


def by_both(first: Trial, other: Trial, rule: SelectionConfig, known: Known) -> Comparison:
    """The ratio of weighted geometric means, which in logs is the sum of both weighted leads."""
    lead, weight = speed_lead_of(first, other, known.usual), rule.speed_weight
    good = log_quality_lead(known.scores(first, other), quality(first), quality(other))
    if lead is None or good is None:
        return without_a_test(first, other, rule, known)
    fast = lead.test.by_means if isinstance(lead.test, SignedRank) else lead.test
    return of_logs(other, added(times(fast, weight), good, 1 - weight), rule, looks_at(first, other, lead))


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


def without_a_test(first: Trial, other: Trial, rule: SelectionConfig, _: Known) -> Comparison:
    """The lead in the weighted figure, as it was measured."""
    against = merit(other, rule)
    return Comparison(other, math.exp(merit(first, rule) - against) - 1 if against > -math.inf else 0.0)


def of_logs(
    other: Trial, test: Estimate | SignedRank, rule: SelectionConfig, looks: int, speed: SpeedLead | None = None
) -> Comparison:
    """A difference of logs as a relative one; the risk of an error is shared by the looks."""
    interval = relative_interval(test, 1 - (1 - rule.confidence) / looks)
    return Comparison(other, relative(test.difference), interval, min(1.0, looks * test.p_value), speed)


def relative_interval(test: Estimate | SignedRank, confidence: float) -> Interval:
    """The interval of a difference of logs as shares."""
    interval = test.interval(confidence)
    return Interval(relative(interval.low), relative(interval.high))


def relative(logs: float) -> float:
    """A difference of logs as a share: log 1.05 gives 0.05. Capped, because the interval of two repeats may exceed a float."""
    return math.expm1(min(logs, 700.0))


def speed_lead_of(first: Trial, other: Trial, usual: StartNoise, figure: Figure = CHARS_PER_S) -> SpeedLead | None:
    """The difference in log speed, or of another figure; None where the repeats allow no test."""
    if first.measurement is None or other.measurement is None:
        return None
    both = ((trial.measurement, trial.key) for trial in (first, other))
    starts = [starts_of(numbers, key, figure.repeats(numbers)) for numbers, key in both if numbers]
    devices = {**devices_of(first.measurement), **devices_of(other.measurement)}
    return speed_lead(starts[0], starts[1], usual, devices=devices) if starts[0] and starts[1] else None


def merit(trial: Trial, rule: SelectionConfig) -> float:
    """What the weighted rule ranks by: speed_weight * log chars/s + (1 - speed_weight) * log rouge_l_f1; -inf if one is 0."""
    both = speed(trial), quality(trial)
    if min(both) <= 0:
        return -math.inf
    weight = rule.speed_weight
    return weight * math.log(both[0]) + (1 - weight) * math.log(both[1])


def speed(trial: Trial) -> float:
    """Characters per second, 0 for a failure."""
    return CHARS_PER_S.of(trial)


def quality(trial: Trial) -> float:
    """Mean `rouge_l_f1`, in which Chinese words count; 0 for a failed trial and where nothing was scored."""
    return (trial.measurement.rouge_l_f1 or 0.0) if trial.measurement else 0.0
