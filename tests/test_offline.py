"""The container has no network when it is judged: a study and a server in a network namespace with a loopback only.

A watch that is loaded into every Python process of the namespace writes down whatever tries to get out. That is also so while
libraries are imported: commands are forks of a warm Python that starts in there. Opening an UDP socket towards an address sends
nothing and is how programs ask the kernel for a route, so it does not count.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, child_environment, end_session

pytestmark = pytest.mark.engine

WATCH = """
import os, socket, sys

def watch(event, args, log=os.open(os.environ["WATCH_LOG"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)):
    if event == "socket.connect" and args[0].family in (socket.AF_INET, socket.AF_INET6):
        tried = args[1][0] if args[0].type & 0xF == socket.SOCK_STREAM else ""
    elif event == "socket.sendto" and args[0].family in (socket.AF_INET, socket.AF_INET6):
        tried = args[1][0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        tried = args[0] or ""
    else:
        return
    tried = tried.decode() if isinstance(tried, bytes) else str(tried)
    if tried not in ("", "localhost", "::", "::1", "0.0.0.0", socket.gethostname()) and not tried.startswith("127."):
        os.write(log, f"{event} {tried} by {sys.argv}\\n".encode())

sys.addaudithook(watch)
"""

INSIDE = """
import fcntl, json, os, pathlib, signal, socket, struct, subprocess, sys
from warm_python import WarmPython

with socket.socket() as any_socket:  # SIOCSIFFLAGS: bring the loopback up
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14s", b"lo", 1, b""))

def command(name, *overrides):
    with open(f"{name}.log", "wb") as log:
        words = ["-m", f"gpuqa.{name}", *overrides]
        return warm.start(words, pathlib.Path.cwd(), dict(os.environ), log.fileno(), log.fileno())

warm = WarmPython(dict(os.environ), engines=True)
codes = {}
codes["sweep"] = command("sweep", *sys.argv[1:]).wait(240)
if codes["sweep"] == 0:
    server = command("serve", "frozen=experiments/dark/frozen.yaml")
    codes["evaluate"] = command("evaluate", "ready_timeout_s=120", "dataset.limit=2").wait(240)
    server.send_signal(signal.SIGTERM)
    codes["serve"] = server.wait(60)
attempt = "import socket; socket.create_connection(('192.0.2.1', 9), 5)"
codes["attempt"] = subprocess.run(
    [sys.executable, "-c", attempt], env={**os.environ, "WATCH_LOG": "attempt.log"}, stderr=open("attempt.err", "wb")
).returncode
json.dump(codes, open("codes.json", "w"))
"""


@dataclass(frozen=True)
class Dark:
    """What happened without a network."""

    folder: Path
    codes: dict[str, int]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8")


def unshare() -> list[str]:
    """The command that cuts the network, as root or in a user namespace."""
    for command in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0:
            return command
    pytest.skip("a network namespace may not be made here (unshare --net)")


@pytest.fixture(scope="module")
def dark(tmp_path_factory: pytest.TempPathFactory) -> Dark:
    """A study, its winner served and evaluated, and one attempt to get out, all without a network."""
    prefix, folder = unshare(), tmp_path_factory.mktemp("dark")
    (folder / "watch").mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    (folder / "inside.py").write_text(INSIDE, encoding="utf-8")
    overrides = ["experiment=none", "study.name=dark", "prompt=structured_short", "dataset.limit=2", "workload.repeats=1"]
    overrides += ["selection.min_rouge_l_f1_judge=0"]
    env = child_environment(
        {
            "PYTHONPATH": os.pathsep.join([str(folder / "watch"), str(ROOT), str(ROOT / "tests")]),
            "WATCH_LOG": str(folder / "watch.log"),
        }
    )
    command = [*prefix, sys.executable, "inside.py", *overrides]
    process = subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        said = process.communicate(timeout=580)[0]
    finally:
        survivors = end_session(process.pid, grace_s=10)
    assert process.returncode == 0, said.decode()
    assert not survivors
    return Dark(folder, json.loads((folder / "codes.json").read_text(encoding="utf-8")))


def test_a_study_runs_without_a_network(dark: Dark) -> None:
    assert dark.codes["sweep"] == 0, dark.log("sweep")
    frozen = yaml.safe_load((dark.folder / "experiments" / "dark" / "frozen.yaml").read_text(encoding="utf-8"))
    assert frozen["measurement"]["questions"] == 2
    assert frozen["measurement"]["answers_failed"] == 0


def test_the_winner_is_served_and_answers_without_a_network(dark: Dark) -> None:
    assert dark.codes["evaluate"] == 0, dark.log("evaluate") + dark.log("serve")
    assert dark.codes["serve"] == 0, dark.log("serve")
    found = json.loads((dark.folder / "evaluation.json").read_text(encoding="utf-8"))
    assert found["questions"] == 2
    assert found["answers_empty"] == 0


def test_the_log_of_the_server_says_that_the_network_is_cut_off(dark: Dark) -> None:
    assert "network: cut off; nothing here needs it" in dark.log("serve")


def test_nothing_tries_to_reach_out(dark: Dark) -> None:
    assert dark.codes["attempt"] == 1
    assert "Network is unreachable" in (dark.folder / "attempt.err").read_text(encoding="utf-8"), "the network is cut"
    assert "socket.connect 192.0.2.1" in dark.log("attempt"), "and the watch sees who tries"
    assert dark.log("watch") == ""
