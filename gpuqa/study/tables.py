"""A study as tables for pandas: the same columns with the same types whatever failed, and a single value in each cell.

Before the columns below, every table has `trial` (the start of the cell's key, by which the tables are joined), `name` (the
cell in words) and a column of text for each axis of the study, called as the axis is written on the command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gpuqa.measure.fingerprint import Stage
from gpuqa.measure.latency import PERCENTILES
from gpuqa.measure.metric_table import METRICS
from gpuqa.measure.metrics import intervals_of
from gpuqa.records import Answer, Conditions, Measurement, Trial
from gpuqa.roofline.roofline import fraction
from gpuqa.selection.comparison import Comparison
from gpuqa.selection.verdict import Standing, Verdict
from gpuqa.study.kept import kept_columns

if TYPE_CHECKING:
    import pandas as pd

TEXT, NUMBER, COUNT, FLAG, MAYBE, TIME = "string", "float64", "Int64", "bool", "boolean", "datetime64[ns, UTC]"
KINDS = {"float": NUMBER, "int": COUNT, "bool": MAYBE}  # of a measurement's field -> of its column
WITH_INTERVAL = ("chars_per_s", "rouge_l_f1_judge", "rouge_l_f1", *PERCENTILES)


@dataclass(frozen=True, slots=True)
class Column:
    """What a column holds."""

    kind: str  # as pandas calls it
    meaning: str


def metric_columns() -> dict[str, Column]:
    """Each metric of `METRICS` with its own type."""
    kinds = {item.name: KINDS[str(item.type).removesuffix(" | None")] for item in fields(Measurement) if item.name in METRICS}
    return {name: Column(kinds[name], metric.meaning) for name, metric in METRICS.items()}


def interval_columns() -> dict[str, Column]:
    """Both ends of the intervals of `WITH_INTERVAL`."""
    ends = [(name, end) for name in WITH_INTERVAL for end in ("low", "high")]
    return {f"{name}_interval_{end}": Column(NUMBER, f"{end} end of the 95 % interval of {name}") for name, end in ends}


TRIALS = {
    "rank": Column(COUNT, "place in the verdict, from 1"),
    "state": Column(TEXT, "measured, failed, skipped or dropped; numbers are there of a measured trial only"),
    "why": Column(TEXT, "why it is not measured; empty where it is"),
    "winner": Column(FLAG, "whether it is the trial that won"),
    "finalist": Column(FLAG, "whether its numbers are those of measuring it again"),
    "eligible": Column(FLAG, "whether it keeps every constraint"),
    "violations": Column(TEXT, "the constraints that it does not keep"),
    "pareto": Column(FLAG, "whether no other trial is both faster and better"),
    "quality_kept": Column(TEXT, "of a quantized trial: shown to keep, not shown or shown to be worse"),
    "quality_kept_by": Column(TEXT, "by what"),
    "first_leads_by": Column(NUMBER, "how far the first by the rule leads it: a ratio less 1, or a difference of scores"),
    "first_leads_low": Column(NUMBER, "low end of the interval of that lead"),
    "first_leads_high": Column(NUMBER, "high end of it"),
    "p_value": Column(NUMBER, "of the test of that lead"),
    **metric_columns(),
    **interval_columns(),
    "roofline_fraction": Column(NUMBER, "speed / bound of the card; missing where the card has no data sheet"),
    "scheduler": Column(TEXT, "the scheduler that ran"),
    "attention": Column(TEXT, "the attention that ran"),
}
ANSWERS = {
    "question_id": Column(TEXT, "the question's id"),
    "question": Column(TEXT, "its text"),
    "reference": Column(TEXT, "the first reference answer"),
    "answer": Column(TEXT, "of the first repeat, after postprocessing"),
    "rouge_l_f1_judge": Column(NUMBER, METRICS["rouge_l_f1_judge"].meaning.removeprefix("mean ")),
    "rouge_l_f1": Column(NUMBER, METRICS["rouge_l_f1"].meaning.removeprefix("mean of ")),
    "finish_reason": Column(TEXT, "stop, length (sampling.max_tokens ended it) or error"),
    "output_tokens": Column(COUNT, "tokens of the answer"),
    "latency_s": Column(NUMBER, "from its call to the answer"),
    "error": Column(TEXT, "why there is no answer; empty where there is one"),
}
TIMINGS = {
    "question_id": Column(TEXT, "the question's id"),
    "repeat": Column(COUNT, "from 0"),
    "latency_s": Column(NUMBER, "from the call (workload=open: from the scheduled arrival) to the answer"),
    "first_token_s": Column(NUMBER, "from the same moment to the first token"),
    "output_tokens": Column(COUNT, "tokens of the answer"),
    "failed": Column(FLAG, "the engine raised, so there is no answer"),
}
PASSES = {
    "stage": Column(TEXT, f"{', '.join(stage.value for stage in Stage)}"),
    "repeat": Column(COUNT, "from 0, in the order measured"),
    "began_at": Column(TIME, "when it began"),
    "seconds": Column(NUMBER, "how long it took"),
    "chars_per_s": Column(NUMBER, "characters of all answers / seconds"),
    "goodput_questions_per_s": Column(NUMBER, "answers that keep workload.slo / seconds"),
    "joules_per_output_token": Column(NUMBER, "energy of the engine's GPUs / tokens"),
    "engine_id": Column(TEXT, "the start of the engine that answered"),
    "sm_clock_mhz": Column(COUNT, "SM clock right after it"),
    "temperature_c": Column(COUNT, "temperature of the GPU right after it"),
    "power_w": Column(NUMBER, "power of the GPU right after it"),
}
TABLES = {"trials": TRIALS, "answers": ANSWERS, "timings": TIMINGS, "passes": PASSES}


@dataclass(frozen=True, slots=True)
class Row:
    """A trial of a verdict beside what a table says of its cell."""

    cell: Trial  # of the first round
    standing: Standing
    answers: Sequence[Answer]
    axes: Sequence[str]  # of the study

    @property
    def start(self) -> dict[str, Any]:
        """The first columns of every table."""
        return {"trial": self.cell.key[:16], "name": self.cell.name, **{key: self.cell.axes.get(key) for key in self.axes}}


def trial_rows(rows: Sequence[Row], verdict: Verdict) -> Iterator[dict[str, Any]]:
    """`TRIALS` in the verdict's order."""
    leads = {id(comparison.other): comparison for comparison in verdict.comparisons}
    for rank, row in enumerate(rows, 1):
        standing, trial = row.standing, row.standing.trial
        ran = {override.part: override.ran for override in trial.overrides}
        yield {
            **row.start,
            **state_of(trial),
            **kept_columns(standing),
            **lead_of(leads.get(id(trial))),
            **numbers_of(trial, row.answers),
            **{part: ran.get(part, "") for part in ("scheduler", "attention")},
            "rank": rank,
            "winner": trial is verdict.winner,
            "finalist": trial.key != row.cell.key,
            "eligible": not standing.violations,
            "violations": "; ".join(standing.violations),
            "pareto": standing.on_front,
        }


