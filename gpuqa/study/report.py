"""Trials -> leaderboard (CSV), a table in the terminal, and one HTML page."""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuqa.measure.statistics import questions_needed
from gpuqa.records import Measurement, Trial
from gpuqa.selection.comparison import Comparison, lead_texts
from gpuqa.selection.constraints import seen_of
from gpuqa.selection.verdict import Standing, Verdict

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = {  # measurement field -> heading and format
    "chars_per_s": ("chars/s", ",.0f"),
    "chars_per_s_mad": ("±MAD", ",.0f"),
    "rouge_l_f1_judge": ("judge", ".4f"),
    "rouge_l_f1": ("ROUGE-L", ".4f"),
    "output_tokens_per_s": ("tokens/s", ",.0f"),
    "answer_chars_mean": ("chars/answer", ".0f"),
    "e2e_latency_ms_p95": ("p95 ms", ",.0f"),
    "prefix_cache_hit_rate": ("cache hits", ".0%"),
}
SHOWN_IF_MEASURED = {  # columns that not every study has
    "first_round_chars_per_s": ("first round", ",.0f"),
    "prefix_cached_chars_per_s": ("cached chars/s", ",.0f"),
    "prefix_cached_ttft_ms_p50": ("cached TTFT p50 ms", ",.1f"),
    "prefix_cached_hit_rate": ("cached pass hits", ".0%"),
}
FORMS = SHOWN | SHOWN_IF_MEASURED
NO_LEAD = {"first_leads_by": None, "first_leads_low": None, "first_leads_high": None, "p_holm": None}
TERMINAL = ("chars_per_s", "rouge_l_f1_judge", "rouge_l_f1")  # with the axes, what fits 80 columns


def leaderboard(verdict: Verdict) -> list[dict[str, Any]]:
    """One row a trial in the verdict's order: its axes, whether it may win, how far the first leads it, every number.

    Plain rows: importing pandas takes longer than all else that the end of a study does. A failed trial has no numbers.
    """
    leads, rows = {id(one.other): lead_of(one) for one in verdict.comparisons}, []
    for rank, standing in enumerate(verdict.standings, 1):
        trial = standing.trial
        numbers = flat(seen) if (seen := seen_of(trial)) else {}
        eligible = {"rank": rank, "eligible": not standing.violations, "violations": "; ".join(standing.violations)}
        eligible |= {"dropped": trial.dropped is not None, "pareto": standing.on_front, **leads.get(id(trial), NO_LEAD)}
        rows.append({**eligible, **trial.axes, **numbers, "trial": trial.key[:16]})
    return rows


