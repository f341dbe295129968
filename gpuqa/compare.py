"""Is A at least as good as B? Paired statistics from what is on disk, for a CI gate. No engine starts.

    python -m gpuqa.compare a=experiments/new b=experiments/old/frozen.yaml
    python -m gpuqa.compare a=experiments/new:3fa4 b=experiments/new:91aec
    python -m gpuqa.compare a=experiments/new b=experiments/old json=true     # or --json: one JSON object on stdout

Each side is a frozen.yaml, a study folder (its frozen winner), or FOLDER:TRIAL with the start of a trial's key.

Exit codes: 0 A is better or equal: it is shown to lose nothing, or no more than "equal" allows, a tenth of the speed, and of a
score what a quantized cell may lose (10 % below 80 different questions, less with more); 1 A is shown to be worse in something;
2 the input is wrong (one line "error: ..." on stderr, nothing on stdout); 3 neither is shown: the output says what is open and
what would show it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gpuqa import frozen
from gpuqa.config import UserError, plain
from gpuqa.config.app import run_command
from gpuqa.config.command_line import terminal
from gpuqa.config.commands import CompareConfig, resolve
from gpuqa.measure.speed_tests import Starts
from gpuqa.records import Answer, Trial
from gpuqa.selection.at_least_as_good import Conclusion, Row, conclusion_of, rows_of
from gpuqa.selection.comparison import lead_texts
from gpuqa.selection.pairing import AnswerPairs, paired, scores_of
from gpuqa.study.differences import differences
from gpuqa.study.journal import Journal
from gpuqa.study.start_noise import starts_of_cell

EXIT_CODES = {Conclusion.better_or_equal: 0, Conclusion.worse: 1, Conclusion.not_shown: 3}


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: its trial and its answers."""

    name: str  # as the command line has it
    trial: Trial
    answers: list[Answer]
    problems: list[str]  # lines of its journal that cannot be read
    starts: Starts  # all that its study has of its cell


@dataclass(frozen=True, slots=True)
class Flip:
    """A question whose score changed by more than `min_flip`."""

    change: float  # of rouge_l_f1, from B to A
    id: str
    question: str
    a: str
    b: str


def main() -> None:
    """Enter with conf/compare.yaml."""
    sys.argv = [word if word != "--json" else "json=true" for word in sys.argv]
    run_command(compare, "compare")


def compare(composed: Any) -> int:
    """The composed config -> exit code."""
    config = resolve(composed, CompareConfig)
    a, b = side_of(config.a, "a"), side_of(config.b, "b")
    pairs = pairs_of(a, b)
    rows = rows_of(a.trial, b.trial, pairs, config.confidence, [side.starts for side in (a, b) if side.starts])
    conclusion, reasons = conclusion_of(rows, config.confidence)
    scored = [pair for pair in pairs if scores_of([pair])]
    flips, code = flips_of(scored, config.min_flip), EXIT_CODES[conclusion]
    if config.json:
        values = as_json(a, b, rows, flips[: config.shown_flips], config.confidence)
        counts = {"scored": len(scored), "flipped": len(flips), "flipped_better": sum(flip.change > 0 for flip in flips)}
        head = {"conclusion": conclusion.name, "exit_code": code, "reasons": reasons}
        print(json.dumps(plain({**head, "questions": len(pairs), **counts, **values}), ensure_ascii=False))
        return code
    show(a, b, rows, terminal())
    show_flips(flips, len(scored), config, terminal())
    for reason in reasons:
        print(reason)
    print(f"{conclusion.value} (exit code {code})")
    return code


def pairs_of(a: Side, b: Side) -> AnswerPairs:
    """The answers of both to the same questions.

    Raises:
        UserError: both sides are one trial of one study, or were asked other questions.
    """
    if a.trial == b.trial:
        raise UserError(f"a, b: {a.name!r} and {b.name!r} are the same trial, {a.trial.key[:16]}; name two trials")
    pairs = paired(a.answers, b.answers)
    if not pairs:
        asked = [{answer.question for answer in side.answers} for side in (a, b)]
        counts = f"A has {len(a.answers)} answers, B {len(b.answers)}, to {len(asked[0] & asked[1])} common questions"
        where = f"a, b: {a.name!r} and {b.name!r} did not answer the same questions in the same order"
        raise UserError(f"{where}: {counts}; compare trials of one dataset with one dataset.limit")
    return pairs


