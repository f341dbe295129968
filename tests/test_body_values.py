"""A body is bounded by its values, too, and a list of wrong ones costs one error. Through real sockets where it is HTTP; the
engine is a stand-in that answers with the prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from stand_in_service import ScriptedEngine, Served, scripted, serving

from gpuqa.config.http import HttpConfig
from gpuqa.serving.body_values import BESIDE_QUESTIONS, holds_more_values
from gpuqa.serving.openai_request import ChatRequest, CompletionRequest
from gpuqa.serving.routes.contract import PredictRequest

LIMIT = 4 * 2 + BESIDE_QUESTIONS  # with http.max_questions_per_request=2


@pytest.mark.parametrize(
    ("body", "counted"),
    [
        (b"1", 0),
        (b"[1,2,3]", 3),
        (b'{"a":[],"b":{},"c":""}', 5),
        (rb'{"a":"a, b, [c], {d}, \"e, f, [g]\", \\","b":1}', 2),
        (b'["a","b",', 3),
    ],
)
def test_values_are_counted_by_commas_and_brackets_outside_of_texts(body: bytes, counted: int) -> None:
    assert not holds_more_values(body, counted)
    assert counted == 0 or holds_more_values(body, counted - 1)


def test_a_text_may_hold_any_number_of_commas_and_a_list_may_not_hold_any_number_of_texts() -> None:
    text = json.dumps({"prompt": 'f(a, b, {c[d]}, \\); "e, f"' * 10_000}).encode()
    assert not holds_more_values(text, 10)
    assert holds_more_values(json.dumps({"prompt": [","] * 100}).encode(), 90)
    assert not holds_more_values(json.dumps({"prompt": [","] * 100}).encode(), 101)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (PredictRequest, {"prompt": [1] * 1000}),
        (ChatRequest, {"model": "m", "messages": [1] * 1000}),
        (ChatRequest, {"model": "m", "messages": [{"role": "user", "content": [1] * 1000}]}),
        (CompletionRequest, {"model": "m", "prompt": [1] * 1000}),
    ],
)
def test_a_list_of_wrong_values_is_one_error_and_not_one_for_each(kind: type[BaseModel], content: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as raised:
        kind.model_validate(content)
    assert raised.value.error_count() <= 2  # no text, and where it is wrong as a list


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    engine = ScriptedEngine()
    engine.open.set()
    with serving(scripted(engine), HttpConfig(warmup_batch=1, max_questions_per_request=2)) as ready:
        ready.wait_for((200, {"status": "batch"}))
        yield ready


@pytest.mark.engine
@pytest.mark.parametrize("path", ["/predict", "/v1/chat/completions", "/v1/completions"])
def test_a_body_of_too_many_values_is_refused_before_it_is_parsed(served: Served, path: str) -> None:
    body = b'{"prompt": "?", "x": [' + b",".join([b"[]"] * LIMIT) + b"}"  # no JSON, which nobody finds out
    status, _, text = served.ask("POST", path, body)
    assert status == 413
    assert f"the body holds too many values, allowed are about {LIMIT} (" in text
    assert "http.max_questions_per_request" in text


@pytest.mark.engine
def test_a_body_just_below_the_limit_is_answered(served: Served) -> None:
    body = json.dumps({"prompt": "f(a, b)" * 20_000, "x": [0] * (LIMIT - 10)})
    assert served.ask("POST", "/predict", body.encode())[0] == 200
