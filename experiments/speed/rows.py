"""The rows of the table: who is asked how, in which order, and what becomes of the single values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpuqa.measure.percentiles import percentile
from gpuqa.measure.statistics import median_and_mad

BATCH_REFERENCE, CLIENTS_REFERENCE = "a.text", "e.64"
BATCH_HEAD = "| row | what | prefix | questions | repeats | median s | MAD | output tokens/s | over a.text |"
CLIENTS_HEAD = "| row | what | prefix | questions | repeats | questions/s | MAD | p50 s | p95 s | over e.64 |"


@dataclass(frozen=True)
class Row:
    """One line of the table. `how`: "text", "ids" or "direct" inside the process, "post" or "clients" over HTTP."""

    key: str
    contestant: str
    how: str
    what: str
    repeats: int | None = None  # None: as many as asked for
    questions: int | None = None  # None: as many as asked for

    @property
    def over_http(self) -> bool:
        """Whether the client's process holds the clock."""
        return self.how in ("post", "clients")


ROWS = (
    Row("a.text", "offline", "text", "offline LLM.generate, from text"),
    Row("a.ids", "offline", "ids", "offline LLM.generate, from token ids"),
    Row("b.ids", "async", "ids", "AsyncLLM as it comes, from token ids"),
    Row("b.text", "async", "text", "AsyncLLM as it comes, from text"),
    Row("c", "ours", "direct", "ours, Pipeline.answer"),
    Row("d.batch", "ours", "post", "ours, one POST /predict"),
    Row("d.64", "ours", "clients", "ours, POST /predict"),
    Row("e.64", "openai", "clients", "vLLM's OpenAI server"),
    Row("f.batch", "seed", "post", "the seed's server, one POST"),
    Row("f.64", "seed", "clients", "the seed's server (one repeat, few questions: it answers one at a time)", 1, 20),
    Row("g", "transformers", "text", "transformers, batch 64 (one repeat of one batch)", 1, 64),
    Row("h.direct", "ours_default", "direct", "ours with scheduler and attention=default, Pipeline.answer"),
    Row("h.batch", "ours_default", "post", "ours with scheduler and attention=default, one POST"),
    Row("h.64", "ours_default", "clients", "ours with scheduler and attention=default, POST /predict"),
    Row("i.direct", "ours_own_attention", "direct", "ours with attention=default, Pipeline.answer"),
    Row("i.batch", "ours_own_attention", "post", "ours with attention=default, one POST"),
    Row("i.64", "ours_own_attention", "clients", "ours with attention=default, POST /predict"),
    Row("j.batch", "ours_prepared", "post", "ours with every step prepared anew, one POST"),
    Row("j.64", "ours_prepared", "clients", "ours with every step prepared anew, POST /predict"),
    Row("k.batch", "ours_float8", "post", "ours with a KV cache of fp8, one POST"),
    Row("k.64", "ours_float8", "clients", "ours with a KV cache of fp8, POST /predict"),
    Row("l.batch", "ours_before", "post", "ours of the checkout --before, one POST"),
    Row("l.64", "ours_before", "clients", "ours of the checkout --before, POST /predict"),
)


def chosen(only: str) -> list[Row]:
    """The rows that a comma list of keys or letters names, in the table's order; all of them for an empty one.

    Raises:
        ValueError: a name fits no row.
    """
    names = [name for name in only.split(",") if name]
    for name in names:
        if not any(named(row, name) for row in ROWS):
            raise ValueError(f"--only: got {name!r}, allowed are {', '.join(row.key for row in ROWS)} and their letters")
    return [row for row in ROWS if not names or any(named(row, name) for name in names)]


def named(row: Row, name: str) -> bool:
    """Whether a key or a letter means this row."""
    return name in (row.key, row.key.partition(".")[0])


def plan(rows: Sequence[Row], prefixes: Sequence[int], repeats: int) -> Iterator[tuple[int, int, Row]]:
    """The order of measuring, (repeat, prefix, row): a slow minute of the machine hits every row, not one."""
    for repeat in range(repeats):
        for prefix in prefixes:
            for row in rows:
                if repeat < (row.repeats or repeats):
                    yield repeat, prefix, row


