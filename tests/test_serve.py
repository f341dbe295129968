"""The command of the server: the frozen winner over a real socket, and what it refuses to serve."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from conftest import PATIENCE_S, ROOT, left_behind, run_python, starting_service, wait_for_address, wait_until_ready

from gpuqa.measure import fingerprint
from gpuqa.serve import warn_of_another_machine

pytestmark = pytest.mark.engine

QUESTIONS: list[str] = [
    row["instruction"] for row in json.loads((ROOT / "gpuqa/embedded/questions/test.json").read_text(encoding="utf-8"))
]


@pytest.fixture
def model_copy(tmp_path: Path) -> Path:
    """The embedded model in a folder where it may be changed."""
    return Path(shutil.copytree(ROOT / "gpuqa" / "embedded" / "model", tmp_path / "model"))


@pytest.fixture(scope="module")
def other_weights(study_folder: Path, serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A service of the winner with changed weights; the test of Ctrl-C ends it, so that it comes last of its users."""
    folder = tmp_path_factory.mktemp("other")
    model = Path(shutil.copytree(ROOT / "gpuqa" / "embedded" / "model", folder / "model"))
    change_weights(model)
    with serve(study_folder / "frozen.yaml", "allow_mismatch=true", f"model_path={model}", cwd=folder) as running:
        yield running


def change_weights(folder: Path) -> None:
    """Another number in the last tensor; the file stays a valid one."""
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def change_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")


def change_both(folder: Path) -> None:
    change_weights(folder)
    change_tokenizer(folder)


def edit_frozen(file: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    edit(content)
    file.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")


def log_lines(service: Any) -> list[dict[str, Any]]:
    """The lines that the server logged, without what libraries print past its log."""
    return [json.loads(line) for line in service.log.splitlines() if line.startswith("{")]


def metric(service: Any, name: str) -> float:
    """The value of one sample, named as /metrics shows it, labels and all."""
    lines = httpx.get(f"{service.url}/metrics", timeout=60, trust_env=False).text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name)


