"""Is trial A at least as good as trial B? The numbers of both with intervals and p-values, and why an answer is left open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from statistics import fmean

from gpuqa.measure.speed_tests import SignedRank, StartNoise
from gpuqa.measure.statistics import Estimate, holm
from gpuqa.records import Interval, Trial
from gpuqa.selection.comparison import narrow, relative, relative_interval, speed_lead_of
from gpuqa.selection.pairing import AnswerPairs, paired_test, scores_of
from gpuqa.selection.wording import counted

EQUAL_WITHIN = 1.5  # high end / low end of an interval that still says "equal"
SCORES = ("rouge_l_f1_judge", "rouge_l_f1")
MOST_REPEATS, MOST_TIMES_THE_QUESTIONS = 100, 100  # beyond, more of them is no advice


class Conclusion(Enum):
    """What is shown about A."""

    better_or_equal = "better or equal"  # worse in nothing, and what is not shown to be better is narrow enough to be equal
    worse = "worse"  # in at least one number; being better in another does not make up for it
    inconclusive = "inconclusive"


@dataclass(frozen=True, slots=True)
class Row:
    """One number of both sides. Without a test the interval and the p-value are None, and `open` says why."""

    name: str
    a: float
    b: float
    lead: float  # of A, as a share of B; 0.05 means 5 % more
    interval: Interval | None  # of the lead
    p_value: float | None  # corrected by Holm for all rows
    open: str = ""  # why the number would leave the question open, and what would decide it; "" where it can say "equal"

    def shown(self, confidence: float) -> bool:
        """Whether the lead, or the lag, is more than chance."""
        return self.p_value is not None and self.p_value <= 1 - confidence


def rows_of(a: Trial, b: Trial, pairs: AnswerPairs, confidence: float) -> list[Row]:
    """The speed of two measured trials, and both scores where answers of both were scored; p-values are corrected by Holm."""
    scored = [pair for pair in pairs if scores_of([pair])]
    rows = [speed_row(a, b, confidence), *(score_row(name, scored, confidence) for name in SCORES if scored)]
    p_values = iter(holm([row.p_value for row in rows if row.p_value is not None]))
    return [row if row.p_value is None else replace(row, p_value=next(p_values)) for row in rows]


def conclusion_of(rows: Sequence[Row], confidence: float) -> tuple[Conclusion, list[str]]:
    """What is shown, and the reasons: of "worse" the numbers, of "inconclusive" what is open and what would decide it."""
    shown = [row for row in rows if row.shown(confidence)]
    worse = [f"{row.name}: A is {-row.lead:.1%} lower (p {row.p_value:.3g})" for row in shown if row.lead < 0]
    if worse:
        return Conclusion.worse, worse
    reasons = [reason for row in rows if row not in shown and (reason := row.open or unshown_loss(row))]
    return (Conclusion.inconclusive if reasons else Conclusion.better_or_equal), reasons


def unshown_loss(row: Row) -> str:
    """Why a row leaves the question open although its interval is narrow: all of it is a loss; "" where that is not so."""
    if row.interval is None or row.p_value is None or row.interval.high >= 0:
        return ""
    more = "different questions" if row.name in SCORES else "repeats (workload.repeats)"
    loss = f"{row.name}: all of the interval {row.interval:+.1%} is a loss, which p {row.p_value:.3g} does not show"
    return f"{loss}; more {more} would decide it"


def speed_row(a: Trial, b: Trial, confidence: float) -> Row:
    """Characters per second by Welch's test on the logs of the repeats."""
    assert a.measurement is not None
    assert b.measurement is not None
    speeds, lead_in_speed = (a.measurement.chars_per_s, b.measurement.chars_per_s), speed_lead_of(a, b, StartNoise())
    test = None if lead_in_speed is None else lead_in_speed.test
    estimate = test.by_means if isinstance(test, SignedRank) else test
    repeats = a.measurement.chars_per_s_repeats, b.measurement.chars_per_s_repeats
    if estimate is None:
        counts = f"A has {counted(len(repeats[0]), 'repeat')} and B has {len(repeats[1])}"
        reason = f"chars_per_s: {counts}, and an interval needs 2 of each; measure again with workload.repeats=3 or more"
        if min(map(len, repeats)) >= 2:
            silent = "A" if min(repeats[0]) <= 0 else "B"
            reason = f"chars_per_s: a repeat of {silent} gave no characters, so there is no ratio; measure it again"
        return Row("chars_per_s", *speeds, speeds[0] / speeds[1] - 1 if speeds[1] else 0.0, None, None, reason)
    interval, lead = relative_interval(estimate, confidence), relative(estimate.difference)
    needed = repeats_needed(estimate, min(map(len, repeats)), confidence)
    advice = f"about {needed} repeats of each would decide it, if they vary as these do: workload.repeats={needed}"
    if needed is None:
        advice = f"the repeats vary so much that {MOST_REPEATS} would not decide it; find out why before you measure again"
    return Row("chars_per_s", *speeds, lead, interval, estimate.p_value, why_open("chars_per_s", interval, advice))


