"""Decide a study again by another rule, from the trials on disk. No engine starts.

    python -m gpuqa.freeze study.name=embedded selection.min_rouge_l_f1_judge=0.17

Exit codes: 0 a winner is frozen, 1 no trial is eligible, 2 the input is wrong.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console

from gpuqa.config import UserError
from gpuqa.config.app import run_command
from gpuqa.config.commands import FreezeConfig, resolve
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
    for problem in problems:
        console.print(problem, style="yellow", markup=False, highlight=False)
    return conclude(trials, config.study, config.selection, journal, console)


if __name__ == "__main__":
    main()
