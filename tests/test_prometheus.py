"""A real Prometheus scrapes a real server and evaluates ops/alerts.yaml. The engine is a fake, since the real one does not fail
or wait on demand."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from conftest import ROOT
from stand_in_service import ScriptedEngine, scripted, serving, until

from gpuqa.config.http import HttpConfig
from gpuqa.records import Generation

pytestmark = pytest.mark.slow


class Prometheus:
    """One that scrapes a port five times a second."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def get(self, path: str, **params: str) -> Any:
        return self.client.get(f"/api/v1/{path}", params=params).json()["data"]

    def value(self, expression: str) -> float:
        """The one value of an expression; 0 where it has none."""
        return sum(float(result["value"][1]) for result in self.get("query", query=expression)["result"])

    def firing(self) -> dict[str, str]:
        """Alert -> its summary."""
        alerts = [alert for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"]
        return {alert["labels"]["alertname"]: alert["annotations"]["summary"] for alert in alerts}

    def ready(self) -> bool:
        try:
            return self.client.get("/-/ready").is_success
        except httpx.TransportError:
            return False


@contextmanager
def prometheus(folder: Path, scraped: int) -> Iterator[Prometheus]:
    """With the shipped rules, but for the minutes that an alert waits before it fires."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("there is no prometheus here: apt-get install prometheus")
    rules = yaml.safe_load((ROOT / "ops" / "alerts.yaml").read_text(encoding="utf-8"))
    for group in rules["groups"]:
        group["rules"] = [{**rule, "for": "0s"} for rule in group["rules"]]
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    job = {"job_name": "gpuqa", "static_configs": [{"targets": [f"127.0.0.1:{scraped}"]}]}
    often = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"}
    config = {"global": often, "rule_files": ["rules.yaml"], "scrape_configs": [job]}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = ["--config.file=prometheus.yaml", "--storage.tsdb.path=data", f"--web.listen-address={address}"]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([program, *words], cwd=folder, stderr=log) as process,
        httpx.Client(base_url=f"http://{address}", trust_env=False, timeout=60) as client,
    ):
        try:
            until((running := Prometheus(client)).ready)
            yield running
        finally:
            process.kill()


def test_the_first_fault_and_the_first_refusal_raise_their_alerts(tmp_path):
    faulty = threading.Event()

    def answer(_: int) -> Generation:
        if faulty.is_set():
            raise ZeroDivisionError("a fault of the program")
        return Generation([7], "stop")

    engine = ScriptedEngine(answer)
    engine.open.set()
    with serving(scripted(engine), HttpConfig(max_waiting_questions=4)) as served:
        served.wait_for((200, {"status": "batch"}))
        with prometheus(tmp_path, served.port) as watching:
            until(lambda: watching.value("count_over_time(up[1m])") > 1)  # its first scrape comes after five seconds
            assert watching.firing() == {}
            engine.open.clear()
            body = json.dumps({"prompt": ["?"] * 4}).encode()
            waiting = threading.Thread(target=served.ask, args=("POST", "/predict", body))
            waiting.start()
            until(lambda: "GpuqaNearCapacity" in watching.firing())
            assert served.predict("?")[0] == 429
            faulty.set()
            engine.open.set()
            waiting.join()
            until(lambda: {"GpuqaRefuses", "GpuqaServerErrors"} <= {*watching.firing()})
            instance = f"127.0.0.1:{served.port}"
            assert watching.firing()["GpuqaServerErrors"] == f"{instance} answers /predict with server errors"
            assert {rule["health"] for group in watching.get("rules")["groups"] for rule in group["rules"]} == {"ok"}
