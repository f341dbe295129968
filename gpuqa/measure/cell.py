"""One cell of a study before it runs: its configuration, its questions, and the keys that follow from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property

from gpuqa.config import plain
from gpuqa.config.commands import CellConfig
from gpuqa.measure import fingerprint
from gpuqa.measure.failures import explained
from gpuqa.measure.fingerprint import Stage
from gpuqa.records import Measurement, Question, Trial, name_of


@dataclass(frozen=True)
class Cell:
    """One cell of a study before it runs. Its keys are digests of all of it, asked for at every step and made once."""

    config: CellConfig
    axes: dict[str, str]
    questions: list[Question]
    warmup: list[str]
    fingerprint: dict[str, object]
    stage: Stage = Stage.first_round

    @cached_property
    def key(self) -> str:
        """Digest of all that a trial's numbers depend on: the same key means the same trial.

        A card's data sheet (`gpu`) is not in it, since bounds are computed when they are read; nor are the limits of
        `workload.slo`, by which answers are counted anew (`gpuqa.measure.goodput`), unless a search goes by them; nor is where
        the weights lie, where they came from and what is said of them, since their digests are.
        """
        pipeline = self.config.as_dict()
        for name in ("path", "download", "note"):
            del pipeline["model"][name]
        known = {name: value for name, value in self.fingerprint.items() if name != "revision"}
        workload = asdict(self.config.workload)
        if not self.config.workload.searches:
            del workload["slo"]
        values = {"pipeline": pipeline, "workload": workload, "fingerprint": known}
        key = fingerprint.sha256_of(values)
        return fingerprint.at_stage(key, self.stage)

    @property
    def name(self) -> str:
        """The cell in words."""
        return name_of(self.axes)

    @cached_property
    def engine_key(self) -> str:
        """Digest of all that an engine is started with: cells with the same one share a start."""
        values = self.config.as_dict()
        return fingerprint.sha256_of([values["model"], values["engine"], self.config.engine_args()])

    def failed(self, error: str) -> Trial:
        """This cell as a trial that did not work."""
        return self.trial(None, explained(error))

    def skipped(self, reason: str) -> Trial:
        """This cell as a trial that is not needed."""
        return replace(self.trial(None), skipped=reason)

    def trial(self, measurement: Measurement | None, error: str | None = None) -> Trial:
        """This cell with what became of it."""
        return Trial(self.key, self.axes, self.config.as_dict(), self.fingerprint, measurement, error, self.setting)

    @property
    def setting(self) -> dict[str, object]:
        """How a trial was measured, and what its bound is computed with."""
        config = self.config
        values: dict[str, object] = plain(
            {"dataset": asdict(config.dataset), "workload": asdict(config.workload), "gpu": asdict(config.gpu)}
        )
        return values
