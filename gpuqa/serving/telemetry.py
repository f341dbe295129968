"""What operators see: metrics for Prometheus, log lines as JSON, and the id that the lines of one request share.

gpuqa_requests_total{route,outcome}      outcome: ok, invalid (4xx), unauthorized (401), refused (429), unavailable
                                         (503), failed (other 5xx), gone (the client disconnected); route: its template
gpuqa_request_seconds{route}             histogram: a request's head to its last byte; outcome ok, health and metrics left out
gpuqa_questions_total{outcome}           answered, failed (the engine refused it), late (deadline), lost (the engine
                                         died), refused (429), gone (the client disconnected)
gpuqa_questions_cut_total                questions whose middle was taken out because they were too long
gpuqa_questions_empty_total              questions without a single character beside spaces
gpuqa_prompt_tokens_total                tokens of prompts; gpuqa_cached_prompt_tokens_total: out of the prefix cache
gpuqa_output_tokens_total                tokens of answers; gpuqa_answer_characters_total: characters after postprocessing
gpuqa_first_token_seconds                histogram: a question's way to its first token (TTFT)
gpuqa_answer_seconds                     histogram: a question's way to its last token
gpuqa_queue_seconds                      histogram: how much of it the question waited in the engine's queue
gpuqa_questions_in_flight                gauge: admitted and not answered; gpuqa_questions_in_flight_limit: how many may be
gpuqa_engine_state{state}                gauge: 1 for the state that it is in (gpuqa.serving.service.State), else 0
gpuqa_engine_starts_total{outcome}       ready, failed; gpuqa_engine_deaths_total: died while it was ready
gpuqa_winner_swaps_total{outcome}        ready, failed: another frozen winner was to be served (http.watch_frozen, SIGHUP)
gpuqa_build_info{version,frozen_digest,model,prompt,quantization,engine,device,...}   gauge: 1
gpuqa_questions_asked_again_total        questions whose replica was lost, each time that another one was asked
gpuqa_replica_ready{replica}             gauge, with http.replicas above 1: whether this one answers;
gpuqa_replica_questions_in_flight{replica}   gauge: the questions that it has
vllm:num_requests_running, vllm:num_requests_waiting, vllm:kv_cache_usage_perc        gauges, as vLLM's scheduler says;
vllm:prefix_cache_queries_total, vllm:prefix_cache_hits_total, vllm:num_preemptions_total      all {model_name}, with several
                                         replicas also {replica}
process_resident_memory_bytes and other process_* of this process (the engine's own process is another one)
"""

from __future__ import annotations

import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gpuqa.machine.log_lines import Logs, json_line
from gpuqa.records import Completion

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 330)  # the last is the default deadline
STATUS_OUTCOMES = {401: "unauthorized", 429: "refused", 503: "unavailable"}
REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
ReadNumbers = Callable[[], tuple[str, Mapping[str, Mapping[str, float]]]]  # the model's name, and `Engine.numbers` by replica
ABOUT: ContextVar[dict[str, Any] | None] = ContextVar("about", default=None)  # fields of the request that is being answered


