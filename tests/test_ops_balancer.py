"""What stands in front of several servers: HAProxy's configuration by the real program, and the manifest for Kubernetes."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from stand_in_service import PATIENCE_S, ScriptedEngine, Served, scripted, serving, until

from gpuqa.config.http import HttpConfig
from gpuqa.serving.app import POLLED
from gpuqa.serving.server import LAST_BYTES_S

READY = (200, {"status": "batch"})
CONFIG = (ROOT / "ops" / "haproxy.cfg").read_text(encoding="utf-8")
MANIFEST: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "ops" / "kubernetes.yaml").read_text(encoding="utf-8")))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def balanced(folder: Path, *servers: Served) -> Iterator[Served]:
    """HAProxy, with the shipped configuration but for the ports, in front of two servers."""
    if not (program := shutil.which("haproxy")):
        pytest.skip("there is no haproxy here: apt-get install haproxy")
    port, text = free_port(), CONFIG
    for shipped, here in ((":8000", f"127.0.0.1:{port}"), (":8001", f":{servers[0].port}"), (":8002", f":{servers[1].port}")):
        assert text.count(shipped) == 1
        text = text.replace(shipped, here)
    file = folder / "haproxy.cfg"
    file.write_text(text, encoding="utf-8")
    checked = subprocess.run([program, "-c", "-f", str(file)], capture_output=True, text=True)
    assert (checked.returncode, "[WARNING]" in checked.stderr) == (0, False), checked.stderr
    with subprocess.Popen([program, "-db", "-f", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            front = Served(port)
            until(lambda: answered(front) == READY)
            yield front
        finally:
            running.terminate()


def answered(served: Served) -> Any:
    try:
        return served.status()
    except (OSError, ValueError):  # it does not listen yet, or has found no server: that page is no JSON
        return None


def open_engine() -> ScriptedEngine:
    engine = ScriptedEngine()
    engine.open.set()
    return engine


@pytest.mark.engine
def test_haproxy_spreads_questions_and_loses_none_while_a_server_drains(tmp_path: Path) -> None:
    engines = [open_engine(), open_engine()]
    replies: list[Any] = []
    ended = threading.Event()

    def ask(front: Served, number: int) -> None:
        while not ended.wait(0.02):
            replies.append(front.predict([f"{number}", "长" * 4_000] if number else "一"))

    http = HttpConfig(warmup_batch=1)
    with serving(scripted(engines[0]), http) as first, serving(scripted(engines[1]), http) as second:
        for served in (first, second):
            served.wait_for(READY)
        with balanced(tmp_path, first, second) as front:
            clients = [threading.Thread(target=ask, args=(front, number)) for number in range(4)]
            for client in clients:
                client.start()
            until(lambda: all(len(engine.asked) > 10 for engine in engines))
            drain(second, engines[1])
            count = len(replies)
            until(lambda: len(replies) > count + 20)
            ended.set()
            for client in clients:
                client.join(PATIENCE_S)
    assert {status for status, _ in replies} == {200}
    assert all(all(body["response"]) for _, body in replies)


def drain(served: Served, engine: ScriptedEngine) -> None:
    """As SIGTERM does it: not ready at once."""
    assert served.service is not None
    assert engine.loop is not None
    asyncio.run_coroutine_threadsafe(served.service.drain(), engine.loop)


@pytest.mark.engine
def test_haproxy_hands_a_stream_on_as_it_comes(tmp_path: Path) -> None:
    engines = [open_engine(), open_engine()]
    with serving(scripted(engines[0])) as first, serving(scripted(engines[1])) as second:
        for served in (first, second):
            served.wait_for(READY)
        model = first.call("GET", "/v1/models")[1]["data"][0]["id"]
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "什么是 warp？"}], "stream": True})
        with balanced(tmp_path, first, second) as front:
            connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=PATIENCE_S)
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            assert reply.getheader("content-type", "").startswith("text/event-stream")
            assert reply.read().decode().rstrip().endswith("data: [DONE]")
            connection.close()


def test_the_manifests_pods_are_asked_where_a_server_answers_and_get_the_time_that_they_need() -> None:
    deployment, service = MANIFEST
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in POLLED, "no key is needed for it"
        assert container[probe]["httpGet"]["port"] == container["ports"][0]["name"]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= HttpConfig().shutdown_timeout_s + pause + LAST_BYTES_S
    assert pod["securityContext"]["runAsUser"] == 10001, "the image's user"
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


def test_the_manifest_fits_kubernetes_schemas() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for document in MANIFEST:
        kubernetes_validate.validate(document, "1.37", strict=True)
