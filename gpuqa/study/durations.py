"""How long engines take: guesses of their passes, corrected by passes of cells of the same kind that were measured.

The same estimate orders engines over places, tells a user what is left, and says before a study what it would take.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuqa.records import Pass
from gpuqa.study.guesses import CellWork, Kind, Work

USUAL_START_S = 15.0  # of an engine, before one was measured


@dataclass(slots=True)
class Ratio:
    """What came out over what was guessed, or a mean."""

    measured: float = 0.0
    guessed: float = 0.0

    def add(self, measured: float, guessed: float = 1.0) -> None:
        """One more."""
        self.measured += measured
        self.guessed += guessed

    def or_else(self, usual: float) -> float:
        """The ratio; `usual` before anything was measured."""
        return self.measured / self.guessed if self.guessed else usual


@dataclass(slots=True)
class Durations:
    """What was learnt from passes."""

    start_s: Ratio = field(default_factory=Ratio)
    warmup_s: Ratio = field(default_factory=Ratio)  # of a cell
    passes: dict[Kind, Ratio] = field(default_factory=lambda: defaultdict(Ratio))  # by the first parts of a kind, () all

    @property
    def known(self) -> bool:
        """Whether any pass was measured: before that only the order of two guesses means something."""
        return bool(self.passes)

    def learn(self, cell: CellWork, measured: Pass) -> None:
        """Take a pass of a cell into account."""
        self.learn_mean(cell.kind, cell.pass_s, measured.answered.seconds, measured.engine_start_s, measured.warmup_s)

    def learn_mean(self, kind: Kind, guess_s: float, pass_s: float, start_s: float, warmup_s: float) -> None:
        """Take what the passes of a cell took on average into account."""
        for parts in range(len(kind) + 1):
            self.passes[kind[:parts]].add(pass_s, guess_s)
        self.start_s.add(start_s)
        self.warmup_s.add(warmup_s)

    def seconds(self, work: Work, factors: Mapping[Kind, float] | None = None, runs: bool = False) -> float:
        """How long the cells of an engine take.

        Args:
            factors: what guesses of each kind are multiplied with; None: computed here.
            runs: the engine is up and its cells have warmed up.
        """
        factors = factors or {cell.kind: self.factor(cell.kind) for cell in work.values()}
        passes = sum(cell.passes * cell.pass_s * factors[cell.kind] for cell in work.values())
        return passes if runs else passes + self.start_s.or_else(USUAL_START_S) + len(work) * self.warmup_s.or_else(0.0)

    def factor(self, kind: Kind) -> float:
        """Measured over guessed seconds of passes, by the cells that share most parts of the kind; 1 where none was."""
        known = next((parts for parts in range(len(kind), 0, -1) if kind[:parts] in self.passes), 0)
        return self.passes[kind[:known]].or_else(1.0) if self.passes else 1.0
