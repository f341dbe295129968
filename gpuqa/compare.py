"""Is A at least as good as B? Paired statistics from what is on disk, for a CI gate. No engine starts.

    python -m gpuqa.compare a=experiments/new b=experiments/old/frozen.yaml
    python -m gpuqa.compare a=experiments/new:3fa4 b=experiments/new:91aec

Each side is a frozen.yaml, a study folder (its frozen winner), or FOLDER:TRIAL with the start of a trial's key.

Exit codes: 0 A is better or equal: worse in nothing, and no interval is wider than high end / low end = 1.5 unless A is
better there; 1 A is shown to be worse in something; 2 inconclusive, or the input is wrong (then a line "error: ..." says so).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from gpuqa import frozen
from gpuqa.config import UserError
from gpuqa.config.app import run_command
from gpuqa.config.commands import CompareConfig, resolve
from gpuqa.measure.statistics import holm
from gpuqa.records import Answer, Interval, Trial
from gpuqa.selection.comparison import lead_texts, narrow, relative, relative_interval, speed_estimate
from gpuqa.selection.pairing import paired, paired_test, scores_of
from gpuqa.study.journal import Journal

BETTER_OR_EQUAL, WORSE, INCONCLUSIVE = 0, 1, 2
EQUAL_WITHIN = 1.5  # high end / low end of an interval that still says "equal"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: its trial and its answers."""

    name: str  # as the command line has it
    trial: Trial
    answers: list[Answer]
    problems: list[str]  # lines of its journal that cannot be read


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity of both sides."""

    name: str
    a: float
    b: float
    lead: float  # of A, as a share of B
    interval: Interval | None
    p_value: float | None


def main() -> None:
    """Enter with conf/compare.yaml."""
    run_command(compare, "compare")


def compare(composed: Any) -> int:
    """The composed config -> exit code."""
    config = resolve(composed, CompareConfig)
    a, b = side_of(config.a, "a"), side_of(config.b, "b")
    pairs = paired(a.answers, b.answers)
    if not pairs:
        raise UserError(f"a, b: {config.a!r} and {config.b!r} did not answer the same questions; compare trials of one dataset")
    scored = [pair for pair in pairs if scores_of([pair])]
    scores = [score_row(key, scored, config) for key in SCORES if scored]
    rows = corrected([speed_row(a.trial, b.trial, config), *scores])
    code = verdict_of(rows, config)
    show(a, b, rows, Console())
    show_flips(scored, config, Console())
    print({BETTER_OR_EQUAL: "better or equal", WORSE: "worse", INCONCLUSIVE: "inconclusive"}[code] + f" (exit code {code})")
    return code


SCORES = ("rouge_l_f1_judge", "rouge_l_f1")


def side_of(text: str, key: str) -> Side:
    """The measured trial that a path names, with its answers.

    Raises:
        UserError: nothing is there, or the name fits no trial or several.
    """
    path, key_start = Path(text), ""
    if not path.exists() and ":" in text:
        folder, _, key_start = text.rpartition(":")
        path = Path(folder)
    else:
        file = path / "frozen.yaml" if path.is_dir() else path
        path, key_start = file.parent, str(frozen.read(file).get("trial", ""))
    journal = Journal(path)
    measured = [trial for trial in journal.read().values() if trial.measurement]
    named, problems = [trial for trial in measured if trial.key.startswith(key_start)], journal.problems()
    if len(named) != 1:
        known = ", ".join(trial.key[:16] for trial in measured) or "none"
        message = f"{key}: {text!r} names {len(named)} measured trials of {path}; measured there: {known}"
        raise UserError("; ".join([message, *problems]))
    answers = journal.answers(named[0].key)
    if not answers:
        message = f"{key}: the answers of trial {named[0].key[:16]} are not in {journal.folder}, or not whole; measure it again"
        raise UserError("; ".join([message, *problems]))
    return Side(text, named[0], answers, problems)


def speed_row(a: Trial, b: Trial, config: CompareConfig) -> Row:
    """Characters per second by Welch's test on the logs of the repeats."""
    assert a.measurement is not None
    assert b.measurement is not None
    speeds = a.measurement.chars_per_s, b.measurement.chars_per_s
    estimate = speed_estimate(a, b)
    if estimate is None:
        return Row("chars_per_s", *speeds, speeds[0] / speeds[1] - 1 if speeds[1] else 0.0, None, None)
    interval = relative_interval(estimate, config.confidence)
    return Row("chars_per_s", *speeds, relative(estimate.difference), interval, estimate.p_value)


def score_row(key: str, pairs: list[tuple[Answer, Answer]], config: CompareConfig) -> Row:
    """A score over the same questions: bootstrap interval and sign-flip test of the difference, as shares of B's mean."""
    scores = scores_of(pairs, key)
    mean_a, mean_b = fmean(pair.first for pair in scores), fmean(pair.second for pair in scores)
    scale = mean_b or 1.0
    return Row(key, mean_a, mean_b, (mean_a - mean_b) / scale, *paired_test(scores, scale, config.confidence))


def corrected(rows: list[Row]) -> list[Row]:
    """The rows with p-values that Holm's method corrected for the number of tests."""
    p_values = iter(holm([row.p_value for row in rows if row.p_value is not None]))
    return [row if row.p_value is None else replace(row, p_value=next(p_values)) for row in rows]


def verdict_of(rows: list[Row], config: CompareConfig) -> int:
    """Worse if anything is shown to be; inconclusive if anything that is not shown has too wide an interval."""
    shown = [row for row in rows if row.p_value is not None and row.p_value <= 1 - config.confidence]
    if any(row.lead < 0 for row in shown):
        return WORSE
    open_rows = [row for row in rows if row not in shown]
    return BETTER_OR_EQUAL if all(narrow(row.interval, EQUAL_WITHIN) for row in open_rows) else INCONCLUSIVE


def show(a: Side, b: Side, rows: list[Row], console: Console) -> None:
    """Both sides and every quantity."""
    for name, side in (("A", a), ("B", b)):
        console.print(f"{name}: {side.name}: {side.trial.name} ({side.trial.key[:16]})", markup=False, highlight=False)
        for problem in side.problems:
            console.print(f"   {problem}", style="yellow", markup=False, highlight=False)
    table = Table("", "A", "B", "A against B", "interval", "p after Holm")
    for row in rows:
        lead, interval, p_value = lead_texts(row.lead, row.interval, row.p_value)
        needs = "" if row.interval else " (needs 2 repeats)"
        table.add_row(row.name, f"{row.a:,.4g}", f"{row.b:,.4g}", lead, f"{interval}{needs}", p_value)
    console.print(table)


def show_flips(pairs: list[tuple[Answer, Answer]], config: CompareConfig, console: Console) -> None:
    """The answers that changed most, the worst for A first; all of `pairs` were scored."""
    changes = ((score.first - score.second, *pair) for pair, score in zip(pairs, scores_of(pairs), strict=True))
    flipped = sorted((row for row in changes if abs(row[0]) > config.min_flip), key=lambda row: row[0])
    better = sum(change > 0 for change, _, _ in flipped)
    count = f"{len(flipped)} of {len(pairs)} answers flipped (rouge_l_f1 by more than {config.min_flip:g})"
    console.print(f"{count}: {better} better, {len(flipped) - better} worse", highlight=False)
    for change, answer_a, answer_b in flipped[: config.shown_flips]:
        text = f"{change:+.2f} {answer_a.id}: {answer_a.question}\n  A: {answer_a.answer}\n  B: {answer_b.answer}"
        console.print(text, markup=False, highlight=False)


if __name__ == "__main__":
    main()