def to_csv(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Rows as CSV, a column for every key that any of them has; nothing where a row has no value."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def lead_of(found: Comparison) -> dict[str, float | None]:
    """How far the first by the rule leads a trial, as columns."""
    low, high = (found.interval.low, found.interval.high) if found.interval else (None, None)
    return {"first_leads_by": found.difference, "first_leads_low": low, "first_leads_high": high, "p_holm": found.p_value}


def flat(measurement: Measurement) -> dict[str, Any]:
    """Numbers by name, intervals as two columns, several repeats in one; a GPU's single readings stay in the journal."""
    numbers: dict[str, Any] = {}
    for key, value in asdict(measurement).items():
        if key == "conditions":
            continue
        if key.endswith("_interval"):
            numbers |= {f"{key}_{end}": value and value[end] for end in ("low", "high")}
        else:
            numbers[key] = " ".join(map(text_of, value)) if isinstance(value, list) else value
    return numbers


def text_of(value: float | str) -> str:
    """One of several values in a cell; thirteen digits, for moments in seconds since the epoch."""
    return value if isinstance(value, str) else f"{value:.13g}"


def write(verdict: Verdict, title: str, note: str | None, samples: dict[str, str], folder: Path) -> None:
    """leaderboard.csv and report.html in the study's folder. `samples`: one answer of each trial, by key."""
    folder.mkdir(parents=True, exist_ok=True)
    to_csv(leaderboard(verdict), folder / "leaderboard.csv")
    (folder / "report.html").write_text(to_html(verdict, title, note, samples), encoding="utf-8")


def to_table(verdict: Verdict, title: str) -> Table:
    """The leaderboard for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    axes = axes_of(verdict)
    for key in axes:
        table.add_column(key.removeprefix("engine.args."), no_wrap=True)
    for key in TERMINAL:
        table.add_column(SHOWN[key][0], justify="right", no_wrap=True)
    for standing in verdict.standings:
        won = standing.trial is verdict.winner
        style = "bold green" if won else "dim" if standing.violations else None
        table.add_row(*(Text(standing.trial.axes.get(key, "")) for key in axes), *cells(standing.trial, TERMINAL), style=style)
    return table


def cells(trial: Trial, keys: Sequence[str] = tuple(SHOWN)) -> list[str]:
    """The shown numbers of a trial as text; of a dropped one in brackets: not of all its questions, or not of all repeats."""
    seen = seen_of(trial)
    if seen is None:
        why = "dropped" if trial.dropped else "skipped" if trial.skipped else "failed"
        return [why, *[""] * (len(keys) - 1)]
    return [f"({shown(seen, key)})" if trial.dropped else shown(seen, key) for key in keys]


def shown(measurement: Measurement, key: str) -> str:
    """One number as text; a percentile that the sample cannot support says what it would need."""
    value = getattr(measurement, key)
    if value is None:
        percent = key.rpartition("_p")[2]
        return f"n/a (needs {questions_needed(int(percent))})" if percent.isdigit() else "n/a"
    return format(value, FORMS[key][1])


def axes_of(verdict: Verdict) -> list[str]:
    """The axes of a study."""
    return list(dict.fromkeys(key for standing in verdict.standings for key in standing.trial.axes))


def to_html(verdict: Verdict, title: str, note: str | None, samples: dict[str, str]) -> str:
    """One self-contained page: the verdict, a plot of speed against quality, the table, an answer of each trial."""
    import jinja2

    found = [standing.trial.measurement for standing in verdict.standings if standing.trial.measurement]
    columns = [*SHOWN, *(key for key in SHOWN_IF_MEASURED if any(getattr(one, key) is not None for one in found))]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gpuqa.study", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2").render(
        title=title,
        note=note,
        verdict=verdict,
        axes=axes_of(verdict),
        headings=[FORMS[key][0] for key in columns],
        cells=functools.partial(cells, keys=columns),
        samples=samples,
        comparisons=verdict.comparisons,
        lead=percent,
        points=plot_points(verdict.standings),
    )


def percent(found: Comparison) -> list[str]:
    """One comparison as text: the lead, its interval, its p-value."""
    return list(lead_texts(found.difference, found.interval, found.p_value))


def plot_points(standings: Sequence[Standing]) -> dict[str, Any]:
    """Positions in a 640 x 320 plot: quality to the right, speed upwards, axes from zero."""
    measured = [(standing, standing.trial.measurement) for standing in standings if standing.trial.measurement]
    right = max((found.rouge_l_f1_judge or 0.0 for _, found in measured), default=0.0) * 1.15 or 1.0
    top = max((found.chars_per_s for _, found in measured), default=0.0) * 1.15 or 1.0
    dots = [
        {
            "x": 60 + 560 * (found.rouge_l_f1_judge or 0.0) / right,
            "y": 280 - 260 * found.chars_per_s / top,
            "eligible": not standing.violations,
            "on_front": standing.on_front,
            "name": standing.trial.name,
            "label": f"{found.chars_per_s:,.0f} chars/s at {shown(found, 'rouge_l_f1_judge')}",
        }
        for standing, found in measured
    ]
    steps = [place / 4 for place in range(5)]
    return {
        "dots": dots,
        "x_ticks": [{"at": 60 + 560 * step, "label": f"{right * step:.3f}"} for step in steps],
        "y_ticks": [{"at": 280 - 260 * step, "label": f"{top * step:,.0f}"} for step in steps],
    }
