"""Telemetry: which names there are, what is counted, and how a log line looks."""

from __future__ import annotations

import json
import logging
import re

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gpuqa.records import Completion
from gpuqa.serving import telemetry
from gpuqa.serving.telemetry import ABOUT, JsonLines, Telemetry, note, outcome_of, request_id


def completion(finish_reason: str = "stop", text: str = "四个字。", **changed) -> Completion:
    values = {"prompt_tokens": 10, "output_tokens": 4, "cached_tokens": 6, "question_was_cut": False}
    values |= {"first_token_s": 0.2, "last_token_s": 0.8, "queue_s": 0.1}
    return Completion(text, finish_reason, **{**values, **changed})


def samples(told: Telemetry) -> dict[str, float]:
    """Every sample by its name and the values of its labels."""
    families = text_string_to_metric_families(generate_latest(told.registry).decode())
    return {" ".join([sample.name, *sample.labels.values()]): sample.value for family in families for sample in family.samples}


def test_answers_are_counted_by_outcome_with_their_tokens_characters_and_times():
    told = Telemetry(CollectorRegistry())
    unfinished = {
        "text": "",
        "output_tokens": 0,
        "cached_tokens": 0,
        "first_token_s": None,
        "last_token_s": None,
        "queue_s": None,
    }
    told.count([completion(), completion("length", question_was_cut=True)])
    told.count([completion(reason, **unfinished) for reason in ("error", "late", "late", "lost")])
    seen = samples(told)
    by_outcome = {key.split()[1]: value for key, value in seen.items() if key.startswith("gpuqa_questions_total ")}
    assert by_outcome == {"answered": 2, "failed": 1, "late": 2, "lost": 1, "refused": 0, "gone": 0}
    assert (seen["gpuqa_prompt_tokens_total"], seen["gpuqa_cached_prompt_tokens_total"]) == (60, 12)
    assert (seen["gpuqa_output_tokens_total"], seen["gpuqa_answer_characters_total"]) == (8, 8)
    assert seen["gpuqa_questions_cut_total"] == 1
    for name, seconds in (("first_token", 0.4), ("answer", 1.6), ("queue", 0.2)):
        assert (seen[f"gpuqa_{name}_seconds_count"], seen[f"gpuqa_{name}_seconds_sum"]) == (2, pytest.approx(seconds))


def test_every_name_in_the_documentation_is_shown_and_no_other():
    told = Telemetry(CollectorRegistry())
    told.introduce({"version": "1", "frozen_digest": "d"})
    told.watch_engines(lambda: ("m", {"": dict.fromkeys(re.findall(r"vllm:\w+", telemetry.__doc__ or ""), 1.0)}))
    for gauge in (told.replica_ready, told.replica_in_flight):
        gauge.labels("GPU 0").set(1)
    told.enter("ready", ["starting", "ready"])
    told.requests.labels("/predict", "ok").inc()
    told.request_s.labels("/predict").observe(1)
    documented = set(re.findall(r"(?:gpuqa_|vllm:)\w+(?<!_)", telemetry.__doc__ or ""))
    shown = {re.sub(r"_(bucket|count|sum)$", "", key.split()[0]) for key in samples(told) if not key.startswith("process_")}
    assert {name for name in shown if not name.endswith("_created")} == documented
    assert "process_resident_memory_bytes" in samples(told)


def test_an_engines_numbers_are_read_at_every_scrape_under_its_own_names():
    told, numbers = Telemetry(CollectorRegistry()), {"vllm:num_requests_running": 1.0, "vllm:prefix_cache_hits_total": 5.0}
    told.watch_engines(lambda: ("embedded", {"": numbers}))
    assert samples(told)["vllm:num_requests_running embedded"] == 1
    numbers["vllm:num_requests_running"] = 0.0
    assert samples(told)["vllm:num_requests_running embedded"] == 0
    assert samples(told)["vllm:prefix_cache_hits_total embedded"] == 5


def test_one_state_is_1_and_the_others_are_0():
    told = Telemetry(CollectorRegistry())
    for state in ("a", "b"):
        told.enter(state, ["a", "b"])
    assert (samples(told)["gpuqa_engine_state a"], samples(told)["gpuqa_engine_state b"]) == (0, 1)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "ok"),
        (401, "unauthorized"),
        (404, "invalid"),
        (413, "invalid"),
        (422, "invalid"),
        (429, "refused"),
        (503, "unavailable"),
        (500, "failed"),
    ],
)
def test_an_http_status_is_an_outcome(status: int, outcome: str):
    assert outcome_of(status) == outcome


@pytest.mark.parametrize("sent", ["abc", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "a" * 128])
def test_a_plain_request_id_is_kept(sent: str):
    assert request_id([(b"host", b"x"), (b"x-request-id", sent.encode())]) == sent


@pytest.mark.parametrize("sent", ["", "a" * 129, "a b", 'a"b', "a\tb", "é"])
def test_another_one_is_replaced(sent: str):
    made = {request_id([(b"x-request-id", sent.encode("latin-1"))]) for _ in range(2)}
    assert len(made) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


def test_a_log_line_is_one_json_object_with_the_fields_of_its_request():
    token = ABOUT.set({"request_id": "r1"})
    try:
        note(questions=3)
        record = logging.LogRecord("gpuqa.x", logging.WARNING, "f", 1, "a %s\nline", ("二",), None)
        record.fields = {"status": 200}
        line = JsonLines().format(record)
    finally:
        ABOUT.reset(token)
    assert "\n" not in line
    read = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", read.pop("time"))
    expected = {
        "level": "WARNING",
        "logger": "gpuqa.x",
        "message": "a 二\nline",
        "request_id": "r1",
        "questions": 3,
        "status": 200,
    }
    assert read == expected


def test_a_line_outside_any_request_has_no_id_and_shows_its_exception():
    try:
        raise ValueError("no")
    except ValueError as error:
        record = logging.LogRecord("g", logging.ERROR, "f", 1, "m", (), (type(error), error, error.__traceback__))
    read = json.loads(JsonLines().format(record))
    assert "request_id" not in read
    assert "ValueError: no" in read["exception"]
