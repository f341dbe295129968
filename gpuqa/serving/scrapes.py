"""What the metrics of a running server say, out of one scrape of `GET /metrics` and those before it.

Percentiles are those of histograms (`gpuqa.serving.telemetry.SECONDS` has the bounds): within the bucket that the percentile
falls into, answers are taken to be spread evenly, so that it is interpolated between the bucket's bounds and may be wrong by as
much as the bucket is wide. One beyond the last bound is that bound. (Prometheus' histogram_quantile does the same.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from gpuqa.serving.app import POLLED

OURS = "gpuqa_engine_state"  # every gpuqa server has it
STARTED = "process_start_time_seconds"
ANSWERS, FIRST_TOKEN = "gpuqa_answer_seconds", "gpuqa_first_token_seconds"
FINE = ("answered", "ok")  # outcomes of questions and requests that are no errors
Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Scrape:
    """All samples at one moment."""

    at: float  # of this process's monotonic clock, s
    now: float  # of the server's clock, seconds since the epoch
    samples: Mapping[tuple[str, Labels], float] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, at: float, now: float) -> Scrape:
        """Of a body of `GET /metrics`.

        Raises:
            ValueError: it is no such body.
        """
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return cls(at, now, {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples})

    def get(self, name: str, **labels: str) -> float | None:
        """The sum of the samples of this name that have these labels; None where there is none."""
        values = [value for (known, of), value in self.samples.items() if known == name and labels.items() <= dict(of).items()]
        return sum(values) if values else None

    def count(self, name: str) -> int:
        """How many samples of this name there are: one for each replica, where they are told apart."""
        return sum(known == name for known, _ in self.samples)

    def mean(self, name: str) -> float | None:
        """The mean of the samples of this name; None where there is none."""
        return self.total(name) / count if (count := self.count(name)) else None

    def total(self, name: str, **labels: str) -> float:
        """The same for a counter, which may not have begun to count."""
        return self.get(name, **labels) or 0.0

    def by(self, name: str, label: str) -> dict[str, float]:
        """The sums by the values of a label."""
        values = dict.fromkeys(dict(of)[label] for known, of in self.samples if known == name)
        return {value: self.total(name, **{label: value}) for value in values}

    def labels(self, name: str) -> dict[str, str]:
        """The labels of the one sample of this name; none where there is none."""
        return next((dict(of) for known, of in self.samples if known == name), {})

    @property
    def uptime_s(self) -> float | None:
        """How long the server's process has lived."""
        started = self.get(STARTED)
        return None if started is None else max(0.0, self.now - started)


class History:
    """The scrapes of the last minute of one server process."""

    def __init__(self, longest_s: float = 60.0) -> None:
        self.longest_s, self.scrapes = longest_s, list[Scrape]()

    def add(self, scrape: Scrape) -> None:
        """Those of an earlier process, whose counters began anew, are forgotten."""
        if self.scrapes and self.scrapes[-1].get(STARTED) != scrape.get(STARTED):
            self.scrapes.clear()
        self.scrapes.append(scrape)
        while len(self.scrapes) > 2 and scrape.at - self.scrapes[1].at >= self.longest_s:
            self.scrapes.pop(0)

    def before(self, seconds: float) -> Scrape | None:
        """The latest scrape that is so old, else the oldest that is not the last; None where there is no such one."""
        older = [scrape for scrape in self.scrapes if self.scrapes[-1].at - scrape.at >= seconds]
        return older[-1] if older else self.scrapes[0] if len(self.scrapes) > 1 else None


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened within a time; None where nothing did. Percentiles are interpolated, see the module's docstring."""

    seconds: float
    questions_per_s: float  # answered
    chars_per_s: float
    output_tokens_per_s: float
    prefix_cache_hit_rate: float | None  # tokens of prompts out of the prefix cache / tokens of prompts
    ttft_ms_p50: float | None
    ttft_ms_p95: float | None
    e2e_latency_ms_p50: float | None
    e2e_latency_ms_p95: float | None
    e2e_latency_ms_p99: float | None


