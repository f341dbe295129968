"""The end of a study: judge the trials, write leaderboard and report, freeze the winner. No engine is needed.

A winner that was frozen before is never lost: it stays where no trial is eligible now, with its leaderboard and report, and is
kept beside another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuqa import frozen
from gpuqa.config import plain
from gpuqa.config.command_line import command_line, override, study_overrides
from gpuqa.config.commands import StudyConfig
from gpuqa.config.foreign import code_in
from gpuqa.config.measurement import SelectionConfig
from gpuqa.records import Trial
from gpuqa.selection.against_frozen import next_text
from gpuqa.selection.verdict import Standing
from gpuqa.selection.wording import counted
from gpuqa.study import finalists, report, run_file
from gpuqa.study.journal import Journal
from gpuqa.study.kept import remarks
from gpuqa.study.page.result import Result
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
        result = Result(title, verdict, answers, rule=rule, first_round=trials, confirmed=final.confirmed, noise=noise)
        report.write(with_journal(result, journal, commands(study, winner, target)), folder)
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
    chosen = frozen.Winner(winner, answers.get(winner.key, []), noise)
    tell_frozen(frozen.freeze(chosen, rule, verdict.reason, target), target, output)
    return 0


def with_journal(result: Result, journal: Journal, commands: Mapping[str, str]) -> Result:
    """A result with what a study's folder holds beside it."""
    kept = {"questions": journal.questions(), "usual": journal.start_noise(), "events": journal.events.read()}
    return replace(result, **kept, run=run_file.read(journal.study_file.parent), commands=commands)  # type: ignore[arg-type]


def commands(study: StudyConfig, winner: Trial | None, target: Path) -> dict[str, str]:
    """What one may do with a study that has ended, as command lines."""
    again = {"freeze": command_line("freeze", *study_overrides(study))}
    if winner is None:
        return again
    measured = {
        "serve": serving(plain(winner.pipeline), target),
        "reproduce": command_line("reproduce", override("frozen", target)),
    }
    dataset = override("dataset", winner.setting["dataset"]["name"])
    return {**measured, "evaluate": command_line("evaluate", "url=http://127.0.0.1:8000", dataset), **again}


def serving(pipeline: Any, target: Path) -> str:
    """The command that serves a frozen file; its writer may run the code in it, since it is this user's own."""
    trust = ["trust_frozen=true"] if any(code_in(pipeline)) else []
    return command_line("serve", override("frozen", target), *trust)


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
    serve = serving(result.content["pipeline"], target)
    output.say(f"Serve it: {serve}", event="serve", facts={"command": serve})