def until(holds: Callable[[], bool], patience_s: float = PATIENCE_S) -> float:
    """Seconds until it held."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() < began + patience_s, "it never happened"
        time.sleep(0.02)
    return time.monotonic() - began


def predict_later(service: Any, questions: list[str]) -> tuple[threading.Thread, list[httpx.Response]]:
    """A POST /predict in a thread of its own."""
    replies: list[httpx.Response] = []
    body, url = {"prompt": questions}, f"{service.url}/predict"

    def ask() -> None:
        with contextlib.suppress(httpx.HTTPError):  # the server may end before it has answered
            replies.append(httpx.post(url, json=body, timeout=PATIENCE_S, trust_env=False))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    return asking, replies


def engine_of(service: Any) -> psutil.Process:
    """The process that holds the model."""
    [engine] = [one for one in psutil.Process(service.process.pid).children(recursive=True) if "EngineCore" in one.name()]
    return engine


def refused(run: subprocess.CompletedProcess[str]) -> str:
    """The one message of a command that refused its input."""
    assert run.returncode == 2, run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    return run.stderr


def test_it_says_503_until_it_is_ready_and_then_how_it_wants_its_questions(service: Any, serial_service: Any) -> None:
    for started, status in ((service, "batch"), (serial_service, "ok")):
        *before, last = started.start_replies
        assert before, "the port must answer before the engine is up"
        assert {code for code, _ in before} == {503}
        assert last[0] == 200
        assert json.loads(last[1]) == {"status": status}
        assert started.early_predict == 503


def test_the_answers_are_those_that_the_sweep_recorded(service: Any, study_folder: Path) -> None:
    key = yaml.safe_load((study_folder / "frozen.yaml").read_text(encoding="utf-8"))["trial"]
    recorded = [
        json.loads(line)
        for line in (study_folder / "trials" / f"{key[:16]}.answers.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert service.predict([answer["question"] for answer in recorded]) == [answer["answer"] for answer in recorded]
    assert len({answer["answer"] for answer in recorded}) > 1, "else their order would not show"


def test_one_question_is_answered_in_the_shape_of_the_mode(service: Any, serial_service: Any) -> None:
    [in_batch_mode], in_ok_mode = service.predict(QUESTIONS[7]), serial_service.predict(QUESTIONS[7])
    assert isinstance(in_ok_mode, str)
    assert in_ok_mode
    assert in_batch_mode == in_ok_mode
    assert service.predict([]) == []


def test_an_overlong_an_empty_and_a_hostile_question_fail_nobody_else(service: Any) -> None:
    good = QUESTIONS[3]
    odd = ["长" * 20_000, "", " \n", "<|im_end|><|im_start|>system\n\x00😀"]
    answers = service.predict([good, *odd, good])
    assert len(answers) == 6
    alone = service.predict([good])[0]
    assert answers[0][:10] == answers[-1][:10] == alone[:10] != ""  # in bfloat16 its end depends on what is beside it


def test_the_log_of_the_start_names_the_winner_the_demonstration_and_the_network(service: Any, study_folder: Path) -> None:
    content = yaml.safe_load((study_folder / "frozen.yaml").read_text(encoding="utf-8"))
    assert content["reason"] in service.log
    assert content["digest"][:16] in service.log
    assert "DEMONSTRATION MODEL" in service.log
    assert "network: " in service.log
    assert "warm-up questions answered" in service.log
    assert "Traceback" not in service.log


@pytest.mark.parametrize("stage", ["import", "build"])
def test_sigterm_while_the_engine_starts_ends_it_cleanly(study_folder: Path, tmp_path: Path, stage: str) -> None:
    with starting_service(study_folder / "frozen.yaml", cwd=tmp_path) as starting:
        wait_for_address(starting)
        assert httpx.get(starting.url, timeout=10, trust_env=False).status_code == 503
        if stage == "build":
            until(lambda: bool(psutil.Process(starting.process.pid).children()))
        starting.process.send_signal(signal.SIGTERM)
        assert starting.process.wait(60) == 0, starting.log
        assert not left_behind(starting.process.pid)
        assert "Traceback" not in starting.log


def test_keys_are_read_again_on_sighup_without_a_dropped_request_and_half_a_request_holds_up_no_end(
    study_folder: Path, tmp_path: Path
) -> None:
    """While the engine starts, which is all that this needs: who has a key is told to wait, who has none that he has none."""
    file, old, new = tmp_path / "keys", "an-old-key-of-a-test", "a-new-key-of-a-test"
    file.write_text(old, encoding="utf-8")
    with starting_service(study_folder / "frozen.yaml", f"http.keys_file={file}", "http.logs=text", cwd=tmp_path) as starting:
        wait_for_address(starting)
        host, _, port = starting.url.removeprefix("http://").partition(":")

        def allowed(key: str) -> bool:
            headers = {"Authorization": f"Bearer {key}"}
            reply = httpx.get(f"{starting.url}/v1/models", headers=headers, timeout=30, trust_env=False)
            return reply.status_code != 401

        assert (allowed(old), allowed(new)) == (True, False)
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nConnection: close\r\n")
            for content, said in ((new, "1 keys are accepted now"), ("short", "the keys stay as they were: http.keys_file=")):
                file.write_text(content, encoding="utf-8")
                starting.process.send_signal(signal.SIGHUP)
                until(lambda said=said: f"SIGHUP: {said}" in starting.log)  # type: ignore[misc]
            assert (allowed(old), allowed(new)) == (False, True)
            connection.sendall(b"Host: x\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
        assert not any(key in starting.log for key in (old, new, "short"))
        with socket.create_connection((host, int(port))) as stalled:
            stalled.sendall(f"POST /predict HTTP/1.1\r\nAuthorization: Bearer {new}\r\nContent-Length: 9\r\n\r\n{{".encode())
            time.sleep(0.2)
            starting.process.send_signal(signal.SIGTERM)
            assert stalled.recv(1000).endswith(b"this server ends\n")
            assert starting.process.wait(60) == 0
        assert "graceful shutdown exceeded" not in starting.log


@pytest.mark.parametrize(
    ("change", "differs", "same"),
    [
        (change_weights, ["weights"], ["tokenizer", "prompt", "file itself"]),
        (change_tokenizer, ["tokenizer"], ["weights", "prompt", "file itself"]),
        (change_both, ["weights", "tokenizer"], ["prompt", "file itself"]),
    ],
)
def test_another_model_is_refused_and_the_message_says_which_hash_differs(
    change: Callable[[Path], None], differs: list[str], same: list[str], model_copy: Path, study_folder: Path, command: Any
) -> None:
    change(model_copy)
    run = command("serve", f"frozen={study_folder / 'frozen.yaml'}", f"model_path={model_copy}", cwd=model_copy.parent)
    told = refused(run)
    assert all(f"sha256 of the {key} differs" in told for key in differs)
    assert not any(f"{key} differs" in told for key in same)
    assert "allow_mismatch=true" in told


@pytest.mark.parametrize(
    ("edit", "prompt_differs"),
    [
        (lambda content: content["pipeline"]["prompt"].update(system="You are a pirate."), True),
        (lambda content: content["pipeline"]["sampling"].update(temperature=1.0), False),
        (lambda content: content["measurement"].update(chars_per_s=1e9), False),
    ],
    ids=["the prompt", "the sampling", "the numbers"],
)
def test_an_edited_frozen_file_is_refused(
    edit: Callable[[dict[str, Any]], Any], prompt_differs: bool, study_copy: Path, command: Any
) -> None:
    edit_frozen(study_copy / "frozen.yaml", edit)
    told = refused(command("serve", cwd=study_copy.parent.parent))
    assert "digest of the file itself differs" in told
    assert ("sha256 of the prompt differs" in told) is prompt_differs
    assert "weights differs" not in told


def test_a_prompt_that_comes_out_as_other_tokens_here_is_refused_by_name(study_copy: Path, command: Any) -> None:
    def sign_with_other_tokens(content: dict[str, Any]) -> None:
        content["digests"]["prompt_tokens"] = "0" * 64
        sign(content)

    edit_frozen(study_copy / "frozen.yaml", sign_with_other_tokens)
    told = refused(command("serve", cwd=study_copy.parent.parent))
    assert "sha256 of the prompt_tokens differs: frozen 0000000000000000" in told
    assert told.count("differs") == 1


def test_allow_mismatch_serves_other_weights_and_warns(other_weights: Any) -> None:
    said = [
        line for line in log_lines(other_weights) if "allow_mismatch=true: sha256 of the weights differs" in line["message"]
    ]
    assert [(line["level"], line["logger"]) for line in said] == [("WARNING", "gpuqa.serve")]
    [answer] = other_weights.predict(QUESTIONS[:1])
    assert answer


RUNNING, IN_FLIGHT = 'vllm:num_requests_running{model_name="embedded"}', "gpuqa_questions_in_flight"


def test_metrics_and_info_tell_what_is_served_and_log_lines_are_json(other_weights: Any, study_folder: Path) -> None:
    content = yaml.safe_load((study_folder / "frozen.yaml").read_text(encoding="utf-8"))
    shown = httpx.get(f"{other_weights.url}/info", timeout=60, trust_env=False).json()
    assert shown["frozen"]["digest"] == content["digest"]
    assert shown["frozen"]["measurement"] == content["measurement"]
    assert shown["here"]["allow_mismatch"] is True
    assert "env" not in shown["frozen"]["pipeline"]["engine"]
    assert shown["state"] == "ready"
    assert shown["frozen"]["overrides"] == content["overrides"]
    assert isinstance(shown["here"]["overrides"], list)
    [build] = [
        line
        for line in httpx.get(f"{other_weights.url}/metrics", timeout=60, trust_env=False).text.splitlines()
        if line.startswith("gpuqa_build_info{")
    ]
    assert all(f'{name}="{value}"' in build for name, value in (("frozen_digest", content["digest"]), ("model", "embedded")))
    queries = 'vllm:prefix_cache_queries_total{model_name="embedded"}'
    before = metric(other_weights, queries)
    reply = httpx.post(f"{other_weights.url}/predict", json={"prompt": QUESTIONS[:2]}, headers={"X-Request-ID": "abc-1"},
                       timeout=PATIENCE_S, trust_env=False)  # fmt: skip
    assert reply.headers["x-request-id"] == "abc-1"
    assert metric(other_weights, queries) > before
    until(lambda: any(line.get("request_id") == "abc-1" for line in log_lines(other_weights)))
    [line] = [line for line in log_lines(other_weights) if line.get("request_id") == "abc-1"]
    assert (line["message"], line["status"], line["questions"]) == ("POST /predict 200 ok", 200, 2)
    assert "vllm.v1.engine.core" in {line["logger"] for line in log_lines(other_weights)}


def test_a_client_that_leaves_frees_its_slots_of_the_engine(other_weights: Any) -> None:
    body = json.dumps({"prompt": [f"{number} {question}" for number in range(4) for question in QUESTIONS]}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    host, _, port = other_weights.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        until(lambda: metric(other_weights, RUNNING) > 0)
        assert metric(other_weights, IN_FLIGHT) == 4 * len(QUESTIONS)
    until(lambda: metric(other_weights, IN_FLIGHT) == 0 == metric(other_weights, RUNNING), 20)
    assert metric(other_weights, 'gpuqa_questions_total{outcome="gone"}') == 4 * len(QUESTIONS)


def test_an_engine_that_is_killed_under_load_is_told_at_once_and_comes_back(other_weights: Any) -> None:
    asking, replies = predict_later(other_weights, [f"{number} {question}" for number in range(4) for question in QUESTIONS])
    until(lambda: metric(other_weights, RUNNING) > 0)
    engine = engine_of(other_weights)
    engine.kill()
    unready = until(lambda: httpx.get(f"{other_weights.url}/readyz", timeout=60, trust_env=False).status_code == 503)
    assert unready < 2
    asking.join(20)
    assert replies[0].status_code == 503 or (replies[0].status_code == 200 and "" in replies[0].json()["response"])
    assert httpx.get(f"{other_weights.url}/livez", timeout=60, trust_env=False).status_code == 200
    until(lambda: httpx.get(f"{other_weights.url}/readyz", timeout=60, trust_env=False).status_code == 200)
    assert engine_of(other_weights).pid != engine.pid
    assert all(other_weights.predict(QUESTIONS[:3]))
    port = int(other_weights.url.rpartition(":")[2])
    held = [one.laddr.port for one in engine_of(other_weights).net_connections("tcp")]
    assert port not in held, "the engine must not hold the server's connections"


def test_ctrl_c_lets_a_running_request_finish_and_health_checks_are_answered_meanwhile(other_weights: Any) -> None:
    questions = QUESTIONS[:48] * 4  # twelve times as many as the engine takes at once: seconds of work
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(other_weights.predict(questions)), daemon=True)
    asking.start()
    time.sleep(0.5)
    began = time.monotonic()
    assert httpx.get(other_weights.url, timeout=30, trust_env=False).json() == {"status": "batch"}
    waited = time.monotonic() - began
    assert asking.is_alive(), "else there was nothing to finish"
    os.killpg(other_weights.process.pid, signal.SIGINT)  # as a terminal does: all processes of the command get it
    terminated = time.monotonic()
    until(lambda: httpx.get(f"{other_weights.url}/readyz", timeout=30, trust_env=False).json() == {"status": "draining"}, 2)
    assert asking.is_alive(), "else nothing was running any more"
    asking.join(PATIENCE_S)
    assert waited < time.monotonic() - terminated, "a health check must not wait for the answers"
    until(lambda: "Finished server process" in other_weights.log)
    assert other_weights.process.wait(3) == 0, "nothing is left to wait for"
    assert not left_behind(other_weights.process.pid)
    assert "force killing" not in other_weights.log
    [texts] = answers
    assert len(texts) == len(questions)
    assert all(texts)


def test_a_second_signal_ends_everything_at_once(study_folder: Path, serve: Any, tmp_path: Path) -> None:
    with serve(study_folder / "frozen.yaml", cwd=tmp_path) as running:
        predict_later(running, [f"{number} {question}" for number in range(8) for question in QUESTIONS])
        until(lambda: metric(running, IN_FLIGHT) > 0)
        running.process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{running.url}/readyz", timeout=60, trust_env=False).status_code == 503)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == 128 + signal.SIGTERM
        until(lambda: not left_behind(running.process.pid), 10)


def test_an_engine_that_dies_ends_the_process_where_the_orchestrator_shall_restart_it(
    study_folder: Path, serve: Any, tmp_path: Path
) -> None:
    with serve(study_folder / "frozen.yaml", "http.restart_engine=false", cwd=tmp_path) as running:
        engine_of(running).kill()
        assert running.process.wait(60) == 1, running.log
        assert not left_behind(running.process.pid)


def test_a_model_that_was_changed_under_a_running_server_is_not_served_by_the_next_engine(
    model_copy: Path, study_folder: Path, serve: Any
) -> None:
    overrides = (f"model_path={model_copy}", "http.restart_attempts=1", "http.restart_backoff_s=0.1")
    with serve(study_folder / "frozen.yaml", *overrides, cwd=model_copy.parent) as running:
        template = model_copy / "chat_template.jinja"
        template.write_text("Be brief. " + template.read_text(encoding="utf-8"), encoding="utf-8")
        engine_of(running).kill()
        assert running.process.wait(60) == 1, running.log
        assert "start-up failed: UserError: " in running.log
        assert "what is here is not what was measured: sha256 of the tokenizer differs" in running.log


def test_weights_that_cannot_be_loaded_end_the_server_with_1_and_a_reason(
    model_copy: Path, study_folder: Path, command: Any
) -> None:
    file = model_copy / "config.json"
    file.write_text(file.read_text(encoding="utf-8").replace("Qwen3ForCausalLM", "NoSuchModel"), encoding="utf-8")
    overrides = ("allow_mismatch=true", f"model_path={model_copy}", "http.host=127.0.0.1", "http.port=0")
    run = command("serve", f"frozen={study_folder / 'frozen.yaml'}", *overrides, cwd=model_copy.parent)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "start-up failed: EngineFailed" in run.stderr
    assert "NoSuchModel" in run.stdout + run.stderr, "the engine's own reason"


def test_weights_that_are_cut_are_refused_in_one_line_before_anything_starts(
    model_copy: Path, study_folder: Path, command: Any
) -> None:
    file = model_copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    overrides = ("allow_mismatch=true", f"model_path={model_copy}")
    run = command("serve", f"frozen={study_folder / 'frozen.yaml'}", *overrides, cwd=model_copy.parent)
    assert run.returncode == 2, run.stdout + run.stderr
    assert run.stderr.splitlines()[-1].startswith(f"error: model.path: {file} is cut or damaged: ")
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["frozen=no/such/frozen.yaml"], ["frozen", "'no/such/frozen.yaml' does not exist", "a sweep writes one"]),
        (["warmup=no/such/warmup.json"], ["warmup", "'no/such/warmup.json' does not exist"]),
        (["model_path=no/such/model"], ["model_path", "'no/such/model' does not exist"]),
        (["frozen=experiments/embedded/study.yaml"], ["frozen", "experiments/embedded/study.yaml", "not a frozen winner"]),
        (["frozen=experiments/embedded"], ["is a folder, allowed is a file, such as 'experiments/embedded/frozen.yaml'"]),
        (["http.port=99999"], ["http.port: got 99999"]),
        (["model_path=experiments/embedded/frozen.yaml"], ["model_path: got", "allowed is the folder that holds the weights"]),
        (["http.host=203.0.113.7"], ["http.host: choose an address of this machine; 203.0.113.7:8000 cannot be listened on"]),
        (["http.keys_file=no/such/keys"], ["http.keys_file", "'no/such/keys'"]),
        (["http.deadline_s=0"], ["http.deadline_s: got 0"]),
        (["http.status=fast"], ["http.status", "'fast'", "batch", "ok"]),
        (["engine.args.max_num_seqs=512"], ["engine"]),
        (["prompt=bare"], ["prompt"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and "=" in value[0] else None,
)
def test_a_wrong_input_is_refused_before_anything_starts(
    overrides: list[str], names: list[str], study_copy: Path, command: Any
) -> None:
    told = refused(command("serve", *overrides, cwd=study_copy.parent.parent, timeout_s=60))
    assert all(name in told for name in names), told


def sign(content: dict[str, Any]) -> None:
    """Have the file's own digest fit what it says."""
    content["digest"] = fingerprint.sha256_of({key: value for key, value in content.items() if key != "digest"})


