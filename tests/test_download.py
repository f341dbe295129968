"""Fetching weights: the real huggingface_hub against a hub on the loopback."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = "tester/tiny"
COMMIT = "1234567890abcdef1234567890abcdef12345678"
FILES = {
    "config.json": b'{"model_type": "qwen3"}',
    "model.safetensors": bytes(range(256)) * 4096,  # 1 MiB
    "tokenizer/vocab.json": b"{}",
}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Hub:
    """What `snapshot_download` asks a hub for, and what to do wrong.

    A fake, because the real one is out of reach; the client and the socket are real.
    """

    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    status: int = 200  # of every answer
    cut_off: str = ""  # this file's connection breaks in the middle
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, Authorization
    url: str = ""

    def tree(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in self.files.items()
        ]


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.asked.append((self.command, self.path, self.headers.get("Authorization")))
            path = self.path.partition("?")[0]
            if hub.status != 200:
                self.reply(json.dumps({"error": "the hub says no"}).encode(), {"X-Error-Message": "the hub says no"})
            elif path == f"/api/models/{REPOSITORY}/revision/main":
                self.reply(json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": []}).encode())
            elif path == f"/api/models/{REPOSITORY}/tree/{COMMIT}":
                self.reply(json.dumps(hub.tree()).encode())
            elif (name := path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/")) in hub.files:
                content = hub.files[name]
                self.reply(content, {"ETag": f'"{sha256(content)}"', "X-Repo-Commit": COMMIT}, cut_off=name == hub.cut_off)
            else:
                hub.status = 404
                self.reply(b"")

        do_HEAD = do_GET  # noqa: N815

        def reply(self, content: bytes, headers: dict[str, str] | None = None, cut_off: bool = False) -> None:
            self.send_response(hub.status)
            for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content[: len(content) // 2] if cut_off else content)
            self.close_connection = cut_off

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    return Handler


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub that delivers, until a test tells it otherwise."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def fetch(hub: Hub, command: Any, tmp_path: Path) -> Any:
    """`fetch("model.path=...")` runs the command for a model of this hub, in a home folder of its own."""
    options = tmp_path / "options" / "model"
    options.mkdir(parents=True)
    home = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1"}

    def run(*overrides: str, pinned: dict[str, str] | None = None, env: dict[str, str] | None = None) -> Any:
        model = {"name": "tiny", "path": "local-model/tiny"}
        model["download"] = {"hub": "huggingface", "repository": REPOSITORY, "revision": "main", "sha256": pinned or {}}  # type: ignore[assignment]
        (options / "tiny.yaml").write_text(json.dumps(model), encoding="utf-8")
        arguments = ["--config-dir", str(options.parent), "model=tiny", *overrides]
        return command("download", *arguments, cwd=tmp_path, env={**home, **(env or {})}, timeout_s=120)

    return run


def fetched(folder: Path) -> dict[str, bytes]:
    """What lies in the model's folder, without the hub client's own notes."""
    files = [file for file in folder.rglob("*") if file.is_file() and ".cache" not in file.parts]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def one_sentence(run: Any) -> str:
    """The one line that a failed download says."""
    assert run.returncode == 1, run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    told = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 1, run.stderr
    assert "is in local-model" not in run.stdout, "it did not arrive"
    return told[0]


def test_a_model_is_fetched_whole_and_pinned_files_are_verified(fetch: Any, tmp_path: Path) -> None:
    run = fetch(pinned={"model.safetensors": sha256(FILES["model.safetensors"])})
    assert run.returncode == 0, run.stdout + run.stderr
    assert fetched(tmp_path / "local-model" / "tiny") == FILES
    assert f"not pinned: config.json: {sha256(FILES['config.json'])}" in run.stdout, "so that it can be pinned"
    assert "not pinned: model.safetensors" not in run.stdout
    assert "python -m gpuqa.sweep model=tiny" in run.stdout


def test_a_file_in_a_folder_of_the_repository_can_be_pinned_too(fetch: Any) -> None:
    assert fetch(pinned={"tokenizer/vocab.json": sha256(b"{}")}).returncode == 0
    assert "tokenizer/vocab.json" in one_sentence(fetch(pinned={"tokenizer/vocab.json": sha256(b"{} ")}))


def test_what_is_already_there_is_not_fetched_again(fetch: Any, hub: Hub) -> None:
    assert fetch().returncode == 0
    hub.asked.clear()
    assert fetch().returncode == 0
    assert [path for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path] == []


@pytest.mark.parametrize("name", ["model.safetensors", "absent.safetensors"])
def test_another_digest_than_the_pinned_one_is_refused(name: str, fetch: Any) -> None:
    expected = sha256(b"what was reviewed")
    told = one_sentence(fetch(pinned={name: expected}))
    found = sha256(FILES[name]) if name in FILES else "no such file"
    assert f"local-model/tiny/{name}: sha256 is {found}, model.download.sha256 says {expected}" in told


def test_without_a_network_one_sentence_says_so(fetch: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    told = one_sentence(fetch(env={"HF_ENDPOINT": nowhere}))
    assert f"{REPOSITORY} at revision main: the hub cannot be reached" in told


def test_without_a_network_a_folder_that_holds_something_else_is_not_taken_for_the_model(fetch: Any, tmp_path: Path) -> None:
    (tmp_path / "local-model" / "tiny").mkdir(parents=True)
    (tmp_path / "local-model" / "tiny" / "notes.txt").write_text("half a download")
    with socket.create_server(("127.0.0.1", 0)) as free:
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert "the hub cannot be reached" in one_sentence(fetch(env={"HF_ENDPOINT": nowhere}))


@pytest.mark.parametrize(("status", "told"), [(404, "404"), (401, "401"), (500, "500")])
def test_a_hub_that_refuses_is_quoted(status: int, told: str, fetch: Any, hub: Hub) -> None:
    hub.status = status
    sentence = one_sentence(fetch())
    assert f"{REPOSITORY} at revision main: the hub" in sentence
    assert told in sentence


def test_a_connection_that_breaks_in_the_middle_of_a_file_is_told_in_one_sentence(fetch: Any, hub: Hub) -> None:
    hub.cut_off = "model.safetensors"
    assert REPOSITORY in one_sentence(fetch())


def test_a_token_from_the_environment_is_sent_and_never_shown(fetch: Any, hub: Hub) -> None:
    run = fetch(env={"HF_TOKEN": "hf_secretsecretsecret"})
    assert run.returncode == 0, run.stdout + run.stderr
    assert {authorization for *_, authorization in hub.asked} == {"Bearer hf_secretsecretsecret"}
    assert "secretsecret" not in run.stdout + run.stderr


def test_no_token_is_taken_from_a_file(fetch: Any, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text("hf_somebodyelses")
    run = fetch()
    assert run.returncode == 0, run.stdout + run.stderr
    assert {authorization for *_, authorization in hub.asked} == {None}


def test_no_token_is_taken_from_the_configuration(fetch: Any, hub: Hub) -> None:
    run = fetch("+model.download.token=hf_secret")
    assert run.returncode == 2
    assert "token" in run.stderr
    assert "Traceback" not in run.stderr
    assert hub.asked == []


def test_the_model_that_ships_with_the_project_cannot_be_fetched(command: Any, tmp_path: Path) -> None:
    run = command("download", "model=embedded", cwd=tmp_path)
    assert run.returncode == 2
    assert "model=embedded ships with the project" in run.stderr
    assert "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_hub_whose_package_is_absent_says_what_to_install(command: Any, tmp_path: Path) -> None:
    """The package is hidden behind one that cannot be imported, so that this holds wherever it is installed."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "modelscope.py").write_text("raise ImportError('hidden')\n")
    path = {"PYTHONPATH": f"{tmp_path / 'hidden'}:{Path(__file__).resolve().parents[1]}"}
    run = command("download", "model=qwen3_0_6b_gpu_pro", cwd=tmp_path, env=path)
    assert run.returncode == 2
    assert "pip install modelscope" in run.stderr
    assert "Traceback" not in run.stderr