def score_row(name: str, pairs: AnswerPairs, confidence: float) -> Row:
    """A score over the same questions: bootstrap interval and sign-flip test of the difference, as shares of B's mean."""
    scores = scores_of(pairs, name)
    mean_a, mean_b = fmean(pair[0] for pair in scores), fmean(pair[1] for pair in scores)
    scale = mean_b or 1.0
    lead = (mean_a - mean_b) / scale
    interval, p_value = paired_test(scores, scale, confidence)
    asked, fewest = len({pair.question for pair in scores}), fewest_questions(confidence)
    if asked < fewest:
        few = f"{name}: {counted(asked, 'different question')} cannot show a loss, the test needs {fewest}"
        return Row(name, mean_a, mean_b, lead, interval, p_value, f"{few}; compare trials that were asked more")
    needed = questions_needed(lead, interval, asked)
    advice = f"about {needed} different questions would decide it, if they differ as these {asked} do"
    if needed is None:
        advice = f"the {asked} different questions are far too few to decide it"
    return Row(name, mean_a, mean_b, lead, interval, p_value, why_open(name, interval, advice))


def why_open(name: str, interval: Interval, advice: str) -> str:
    """Why an interval is too wide to say "equal"; "" where it is not."""
    if narrow(interval, EQUAL_WITHIN):
        return ""
    both = " includes a loss and a gain and" if interval.low < 0 < interval.high else ""
    width = f"is wider than 'equal' allows (high end / low end at most {EQUAL_WITHIN:g})"
    return f"{name}: the interval {interval:+.1%}{both} {width}; {advice}"


def repeats_needed(estimate: Estimate, repeats: int, confidence: float) -> int | None:
    """How many repeats of each side make the interval narrow enough, if their spread stays; None beyond `MOST_REPEATS`.

    The error falls with the square root of the repeats, and the degrees of freedom grow with them.
    """
    for count in range(repeats + 1, MOST_REPEATS + 1):
        more = count / repeats
        likely = Estimate(estimate.difference, estimate.error / math.sqrt(more), estimate.freedom * more)
        if narrow(relative_interval(likely, confidence), EQUAL_WITHIN):
            return count
    return None


def fewest_questions(confidence: float) -> int:
    """How many different questions the sign-flip test needs to show anything, corrected for all rows.

    Of so many questions two of all 2**count patterns of signs are the farthest from 0.
    """
    return 1 + math.ceil(math.log2((1 + len(SCORES)) / (1 - confidence)))


def questions_needed(lead: float, interval: Interval, questions: int) -> int | None:
    """How many questions make the interval narrow enough: its ends come nearer with the square root of their number."""
    for count in range(questions + 1, MOST_TIMES_THE_QUESTIONS * questions + 1):
        nearer = math.sqrt(questions / count)
        if narrow(Interval(lead + (interval.low - lead) * nearer, lead + (interval.high - lead) * nearer), EQUAL_WITHIN):
            return count
    return None
