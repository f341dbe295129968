"""Cells -> groups that share an engine -> trials. What was measured before is not measured again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpuqa import dataset, identity
from gpuqa.config import UserError
from gpuqa.engines import backend_class
from gpuqa.executors import EXECUTORS
from gpuqa.group import Desk, Group, Observer
from gpuqa.journal import Journal
from gpuqa.pipeline import encoder_for, stop_token_ids, warmup_questions
from gpuqa.places import find
from gpuqa.prompts import load_tokenizer
from gpuqa.records import Trial
from gpuqa.roots import CellConfig
from gpuqa.trial import Cell, start_scorers


@dataclass(frozen=True, slots=True)
class Outcome:
    """A study's trials in the order of its cells, and what it took."""

    trials: list[Trial]
    engine_starts: int
    kept: int


def prepare(configs: Sequence[tuple[CellConfig, dict[str, str]]]) -> list[Cell]:
    """Check everything that can be wrong before an engine starts, and read what all cells need.

    Raises:
        UserError: in any cell; none has run.
    """
    environment = identity.environment()
    models: dict[str, Any] = {}
    cells = []
    for config, axes in configs:
        if config.model.path not in models:
            folder = find(config.model.path, "model.path")
            models[config.model.path] = (load_tokenizer(config.model), identity.sha256_of_model(folder))
        tokenizer, digests = models[config.model.path]
        backend_class(config.engine.backend).check_args(config.engine_args())
        encoder_for(tokenizer, config)
        stop_token_ids(tokenizer, config.sampling)
        questions = dataset.load(config.dataset)
        warmup = warmup_questions(config.model, never={question.text for question in questions})
        known = {"digests": {**digests, "dataset": dataset.digest(questions)}, **environment}
        cells.append(Cell(config, axes, questions, warmup, known))
    if len({cell.key for cell in cells}) < len(cells):
        raise UserError("two cells of the study are the same configuration; check the axes for a value that is listed twice")
    return cells


async def run(cells: Sequence[Cell], journal: Journal, observer: Observer) -> Outcome:
    """Run every cell that the journal does not hold yet; failed ones are tried again."""
    known = journal.read()
    measured = [cell for cell in cells if cell.key in known and known[cell.key].error is None]
    done = {cell.key: replace(known[cell.key], axes=cell.axes) for cell in measured}
    for trial in done.values():
        journal.forget_passes(trial.key)  # a kill may have come between the trial and that
        observer.trial_done(trial, kept=True)
    kept, counted = len(done), Counted(observer)
    groups = group_by_engine([cell for cell in cells if cell.key not in done])
    with start_scorers() as scorers:
        desk = Desk(journal, scorers, counted)
        async for trial, answers in EXECUTORS[cells[0].config.executor.kind](groups, lambda group: Group(group, desk).run()):
            journal.write(trial, answers)
            done[trial.key] = trial
            observer.trial_done(trial, kept=False)
    return Outcome([done[cell.key] for cell in cells], counted.starts, kept)


class Counted:
    """An observer that counts engine starts and passes all on."""

    def __init__(self, observer: Observer) -> None:
        self.observer, self.starts = observer, 0
        self.pass_done, self.trial_done = observer.pass_done, observer.trial_done

    def engine_starts(self, cell: Cell) -> None:
        """One more."""
        self.starts += 1
        self.observer.engine_starts(cell)


def group_by_engine(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that can share an engine together, in the order of their first appearance."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.engine_key, []).append(cell)
    return list(groups.values())
