"""The one list of how each number of a measurement is shown: in the leaderboard, the report, the terminal and by `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gpuqa.measure.percentiles import questions_needed


class Column(Enum):
    """Where a metric is a column; in leaderboard.csv all are."""

    file = "leaderboard.csv only"
    page = "the report's table too"
    page_if_measured = "the report's table too, where any trial of the study has it"


@dataclass(frozen=True, slots=True)
class Metric:
    """How one number of a measurement is shown."""

    heading: str
    form: str  # format specification
    meaning: str
    unit: str = ""  # "" for counts, shares and scores
    column: Column = Column.file
    over_http: bool = False  # can be told from the answers of a service alone, so that `evaluate` reports it


METRICS = {  # by the field of `Measurement`, in the order of the report's columns
    "questions": Metric("questions", ",d", "questions of one repeat", over_http=True),
    "repeats": Metric("repeats", ",d", "measured passes over all questions, each from an empty prefix cache"),
    "seconds": Metric("seconds", ",.4g", "geometric mean of the time of one repeat", "s", over_http=True),
    "chars_per_s": Metric(
        "chars/s",
        ",.0f",
        'characters of all answers / seconds of one repeat (the judge\'s "tokens/s"), geometric mean over the repeats',
        "1/s",
        Column.page,
        over_http=True,
    ),
    "chars_per_s_mad": Metric("±MAD", ",.0f", "median absolute deviation of chars/s over the repeats", "1/s", Column.page),
    "rouge_l_f1_judge": Metric(
        "judge", ".4f", "mean ROUGE-L F1 by the judge's formula, which sees only [a-z0-9]", "", Column.page, over_http=True
    ),
    "rouge_l_f1": Metric("ROUGE-L", ".4f", "mean of the same F1 over jieba words", "", Column.page, over_http=True),
    "output_tokens_per_s": Metric(
        "tokens/s", ",.0f", "output tokens / seconds of one repeat, geometric mean over the repeats", "1/s", Column.page
    ),
    "answer_chars_mean": Metric(
        "chars/answer", ".0f", "characters of all answers / questions", "", Column.page, over_http=True
    ),
    "e2e_latency_ms_p95": Metric(
        "p95 ms", ",.0f", "95th percentile of the time from call to answer", "ms", Column.page, over_http=True
    ),
    "prefix_cache_hit_rate": Metric(
        "cache hits", ".0%", "share of the prompt tokens that came out of the prefix cache", "", Column.page
    ),
    "first_round_chars_per_s": Metric(
        "first round", ",.0f", "chars/s of a finalist before it was measured again", "1/s", Column.page_if_measured
    ),
    "prefix_cached_chars_per_s": Metric(
        "cached chars/s", ",.0f", "chars/s of repeats that found the prefix cache filled", "1/s", Column.page_if_measured
    ),
    "prefix_cached_ttft_ms_p50": Metric(
        "cached TTFT p50 ms", ",.1f", "median time to first token of those repeats", "ms", Column.page_if_measured
    ),
    "prefix_cached_hit_rate": Metric(
        "cached pass hits", ".0%", "share of prompt tokens from the prefix cache in those repeats", "", Column.page_if_measured
    ),
    "goodput_questions_per_s": Metric(
        "goodput 1/s",
        ",.4g",
        "answers that keep every limit of workload.slo / seconds of one repeat, geometric mean over the repeats",
        "1/s",
        Column.page_if_measured,
    ),
    "slo_attainment": Metric("SLO kept", ".1%", "share of the answers that keep every limit", "", Column.page_if_measured),
    "load_kept_per_s": Metric(
        "load kept 1/s",
        ",.4g",
        "highest arrival rate of a search at which the share of workload.search.attainment kept every limit",
        "1/s",
        Column.page_if_measured,
    ),
    "load_kept_passes": Metric("passes there", ",.0f", "passes at that rate, counted together", "", Column.page_if_measured),
    "load_missed_per_s": Metric(
        "load missed 1/s", ",.4g", "lowest rate above it at which fewer did", "1/s", Column.page_if_measured
    ),
    "load_missed_passes": Metric("passes there", ",.0f", "passes at that rate", "", Column.page_if_measured),
    "saturates_at_per_s": Metric(
        "saturates at 1/s",
        ",.4g",
        "arrivals a second in the first third of a ramp in which fewer than 3 answers came for 4 arrivals",
        "1/s",
        Column.page_if_measured,
    ),
    "joules_per_output_token": Metric(
        "J/token",
        ",.4g",
        "energy of the engine's GPUs (whole boards, by NVML's counter) / output tokens, geometric mean over the repeats",
        "J",
        Column.page_if_measured,
    ),
    "itl_ms_mean": Metric(
        "ITL ms",
        ",.2f",
        "mean gap between two tokens as they come to a client that streams",
        "ms",
        Column.page_if_measured,
    ),
    "itl_ms_p50": Metric("ITL p50 ms", ",.2f", "median of those gaps", "ms", Column.page_if_measured),
    "itl_ms_p95": Metric("ITL p95 ms", ",.2f", "95th percentile of those gaps", "ms", Column.page_if_measured),
    "itl_ms_p99": Metric("ITL p99 ms", ",.2f", "99th percentile of those gaps", "ms", Column.page_if_measured),
    "prefix_cached_repeats": Metric("cached repeats", ",d", "repeats that found the prefix cache filled"),
    "prefix_cached_output_tokens_per_s": Metric("cached tokens/s", ",.0f", "output tokens/s of those repeats", "1/s"),
    "prefix_cached_ttft_ms_p95": Metric("cached TTFT p95 ms", ",.1f", "95th percentile of it in those repeats", "ms"),
    "questions_per_s": Metric("questions/s", ",.4g", "questions / seconds", "1/s", over_http=True),
    "ttft_ms_p50": Metric("TTFT p50 ms", ",.1f", "median time from the call to the first token", "ms"),
    "ttft_ms_p95": Metric("TTFT p95 ms", ",.1f", "95th percentile of it", "ms"),
    "tpot_ms_mean": Metric(
        "TPOT ms", ",.2f", "mean over answers of (latency - time to first token) / (output tokens - 1)", "ms"
    ),
    "e2e_latency_ms_p50": Metric("p50 ms", ",.0f", "median time from call to answer", "ms", over_http=True),
    "e2e_latency_ms_p99": Metric("p99 ms", ",.0f", "99th percentile of the time from call to answer", "ms", over_http=True),
    "cached_tokens": Metric("cached tokens", ",d", "prompt tokens that came out of the prefix cache, over all repeats"),
    "prompt_tokens": Metric("prompt tokens", ",d", "over all repeats"),
    "output_tokens": Metric("output tokens", ",d", "over all repeats"),
    "answers_truncated": Metric("truncated", ",d", "answers that sampling.max_tokens ended"),
    "truncated_fraction": Metric("truncated share", ".1%", "answers_truncated / questions"),
    "answers_empty": Metric("empty", ",d", "answers without a character", over_http=True),
    "answers_multi_line": Metric("multi-line", ",d", "answers with a line break", over_http=True),
    "answers_failed": Metric("failed", ",d", "questions for which the engine raised; their answers are empty"),
    "questions_cut": Metric("cut", ",d", "questions whose middle was taken out to fit the context"),
    "engine_start_s": Metric("start s", ",.1f", "start of the engine of the first repeat", "s"),
    "warmup_s": Metric("warm-up s", ",.1f", "warm-up of the cell on that engine", "s"),
    "peak_memory_gib": Metric("memory GiB", ",.2f", "host memory, on a GPU also its memory in use", "GiB"),
    "saturated": Metric("saturated", "", "questions came faster than answers in a repeat"),
    "sm_clock_mhz_min": Metric("SM MHz", ",d", "lowest SM clock under load", "MHz"),
    "temperature_c_max": Metric("°C", ",d", "highest GPU temperature", "°C"),
}


def shown(name: str, value: float | None) -> str:
    """A metric's value as text; a percentile that the sample cannot support says how many different questions it would need."""
    if value is None:
        percent = name.rpartition("_p")[2]
        return f"n/a (needs {questions_needed(int(percent))})" if percent.isdigit() else "n/a"
    return format(value, METRICS[name].form)