def rates(old: Scrape, new: Scrape) -> Rates | None:
    """Between two scrapes of one process; None where no time lies between them."""
    seconds = new.at - old.at
    if seconds <= 0:
        return None

    def grown(name: str, **labels: str) -> float:
        return new.total(name, **labels) - old.total(name, **labels)

    prompts = grown("gpuqa_prompt_tokens_total")
    first, whole = (
        {bound: grown(f"{name}_bucket", le=bound) for bound in bounds(new, name)} for name in (FIRST_TOKEN, ANSWERS)
    )
    return Rates(
        seconds,
        questions_per_s=grown("gpuqa_questions_total", outcome="answered") / seconds,
        chars_per_s=grown("gpuqa_answer_characters_total") / seconds,
        output_tokens_per_s=grown("gpuqa_output_tokens_total") / seconds,
        prefix_cache_hit_rate=grown("gpuqa_cached_prompt_tokens_total") / prompts if prompts else None,
        ttft_ms_p50=percentile_ms(first, 0.50),
        ttft_ms_p95=percentile_ms(first, 0.95),
        e2e_latency_ms_p50=percentile_ms(whole, 0.50),
        e2e_latency_ms_p95=percentile_ms(whole, 0.95),
        e2e_latency_ms_p99=percentile_ms(whole, 0.99),
    )


def since_start(scrape: Scrape) -> Rates | None:
    """Over the whole life of the server's process."""
    return None if scrape.uptime_s is None else rates(Scrape(scrape.at - scrape.uptime_s, 0.0), scrape)


def bounds(scrape: Scrape, histogram: str) -> list[str]:
    """The upper bounds of a histogram's buckets, as its samples name them, in order."""
    return sorted(scrape.by(f"{histogram}_bucket", "le"), key=float)


def percentile_ms(counts: Mapping[str, float], fraction: float) -> float | None:
    """A percentile out of the counts of a histogram, ms.

    Args:
        counts: upper bound of a bucket in seconds, the last "+Inf" -> how many were below it; in order.
    """
    total = max(counts.values(), default=0.0)
    if total <= 0:
        return None
    low, below = 0.0, 0.0
    for name, count in counts.items():
        bound = float(name)
        if count >= fraction * total:
            within = (fraction * total - below) / (count - below) if count > below else 0.0
            return 1000 * (low if bound == float("inf") else low + (bound - low) * within)
        low, below = bound, count
    return 1000 * low


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A server at one moment."""

    url: str
    state: str  # see `gpuqa.serving.service.State`; or "gone", where nobody answers
    why: str | None = None  # it is gone
    uptime_s: float | None = None
    serves: dict[str, str] = field(default_factory=dict)  # labels of gpuqa_build_info
    overrides: list[str] = field(default_factory=list)  # parts of the engine that run, as "scheduler=burst"
    frozen_chars_per_s: float | None = None  # for which the winner was chosen
    in_flight: float | None = None  # questions
    in_flight_limit: float | None = None
    waiting: float | None = None  # in the engine's queue; None where the engine does not tell, as the next
    kv_cache_usage: float | None = None  # 0 to 1
    errors: dict[str, float] = field(default_factory=dict)  # since the start of the process: "questions late" -> how many
    restarts: float = 0.0  # engines that took the place of another one
    failed_starts: float = 0.0
    last_10_s: Rates | None = None
    last_minute: Rates | None = None
    since_start: Rates | None = None


def errors(scrape: Scrape) -> dict[str, float]:
    """How often questions and requests had each outcome that is no answer; what polls a server that starts is no error."""
    found = dict[str, float]()
    for (name, labels), count in scrape.samples.items():
        known = dict(labels)
        kind = {"gpuqa_questions_total": "questions", "gpuqa_requests_total": "requests"}.get(name)
        if kind and count and known["outcome"] not in FINE and known.get("route") not in POLLED:
            what = f"{kind} {known['outcome']}"
            found[what] = found.get(what, 0.0) + count
    return found


def snapshot(url: str, state: str, info: Mapping[str, object], history: History) -> Snapshot:
    """The server at its last scrape; `info` are the fields of `Snapshot` that `GET /info` gave."""
    new = history.scrapes[-1]
    windows = {name: history.before(seconds) for name, seconds in (("last_10_s", 10.0), ("last_minute", 60.0))}
    return Snapshot(
        url,
        state,
        uptime_s=new.uptime_s,
        serves=new.labels("gpuqa_build_info"),
        in_flight=new.get("gpuqa_questions_in_flight"),
        in_flight_limit=new.get("gpuqa_questions_in_flight_limit"),
        waiting=new.get("vllm:num_requests_waiting"),
        kv_cache_usage=new.mean("vllm:kv_cache_usage_perc"),
        errors=errors(new),
        restarts=max(0.0, new.total("gpuqa_engine_starts_total", outcome="ready") - max(1, new.count("gpuqa_replica_ready"))),
        failed_starts=new.total("gpuqa_engine_starts_total", outcome="failed"),
        since_start=since_start(new),
        **{name: old and rates(old, new) for name, old in windows.items()},  # type: ignore[arg-type]
        **info,  # type: ignore[arg-type]
    )
