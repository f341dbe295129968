"""What comes out of a study: standings, comparisons of the first with the others, and how sure that is.

WIN            the first is shown to lead all others
TIE            some are not shown to be behind, and all of these are shown to be level; the simplest of them wins
INCONCLUSIVE   a trial is shown neither to be behind nor to be level, or few questions were asked; the first wins
ONLY ELIGIBLE  there is no other eligible trial, so nothing was compared
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from gpuqa.config.measurement import SelectionConfig
from gpuqa.measure.speed_tests import LOOKS, Unit
from gpuqa.measure.statistics import Trend
from gpuqa.records import Trial
from gpuqa.selection.comparison import Comparison
from gpuqa.selection.ratios import BesideBaseline, Kept
from gpuqa.selection.wording import Violation


class Outcome(Enum):
    """How sure a verdict is."""

    WIN = "WIN"
    TIE = "TIE"
    INCONCLUSIVE = "INCONCLUSIVE"
    ONLY_ELIGIBLE = "ONLY ELIGIBLE"


@dataclass(frozen=True, slots=True)
class Standing:
    """One trial before the rule: its violations of constraints, none if it may win; whether any trial is faster and better."""

    trial: Trial
    violations: tuple[Violation, ...]
    on_front: bool
    beside_baseline: BesideBaseline | None = None  # of a quantized one

    @property
    def not_shown(self) -> bool:
        """Whether nothing speaks against it but that its questions are too few."""
        beside = self.beside_baseline
        if beside is None or beside.kept is not Kept.open:
            return False
        return set(self.violations) <= {beside.text, f"dropped: {beside.text}"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Standings from first to last, and why the first won, or why none did."""

    standings: list[Standing]
    winner: Trial | None
    reason: str
    outcome: Outcome | None = None  # None without a winner
    first: Trial | None = None  # the best by the rule: what `comparisons` compares; not the winner in a tie
    comparisons: list[Comparison] = field(default_factory=list)
    questions: int = 0  # different ones that the first was asked
    left_out: int = 0  # eligible trials that were not measured again, although no finalist is shown to lead them
    drift: Trend | None = None  # of speeds over the study; None where no cell has two repeats


def not_shown(comparisons: Sequence[Comparison], rule: SelectionConfig) -> list[Comparison]:
    """The comparisons in which the first is not shown to lead."""
    return [comparison for comparison in comparisons if not comparison.shown(rule)]


def tied_of(comparisons: Sequence[Comparison], rule: SelectionConfig) -> list[Trial]:
    """The trials that the first is not shown to lead."""
    return [comparison.other for comparison in not_shown(comparisons, rule)]


def started_once(comparisons: Sequence[Comparison]) -> bool:
    """Whether trials of different engines were compared by too few starts: one slow start would make a winner."""
    leads = [comparison.speed for comparison in comparisons if comparison.speed is not None]
    return any(lead.unit is Unit.starts and lead.count < LOOKS[Unit.starts][0] for lead in leads)
