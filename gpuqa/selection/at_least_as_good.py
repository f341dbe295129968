"""Is trial A at least as good as trial B? The numbers of both with intervals and p-values, and why an answer is left open.

A speed is shown to be as good where a bound of its lead lies above the width of a TIE, a score where it is shown to keep
what a quantized cell must keep of its baseline (`gpuqa.selection.ratios`). All numbers must be, so no correction for their
number is due. One that is shown to be worse is enough for "worse", so there is Holm's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from statistics import NormalDist, fmean

from gpuqa.config.measurement import SelectionConfig
from gpuqa.measure.speed_tests import (
    SignedRank,
    SpeedLead,
    StartNoise,
    Starts,
    Unit,
    rounds_of,
    speed_lead,
    starts_of,
)
from gpuqa.measure.statistics import Estimate, holm
from gpuqa.records import Interval, Trial
from gpuqa.selection.comparison import relative, relative_interval
from gpuqa.selection.pairing import AnswerPairs, paired_test, scores_of
from gpuqa.selection.ratios import Kept, score_ratio, tested
from gpuqa.selection.reach import seconds_of
from gpuqa.selection.wording import counted, duration

LEAST_SPEED = 1 / SelectionConfig(name="").max_interval_ratio  # share of B's: how far apart trials of a TIE are at most
SCORES = ("rouge_l_f1_judge", "rouge_l_f1")
LEAST_FREEDOM = 2  # three repeats: two may both have met a quiet moment
MOST = 200  # of starts or repeats; beyond, more of them is no advice
POWER = 0.8  # with which what is advised shows an A that is as fast


class Conclusion(Enum):
    """What is shown about A."""

    better_or_equal = "better or equal"  # in all numbers
    worse = "worse"  # in at least one number; being better in another does not make up for it
    not_shown = "not shown"  # neither


@dataclass(frozen=True, slots=True)
class Row:
    """One number of both sides. Without a test the interval and the p-value are None."""

    name: str
    a: float
    b: float
    lead: float  # of A, as a share of B; 0.05 means 5 % more
    least: float  # share of B that A must be shown to keep
    interval: Interval | None = None  # of the lead
    p_value: float | None = None  # against no lead, corrected by Holm for all rows
    open: str = ""  # why A is not shown to be as good, and what would show it; "" where it is shown

    def shown(self, confidence: float) -> bool:
        """Whether the lead, or the lag, is more than chance."""
        return self.p_value is not None and self.p_value <= 1 - confidence


def rows_of(a: Trial, b: Trial, pairs: AnswerPairs, confidence: float, known: Sequence[Starts] = ()) -> list[Row]:
    """The speed of two measured trials, and both scores where answers of both were scored.

    Args:
        known: all starts that the studies have of both cells, which show how much speeds vary; none: those of the trials.
    """
    scored = [pair for pair in pairs if scores_of([pair])]
    rows = [speed_row(a, b, confidence, known), *(score_row(name, scored, confidence) for name in SCORES if scored)]
    p_values = iter(holm([row.p_value for row in rows if row.p_value is not None]))
    return [row if row.p_value is None else replace(row, p_value=next(p_values)) for row in rows]


def conclusion_of(rows: Sequence[Row], confidence: float) -> tuple[Conclusion, list[str]]:
    """What is shown, and the reasons: of "worse" the numbers, of "not shown" what is open and what would show it."""
    shown = [row for row in rows if row.shown(confidence)]
    worse = [f"{row.name}: A is {-row.lead:.1%} lower (p {row.p_value:.3g})" for row in shown if row.lead < 0]
    if worse:
        return Conclusion.worse, worse
    reasons = [row.open for row in rows if row.open and row not in shown]
    return (Conclusion.not_shown if reasons else Conclusion.better_or_equal), reasons


def speed_row(a: Trial, b: Trial, confidence: float, known: Sequence[Starts]) -> Row:
    """Characters per second: by rounds where one engine answered both, else by the starts of their engines."""
    assert a.measurement is not None
    assert b.measurement is not None
    speeds = a.measurement.chars_per_s, b.measurement.chars_per_s
    row = Row("chars_per_s", *speeds, speeds[0] / speeds[1] - 1 if speeds[1] else 0.0, LEAST_SPEED)
    starts = starts_of(a.measurement, a.key), starts_of(b.measurement, b.key)
    if not starts[0] or not starts[1]:
        silent = "B" if starts[0] else "A"
        reason = f"a repeat of {silent} gave no characters, so there is no ratio; measure it again"
        return replace(row, open=f"chars_per_s: {reason}")
    cells = known or [starts[0], starts[1]]
    lead = lead_of(starts[0], starts[1], cells)
    if lead is None:
        repeats = [len(trial.measurement.chars_per_s_repeats) for trial in (a, b) if trial.measurement]
        counts = f"A has {counted(repeats[0], 'repeat')} and B has {repeats[1]}"
        reason = f"{counts}, and a test needs 2 of each; measure again with workload.repeats=3 or more"
        return replace(row, open=f"chars_per_s: {reason}")
    interval, reason = relative_interval(lead.test, confidence), ""
    if not is_as_fast(lead, cells, confidence):
        reason = f"chars_per_s: {advice(lead, cells, confidence, (a, b))}"
    return replace(row, lead=relative(lead.test.difference), interval=interval, p_value=lead.test.p_value, open=reason)


def lead_of(a: Starts, b: Starts, known: Sequence[Starts]) -> SpeedLead | None:
    """How far A leads in log speed; None where nothing is known of the noise of one of them."""
    if not rounds_of(a, b) and min(map(freedom_of, known)) == 0:
        return None
    return speed_lead(a, b, StartNoise(), known)


def freedom_of(cell: Starts) -> int:
    """How many observations tell how much the passes of a cell vary."""
    return sum(len(logs) - 1 for logs in cell.values())


def is_as_fast(lead: SpeedLead, known: Sequence[Starts], confidence: float) -> bool:
    """Whether A is shown to lose no more speed than trials of a TIE differ by."""
    enough = min(map(freedom_of, known)) >= LEAST_FREEDOM
    return enough and bound_of(lead.test, confidence) >= math.log(LEAST_SPEED)


def bound_of(test: Estimate | SignedRank, confidence: float) -> float:
    """What the lead in log speed is at least: one-sided, as the bound of a score is."""
    return test.interval(2 * confidence - 1).low


def advice(lead: SpeedLead, known: Sequence[Starts], confidence: float, sides: tuple[Trial, Trial]) -> str:
    """Why A is not shown to be as fast; how many starts or repeats of each would show one that is, and how long they take."""
    if min(map(freedom_of, known)) < LEAST_FREEDOM:
        return "two repeats may be alike by chance; measure again with workload.repeats=3 or more"
    estimate, loss = by_means(lead), -relative(bound_of(lead.test, confidence))
    may = f"A may be up to {loss:.1%} slower by a {confidence:.0%} bound, and {1 - LEAST_SPEED:.1%} would be equal"
    needed = needed_of(estimate, lead.count, confidence)
    if needed is None:
        return f"{may}; passes vary so much that no number of them is advised: find out what disturbs the machine"
    seconds = (needed - lead.count) * sum(seconds_of(trial, lead.unit) for trial in sides)
    which = ("engine start", "a sweep of both with study.finalists=2")
    if lead.unit is not Unit.starts:
        which = ("repeat", f"workload.repeats={needed}")
    how = f"about {counted(needed, which[0])} of each would show an equal A ({which[1]})"
    return f"{may}; {how}; that takes about {duration(seconds)}"


def by_means(lead: SpeedLead) -> Estimate:
    """The lead by means, whose error is known for more observations."""
    return lead.test.by_means if isinstance(lead.test, SignedRank) else lead.test


def needed_of(estimate: Estimate, count: int, confidence: float) -> int | None:
    """How many observations of each side show that there is no loss where there is none; None beyond `MOST`.

    The error falls with the square root of their number, and each adds a degree of freedom.
    """
    for more in range(count + 1, MOST + 1):
        likely = Estimate(0.0, estimate.error * math.sqrt(count / more), estimate.freedom + more - count)
        if NormalDist().inv_cdf(POWER) * likely.error - bound_of(likely, confidence) <= -math.log(LEAST_SPEED):
            return more
    return None


def score_row(name: str, pairs: AnswerPairs, confidence: float) -> Row:
    """A score over the same questions: bootstrap interval and sign-flip test of the difference, as shares of B's mean."""
    scores = scores_of(pairs, name)
    mean_a, mean_b = fmean(pair.first for pair in scores), fmean(pair.second for pair in scores)
    rule, scale = SelectionConfig(name="compare", confidence=confidence), mean_b or 1.0
    ratio = score_ratio(rule, len({pair.question for pair in scores}))
    (kept, _, reach), (interval, p_value) = tested(scores, ratio, rule), paired_test(scores, scale, confidence)
    share = f"{ratio.share:.0%} of B ({ratio.source})"
    reasons = {
        Kept.yes: "",
        Kept.open: f"{name}: A is not shown to keep {share}: {reach}",
        Kept.no: f"{name}: A seems to keep less than {share}: {reach}; more different questions would show it",
    }
    return Row(name, mean_a, mean_b, (mean_a - mean_b) / scale, ratio.share, interval, p_value, reasons[kept])
