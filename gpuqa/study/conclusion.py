"""The end of a study: judge the trials, write leaderboard and report, freeze the winner. No engine is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpuqa import frozen
from gpuqa.config.commands import StudyConfig
from gpuqa.config.measurement import SelectionConfig
from gpuqa.records import Trial
from gpuqa.study import finalists, report
from gpuqa.study.journal import Journal

if TYPE_CHECKING:
    from rich.console import Console

NO_WINNER = 1


def conclude(trials: Sequence[Trial], study: StudyConfig, rule: SelectionConfig, journal: Journal, console: Console) -> int:
    """Exit code 0 with a frozen winner, NO_WINNER without one; then no frozen file is left either.

    Args:
        trials: of the first round.
    """
    final = finalists.judge(trials, rule, journal)
    folder, verdict, answers = study.folder, final.verdict, final.answers
    title = f"Study {study.name}"
    report.write(verdict, title, answers, folder, journal.questions())
    console.print(report.to_table(verdict, title))
    for standing in verdict.standings:
        if standing.violations:
            line = f"{standing.trial.name}: {'; '.join(standing.violations)}"
            console.print(line, style="dim", markup=False, highlight=False)
    console.print(f"\n{verdict.reason}", style="bold", markup=False, highlight=False)
    console.print(f"Leaderboard: {folder / 'leaderboard.csv'}\nReport: {folder / 'report.html'}", markup=False, highlight=False)
    target = folder / "frozen.yaml"
    if verdict.winner is None:
        target.unlink(missing_ok=True)  # an older winner must not be served as if it were this study's
        return NO_WINNER
    content = frozen.freeze(verdict.winner, answers.get(verdict.winner.key, []), rule, verdict.reason, target)
    console.print(
        f"Frozen: {target} (digest {content['digest'][:16]})\nServe it: python -m gpuqa.serve frozen={target}", highlight=False
    )
    return 0
