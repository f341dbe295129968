"""The usual load tools. What each of them really sends was recorded (`client_requests.json`) and is sent again here. The tools
themselves run by `make clients`, unmodified, each in an environment of its own: `GPUQA_CLIENTS` names the folder of these."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import PATIENCE_S, ROOT
from stand_in_service import ScriptedEngine, scripted, serving

from gpuqa.config.http import HttpConfig, OpenAI

pytestmark = pytest.mark.engine

RECORDED: list[dict[str, Any]] = json.loads((ROOT / "tests" / "client_requests.json").read_text(encoding="utf-8"))
CLIENTS = os.environ.get("GPUQA_CLIENTS")
MODEL = ROOT / "gpuqa" / "embedded" / "model"
REAL = pytest.mark.skipif(CLIENTS is None, reason="`make clients` runs the real tools")
BENCH = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


def title(request: dict[str, Any]) -> str:
    return f"{request['client']} {request['method']} {request['path']} {request['flags']}"


def send(url: str, request: dict[str, Any]) -> httpx.Response:
    body = None if request["body"] is None else json.dumps(request["body"]).encode()
    return httpx.request(
        request["method"],
        f"{url}{request['path']}",
        headers=request["headers"],
        content=body,
        timeout=PATIENCE_S,
        trust_env=False,
    )


def check_stream(reply: httpx.Response) -> None:
    """All recorded questions ask for a stream that ends with its usage."""
    assert reply.headers["content-type"].startswith("text/event-stream")
    *events, done, nothing = reply.text.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    last = json.loads(events[-1].removeprefix("data: "))
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize("request_", RECORDED, ids=title)
def test_a_request_of_a_load_tool_is_answered_by_the_real_engine_or_refused_for_the_field_that_would_change_it(
    service: Any, request_: dict[str, Any]
) -> None:
    reply = send(service.url, request_)
    if (request_["body"] or {}).get("ignore_eos"):
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == "ignore_eos"
    else:
        assert reply.status_code == 200, reply.text
        if request_["method"] == "POST":
            check_stream(reply)


@pytest.fixture(scope="module")
def lenient() -> Iterator[str]:
    """A stand-in engine, since the other test asks the real one."""
    engine = ScriptedEngine()
    engine.open.set()
    with serving(scripted(engine), HttpConfig(openai=OpenAI.lenient)) as served:
        served.wait_for((200, {"status": "batch"}))
        yield f"http://127.0.0.1:{served.port}"


@pytest.mark.parametrize("request_", RECORDED, ids=title)
def test_in_lenient_mode_every_request_of_a_load_tool_is_answered(lenient: str, request_: dict[str, Any]) -> None:
    reply = send(lenient, request_)
    assert reply.status_code == 200, reply.text
    if request_["method"] == "POST":
        check_stream(reply)
        assert reply.headers.get("x-gpuqa-ignored") == ("ignore_eos" if request_["body"].get("ignore_eos") else None)


# ----------------------------------------------------------------------------------------------------- the real tools


@pytest.fixture(scope="module")
def served(study_folder: Path, serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The small study's winner on the real engine, in lenient mode."""
    with serve(study_folder / "frozen.yaml", "http.openai=lenient", cwd=tmp_path_factory.mktemp("lenient")) as ready:
        yield ready


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Five questions, under the name that vLLM and GuideLLM read and the one that AIPerf reads."""
    texts = ["什么是 warp？", "What is occupancy?", "什么是 CUDA stream？", "共享内存是什么？", "What is a bank conflict?"]
    file = tmp_path / "questions.jsonl"
    for name, key in ((file, "prompt"), (tmp_path / "texts.jsonl", "text")):
        name.write_text("".join(json.dumps({key: text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    return file


def run(folder: Path, *words: str) -> str:
    """What a tool says; it may not fail."""
    environment = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    print(done.stdout[-3000:])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@REAL
@pytest.mark.parametrize(("backend", "path"), [("openai", "/v1/completions"), ("openai-chat", "/v1/chat/completions")])
@pytest.mark.parametrize("data", ["random", "custom"])
def test_vllm_bench_serve_runs_without_a_failed_request(
    served: Any, questions: Path, tmp_path: Path, backend: str, path: str, data: str
) -> None:
    how = ["--backend", backend, "--endpoint", path, "--base-url", served.url, "--model", str(MODEL), "--num-prompts", "5"]
    how += ["--served-model-name", "embedded", "--dataset-name", data]
    how += ["--random-input-len", "16", "--random-output-len", "64"]
    how += ["--dataset-path", str(questions), "--custom-output-len", "256", "--skip-chat-template"] if data == "custom" else []
    said = run(tmp_path, sys.executable, "-c", BENCH, *how)
    assert "Successful requests:                     5" in said
    assert "Failed requests:                         0" in said


@REAL
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("data", ["json_file", "synthetic_text"])
def test_guidellm_runs_without_a_failed_request(served: Any, questions: Path, tmp_path: Path, path: str, data: str) -> None:
    tool = str(Path(str(CLIENTS)).absolute() / "guidellm" / "bin" / "guidellm")
    how = ["--backend", f"kind=openai_http,target={served.url},request_format={path}", "--profile", "kind=synchronous"]
    how += ["--constraint", "kind=max_requests,count=5", "--tokenizer", f"kind=hf_auto,model={MODEL}"]
    source = f"path={questions}" if data == "json_file" else "prompt_tokens=16,output_tokens=64"
    run(
        tmp_path,
        tool,
        "run",
        *how,
        "--data",
        f"kind={data},{source}",
        "--output",
        "kind=json,path=out.json",
        "--disable-progress",
    )
    [benchmark] = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"]) == (5, 0)


@REAL
@pytest.mark.parametrize("kind", ["chat", "completions"])
@pytest.mark.parametrize("data", ["file", "synthetic"])
def test_aiperf_runs_without_a_failed_request(served: Any, questions: Path, tmp_path: Path, kind: str, data: str) -> None:
    tool = str(Path(str(CLIENTS)).absolute() / "aiperf" / "bin" / "aiperf")
    how = ["--model", "embedded", "--url", served.url, "--endpoint-type", kind, "--streaming", "--tokenizer", str(MODEL)]
    how += ["--request-count", "5", "--concurrency", "2", "--ui", "none", "--output-artifact-dir", str(tmp_path / "out")]
    texts = ["--input-file", str(questions.with_name("texts.jsonl")), "--custom-dataset-type", "single_turn"]
    run(tmp_path, tool, "profile", *how, *(texts if data == "file" else ["--isl", "16", "--osl", "64"]))
    exported = json.loads((tmp_path / "out" / "profile_export_aiperf.json").read_text(encoding="utf-8"))
    assert exported["request_count"]["avg"] == 5
    assert not exported.get("error_summary")
