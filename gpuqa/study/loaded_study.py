"""A study on the disk for a notebook: its verdict, and its trials, answers and passes as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from gpuqa.config import UserError, check, did_you_mean
from gpuqa.config.app import compose_cell
from gpuqa.config.measurement import SelectionConfig
from gpuqa.measure.fingerprint import Stage, at_stage
from gpuqa.records import Trial
from gpuqa.selection.verdict import Verdict
from gpuqa.selection.wording import counted
from gpuqa.study.finalists import judge
from gpuqa.study.journal import Journal
from gpuqa.study.study_file import studies_in
from gpuqa.study.tables import TABLES, Row, answer_rows, pass_rows, table, timing_rows, trial_rows

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, eq=False)
class LoadedStudy:
    """A study as it lies on the disk. `gpuqa.study.tables.TABLES` says what the columns of its tables hold."""

    folder: Path
    rule: SelectionConfig  # that decides: the one of the study's own sweep
    verdict: Verdict  # standings, comparisons, outcome, reason
    trials: pd.DataFrame  # a row for each trial, in the verdict's order
    answers: pd.DataFrame  # for each question of each trial
    timings: pd.DataFrame  # for each repeat of each answer
    passes: pd.DataFrame  # for each measured pass, those of finalists too
    frozen: Path | None  # the file of the winner; None where none was frozen
    missing: list[str]  # cells without a trial: of a study that was interrupted, or whose files are damaged
    problems: list[str]  # a sentence for each file that cannot be read in full

    def __repr__(self) -> str:
        return f"<study {str(self.folder)!r}: {counted(len(self.trials), 'trial')}; {self.verdict.reason}>"


def load_study(path: str | Path) -> LoadedStudy:
    """Read a study's folder, and decide it by its own rule. Nothing in it is changed.

    Raises:
        UserError: the folder holds no study, or one that cannot be read.
    """
    check(isinstance(path, str | Path), "load_study", path, "the folder of a study, such as 'experiments/embedded'")
    folder = Path(path)
    journal = Journal(folder)
    if not journal.study_file.is_file():
        studies = [found.name for found in studies_in(folder.parent)]
        text = f"load_study: {str(path)!r} holds no study.yaml; give the folder of a study, such as 'experiments/embedded'"
        raise UserError(text + did_you_mean(folder.name, studies))
    cells, rule = journal.read_study(), journal.rule() or compose_cell("experiment=none").selection
    judged = judge(cells, rule, journal)
    verdict, target = judged.verdict, folder / "frozen.yaml"
    axes = list(dict.fromkeys(key for cell in cells for key in cell.axes))
    rows = rows_of(verdict, cells, axes, journal)
    made = {
        "trials": trial_rows(rows, verdict),
        "answers": answer_rows(rows),
        "timings": timing_rows(rows),
        "passes": chain.from_iterable(passes_of(row, journal.read()) for row in rows),
    }
    tables = {name: table(made[name], axes, columns) for name, columns in TABLES.items()}
    frozen = target if target.is_file() else None
    return LoadedStudy(folder, rule, verdict, **tables, frozen=frozen, missing=journal.unread(), problems=journal.problems())


def rows_of(verdict: Verdict, cells: Sequence[Trial], axes: Sequence[str], journal: Journal) -> list[Row]:
    """The standings of a verdict, each with its cell's trial of the first round and with its answers."""
    of_finals = {at_stage(cell.key, Stage.finals): cell for cell in cells}
    known = {cell.key: cell for cell in cells} | of_finals
    keys = [(standing, standing.trial.key) for standing in verdict.standings]
    return [Row(known[key], standing, journal.answers(key), axes) for standing, key in keys]


def passes_of(row: Row, known: Mapping[str, Trial]) -> chain[dict[str, object]]:
    """The rows of a cell's passes in all stages."""
    stages = [(stage, known.get(at_stage(row.cell.key, stage))) for stage in Stage]
    measured = [(stage, trial.measurement) for stage, trial in stages if trial and trial.measurement]
    return chain.from_iterable(pass_rows(row, stage, measurement) for stage, measurement in measured)