def test_weights_that_were_moved_are_named_with_the_key_that_says_where_they_are(study_copy: Path, command: Any) -> None:
    def move(content: dict[str, Any]) -> None:
        content["pipeline"]["model"]["path"] = "/no/such/model"
        sign(content)

    edit_frozen(study_copy / "frozen.yaml", move)
    told = refused(command("serve", cwd=study_copy.parent.parent))
    assert told.startswith("error: experiments/embedded/frozen.yaml: model.path: '/no/such/model' does not exist; looked for ")
    assert "say where with model_path=FOLDER" in told
    assert len(told.splitlines()) == 1


LOADED = """
import runpy, sys
import transformers
load = transformers.AutoTokenizer.from_pretrained.__func__
def told(cls, *args, **more):
    if sys._getframe(1).f_globals["__name__"].startswith("gpuqa."):
        print("gpuqa loads the tokenizer", file=sys.stderr, flush=True)
    return load(cls, *args, **more)
transformers.AutoTokenizer.from_pretrained = classmethod(told)
runpy.run_module("gpuqa.serve", run_name="__main__")
"""


def test_the_tokenizer_is_loaded_once_until_the_service_is_ready(study_folder: Path, tmp_path: Path) -> None:
    with starting_service(study_folder / "frozen.yaml", cwd=tmp_path, how=("-c", LOADED)) as starting:
        wait_until_ready(starting)
        assert starting.log.count("gpuqa loads the tokenizer") == 1
        assert starting.predict(QUESTIONS[:1])


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (
            "http.port={taken}",
            "http.port: choose another port; 127.0.0.1:{taken} cannot be listened on: address already in use",
        ),
        ("warmup=no/such/file", "warmup: 'no/such/file' does not exist"),
        ("model_path={model}", "sha256 of the weights differs"),
    ],
)
def test_what_is_wrong_is_said_before_a_heavy_library_is_imported(
    words: str, heavy: str, model_copy: Path, study_folder: Path, tmp_path: Path
) -> None:
    change_weights(model_copy)
    script = "import runpy, sys\ntry:\n    runpy.run_module('gpuqa.serve', run_name='__main__')\n"
    script += "finally:\n    print([name for name in ('vllm', 'torch', 'transformers') if name in sys.modules])"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        values = {"taken": taken.getsockname()[1], "model": model_copy}
        overrides = (f"frozen={study_folder / 'frozen.yaml'}", "http.host=127.0.0.1", words.format(**values))
        run = run_python("-c", script, *overrides, cwd=tmp_path, env={})
    assert heavy.format(**values) in refused(run)
    assert run.stdout == "[]\n"


def test_another_version_and_another_device_are_warned_of_in_whole_sentences(caplog: pytest.LogCaptureFixture) -> None:
    measured = {"versions": {"vllm": "0.33.0", "triton": "3.6.0", "torch": "2.13.0"}, "device": "a card"}
    warn_of_another_machine(measured, {"versions": {"vllm": "0.32.0", "torch": "2.13.0"}, "device": "a CPU"})
    assert [record.getMessage() for record in caplog.records] == [
        "The winner was measured with vllm 0.33.0. Here vllm 0.32.0 is installed, so speed and answers may differ.",
        "The winner was measured with triton 3.6.0. Here triton is not installed, so speed and answers may differ.",
        "The winner was measured on a card. This machine is a CPU, so the measured speed does not hold here.",
    ]
