"""The page of all metrics: from the fields of `Measurement`, their comments and the table that shows them."""

from __future__ import annotations

from dataclasses import fields

from comments import comments_of, docstring, row, table, text_of

from gpuqa.measure.metric_table import METRICS, Column
from gpuqa.records import Conditions, Measurement, Override, RampThird, Timing

HEAD = """# Metrics and their formulas

This page is generated from `gpuqa/records.py` and `gpuqa/measure/metric_table.py`, so it says what the code says. How winners
are told from noise is in [How the winner is decided](verdict.md); what a percentile needs is there too.
"""


WHERE = {  # beside leaderboard.csv, which has all of them
    Column.file: "",
    Column.page: "report",
    Column.page_if_measured: "report, where any trial has it",
}


def page() -> str:
    """The page."""
    kinds = {field.name: str(field.type) for field in fields(Measurement)}
    said, lines = comments_of(Measurement), [HEAD, docstring(Measurement)]
    lines += [
        "",
        "## Shown metrics",
        "",
        "`leaderboard.csv` has all of them; where else each is shown stands in the last column.",
    ]
    lines += table("field", "what it is", "shown as", "where")
    for name, metric in METRICS.items():
        formula = max(said[name], metric.meaning, key=len)
        where = ", ".join(filter(None, [WHERE[metric.column], "`evaluate`" if metric.over_http else ""]))
        lines.append(row(f"`{name}`", text_of(formula), text_of(metric.heading), where))
    lines += [
        "",
        "## Kept beside them",
        "",
        "In the trials, and some in `leaderboard.csv`.",
        *table("field", "type", "what it is"),
    ]
    lines += [row(f"`{name}`", f"`{text_of(kinds[name])}`", text_of(said[name])) for name in kinds if name not in METRICS]
    for kind in (Timing, Conditions, RampThird, Override):
        lines += ["", f"## {kind.__name__}", "", docstring(kind), *table("field", "what it is")]
        lines += [row(f"`{name}`", text_of(comment)) for name, comment in comments_of(kind).items()]
    return "\n".join(lines) + "\n"
