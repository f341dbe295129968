"""The leaderboard for a terminal of 80 columns: one word for how each trial ended, or the constraint that it violates.

The sentences stand below the table, in leaderboard.csv and in the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpuqa.config.measurement import SelectionConfig
from gpuqa.measure.metric_table import METRICS, shown
from gpuqa.selection.comparison import Comparison
from gpuqa.selection.constraints import seen_of
from gpuqa.selection.reasons import drift_text, held_back
from gpuqa.selection.verdict import Standing, Verdict
from gpuqa.study.kept import TERMINAL_STYLES, look_of, mark_of, marks_of
from gpuqa.study.report import axes_of, overrides_off

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 80
HELD_BACK = "!"  # beside the speed of a trial whose GPU was held back
OPEN = "open"
SCORES = ("rouge_l_f1_judge", "rouge_l_f1")


def print_table(verdict: Verdict, title: str, rule: SelectionConfig, console: Console) -> None:
    """Print the leaderboard, no wider than 80 columns wherever it goes."""
    axes = axes_of(verdict)
    limit, unlimited = min(WIDTH, console.width), console.options.update(width=1000)
    for columns in ([[key] for key in axes], [axes]):
        table = to_table(verdict, title, rule, columns)
        natural = console.measure(table, options=unlimited).maximum
        if natural <= limit:
            break
    table.width = min(limit, natural)
    console.print(table)


def to_table(verdict: Verdict, title: str, rule: SelectionConfig, columns: Sequence[Sequence[str]]) -> Table:
    """The leaderboard; below it what its marks mean, a drift, and the overrides that did not run, or not for everything.

    Args:
        columns: the axes of each column that names a trial.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold underline", box=None, padding=(0, 1, 0, 0))
    table.add_column("#", justify="right", no_wrap=True)
    for axes in columns:
        table.add_column(" ".join(key.rpartition(".")[2] for key in axes), overflow="fold")
    table.add_column(f"{METRICS['chars_per_s'].heading} {METRICS['chars_per_s_mad'].heading}", justify="right", no_wrap=True)
    for name in SCORES:
        table.add_column(METRICS[name].heading, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold", min_width=12)
    for rank, standing in enumerate(verdict.standings, 1):
        names = [Text(" ".join(standing.trial.axes.get(key, "-") for key in axes)) for axes in columns]
        word = Text(word_of(standing, verdict, rule))
        table.add_row(str(rank), *names, *numbers_of(standing), word, style=TERMINAL_STYLES[look_of(standing, verdict)])
    if notes := [*marks_of(verdict), *conditions_of(verdict, rule), *overrides_off(verdict)]:
        table.caption, table.caption_justify = Text("\n".join(notes), style="yellow"), "left"
    return table


def numbers_of(standing: Standing) -> list[str]:
    """Speed with its spread, and both scores; of a dropped trial in brackets, since it was not measured in full."""
    seen = seen_of(standing.trial)
    if seen is None:
        return [""] * (1 + len(SCORES))
    measured = standing.trial.measurement
    mark = HELD_BACK if measured and held_back(measured) else ""
    spread = f" ±{seen.chars_per_s_mad / seen.chars_per_s:.1%}" if seen.chars_per_s and seen.repeats > 1 else ""
    scores = [score_text(getattr(seen, name)) for name in SCORES]
    texts = [f"{shown('chars_per_s', seen.chars_per_s)}{mark}{spread}", *scores]
    texts = [f"({text})" for text in texts] if standing.trial.dropped else texts
    return [*texts[:-1], texts[-1] + mark_of(standing)]


def score_text(score: float | None) -> str:
    """A score, or that none was measured."""
    return "n/a" if score is None else f"{score:.3f}"


def word_of(standing: Standing, verdict: Verdict, rule: SelectionConfig) -> str:
    """How a trial ended: the verdict's word for the winner, the violated constraints, or how it stands beside the first."""
    trial = standing.trial
    if trial is verdict.winner and verdict.outcome is not None:
        return verdict.outcome.value
    if standing.violations:
        return "; ".join(violation.short for violation in standing.violations)
    if trial is verdict.first:
        return "first"
    return beside_first(next((found for found in verdict.comparisons if found.other is trial), None), rule)


def beside_first(comparison: Comparison | None, rule: SelectionConfig) -> str:
    """How an eligible trial stands beside the first: "" where only finalists were compared and it is none."""
    if comparison is None:
        return ""
    behind = 1 - 1 / (1 + comparison.difference) if comparison.difference > -1 else 0.0
    return f"{behind:.1%} behind" if comparison.shown(rule) else OPEN


def conditions_of(verdict: Verdict, rule: SelectionConfig) -> list[str]:
    """What a word means, and what disturbed the measurements: a drift, and GPUs that were held back."""
    undecided = [found for found in verdict.comparisons if found.other is not verdict.winner and not found.shown(rule)]
    lines = [f"{OPEN}: not shown to be behind the first"] if undecided else []
    if drift := drift_text(verdict, rule):
        lines.append(f"{drift}.")
    measured = [standing.trial.measurement for standing in verdict.standings if standing.trial.measurement]
    reasons: set[str] = set().union(*map(held_back, measured))
    if reasons:
        lines.append(f"{HELD_BACK} the GPU was held back ({', '.join(sorted(reasons))})")
    return lines
