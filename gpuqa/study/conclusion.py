"""The end of a study: judge the trials, write leaderboard and report, freeze the winner. No engine is needed.

A winner that was frozen before is never lost: it stays where no trial is eligible now, with its leaderboard and report, and is
kept beside another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpuqa import frozen
from gpuqa.config.command_line import command_line, override
from gpuqa.config.commands import StudyConfig
from gpuqa.config.foreign import code_in
from gpuqa.config.measurement import SelectionConfig
from gpuqa.records import Trial
from gpuqa.selection.against_frozen import next_text
from gpuqa.selection.verdict import Standing
from gpuqa.selection.wording import counted
from gpuqa.study import finalists, report
from gpuqa.study.journal import Journal
from gpuqa.study.kept import remarks
from gpuqa.study.start_noise import noise_of

if TYPE_CHECKING:
    from gpuqa.study.output import Output

NO_WINNER = 1
ITS_FILES = "leaderboard.csv and report.html stay with it: what is above is in this output only."


def conclude(trials: Sequence[Trial], study: StudyConfig, rule: SelectionConfig, journal: Journal, output: Output) -> int:
    """Exit code 0 with a frozen winner, NO_WINNER without one; then a winner of before stays.

    Args:
        trials: of the first round.
    """
    final = finalists.judge(trials, rule, journal)
    folder, verdict, answers = study.folder, final.verdict, final.answers
    winner = final.confirmed or verdict.winner
    noise = noise_of(winner, final.finalists, journal) if winner else None
    if winner and winner.measurement:
        verdict = finalists.with_more(verdict, next_text(winner.measurement, noise))
    title, target = f"Study {study.name}", folder / "frozen.yaml"
    stays = verdict.winner is None and target.is_file()
    if not stays:
        report.write(verdict, title, answers, folder, journal.questions())
    output.leaderboard(verdict, title, rule)
    tell_remarks(verdict.standings, output)
    facts = {"outcome": verdict.outcome.value if verdict.outcome else None, "winner": winner.axes if winner else None}
    output.say(f"\n{verdict.reason}", "bold", "verdict", facts)
    if not stays:
        files = f"Leaderboard: {folder / 'leaderboard.csv'}\nReport: {folder / 'report.html'}"
        output.say(files, event="files", facts={"folder": str(folder)})
    if winner is None:
        before = f" {target} stays and holds the decision of before, {frozen.described(target)}. {ITS_FILES}" if stays else ""
        output.say(f"Nothing was frozen.{before}", event="not_frozen")
        return NO_WINNER
    known = frozen.Winner(winner, answers.get(winner.key, []), noise)
    result = frozen.freeze(known, rule, verdict.reason, target)
    tell_frozen(result, target, output)
    return 0


def tell_remarks(standings: Sequence[Standing], output: Output) -> None:
    """A line for each trial that may not win or is not shown to keep its quality; one for all with the same reason."""
    lines: dict[str, list[Standing]] = {}
    for standing in standings:
        if standing.violations or standing.not_shown:
            lines.setdefault("; ".join(remarks(standing)), []).append(standing)
    for text, alike in lines.items():
        names = [standing.trial.name for standing in alike]
        named = names[0] if len(names) == 1 else f"{counted(len(names), 'trial')} ({', '.join(names)})"
        style = "yellow" if alike[0].not_shown else "dim"
        output.say(f"{named}: {text}", style, "remark", {"trials": names})


def tell_frozen(result: frozen.Frozen, target: Path, output: Output) -> None:
    """Say what became of the frozen file and of the winner that it held before, and how to serve it."""
    digest = f"digest {result.content['digest'][:16]}"
    state = f"Unchanged: {target} ({digest}) holds this decision since {result.content['frozen_at']}"
    frozen_file = {"file": str(target), "digest": result.content["digest"], "unchanged": result.unchanged}
    output.say(state if result.unchanged else f"Frozen: {target} ({digest})", event="frozen", facts=frozen_file)
    if result.kept is not None:
        before = f"the decision of before, {frozen.described(result.kept)}, is kept as {result.kept}"
        output.say(f"Replaced: {before}", event="replaced", facts={"file": str(result.kept)})
    trust = ["trust_frozen=true"] if any(code_in(result.content["pipeline"])) else []  # its writer may: it is this user's own
    serve = command_line("serve", override("frozen", target), *trust)
    output.say(f"Serve it: {serve}", event="serve", facts={"command": serve})
