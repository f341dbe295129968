"""What a study came to: all that its report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gpuqa.config.measurement import SelectionConfig
from gpuqa.measure.fingerprint import Stage, at_stage
from gpuqa.measure.speed_tests import SpeedNoise, StartNoise
from gpuqa.pipeline.dataset.summary import Summary
from gpuqa.records import Trial
from gpuqa.selection.pairing import Answers
from gpuqa.selection.verdict import Standing, Verdict
from gpuqa.study.event_log import Moment
from gpuqa.study.run_file import RunFile


@dataclass(frozen=True, slots=True)
class Result:
    """A study that was decided."""

    title: str
    verdict: Verdict
    answers: Answers = field(default_factory=dict)  # of each trial by its key, where they are at hand
    questions: Summary | None = None
    rule: SelectionConfig | None = None  # it was decided by; None: what follows from it is not told
    first_round: Sequence[Trial] = ()  # in the order of the study's cells; none: the trials of the verdict
    confirmed: Trial | None = None  # the winner by the passes that are frozen
    noise: SpeedNoise | None = None  # of the winner's speed
    usual: StartNoise = field(default_factory=StartNoise)
    run: RunFile = field(default_factory=RunFile)
    events: Sequence[Moment] = ()
    commands: Mapping[str, str] = field(default_factory=dict)  # what one may do with the study -> command line

    def stages_of(self, standing: Standing) -> dict[Stage, Trial]:
        """The trials of a standing's cell by which the study was decided, the first round's first."""
        cells = [trial for trial in self.first_round if trial.axes == standing.trial.axes]
        first = cells[0] if cells else standing.trial
        stages = {Stage.first_round: first}
        if standing.trial.key == at_stage(first.key, Stage.finals):
            stages[Stage.finals] = standing.trial
        if self.confirmed and self.confirmed.key == at_stage(first.key, Stage.confirmation):
            stages[Stage.confirmation] = self.confirmed
        return stages
