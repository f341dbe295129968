"""The race: every cell of an engine on a small slice of the questions first, and all questions only for those that may win.

While an engine is up, its cells are measured in rounds: a slice, perhaps a larger one, then all questions on the cell that
the slices put first (on two cells of the first engine, where nothing is known yet), then on the others, then the repeats.
After each round the cells that cannot win any more are dropped; `elimination` says which these are. Looking several times
would err more often than once, so the risk of an error, 1 - `study.racing_confidence`, is spent in equal parts over the
looks at a cell (Bonferroni).

The first rounds know the noise badly: a cell with one slow pass looks far behind while nobody has shown that passes can be
slow. So every round judges the dropped cells again by all passes that there are by then, and those that may win after all run
on, those of engines that were closed on another start of these in the end.

Engines whose cells are the unquantized baselines of others come first, because no quantized cell leads without them; among
equals the one whose cells have the highest bound on the named GPU, and then the one that takes the most sequences at once:
the sooner a fast cell leads, the fewer passes the slow ones need. A dropped baseline of a cell that stays is measured in the
end, too. Nothing here measures: the same passes in the same order lead to the same decisions.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from gpuqa.config.commands import StudyConfig
from gpuqa.config.measurement import Issue, SelectionConfig
from gpuqa.config.pipeline import Backend
from gpuqa.engines import BACKENDS
from gpuqa.records import Answer, Dropped, Question, Trial
from gpuqa.selection.ranking import RANKINGS
from gpuqa.study.racing.elimination import Snapshot, bound_of, tie_ratio
from gpuqa.study.racing.evidence import Candidate, SlicePass

Bound = Callable[[str, float], float | None]  # key, tokens of an answer -> most output tokens a second, where it is known


@dataclass(frozen=True, slots=True)
class WantedPass:
    """A pass that the race wants next: over a slice, by its place among the slices, or a repeat over all questions."""

    key: str
    slice: int | None = None
    repeat: int | None = None


def slices_of(questions: Sequence[Question], study: StudyConfig, issue: Issue) -> list[list[Question]]:
    """The questions of each slice, the same for all cells: seeded, growing, none twice, together at most a quarter.

    In a batch there is one: sixteen questions at once take half as long as all at once, and another slice as long again.
    """
    order = random.Random(study.racing_seed).sample(list(questions), len(questions))
    slices: list[list[Question]] = []
    begin, size = 0, study.racing_first_slice
    while begin + size <= len(order) / 4 and not (slices and issue is Issue.batch):
        slices.append(order[begin : begin + size])
        begin, size = begin + size, size * study.racing_growth
    return slices


@dataclass
class Race:
    """The cells of a study, what is known of them, and which of them are dropped, with the reason in words."""

    candidates: dict[str, Candidate]
    rule: SelectionConfig
    confidence: float
    slices: Sequence[list[Question]]
    repeats: int
    dropped: dict[str, str] = field(default_factory=dict)
    by_passes: set[str] = field(default_factory=set)  # those of the dropped that more passes may bring back
    recalled: list[str] = field(default_factory=list)  # dropped baselines that are measured on all questions once

    def engines(self, bound: Bound) -> list[str]:
        """The engines in the order in which they are raced."""
        now = self.now()
        needed = {baseline.key for candidate in self.candidates.values() if (baseline := now.baseline(candidate))}
        places: dict[str, tuple[bool, float, float]] = {}
        for candidate in self.candidates.values():
            has_baseline, best, width = places.get(candidate.engine, (False, 0.0, 0.0))
            bound_tokens = bound(candidate.key, candidate.trial.pipeline["sampling"]["max_tokens"]) or 0.0
            engine = candidate.trial.pipeline["engine"]
            wide = engine["args"].get(BACKENDS[Backend[engine["backend"]]].width_argument) or 0
            places[candidate.engine] = (has_baseline or candidate.key in needed, max(best, bound_tokens), max(width, wide))
        return sorted(places, key=places.__getitem__, reverse=True)

    def next_round(self, engine: str) -> list[WantedPass]:
        """The passes that an engine is to measure now, after dropping the cells that cannot win; none when it may be closed."""
        self.drop()
        recalled = [self.candidates[key] for key in self.recalled if self.candidates[key].engine == engine]
        if owed := [candidate.key for candidate in recalled if not candidate.repeats and candidate.trial.error is None]:
            return [WantedPass(key, repeat=0) for key in owed]
        running = [candidate for candidate in self.running() if candidate.engine == engine]
        for place in range(len(self.slices)):
            unseen = [candidate for candidate in running if len(candidate.slice_passes) <= place and not candidate.repeats]
            if unseen:
                return [WantedPass(candidate.key, slice=place) for candidate in unseen]
        waiting = [candidate for candidate in running if candidate.repeats < self.repeats]
        fewest = min((candidate.repeats for candidate in waiting), default=0)
        waiting = [candidate for candidate in waiting if candidate.repeats == fewest]
        if waiting and not any(candidate.repeats for candidate in self.candidates.values() if candidate.engine == engine):
            known = any(candidate.repeats for candidate in self.candidates.values())
            waiting = sorted(waiting, key=self.promise, reverse=True)[: 1 if known else 2]
        return [WantedPass(candidate.key, repeat=fewest) for candidate in waiting]

    def measured_slice(self, key: str, slice_pass: SlicePass) -> None:
        """A slice was answered and scored."""
        self.candidates[key] = replace(self.candidates[key], slice_passes=(*self.candidates[key].slice_passes, slice_pass))

    def measured(self, trial: Trial, answers: Sequence[Answer]) -> None:
        """All questions were answered, for the first time or once more, or the cell failed."""
        self.candidates[trial.key] = replace(self.candidates[trial.key], trial=trial, answers=answers)

    def recall(self) -> dict[str, list[str]]:
        """The engines that start once more after all have been raced, and for which cells; none when the race has ended.

        That is for cells that may win by all that is known now, and for dropped baselines of such cells, of which the
        constraints need one pass.
        """
        self.drop()
        now, running = self.now(), self.running()
        leaders, lacking = now.leaders(), [candidate for candidate in running if candidate.repeats < self.repeats]
        may_win = [candidate for candidate in running if not now.why_out(candidate, leaders)]
        baselines = [baseline for candidate in may_win if (baseline := now.baseline(candidate))]
        dropped = [baseline for baseline in baselines if baseline.key in self.dropped]
        needed = [baseline for baseline in dropped if not baseline.repeats and baseline.trial.error is None]
        self.recalled = list(dict.fromkeys(baseline.key for baseline in needed))
        engines: dict[str, list[str]] = {}
        for key in [*(candidate.key for candidate in lacking), *self.recalled]:
            engines.setdefault(self.candidates[key].engine, []).append(key)
        return engines

    def skip_hopeless(self, engine: str, bound: Bound) -> None:
        """Drop the cells of an engine that is not up that would be slower than the leader even at the bound of the card.

        For rules that rank by speed alone, which is what the bound limits. It is in tokens: one is taken for as many
        characters, and answers for as short, as any cell measured so far had them; both favour the cell.
        """
        leaders = self.now().leaders() if bound_of(self.rule).is_speed_alone else []
        for leader in leaders:
            tokens, chars = self.lengths()
            reached = math.exp(fmean(leader.logs))
            unknown = [candidate for candidate in self.running() if candidate.engine == engine and not candidate.known]
            for candidate in unknown:
                limit = bound(candidate.key, tokens)
                if limit is not None and limit * chars * tie_ratio(self.rule) < reached:
                    figure = f"{limit * chars:,.0f} chars/s ({limit:,.0f} tokens of at most {chars:.2f} characters)"
                    reason = f"not even the bound of its card, {figure}, reaches the {reached:,.0f} of {leader.trial.name}"
                    self.dropped[candidate.key] = reason

    def lengths(self) -> tuple[float, float]:
        """The fewest tokens that any cell's answers had, and the most characters that a token was; means over answers."""
        known = [candidate.trial.measurement for candidate in self.candidates.values() if candidate.trial.measurement]
        seen = [measurement for measurement in known if measurement.output_tokens]
        tokens = [measurement.output_tokens / measurement.questions / measurement.repeats for measurement in seen]
        return min(tokens), max(measurement.answer_chars_mean / mean for measurement, mean in zip(seen, tokens, strict=True))

    def drop(self) -> None:
        """Drop every cell that lacks repeats and cannot win by what is known now; if no cell were left, the best stays."""
        self.dropped = {key: reason for key, reason in self.dropped.items() if key not in self.by_passes}
        now, running = self.now(), self.running()
        leaders, lacking = now.leaders(), [candidate for candidate in running if candidate.repeats < self.repeats]
        reasons = {candidate.key: reason for candidate in lacking if (reason := now.why_out(candidate, leaders))}
        if running and len(reasons) == len(running):
            del reasons[max(running, key=self.promise).key]
        self.dropped |= reasons
        self.by_passes = set(reasons)

    def trials(self) -> list[Trial]:
        """Every cell with what became of it."""
        return [self.ended(candidate) for candidate in self.candidates.values()]

    def ended(self, candidate: Candidate) -> Trial:
        """One cell with what became of it."""
        if candidate.key not in self.dropped:
            return candidate.trial
        seen = candidate.trial.measurement or (candidate.slice_passes[-1].measurement if candidate.slice_passes else None)
        return replace(candidate.trial, measurement=None, dropped=Dropped(self.dropped[candidate.key], seen))

    def running(self) -> list[Candidate]:
        """The cells that may still win."""
        left = [candidate for candidate in self.candidates.values() if candidate.key not in self.dropped]
        return [candidate for candidate in left if candidate.trial.error is None and candidate.trial.skipped is None]

    def now(self) -> Snapshot:
        """What is known at this moment."""
        looks = max(1, len(self.slices) + self.repeats - 1)  # none after the last repeat
        return Snapshot(self.candidates, self.rule, (1 - self.confidence) / looks, self.dropped)

    def promise(self, candidate: Candidate) -> float:
        """How good a cell looks among those of its engine, by the rule's own figure."""
        last_slices = [slice_pass.measurement.chars_per_s for slice_pass in candidate.slice_passes[-1:]]
        speeds = [math.exp(log) for log in candidate.logs] or last_slices
        quality = [score for answer in candidate.known if (score := answer.rouge_l_f1) is not None]
        fixed = RANKINGS[self.rule.rule].speed_weight
        weight = self.rule.speed_weight if fixed is None else fixed
        return float(fmean(speeds or [0.0]) ** weight * fmean(quality or [0.0]) ** (1 - weight))
