"""Decide a study again by another rule, from the trials on disk. No engine starts.

    python -m gpuqa.freeze study.name=embedded selection.min_rouge_l_f1_judge=0.17

Exit codes: 0 a winner is frozen, 1 no trial is eligible, 2 the input is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from gpuqa.config import UserError
from gpuqa.config.app import run_command
from gpuqa.config.commands import FreezeConfig, resolve
from gpuqa.records import Trial
from gpuqa.study.conclusion import conclude
from gpuqa.study.journal import Journal


def main() -> None:
    """Enter with conf/freeze.yaml."""
    run_command(freeze, "freeze")


def freeze(composed: Any) -> int:
    """The composed config -> exit code."""
    config = resolve(composed, FreezeConfig)
    journal, console = Journal(config.study.folder), Console()
    trials, problems = journal.read_study(), journal.problems()
    if not trials:
        message = f"study: {config.study.folder} holds no trials" + (" that can be read" if problems else "")
        raise UserError("; ".join([message, *problems, "`python -m gpuqa.sweep` measures some"]))
    if unread := journal.unread():  # any of them may be the best
        cells = f"study: {len(unread)} of {len(trials) + len(unread)} cells have no trial that can be read: {', '.join(unread)}"
        raise UserError("; ".join([cells, *problems, "the sweep's command measures them; nothing was changed"]))
    for problem in [*problems, *without_answers(trials, journal)]:
        console.print(problem, style="yellow", markup=False, highlight=False)
    return conclude(trials, config.study, config.selection, journal, console)


def without_answers(trials: Sequence[Trial], journal: Journal) -> list[str]:
    """A sentence for each measured trial whose answers cannot be read: its constraints are then tested by means alone."""
    bare = [trial for trial in trials if trial.measurement and not journal.answers(trial.key)]
    reason = "is absent or damaged, so means decide and its scores have no interval"
    return [f"{trial.name}: {journal.answers_file(trial.key).name} {reason}" for trial in bare]


if __name__ == "__main__":
    main()
