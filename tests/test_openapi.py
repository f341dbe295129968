"""Everything that the OpenAPI document allows and forbids, sent by schemathesis to a server on a real socket.

The engine is a stand-in that answers at once: what is tested are the ways in, thousands of times. By hand, all of it:
`GPUQA_CASES=1000 pytest tests/test_openapi.py -s` (in CI fewer examples a route are drawn).
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import httpx
import pytest
import uvicorn
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from prometheus_client import CollectorRegistry

from gpuqa.config import SamplingConfig
from gpuqa.door import vllm_on_this_machine
from gpuqa.http_config import HttpConfig
from gpuqa.pipeline import Pipeline
from gpuqa.places import conf_folder
from gpuqa.prompts import load_tokenizer
from gpuqa.records import Generation, GenerationDelta
from gpuqa.roots import CellConfig, register_schemas, resolve
from gpuqa.server import create_app
from gpuqa.service import Service
from gpuqa.telemetry import Telemetry

CASES = int(os.environ.get("GPUQA_CASES", "40"))  # examples that are drawn for a route
PATIENCE_S = 120.0


class Echo:
    """A fake, because thousands of answers of a real engine would take an hour: it answers with the end of the prompt."""

    start_s = 0.0

    async def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: SamplingConfig,
        stop: Sequence[int],
        finished: dict[int, Generation] | None = None,
    ) -> list[Generation]:
        generations = [Generation(prompt[-8:], "stop", first_token_s=0.01, last_token_s=0.02) for prompt in prompts]
        (finished if finished is not None else {}).update(enumerate(generations))
        return generations

    async def stream(
        self, prompt: list[int], sampling: SamplingConfig, stop: Sequence[int]
    ) -> AsyncGenerator[GenerationDelta, None]:
        for token in prompt[-8:]:
            yield GenerationDelta([token])
        yield GenerationDelta(finish_reason="stop")

    def alive(self) -> bool:
        return True

    def numbers(self) -> dict[str, float]:
        return {}

    async def close(self) -> None:
        """Nothing is held."""


async def start() -> Pipeline:
    register_schemas()
    OmegaConf.register_new_resolver("vllm_on_this_machine", vllm_on_this_machine, replace=True)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        overrides = ["experiment=none", "engine=transformers", "prompt=bare"]
        config = resolve(compose("sweep", overrides=overrides), CellConfig)
    return Pipeline(Echo(), load_tokenizer(config.model), config)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The application with its usual limits on a free port."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        service = Service(start, ["?"], HttpConfig(), Telemetry(CollectorRegistry()), lambda _: None)
        server = uvicorn.Server(uvicorn.Config(create_app(service), log_config=None, lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + PATIENCE_S
        while not server.started or httpx.get(f"{address}/readyz", trust_env=False).status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield address
        server.should_exit = True
        thread.join(PATIENCE_S)


def test_no_request_that_the_document_allows_or_forbids_is_a_server_error(url: str, tmp_path: Any) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--continue-on-failure"]
    command += ["--checks=not_a_server_error,content_type_conformance,response_schema_conformance"]
    command += [f"--max-examples={CASES}", "--seed=1", "--request-timeout=60", "--no-color", "--workers=2"]
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