class Telemetry:
    """The metrics, in a registry of the caller's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.build: Gauge | None = None  # `gpuqa_build_info`
        self.swaps = Counter("gpuqa_winner_swaps", "Changes to another frozen winner.", ["outcome"], registry=registry)
        self.requests = Counter("gpuqa_requests", "Requests.", ["route", "outcome"], registry=registry)
        self.request_s = self._histogram("gpuqa_request_seconds", "Time of an answered request.", ["route"])
        self.questions = Counter("gpuqa_questions", "Questions.", ["outcome"], registry=registry)
        self.cut = self._counter("gpuqa_questions_cut", "Questions that were too long.")
        self.empty = self._counter("gpuqa_questions_empty", "Questions that were empty.")
        self.prompt_tokens = self._counter("gpuqa_prompt_tokens", "Tokens of prompts.")
        self.cached_tokens = self._counter("gpuqa_cached_prompt_tokens", "Tokens of prompts out of the prefix cache.")
        self.output_tokens = self._counter("gpuqa_output_tokens", "Tokens of answers.")
        self.characters = self._counter("gpuqa_answer_characters", "Characters of answers.")
        self.first_token_s = self._histogram("gpuqa_first_token_seconds", "Time to a question's first token.")
        self.answer_s = self._histogram("gpuqa_answer_seconds", "Time to a question's last token.")
        self.queue_s = self._histogram("gpuqa_queue_seconds", "Time in the engine's queue.")
        self.in_flight = Gauge("gpuqa_questions_in_flight", "Questions admitted and not answered.", registry=registry)
        self.limit = Gauge("gpuqa_questions_in_flight_limit", "How many questions are admitted at a time.", registry=registry)
        self.state = Gauge("gpuqa_engine_state", "1 for the state that the service is in.", ["state"], registry=registry)
        self.starts = Counter("gpuqa_engine_starts", "Starts of the engine.", ["outcome"], registry=registry)
        self.deaths = self._counter("gpuqa_engine_deaths", "Deaths of a ready engine.")
        self.asked_again = self._counter("gpuqa_questions_asked_again", "Questions asked again because their replica was lost.")
        self.replica_ready = Gauge("gpuqa_replica_ready", "Whether a replica answers.", ["replica"], registry=registry)
        name = "gpuqa_replica_questions_in_flight"
        self.replica_in_flight = Gauge(name, "Questions that a replica has.", ["replica"], registry=registry)
        ProcessCollector(registry=registry)
        for outcome in ("answered", "failed", "late", "lost", "refused", "gone"):  # a rate needs the zero before the first
            self.questions.labels(outcome)
        for counter in (self.starts, self.swaps):
            for outcome in ("ready", "failed"):
                counter.labels(outcome)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: Sequence[str] = ()) -> Histogram:
        return Histogram(name, text, labels, buckets=SECONDS, registry=self.registry)

    def expect(self, routes: Iterable[str]) -> None:
        """Show a zero for what fails on these routes: to Prometheus a series that begins with 1 has not grown."""
        for route in routes:
            self.requests.labels(route, "failed")

    def introduce(self, labels: Mapping[str, str]) -> None:
        """What is served from now on, as the labels of `gpuqa_build_info`."""
        if self.build is not None:
            self.registry.unregister(self.build)
        self.build = Gauge("gpuqa_build_info", "What is served.", list(labels), registry=self.registry)
        self.build.labels(**labels).set(1)

    def watch_engines(self, read: ReadNumbers) -> None:
        """Show the engines' own numbers, which `read` gives at every scrape."""
        self.registry.register(EngineNumbers(read))

    def enter(self, state: str, states: Iterable[str]) -> None:
        """The service is in another state."""
        for name in states:
            self.state.labels(name).set(name == state)

    def count(self, completions: Sequence[Completion]) -> None:
        """Answers that a client gets, whole or empty."""
        self.prompt_tokens.inc(sum(completion.prompt_tokens for completion in completions))
        self.cached_tokens.inc(sum(completion.cached_tokens for completion in completions))
        self.output_tokens.inc(sum(completion.output_tokens for completion in completions))
        self.characters.inc(sum(len(completion.text) for completion in completions))
        self.cut.inc(sum(completion.question_was_cut for completion in completions))
        for completion in completions:
            self.questions.labels(OUTCOMES.get(completion.finish_reason, "answered")).inc()
            for histogram, seconds in (
                (self.first_token_s, completion.first_token_s),
                (self.answer_s, completion.last_token_s),
                (self.queue_s, completion.queue_s),
            ):
                if seconds is not None:
                    histogram.observe(seconds)


OUTCOMES = {"error": "failed", "late": "late", "lost": "lost"}  # by finish_reason; all others are answers


