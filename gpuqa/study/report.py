"""Trials -> leaderboard (CSV); the page, `gpuqa.study.page`, is written with it."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuqa.machine.files import make_folder, write_atomically
from gpuqa.measure.metrics import intervals_of
from gpuqa.records import Answer, Measurement, Trial
from gpuqa.roofline.roofline import fraction
from gpuqa.selection.comparison import Comparison
from gpuqa.selection.constraints import seen_of
from gpuqa.selection.pairing import Answers
from gpuqa.selection.verdict import Verdict
from gpuqa.selection.wording import counted
from gpuqa.study.kept import kept_columns
from gpuqa.study.page.content import content_of
from gpuqa.study.page.document import to_html
from gpuqa.study.page.markdown import to_markdown
from gpuqa.study.page.result import Result

if TYPE_CHECKING:
    pass

NO_LEAD = {"first_leads_by": None, "first_leads_low": None, "first_leads_high": None, "p_value": None}


def leaderboard(verdict: Verdict, answers: Answers) -> list[dict[str, Any]]:
    """One row a trial in the verdict's order: its axes, whether it may win, how far the first leads it, every number.

    Plain rows: importing pandas takes longer than all else that the end of a study does. A failed trial has no numbers.
    """
    leads, rows = {id(comparison.other): lead_columns(comparison) for comparison in verdict.comparisons}, []
    for rank, standing in enumerate(verdict.standings, 1):
        trial = standing.trial
        eligible = {"rank": rank, "eligible": not standing.violations, "violations": "; ".join(standing.violations)}
        eligible |= kept_columns(standing)
        eligible |= {"dropped": trial.dropped is not None, "pareto": standing.on_front, **leads.get(id(trial), NO_LEAD)}
        numbers = {**numbers_of(trial, answers.get(trial.key, ())), **override_columns(trial)}
        rows.append({**eligible, **trial.axes, **numbers, "trial": trial.key[:16]})
    return rows


def numbers_of(trial: Trial, answers: Sequence[Answer]) -> dict[str, Any]:
    """Every number of a trial as a column: as measured, then those that follow; none of a trial without numbers."""
    if (measurement := seen_of(trial)) is None:
        return {}
    numbers = flat(measurement)
    for name, interval in intervals_of(measurement, answers[-measurement.questions :]).items():
        numbers |= {f"{name}_interval_{end}": getattr(interval, end, None) for end in ("low", "high")}
    return {**numbers, "roofline_fraction": fraction(trial)}


def override_columns(trial: Trial) -> dict[str, str]:
    """What ran of the parts of an engine that may be overridden, and why it is not, or not always, what was asked for."""
    ran = {override.part: override.ran for override in trial.overrides}
    reasons = [
        f"{override.part}: {override.asked} asked for, {override.ran} ran: {override.reason}"
        if override.ran != override.asked
        else f"{override.part}: {override.ran} ran, but not for everything: {override.reason}"
        for override in trial.overrides
        if override.ran != override.asked or override.reason
    ]
    return {"scheduler": ran.get("scheduler", ""), "attention": ran.get("attention", ""), "overrides_off": "; ".join(reasons)}


def overrides_off(verdict: Verdict) -> list[str]:
    """One sentence for each distinct reason why an override did not run, or not for everything, with the number of trials."""
    overrides = [override for standing in verdict.standings for override in standing.trial.overrides]
    limited = [override for override in overrides if override.ran != override.asked or override.reason]
    counts = Counter((override.part, override.asked, override.ran, override.reason) for override in limited)
    trials = counted(len(verdict.standings), "trial")
    return [
        f"{part}={asked} did not run in {count} of {trials}, {part}={ran} ran instead: {reason}"
        if ran != asked
        else f"{part}={asked} ran in {count} of {trials}, but not for everything: {reason}"
        for (part, asked, ran, reason), count in counts.items()
    ]


def to_csv(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Rows as CSV, a column for every key that any of them has; nothing where a row has no value."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(file, text.getvalue())


def lead_columns(comparison: Comparison) -> dict[str, float | None]:
    """How far the first by the rule leads a trial, as columns."""
    low, high = (comparison.interval.low, comparison.interval.high) if comparison.interval else (None, None)
    lead = {"first_leads_by": comparison.difference, "first_leads_low": low, "first_leads_high": high}
    return {**lead, "p_value": comparison.p_value}


def flat(measurement: Measurement) -> dict[str, Any]:
    """Numbers by name, several repeats in one column, each third of a ramp in its own; single readings of a GPU, ids of engines
    and devices stay in the journal."""
    apart = ("conditions", "engine_ids", "devices", "ramp")
    numbers = {key: value for key, value in asdict(measurement).items() if key not in apart}
    thirds = {
        f"ramp_{place}_{key}": value for place, third in enumerate(measurement.ramp, 1) for key, value in asdict(third).items()
    }
    flat = {key: " ".join(map(text_of, value)) if isinstance(value, list) else value for key, value in numbers.items()}
    return {**flat, **thirds}


def text_of(value: float | str) -> str:
    """One of several values in a cell; thirteen digits, for moments in seconds since the epoch."""
    return value if isinstance(value, str) else f"{value:.13g}"


def write(result: Result, folder: Path) -> None:
    """leaderboard.csv, report.html and report.md in the study's folder."""
    make_folder(folder)
    to_csv(leaderboard(result.verdict, result.answers), folder / "leaderboard.csv")
    content = content_of(result)
    for name, text in (("report.html", to_html(content)), ("report.md", to_markdown(content))):
        write_atomically(folder / name, text.encode(errors="replace"))  # half a surrogate pair is no text


def axes_of(verdict: Verdict) -> list[str]:
    """The axes of a study."""
    return list(dict.fromkeys(key for standing in verdict.standings for key in standing.trial.axes))
