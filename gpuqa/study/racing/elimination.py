"""Why a cell cannot win any more, by what a race knows of all cells at one moment.

A cell is out when its score misses a floor or a ratio even at the upper bound, or when a leader dominates it. A leader was
asked everything, has no violation, and its baseline was measured, so a fast but broken cell puts no other out. In what a
dominated cell is behind follows from the rule (`gpuqa.selection.ranking.RANKINGS`), each time by more than a tie allows
(`tie_ratio`).
Latency limits put no cell out before the verdict: a slice's are not the whole's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from gpuqa.config.measurement import SelectionConfig
from gpuqa.measure.statistics import Estimate
from gpuqa.records import Trial
from gpuqa.selection.comparison import quality
from gpuqa.selection.constraints import unquantized, violations
from gpuqa.selection.pairing import Answers
from gpuqa.selection.ranking import RANKINGS, Lag, RaceBound, rank
from gpuqa.selection.ratios import score_ratio
from gpuqa.selection.wording import counted
from gpuqa.study.racing.evidence import (
    Candidate,
    at_least,
    at_most,
    chance_of,
    mean_of,
    merit_lag,
    quality_lag,
    shifted,
    speed_lag,
    speed_of,
)


def bound_of(rule: SelectionConfig) -> RaceBound:
    """When a race may drop a cell under this rule; `gpuqa.study.racing.race_plan.race_of` refuses rules without one."""
    bound = RANKINGS[rule.rule].race
    assert bound is not None, "race_of refuses a rule that no race can be run by"
    return bound


def tie_ratio(rule: SelectionConfig) -> float:
    """How many times as much the first may have of what a rule ranks by as a cell that shares the first place in a tie.

    The whole interval of such a lead lies within `selection.max_interval_ratio`. Either it holds zero, so that its middle is
    at most the root of that, or the lead is below `selection.min_lead`.
    """
    return max(math.sqrt(rule.max_interval_ratio), min(rule.max_interval_ratio, 1 + rule.min_lead))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All cells of a study at one moment, and the risk of an error that one look at one cell may take."""

    candidates: Mapping[str, Candidate]
    rule: SelectionConfig
    risk: float
    out: Collection[str] = ()  # cells that are out already and drop no other

    @property
    def trials(self) -> list[Trial]:
        """The trials that were asked everything."""
        return [candidate.trial for candidate in self.candidates.values() if candidate.trial.measurement]

    @property
    def answers(self) -> Answers:
        """The answers of those."""
        return {candidate.key: candidate.answers for candidate in self.candidates.values() if candidate.trial.measurement}

    def leaders(self) -> list[Candidate]:
        """The sound cells that may drop others: the first by the rule, or all where the rule says so."""
        ranked = (self.candidates[trial.key] for trial in rank(self.trials, self.rule))
        sound = (candidate for candidate in ranked if candidate.key not in self.out and self.is_sound(candidate))
        return list(sound) if bound_of(self.rule).leader_is_any else list(itertools.islice(sound, 1))

    def is_sound(self, candidate: Candidate) -> bool:
        """Whether a cell that was asked everything has no violation, and its baseline is known, so that none can come yet."""
        baseline = self.baseline(candidate)
        known = baseline is None or baseline.trial.measurement is not None or baseline.trial.error is not None
        return known and not violations(candidate.trial, self.trials, self.rule, self.answers)

    def baseline(self, candidate: Candidate) -> Candidate | None:
        """The cell that differs in quantization only, measured or not."""
        trials = [candidate.trial for candidate in self.candidates.values()]
        return next((self.candidates[trial.key] for trial in unquantized(candidate.trial, trials, self.rule)), None)

    def why_out(self, candidate: Candidate, leaders: list[Candidate]) -> str | None:
        """Why a cell cannot win; None while it can, or while nothing is known of it."""
        if not candidate.known:
            return None
        missed = self.lasting_violations(candidate) if candidate.repeats else self.missed(candidate)
        reasons = (self.dominated(candidate, leader) for leader in leaders if leader is not candidate)
        return missed or next(filter(None, reasons), None)

    def lasting_violations(self, candidate: Candidate) -> str | None:
        """The violations of a cell that was asked everything once and that will last, since its answers will not change."""
        lasting = replace(self.rule, min_chars_per_s=0.0, max_e2e_latency_ms_p95=None, max_ttft_ms_p95=None)
        return "; ".join(violations(candidate.trial, self.trials, lasting, self.answers)) or self.too_slow(candidate)

    def missed(self, candidate: Candidate) -> str | None:
        """The floor or ratio that a cell is shown to miss by the questions that it was asked."""
        rule, different = self.rule, len({answer.question for answer in candidate.known})
        by = counted(different, "question")
        for what in ("empty", "truncated"):
            if reason := self.too_many(what, candidate, different):
                return reason
        scored = [answer for answer in candidate.known if answer.rouge_l_f1_judge is not None]
        scores = [answer.rouge_l_f1_judge or 0.0 for answer in scored]
        judged = mean_of(scores, [answer.question for answer in scored], candidate.questions) if scored else None
        if judged and (top := at_most(judged, self.risk)) < rule.min_rouge_l_f1_judge:
            return f"rouge_l_f1_judge is at most {top:.4f} by {by}, below the floor {rule.min_rouge_l_f1_judge:g}"
        measured = [self.candidates[trial.key] for trial in self.trials]
        best, baseline = max(measured, key=lambda candidate: quality(candidate.trial), default=None), self.baseline(candidate)
        # a baseline that was asked a slice yet gives the share of fewer questions, which is lower
        ratio = score_ratio(rule, len({answer.question for answer in baseline.known}) if baseline else 0)
        shares = (
            (best, rule.min_rouge_l_f1_of_best, "the study's best (selection.min_rouge_l_f1_of_best)"),
            (baseline, ratio.share, f"the unquantized ({ratio.source})"),
        )
        for other, share, name in shares:
            lag = quality_lag(candidate, other, 1 / share) if other and share else None
            if lag is not None and at_least(lag, self.risk) > 0:
                return f"rouge_l_f1 is shown to be below {share * 100:.4g}% of {name} by {by}"
        return self.too_slow(candidate)

    def too_many(self, what: str, candidate: Candidate, different: int) -> str | None:
        """Whether more answers are shown to be of a kind than the rule allows.

        Rows that repeat a question tell little more than one, so that rows count by the share of `different` questions in them.
        """
        asked, limit = len(candidate.known), getattr(self.rule, f"max_{what}_fraction")
        count = sum(getattr(slice_pass.measurement, f"answers_{what}") for slice_pass in candidate.slice_passes)
        population = candidate.questions * different // asked
        if chance_of(count * different // asked, different, math.floor(limit * population), population) > self.risk:
            return None
        return f"{count} of {asked} answers are {what}, which shows that more than {limit * 100:.4g}% of all would be"

    def too_slow(self, candidate: Candidate) -> str | None:
        """Whether a cell is shown to miss the speed floor."""
        speed = speed_of(candidate, self.candidates.values()) if self.rule.min_chars_per_s else None
        if speed is None or (top := math.exp(at_most(speed, self.risk))) >= self.rule.min_chars_per_s:
            return None
        return f"chars_per_s is at most {top:,.0f}, below the floor {self.rule.min_chars_per_s:g}"

    def dominated(self, candidate: Candidate, leader: Candidate) -> str | None:
        """Whether a cell is shown to be behind a leader in all that counts, by more than a tie allows."""
        bound = bound_of(self.rule)
        lags = [self.lag(name, candidate, leader) for name in bound.lags]
        least = [at_least(lag, self.risk) if lag else 0.0 for lag in lags]
        if min(least) <= 0:
            return None
        by = "a pass over all questions" if candidate.repeats else f"{len(candidate.known)} questions"
        share = 1 - math.exp(-least[0]) / tie_ratio(self.rule)
        far = f"at least {share:.1%} " if bound.is_speed_alone else ""
        return f"{far}{bound.name} than {leader.trial.name}, shown by {by}"

    def lag(self, name: Lag, candidate: Candidate, leader: Candidate) -> Estimate | None:
        """By how much a cell is behind a leader in a quantity, beyond what a tie allows; None where that is not known."""
        tie = tie_ratio(self.rule)
        match name:
            case Lag.speed:
                return shifted(speed_lag(candidate, leader, self.candidates.values()), -math.log(tie))
            case Lag.quality:
                return quality_lag(candidate, leader, tie)
            case Lag.merit:
                merit = merit_lag(candidate, leader, self.candidates.values(), self.rule.speed_weight)
                return shifted(merit, -math.log(tie))
            case _:
                assert_never(name)
