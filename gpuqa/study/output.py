"""What a command says while it runs: sentences and a live view for people, or JSON lines for programs (`study.logs=json`).

An event of a study is one line: an engine starts, a pass was measured, a trial ended. For people a pass shows in the live view
only, which a file and a pipe do not have.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from gpuqa.config.command_line import terminal
from gpuqa.config.commands import StudyConfig
from gpuqa.config.measurement import SelectionConfig
from gpuqa.machine.log_lines import Logs, json_line
from gpuqa.measure.cell import Cell
from gpuqa.records import Override, Pass, Trial, name_of
from gpuqa.selection.comparison import speed
from gpuqa.selection.pairing import Answers
from gpuqa.selection.verdict import Verdict
from gpuqa.study.report import leaderboard
from gpuqa.study.same_effect import Effects
from gpuqa.study.study import Observer
from gpuqa.study.terminal_table import print_table
from gpuqa.study.watched import Watched, speed_of

if TYPE_CHECKING:
    from rich.console import Console

LAST_LINES = 5  # of what an engine printed before it failed
REFRESHES_PER_S = 2
COPIED = ("questions", "frozen", "serve")  # events whose text a user may copy


class Output(Protocol):
    """Where a command says what it has to say."""

    def say(self, text: str, style: str = "", event: str = "", facts: Mapping[str, Any] | None = None) -> None:
        """A sentence.

        Args:
            event: what it is about, in a word.
            facts: what it says, for programs.
        """

    def leaderboard(self, verdict: Verdict, title: str, rule: SelectionConfig) -> None:
        """The table of a study."""

    def watch(
        self, cells: Sequence[Cell], log: Path, limit: int | None = None, places: int = 0
    ) -> AbstractContextManager[Observer]:
        """What is told of cells while they are measured.

        Args:
            log: what the engines print.
            limit: of the passes of a finalist; other cells have their repeats.
            places: for engines that run side by side; 0 is one.
        """


class TextOutput:
    """For people."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str, style: str = "", event: str = "", facts: Mapping[str, Any] | None = None) -> None:
        """A sentence; what a user copies is not broken at the width of the terminal."""
        del facts
        self.console.print(text, style=style or None, markup=False, highlight=False, soft_wrap=event in COPIED)

    def leaderboard(self, verdict: Verdict, title: str, rule: SelectionConfig) -> None:
        """The table."""
        print_table(verdict, title, rule, self.console)

    @contextmanager
    def watch(self, cells: Sequence[Cell], log: Path, limit: int | None = None, places: int = 0) -> Iterator[Observer]:
        """Lines for engines and trials, in a terminal with the live view below them."""
        watched = Watched(cells, limit, max(1, places))
        if not self.console.is_terminal:
            yield Told(watched, self, log)
            return
        from rich.live import Live

        from gpuqa.study.live_view import render

        # Without redirection: what an engine prints would come to the terminal instead of its log, and a process that is forked
        # while the view is drawn would wait for the view's lock for ever.
        live = Live(
            get_renderable=lambda: render(watched),
            console=self.console,
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
            refresh_per_second=REFRESHES_PER_S,
        )
        with live:
            yield Told(watched, self, log)


class JsonOutput:
    """For programs: every line is one JSON object, with the facts beside the sentence."""

    def __init__(self, stream: IO[str], logger: str) -> None:
        self.stream, self.logger = stream, logger

    def say(self, text: str, style: str = "", event: str = "", facts: Mapping[str, Any] | None = None) -> None:
        """A line."""
        level, about = "WARNING" if style == "yellow" else "INFO", {"event": event} if event else {}
        line = json_line(time.time(), level, self.logger, text.strip(), {**about, **(facts or {})})
        print(line, file=self.stream, flush=True)

    def leaderboard(self, verdict: Verdict, title: str, rule: SelectionConfig) -> None:
        """The rows of leaderboard.csv, without what needs the answers."""
        no_answers: Answers = {}
        self.say(title, "", "leaderboard", {"rule": rule.name, "rows": leaderboard(verdict, no_answers)})

    @contextmanager
    def watch(self, cells: Sequence[Cell], log: Path, limit: int | None = None, places: int = 0) -> Iterator[Observer]:
        """A line for each event."""
        yield Told(Watched(cells, limit, max(1, places)), self, log, passes=True)


