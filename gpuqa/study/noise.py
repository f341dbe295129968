"""How much speeds of a study vary, by all that it has measured: the first round, the finals and the confirmation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gpuqa.measure.fingerprint import Stage, at_stage
from gpuqa.measure.speed_prediction import SpeedNoise, passes_of_a_start, speed_noise
from gpuqa.measure.speed_tests import Starts, starts_of
from gpuqa.records import Trial
from gpuqa.study.journal import Journal


def noise_of(winner: Trial, finalists: Sequence[Trial], journal: Journal) -> SpeedNoise | None:
    """By the first round, the finals and the confirmation of every finalist; by the winner alone where there are none.

    None where no start has two passes.

    Args:
        finalists: of the first round.
    """
    known = journal.read()
    cells = [[known[key] for stage in Stage if (key := at_stage(trial.key, stage)) in known] for trial in finalists]
    assert winner.measurement is not None, "a trial without numbers does not win"
    return speed_noise(
        [starts for cell in cells or [[winner]] if (starts := starts_of_all(cell))],
        journal.start_noise(),
        passes_of_a_start(winner.measurement),
    )


def starts_of_cell(trial: Trial, known: Mapping[str, Trial]) -> Starts:
    """The starts of the cell that a trial is of, in all stages of its study.

    Args:
        known: the trials of the study, each by its key.
    """
    cells = [[known[key] for stage in Stage if (key := at_stage(first, stage)) in known] for first in known]
    return starts_of_all(max((cell for cell in cells if trial.key in [other.key for other in cell]), key=len, default=[trial]))


def starts_of_all(trials: Sequence[Trial]) -> Starts:
    """The starts of a cell in all stages that measured it."""
    starts: dict[str, Sequence[float]] = {}
    for trial in trials:
        starts |= (starts_of(trial.measurement, trial.key) if trial.measurement else None) or {}
    return starts