class EngineNumbers(Collector):
    """The engines' numbers at the moment of a scrape, under the backend's own names; see `Engine.numbers`."""

    def __init__(self, read: ReadNumbers) -> None:
        self.read = read

    def collect(self) -> Iterator[Metric]:
        model, by_replica = self.read()
        for name in dict.fromkeys(name for numbers in by_replica.values() for name in numbers):
            family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            metric = family(name, "The engine's own number.", labels=["model_name", *(["replica"] if any(by_replica) else [])])
            for replica, numbers in by_replica.items():
                if name in numbers:
                    metric.add_metric([model, *([replica] if replica else [])], numbers[name])
            yield metric


class RequestTelemetry:
    """ASGI middleware: an id, a clock, an outcome and one log line for every request."""

    def __init__(self, app: Any, telemetry: Telemetry, polled: Sequence[str]) -> None:
        """Requests for paths in `polled` come from machines, often: they are counted, not timed, and logged at DEBUG."""
        self.app, self.telemetry, self.polled = app, telemetry, polled
        self.log = logging.getLogger("gpuqa.requests")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        about: dict[str, Any] = {"request_id": request_id(scope["headers"])}
        ABOUT.set(about)
        header = (b"x-request-id", about["request_id"].encode())
        began, status = time.perf_counter(), 0

        async def send_with_id(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], header]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            status = 500
            note(reason=f"{type(error).__name__} in this server; its traceback is in the log")
            raise
        finally:
            self._note(scope, about, status, time.perf_counter() - began)

    def _note(self, scope: Any, about: dict[str, Any], status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        outcome = "gone" if about.get("gone") or not status else outcome_of(status)
        self.telemetry.requests.labels(route, outcome).inc()
        polled = route_path(scope) in self.polled
        if outcome == "ok" and not polled:
            self.telemetry.request_s.labels(route).observe(seconds)
        level = logging.DEBUG if polled else logging.INFO
        if self.log.isEnabledFor(level):
            fields = {"status": status, "outcome": outcome, "seconds": round(seconds, 4)}
            said = f"{outcome}: {about['reason']}" if "reason" in about else outcome
            path = plain(scope["raw_path"].decode("latin-1"))
            self.log.log(level, "%s %s %d %s", scope["method"], path, status, said, extra={"fields": fields})


def route_path(scope: Any) -> str:
    """The path of a request without the prefix that a proxy in front has (`http.root_path`)."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path.removeprefix(root) or "/" if root and f"{path}/".startswith(f"{root}/") else path


def plain(text: str) -> str:
    """Text with its control characters and spaces as "%1B": in a terminal they might do something, or begin a line."""
    return "".join(sign if sign.isprintable() and sign != " " else f"%{ord(sign):02X}" for sign in text)


def outcome_of(status: int) -> str:
    """An HTTP status as one of the outcomes in this module's docstring."""
    usual = "ok" if status < 400 else "invalid" if status < 500 else "failed"
    return STATUS_OUTCOMES.get(status, usual)


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's X-Request-ID where it is a plain word of at most 128 characters, else a new one."""
    sent = next((value.decode("latin-1") for name, value in headers if name == b"x-request-id"), "")
    return sent if REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex


def note(**fields: Any) -> None:
    """Add fields to the log line of the request that is being answered, if there is one."""
    about = ABOUT.get()
    if about is not None:
        about.update(fields)


def log_to_stderr(logs: Logs) -> None:
    """Log lines of this process and of vLLM; the variable that keeps vLLM from its own form must be set before its import."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if logs is Logs.json else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if logs is Logs.json:
        os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")


class TextLines(logging.Formatter):
    """A log record as a line for people: time, level, logger, message, and the fields of its request that it does not say."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        fields = {**(ABOUT.get() or {}), **getattr(record, "fields", {})}
        said = " ".join(f"{name}={plain(str(value))}" for name, value in fields.items() if name not in ("outcome", "reason"))
        line, *rest = super().format(record).split("\n")  # behind the first line there may be a traceback
        return "\n".join([f"{line} [{said}]" if said else line, *rest])


class JsonLines(logging.Formatter):
    """A log record as one line of JSON: time (UTC), level, logger, message, and the fields of its request."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {**(ABOUT.get() or {}), **getattr(record, "fields", {})}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json_line(record.created, record.levelname, record.name, record.getMessage(), fields)