def state_of(trial: Trial) -> dict[str, str]:
    """What became of a trial, in a word and by its reason."""
    dropped = trial.dropped.reason if trial.dropped else None
    reasons = {"failed": trial.error, "skipped": trial.skipped, "dropped": dropped}
    given = {state: reason for state, reason in reasons.items() if reason is not None}
    state, why = next(iter(given.items()), ("measured", ""))
    return {"state": state, "why": why}


def lead_of(comparison: Comparison | None) -> dict[str, float | None]:
    """How far the first by the rule leads a trial; nothing of the first itself."""
    if comparison is None:
        return {}
    interval = comparison.interval
    ends = {"first_leads_low": interval.low, "first_leads_high": interval.high} if interval else {}
    return {"first_leads_by": comparison.difference, **ends, "p_value": comparison.p_value}


def numbers_of(trial: Trial, answers: Sequence[Answer]) -> dict[str, Any]:
    """The metrics and intervals of a measured trial."""
    if (measurement := trial.measurement) is None:
        return {}
    numbers = {name: getattr(measurement, name) for name in METRICS}
    for name, interval in intervals_of(measurement, answers).items():
        numbers |= {f"{name}_interval_{end}": getattr(interval, end) for end in ("low", "high") if interval}
    return {**numbers, "roofline_fraction": fraction(trial)}


def answer_rows(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """`ANSWERS`: of each trial all questions."""
    for row in rows:
        for answer in row.answers:
            values = {name: getattr(answer, name) for name in ANSWERS if name not in ("question_id", "error")}
            yield {**row.start, **values, "question_id": answer.id, "error": answer.error or ""}


def timing_rows(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """`TIMINGS`: of each answer all repeats."""
    for row in rows:
        for answer in row.answers:
            for repeat, timing in enumerate(answer.timings):
                values = {name: getattr(timing, name) for name in ("latency_s", "first_token_s", "output_tokens", "failed")}
                yield {**row.start, "question_id": answer.id, "repeat": repeat, **values}


def pass_rows(row: Row, stage: Stage, measurement: Measurement) -> Iterator[dict[str, Any]]:
    """`PASSES` of a trial in one stage."""
    after = measurement.conditions[1::2] if len(measurement.conditions) == 2 * measurement.repeats else []
    for repeat, speed in enumerate(measurement.chars_per_s_repeats):
        yield {
            **row.start,
            "stage": stage.value,
            "repeat": repeat,
            "began_at": of_repeat([datetime.fromtimestamp(began, UTC) for began in measurement.repeats_began_at], repeat),
            "seconds": of_repeat(measurement.seconds_repeats, repeat),
            "chars_per_s": speed,
            "goodput_questions_per_s": of_repeat(measurement.goodput_questions_per_s_repeats, repeat),
            "joules_per_output_token": of_repeat(measurement.joules_per_output_token_repeats, repeat),
            "engine_id": of_repeat(measurement.engine_ids, repeat) or "",
            **clocks_of(of_repeat(after, repeat)),
        }


def of_repeat(values: Sequence[Any], repeat: int) -> Any:
    """The value of a repeat; None where the study did not note it."""
    return values[repeat] if repeat < len(values) else None


def clocks_of(conditions: Conditions | None) -> dict[str, float]:
    """What NVML read; nothing without it."""
    return {name: getattr(conditions, name) for name in ("sm_clock_mhz", "temperature_c", "power_w")} if conditions else {}


def table(rows: Iterator[dict[str, Any]], axes: Sequence[str], columns: dict[str, Column]) -> pd.DataFrame:
    """Rows as a table with the types of its columns; a value that a row lacks is missing."""
    import pandas as pd  # a second to import

    kinds = {"trial": TEXT, "name": TEXT, **dict.fromkeys(axes, TEXT)} | {name: column.kind for name, column in columns.items()}
    made = list(rows)
    return pd.DataFrame({name: [row.get(name) for row in made] for name in kinds}, dtype=object).astype(kinds)
