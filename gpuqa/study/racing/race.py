"""The race: every cell of an engine on a small slice of the questions first, and only who may still win gets the rest.

While an engine is up, its cells are asked in rounds: a slice, perhaps a larger one, then the cell that the slices put first
(two on the first engine, where nothing is known yet) is asked everything, then the others, then the repeats. After each round
those are dropped that cannot win any more; see `elimination` for who that is. Looking several times would err
more often than once, so the risk of an error, 1 - `study.racing_confidence`, is spent in equal parts over the looks at a cell
(Bonferroni).

Engines whose cells are the unquantized baselines of others come first, because nobody quantized leads without them; among
equals the one whose cells have the highest bound on the named GPU, and then the one that takes the most sequences at once:
the sooner a fast cell leads, the less the slow ones are asked. A dropped baseline of a cell that stays is called back in the
end, which costs an engine start. Nothing here measures: the same passes in the same order, the same decisions.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from gpuqa.config.commands import StudyConfig
from gpuqa.config.measurement import Issue, SelectionConfig
from gpuqa.records import Answer, Dropped, Question, Trial
from gpuqa.selection.ranking import RANKINGS
from gpuqa.study.racing.elimination import Field, bound_of
from gpuqa.study.racing.evidence import Glimpse, Runner

Bound = Callable[[str, float], float | None]  # key, tokens of an answer -> most output tokens a second, where it is known


@dataclass(frozen=True, slots=True)
class Ask:
    """What a cell is to be asked next: a slice by its place among the slices, or a repeat of all questions."""

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
    """The cells of a study, what is known of them, and who is out, with the reason in words."""

    runners: dict[str, Runner]
    rule: SelectionConfig
    confidence: float
    slices: Sequence[list[Question]]
    repeats: int
    dropped: dict[str, str] = field(default_factory=dict)
    recalled: set[str] = field(default_factory=set)  # dropped baselines that are asked everything once

    def engines(self, bound: Bound) -> list[str]:
        """The engines in the order in which they are raced."""
        now = self.now()
        needed = {baseline.key for runner in self.runners.values() if (baseline := now.baseline(runner))}
        places: dict[str, tuple[bool, float, float]] = {}
        for runner in self.runners.values():
            has_baseline, best, width = places.get(runner.engine, (False, 0.0, 0.0))
            most = bound(runner.key, runner.trial.pipeline["sampling"]["max_tokens"]) or 0.0
            wide = runner.trial.pipeline["engine"]["args"].get("max_num_seqs", 0)
            places[runner.engine] = (has_baseline or runner.key in needed, max(best, most), max(width, wide))
        return sorted(places, key=places.__getitem__, reverse=True)

    def next_round(self, engine: str) -> list[Ask]:
        """What the cells of an engine are asked now, after dropping who cannot win; nothing when it may be closed."""
        self.drop()
        if owed := [key for key in self.recalled if self.runners[key].engine == engine and not self.runners[key].repeats]:
            return [Ask(key, repeat=0) for key in owed]
        running = [one for one in self.running() if one.engine == engine]
        for place in range(len(self.slices)):
            unseen = [one for one in running if len(one.glimpses) <= place and not one.repeats]
            if unseen:
                return [Ask(one.key, slice=place) for one in unseen]
        waiting = [one for one in running if one.repeats < self.repeats]
        fewest = min((one.repeats for one in waiting), default=0)
        waiting = [one for one in waiting if one.repeats == fewest]
        if waiting and not any(one.repeats for one in self.runners.values() if one.engine == engine):
            known = any(one.repeats for one in self.runners.values())
            waiting = sorted(waiting, key=self.promise, reverse=True)[: 1 if known else 2]
        return [Ask(one.key, repeat=fewest) for one in waiting]

    def saw(self, key: str, glimpse: Glimpse) -> None:
        """A slice was answered and scored."""
        self.runners[key] = replace(self.runners[key], glimpses=(*self.runners[key].glimpses, glimpse))

    def measured(self, trial: Trial, answers: Sequence[Answer]) -> None:
        """All questions were answered, for the first time or once more, or the cell failed."""
        self.runners[trial.key] = replace(self.runners[trial.key], trial=trial, answers=answers)

    def recall(self) -> list[str]:
        """Have the dropped baselines of cells that stay asked everything once, for the guards; the engines that it takes."""
        now = self.now()
        staying = [baseline for one in self.running() if (baseline := now.baseline(one)) and baseline.key in self.dropped]
        wanted = [one for one in staying if not one.repeats and one.trial.error is None]
        self.recalled = {one.key for one in wanted}
        return list(dict.fromkeys(one.engine for one in wanted))

    def skip_hopeless(self, engine: str, bound: Bound) -> None:
        """Drop the cells of an engine that is not up that would be slower than the leader even at the bound of the card.

        For rules that rank by speed alone, which is what the bound limits. It is in tokens: one is taken for as many
        characters, and answers for as short, as any cell measured so far had them; both favour the cell.
        """
        leaders = self.now().leaders() if bound_of(self.rule).is_speed_alone else []
        for leader in leaders:
            tokens, chars = self.lengths()
            reached = math.exp(fmean(leader.logs))
            for one in [one for one in self.running() if one.engine == engine and not one.known]:
                most = bound(one.key, tokens)
                if most is not None and most * chars * math.sqrt(self.rule.max_interval_ratio) < reached:
                    told = f"{most * chars:,.0f} chars/s ({most:,.0f} tokens of at most {chars:.2f} characters)"
                    reaches = f"reaches the {reached:,.0f} of {leader.trial.name}"
                    self.dropped[one.key] = f"not even the bound of its card, {told}, {reaches}"

    def lengths(self) -> tuple[float, float]:
        """The fewest tokens that any cell's answers had, and the most characters that a token was; means over answers."""
        seen = [one for runner in self.runners.values() if (one := runner.trial.measurement) and one.output_tokens]
        tokens = [one.output_tokens / one.questions / one.repeats for one in seen]
        return min(tokens), max(one.answer_chars_mean / mean for one, mean in zip(seen, tokens, strict=True))

    def drop(self) -> None:
        """Drop every running cell that cannot win; if that were all that there are, the best of them stays."""
        now, running = self.now(), self.running()
        leaders = now.leaders()
        reasons = {one.key: told for one in running if (told := now.why_out(one, leaders))}
        if running and len(reasons) == len(running):
            del reasons[max(running, key=self.promise).key]
        self.dropped |= reasons

    def trials(self) -> list[Trial]:
        """Every cell with what became of it."""
        return [self.ended(one) for one in self.runners.values()]

    def ended(self, runner: Runner) -> Trial:
        """One cell with what became of it."""
        if runner.key not in self.dropped:
            return runner.trial
        seen = runner.trial.measurement or (runner.glimpses[-1].measurement if runner.glimpses else None)
        return replace(runner.trial, measurement=None, dropped=Dropped(self.dropped[runner.key], seen))

    def running(self) -> list[Runner]:
        """Who may still win."""
        left = [one for one in self.runners.values() if one.key not in self.dropped]
        return [one for one in left if one.trial.error is None and one.trial.skipped is None]

    def now(self) -> Field:
        """What is known at this moment."""
        looks = max(1, len(self.slices) + self.repeats - 1)  # none after the last repeat
        return Field(self.runners, self.rule, (1 - self.confidence) / looks, self.dropped)

    def promise(self, runner: Runner) -> float:
        """How good a cell looks among those of its engine, by the rule's own figure."""
        speeds = [math.exp(log) for log in runner.logs] or [one.measurement.chars_per_s for one in runner.glimpses[-1:]]
        quality = [score for one in runner.known if (score := one.rouge_l_f1) is not None]
        fixed = RANKINGS[self.rule.rule].speed_weight
        weight = self.rule.speed_weight if fixed is None else fixed
        return float(fmean(speeds or [0.0]) ** weight * fmean(quality or [0.0]) ** (1 - weight))