def side_of(text: str, key: str) -> Side:
    """The measured trial that a path names, with its answers.

    Raises:
        UserError: nothing is there, or the name fits no trial or several.
    """
    path, key_start = named_by(text, key)
    journal = Journal(path)
    trials = journal.read()
    measured = [trial for trial in trials.values() if trial.measurement]
    named, problems = [trial for trial in measured if trial.key.startswith(key_start)], journal.problems()
    if len(named) != 1:
        known = ", ".join(trial.key[:16] for trial in measured) or "none"
        message = f"{key}: {text!r} names {len(named)} measured trials of {path}; measured there: {known}"
        if not journal.file.exists():
            message = f"{key}: {text!r} has no trials beside it, which hold the answers; name the study folder where they are"
        raise UserError("; ".join([message, *problems]))
    answers = journal.answers(named[0].key)
    if not answers:
        message = f"{key}: the answers of trial {named[0].key[:16]} are not in {journal.folder}, or not whole; measure it again"
        raise UserError("; ".join([message, *problems]))
    return Side(text, named[0], answers, problems, starts_of_cell(named[0], trials))


def named_by(text: str, key: str) -> tuple[Path, str]:
    """The study folder that a side names, and the start of its trial's key.

    Raises:
        UserError: there is no such file or folder, or no winner in it.
    """
    path = Path(text)
    if not path.exists() and ":" in text:
        folder, _, key_start = text.rpartition(":")
        return Path(folder), key_start
    file = path / "frozen.yaml" if path.is_dir() else path
    if not text or not file.exists():
        allowed = "a frozen.yaml, a study folder that has one, or FOLDER:TRIAL with the start of a trial's key"
        raise UserError(f"{key}: got {text!r}, and {str(file)!r} does not exist; allowed is {allowed}")
    try:
        return file.parent, str(frozen.read(file).get("trial", ""))
    except UserError as error:
        raise UserError(f"{key}: {error}") from error


def flips_of(scored: AnswerPairs, min_flip: float) -> list[Flip]:
    """The answers whose rouge_l_f1 changed by more than `min_flip`, the worst for A first; all of `scored` have a score."""
    changes = [(score.first - score.second, *pair) for pair, score in zip(scored, scores_of(scored), strict=True)]
    flipped = [
        Flip(change, answer_a.id, answer_a.question, answer_a.answer, answer_b.answer)
        for change, answer_a, answer_b in changes
        if abs(change) > min_flip
    ]
    return sorted(flipped, key=lambda flip: flip.change)


def changes(a: Trial, b: Trial) -> dict[str, dict[str, Any]]:
    """What differs in configuration, versions, device and parts that ran: key -> {"a": value, "b": value}."""
    values_a, values_b = (
        {**trial.pipeline, **trial.setting, **trial.fingerprint, "ran": {part.part: part.ran for part in trial.overrides}}
        for trial in (a, b)
    )
    return {key: {"a": first, "b": second} for key, (first, second) in differences(values_a, values_b).items()}


def as_json(a: Side, b: Side, rows: Sequence[Row], flips: Sequence[Flip], confidence: float) -> dict[str, Any]:
    """Both sides, every number with its interval, what differs, and the flips, as plain values."""
    sides = {
        name: {"source": side.name, "trial": side.trial.key, "name": side.trial.name, "problems": side.problems}
        for name, side in (("a", a), ("b", b))
    }
    numbers = {row.name: {**asdict(row), "shown": row.shown(confidence)} for row in rows}
    values = {"confidence": confidence, **sides, "numbers": numbers, "differences": changes(a.trial, b.trial)}
    return {**values, "flips": [asdict(flip) for flip in flips]}


def show(a: Side, b: Side, rows: Sequence[Row], console: Console) -> None:
    """Both sides, what differs between them, and every number."""
    for name, side in (("A", a), ("B", b)):
        console.print(f"{name}: {side.name}: {side.trial.name} ({side.trial.key[:16]})", markup=False, highlight=False)
        for problem in side.problems:
            console.print(f"   {problem}", style="yellow", markup=False, highlight=False)
    changed = changes(a.trial, b.trial)
    print("A and B differ in (A | B):" if changed else "A and B have the same configuration, versions and device")
    for key, values in changed.items():
        print(f"  {key}: {values['a']!s:.60} | {values['b']!s:.60}")
    table = Table("", "A", "B", "A against B", "interval", "p after Holm", box=SIMPLE_HEAD)
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(row.name, f"{row.a:,.4g}", f"{row.b:,.4g}", *lead_texts(row.lead, row.interval, row.p_value))
    console.print(table)


def show_flips(flips: Sequence[Flip], scored: int, config: CompareConfig, console: Console) -> None:
    """How many answers flipped, and the first of them."""
    better = sum(flip.change > 0 for flip in flips)
    count = f"{len(flips)} of {scored} answers flipped (rouge_l_f1 by more than {config.min_flip:g})"
    console.print(f"{count}: {better} better, {len(flips) - better} worse", highlight=False)
    for flip in flips[: config.shown_flips]:
        text = f"{flip.change:+.2f} {flip.id}: {flip.question}\n  A: {flip.a}\n  B: {flip.b}"
        console.print(text, markup=False, highlight=False)


if __name__ == "__main__":
    main()