def output_of(study: StudyConfig, logger: str) -> Output:
    """What a command of a study says goes to standard output, also while an engine that starts takes file descriptor 1."""
    stream = os.fdopen(os.dup(1), "w")
    return JsonOutput(stream, logger) if study.logs is Logs.json else TextOutput(terminal(stream))


class Told:
    """An observer of a study that says what happens, each thing once."""

    def __init__(self, watched: Watched, output: Output, log: Path, passes: bool = False) -> None:
        """`passes`: whether each pass gets a line, too."""
        self.watched, self.output, self.log, self.passes = watched, output, log, passes
        self.announced = {item for reasons in Effects(watched.cells).off.values() for item in reasons.items()}
        self.log_size = size_of(log)

    def engine_starts(self, cell: Cell) -> None:
        """Say which engine starts."""
        self.watched.engine_starts(cell)
        facts: dict[str, Any] = {"engine": cell.config.engine.name, "quantization": cell.config.quantization.name}
        facts["axes"] = {key: value for key, value in cell.axes.items() if key.lstrip("+").startswith(("engine.", "model"))}
        about = [facts["quantization"], *([name_of(facts["axes"])] if facts["axes"] else [])]
        text = f"starting {facts['engine']} ({', '.join(about)})"
        self.output.say(text, "dim", "engine_starts", facts)

    def pass_done(self, cell: Cell, measured: Pass) -> None:
        """Say what an override did not do, and where passes have lines, what this one took."""
        self.tell_reasons(measured.overrides)
        self.watched.pass_done(cell, measured)
        if self.passes:
            facts: dict[str, Any] = {
                "trial": cell.name,
                "axes": cell.axes,
                "repeat": measured.repeat,
                "prefix_cached": measured.prefix_cached,
            }
            facts |= {"slice": measured.slice, "seconds": measured.answered.seconds, "chars_per_s": speed_of(measured)}
            facts |= {"device": measured.device, "conditions": [asdict(reading) for reading in measured.conditions[-1:]]}
            facts |= {"seconds_left": self.watched.seconds_left}
            self.output.say(f"{cell.name}: {facts['chars_per_s']:,.0f} chars/s", "", "pass", facts)

    def tell_reasons(self, overrides: Sequence[Override]) -> None:
        """Say each reason for which an override is off or limited once; some are known only when an engine runs."""
        for override in [override for override in overrides if override.reason]:
            name = f"engine.{override.part}={override.asked}"
            if (name, override.reason) not in self.announced:
                self.announced.add((name, str(override.reason)))
                state = "is off" if override.ran != override.asked else "is limited"
                self.output.say(f"{name} {state}: {override.reason}", "yellow", "override", asdict(override))

    def trial_done(self, trial: Trial, kept: bool) -> None:
        """Say how a trial ended; of a failed one also what its engine printed last."""
        self.watched.trial_done(trial)
        text = f"failed: {trial.error}" if trial.error else f"{speed(trial):,.0f} chars/s"
        text = f"skipped: {trial.skipped}" if trial.skipped else text
        text = f"dropped: {trial.dropped.reason}" if trial.dropped else text
        facts: dict[str, Any] = {"trial": trial.name, "axes": trial.axes, "chars_per_s": speed(trial) or None, "kept": kept}
        facts |= {"error": trial.error, "skipped": trial.skipped, "dropped": trial.dropped.reason if trial.dropped else None}
        line = f"  {trial.name}: {text}{' (kept)' if kept else ''}"
        self.output.say(line, "yellow" if trial.error else "", "trial", facts)
        if trial.error and (printed := last_lines(self.log, self.log_size)):
            lines = [f"    the last lines of {self.log}:", *(f"    | {line}" for line in printed)]
            self.output.say("\n".join(lines), "dim", "engine_log", {"lines": printed})
        self.log_size = size_of(self.log)


def size_of(file: Path) -> int:
    """The bytes of a file; 0 where there is none."""
    return file.stat().st_size if file.exists() else 0


def last_lines(file: Path, after: int) -> list[str]:
    """The last lines of a file behind so many bytes, those that say something."""
    if size_of(file) <= after:
        return []
    text = file.read_bytes()[after:].decode(errors="replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()][-LAST_LINES:]
