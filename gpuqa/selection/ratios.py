"""What a quantized trial keeps of its unquantized baseline, by the questions that both answered.

Three answers are possible: it is shown to keep the wanted share, it is shown to keep less, or the questions are too few to show
either. The test is a one-sided t bound on the differences `trial - ratio * baseline`, one for each different question, whose
spread is moderated (`gpuqa.measure.paired`). No bootstrap: most differences are 0 and a few are large, and resamples of few
questions often miss those. experiments/verdict/constraint_power.py counts how often the test is right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from statistics import fmean
from typing import assert_never

from gpuqa.config.measurement import ConstraintTest, SelectionConfig
from gpuqa.measure.paired import clusters_needed, moderated_mean
from gpuqa.pipeline.dataset.summary import rows_text
from gpuqa.selection.pairing import ScorePairs

ROUNDING = 1e-12
FEWEST_QUESTIONS = 20  # different ones, to show anything good: of fewer, one answer is more than 5 % of a score
DEFAULT_RATIOS = {0: 0.90, 80: 0.95, 400: 0.97, 1000: 0.98, 2500: 0.99}  # from so many different questions on
USUAL_SD = {  # of the differences between questions, over the baseline's mean: pooled over the pairs of cells in tests/traces
    "rouge_l_f1": 0.165,
    "answer_chars_mean": 0.293,
}
SHORT_NAMES = {"rouge_l_f1": "ROUGE-L", "answer_chars_mean": "length"}


class Kept(Enum):
    """Whether a quantized trial keeps the wanted share of its baseline."""

    yes = "shown to keep"
    open = "not shown"
    no = "shown to be worse"


@dataclass(frozen=True, slots=True)
class BesideBaseline:
    """How a quantized trial stands beside its unquantized baseline in one quantity."""

    kept: Kept
    text: str
    refused: bool  # whether it may not win therefore
    short: str  # the share that it is shown to keep, at least or at most, and the wanted one, for a column of a table


@dataclass(frozen=True, slots=True)
class Ratio:
    """The share of a baseline's mean that a trial must keep, and where it comes from."""

    quantity: str
    share: float
    source: str


def score_ratio(rule: SelectionConfig, questions: int) -> Ratio:
    """The share of rouge_l_f1: as it is set, else by the number of different questions.

    An equal cell shall be shown to keep it in at least 80 % of studies; see docs/verdict.md.
    """
    if (share := rule.min_rouge_l_f1_ratio) is not None:
        return Ratio("rouge_l_f1", share, "selection.min_rouge_l_f1_ratio")
    starts = list(DEFAULT_RATIOS)
    start = max(start for start in starts if start <= questions)
    end = next((later - 1 for later in starts if later > start), None)
    size = f"from {start:,}" if end is None else f"for {start:,} to {end:,}" if start else f"below {end + 1}"
    return Ratio("rouge_l_f1", DEFAULT_RATIOS[start], f"the default {size} different questions")


def length_ratio(rule: SelectionConfig) -> Ratio:
    """The share of the answers' mean length."""
    return Ratio("answer_chars_mean", rule.min_answer_chars_ratio, "selection.min_answer_chars_ratio")


def beside(means: tuple[float, float], pairs: ScorePairs, ratio: Ratio, rule: SelectionConfig) -> BesideBaseline:
    """How a trial stands beside its baseline, and whether `selection.constraint_test` refuses it for that.

    Args:
        means: of the trial and of the baseline.
        pairs: the values of both, row by row; none: nothing is shown, and the means decide.
    """
    mean, baseline_mean = means
    what = f"{ratio.quantity} {mean:.4g}"
    share = f"{ratio.share * 100:.4g}% of the unquantized {baseline_mean:.4g} ({ratio.source})"
    below = mean < ratio.share * baseline_mean
    if not pairs:
        text = f"{what} is {'' if below else 'not '}below {share}, by means alone, since answers are not at hand"
        return BesideBaseline(Kept.open, text, below, short_of(ratio, mean / baseline_mean if baseline_mean else 0.0))
    kept, reached, reach = tested(pairs, ratio, rule)
    match rule.constraint_test:
        case ConstraintTest.bound:
            refused, then = kept is not Kept.yes, "; selection.constraint_test=refuted would accept it"
        case ConstraintTest.refuted:
            refused, then = kept is Kept.no, "; selection.constraint_test=refuted accepts it"
        case ConstraintTest.point:
            refused, then = below, "; selection.constraint_test=point lets the means decide"
        case _:
            assert_never(rule.constraint_test)
    verb = {Kept.yes: "is shown to keep", Kept.open: "is not shown to keep", Kept.no: "is shown to be below"}[kept]
    text = f"{what} {verb} {share}: {reach}{then if kept is Kept.open else ''}"
    return BesideBaseline(kept, text, refused, short_of(ratio, reached))


def short_of(ratio: Ratio, reached: float) -> str:
    """A share that was reached beside the wanted one."""
    sign = "<" if reached < ratio.share else ">="
    return f"{SHORT_NAMES[ratio.quantity]} {reached * 100:.1f} {sign} {ratio.share * 100:.4g}%"


def tested(pairs: ScorePairs, ratio: Ratio, rule: SelectionConfig) -> tuple[Kept, float, str]:
    """Whether a share is kept, the bound that says so, and both in words; where neither is shown, these also name the questions
    that it would take."""
    questions, scale = [pair.question for pair in pairs], fmean(pair.second for pair in pairs)
    beyond = [pair.first - ratio.share * pair.second for pair in pairs]
    estimate, different = moderated_mean(beyond, questions, USUAL_SD[ratio.quantity] * scale), len(set(questions))
    bounds = estimate.interval(2 * rule.confidence - 1)
    kept = Kept.no if bounds.high < -ROUNDING else Kept.yes if bounds.low >= -ROUNDING else Kept.open
    kept = Kept.open if kept is Kept.yes and different < FEWEST_QUESTIONS else kept
    side, end = ("at most", bounds.high) if kept is Kept.no else ("at least", bounds.low)
    reached = ratio.share + end / scale if scale else 0.0
    text = f"{side} {reached:.1%} by a {rule.confidence:.0%} bound over {rows_text(len(pairs), different)}"
    if kept is not Kept.open or not scale:
        return kept, reached, text
    return kept, reached, f"{text}; {needed(estimate.error * math.sqrt(different) / scale, ratio, rule)}"


def needed(sd: float, ratio: Ratio, rule: SelectionConfig) -> str:
    """How many different questions an equal cell would need, in words. `sd`: of their differences, over the baseline's mean."""
    if ratio.share >= 1:
        return "no number of questions shows that an equal cell keeps all of it"
    questions = max(FEWEST_QUESTIONS, clusters_needed(sd, 1 - ratio.share, rule.confidence))
    return f"an equal cell would need about {questions:,} different questions"
