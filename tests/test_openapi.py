"""Everything that the OpenAPI document allows and forbids, sent by schemathesis to a server on a real socket.

The engine is a stand-in that answers at once: what is tested are the ways in, thousands of times. By hand, all of it:
`GPUQA_CASES=1000 pytest tests/test_openapi.py -s` (in CI fewer examples a route are drawn).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_in_service import ScriptedEngine, scripted, serving

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("GPUQA_CASES", "40"))  # examples that are drawn for a route


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The application with its usual limits on a free port; the engine answers with the prompt."""
    engine = ScriptedEngine()
    engine.open.set()
    with serving(scripted(engine)) as served:
        served.wait_for((200, {"status": "batch"}))
        yield f"http://127.0.0.1:{served.port}"


def test_no_request_that_the_document_allows_or_forbids_is_a_server_error(url: str, tmp_path: Any) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--continue-on-failure"]
    command += ["--checks=not_a_server_error,content_type_conformance,response_schema_conformance"]
    # One worker: in two threads Python 3.11 may fail to compile ("AST constructor recursion depth mismatch").
    command += [f"--max-examples={CASES}", "--seed=1", "--request-timeout=60", "--no-color", "--workers=1"]
    command += ["--suppress-health-check=all", "--report=ndjson", f"--report-dir={tmp_path}"]
    environment = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    run = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=tmp_path, env=environment)
    print(run.stdout[-1500:])
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    made = re.search(r"(\d[\d,]*) generated", run.stdout)
    assert made
    assert int(made[1].replace(",", "")) > 2 * CASES


BODY = st.fixed_dictionaries(
    {
        "model": st.just("embedded"),
        "messages": st.lists(
            st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "assistant"]), "content": st.text()}), max_size=2
        ),
    },
    optional={
        "stream": st.booleans(),
        "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}),
        "temperature": st.sampled_from([0, 0.0, 1, "0", None, True]),
        "max_tokens": st.one_of(st.integers(), st.none()),
        "stop": st.one_of(st.none(), st.text(), st.lists(st.text(), max_size=2)),
        "\ud800": st.none(),
        "response_format": st.recursive(st.none() | st.text(), lambda inner: st.dictionaries(st.text(), inner, max_size=2)),
    },
)


@settings(max_examples=150, deadline=None)
@given(body=BODY)
def test_a_chat_is_answered_or_refused_in_openais_shape(url: str, body: dict[str, Any]) -> None:
    reply = httpx.post(
        f"{url}/v1/chat/completions", content=json.dumps(body), headers={"Content-Type": "application/json"}, trust_env=False
    )
    if reply.status_code == 200 and body.get("stream"):
        *events, last, end = reply.text.split("\n\n")
        assert (last, end) == ("data: [DONE]", "")
        assert all(json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk" for event in events)
    elif reply.status_code == 200:
        assert reply.json()["choices"][0]["message"]["role"] == "assistant"
    else:
        assert reply.status_code == 400
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