@dataclass(frozen=True)
class Summary:
    """One row at one prefix; latencies are None for batches, the ratio is None without a reference."""

    row: Row
    prefix: int
    questions: int
    repeats: int
    median_s: float
    mad_s: float
    output_tokens_per_s: float
    questions_per_s: float
    questions_per_s_mad: float
    p50_s: float | None
    p95_s: float | None
    over_reference: float | None


def summarise(records: Sequence[dict[str, Any]], rows: Sequence[Row], prefixes: Sequence[int]) -> list[Summary]:
    """Medians over the repeats; percentiles over all requests of all repeats together."""
    summaries = {}
    for row in rows:
        for prefix in prefixes:
            mine = [record for record in records if record["row"] == row.key and record["prefix"] == prefix]
            if mine:
                summaries[row.key, prefix] = summary_of(row, prefix, mine)
    return [with_ratio(summary, summaries) for summary in summaries.values()]


def summary_of(row: Row, prefix: int, records: Sequence[dict[str, Any]]) -> Summary:
    """One row at one prefix, without its ratio."""
    median_s, mad_s = median_and_mad([record["seconds"] for record in records])
    rate, rate_mad = median_and_mad([record["questions"] / record["seconds"] for record in records])
    tokens, _ = median_and_mad([record["output_tokens"] / record["seconds"] for record in records])
    latencies = [latency for record in records for latency in record["latencies"]] if row.how == "clients" else []
    p50, p95 = percentile(latencies, 50), percentile(latencies, 95)
    count = records[0]["questions"]
    return Summary(row, prefix, count, len(records), median_s, mad_s, tokens, rate, rate_mad, p50, p95, None)


def with_ratio(summary: Summary, summaries: dict[tuple[str, int], Summary]) -> Summary:
    """How many times as fast as the reference of its kind; rates, so that rows with fewer questions compare too."""
    clients = summary.row.how == "clients"
    reference = summaries.get((CLIENTS_REFERENCE if clients else BATCH_REFERENCE, summary.prefix))
    if reference is None:
        return summary
    mine, theirs = ((one.questions_per_s if clients else one.output_tokens_per_s) for one in (summary, reference))
    return replace(summary, over_reference=mine / theirs)


def table(summaries: Sequence[Summary], errors: dict[str, str]) -> str:
    """Both tables as Markdown, and the rows that could not be measured with their reasons."""
    lines = [BATCH_HEAD, ruler(BATCH_HEAD)]
    lines += [batch_line(one) for one in summaries if one.row.how != "clients"]
    lines += ["", "Closed loop, one question a request:", "", CLIENTS_HEAD, ruler(CLIENTS_HEAD)]
    lines += [clients_line(one) for one in summaries if one.row.how == "clients"]
    if errors:
        lines += ["", "Not measured, or not as often as asked:", "", *(f"- {who}: {why}" for who, why in errors.items())]
    return "\n".join(lines) + "\n"


def ruler(head: str) -> str:
    """The line under a head."""
    return "|" + " --- |" * (head.count("|") - 1)


def batch_line(one: Summary) -> str:
    """A row that answers one batch."""
    cells = [one.row.key, one.row.what, one.prefix, one.questions, one.repeats, f"{one.median_s:.3f}", f"{one.mad_s:.3f}"]
    return line([*cells, f"{one.output_tokens_per_s:,.0f}", number(one.over_reference, 2)])


def clients_line(one: Summary) -> str:
    """A row under many clients."""
    cells = [one.row.key, one.row.what, one.prefix, one.questions, one.repeats]
    rates = [f"{one.questions_per_s:.2f}", f"{one.questions_per_s_mad:.2f}"]
    return line([*cells, *rates, number(one.p50_s, 3), number(one.p95_s, 3), number(one.over_reference, 2)])


def number(value: float | None, digits: int) -> str:
    """A value, or n/a."""
    return "n/a" if value is None else f"{value:.{digits}f}"


def line(cells: Sequence[object]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"
