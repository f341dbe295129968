"""How many replicas can one front feed? The real front, n stub replicas that answer when an H200 would, and CPU time.

    PYTHONPATH=.:experiments/serving python experiments/serving/stub_replicas.py [--replicas 1,2,4,8] [--rounds 5] [--at-once]

For each n a front is started as `gpuqa.serve http.replicas=n` starts it, in a process of its own, but for the engines: the
replicas' processes are those of stub_replica.py, which read and write the same messages and sleep instead of computing. So this
needs no GPU, and few cores. Each round asks it

    post       one POST of 358 x n questions
    clients    64 x n clients with a question each, 128 x n questions (--at-once: 64 clients and replicas that do not sleep)

and reads the CPU time of the front's own process, which other work on the machine changes less than it changes seconds. Where
it goes: a timer of 1 ms of CPU time looks at the front's stack, in rounds of their own, and counts the CPU time since its last
look for the first line of PLACES that is in it, from within. Last a table: CPU seconds a 358 questions and a single question,
what that allows (an H200 answers 358 in 1.38 s, and 64 clients 91 questions a second), and the shares.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import stub_replica
import uvicorn
from prometheus_client import CollectorRegistry

sys.path.append(str(Path(__file__).resolve().parents[1] / "speed"))
from client import answers, ask

from gpuqa.config.app import compose_cell
from gpuqa.config.http import HttpConfig
from gpuqa.machine.places import Part
from gpuqa.serving.app import create_app
from gpuqa.serving.connections import Connections
from gpuqa.serving.life import Winner
from gpuqa.serving.service import Service
from gpuqa.serving.telemetry import Telemetry, log_to_stderr

QUESTIONS, CLIENTS = 358, 64  # of each replica
POST_S, CLIENTS_PER_S = 1.38, 91.0  # one H200: experiments/h200/README.md
PLACES = {  # part of a file's name or of a function's -> what it is; the first that is in a stack, from within
    "machine/messages.py": "hand-over to replicas (pickle)",
    "serving/replica.py": "hand-over to replicas (pickle)",
    "serving/telemetry.py": "metrics and log lines",
    "prometheus_client": "metrics and log lines",
    "/logging/": "metrics and log lines",
    "serving/replicas.py": "sharing out, admission, deadlines",
    "serving/shares.py": "sharing out, admission, deadlines",
    "serving/service.py": "sharing out, admission, deadlines",
    "serving/admission.py": "sharing out, admission, deadlines",
    "serialize_response": "JSON out",
    "starlette/responses.py": "JSON out",
    "serving/body_values.py": "JSON in",
    "/json/": "JSON in",
    "pydantic": "JSON in",
    "serving/connections.py": "HTTP (uvicorn)",
    "uvicorn": "HTTP (uvicorn)",
    "starlette": "routing and middleware",
    "fastapi": "routing and middleware",
    "gpuqa/serving": "routing and middleware",
}
REST = "event loop"


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", default="1,2,4,8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-once", action="store_true")
    parser.add_argument("--front", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.front is not None:
        serve(arguments.front)
        return
    counts = [int(count) for count in arguments.replicas.split(",")]
    rows = {count: measured(count, arguments.rounds, arguments.at_once) for count in counts}
    print("\n".join(table(rows)))


# ---------------------------------------------------------------------------------------------------------- the front


def serve(replicas: int) -> None:
    """The front's process; it prints its port, and at SIGUSR1 begins to look at its stack, or says what it saw."""
    config = compose_cell("experiment=none", "engine=transformers", "prompt=bare", "sampling.max_tokens=256")
    names = [f"stub {number}" for number in range(replicas)]
    starts = {name: partial(stub_replica.start, config, Part(name), dict(os.environ)) for name in names}
    http = HttpConfig(max_waiting_questions=100_000, warmup_batch=1)
    log_to_stderr(http.logs)
    service = Service(Winner(starts, ["一"]), http, Telemetry(CollectorRegistry()), sys.exit)
    connections = Connections(http)
    app = create_app(service, None, connections)
    looking = Looking()
    signal.signal(signal.SIGUSR1, lambda *_: looking.turn())
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        print(json.dumps({"port": listening.getsockname()[1]}), flush=True)
        settings: dict[str, Any] = {"log_config": None, "access_log": False, **connections.uvicorn_settings()}
        uvicorn.Server(uvicorn.Config(app, **settings)).run(sockets=[listening])


class Looking:
    """Where this process spends its CPU time, s."""

    def __init__(self) -> None:
        self.on, self.last, self.spent = False, 0.0, Counter[str]()

    def turn(self) -> None:
        self.on, self.last = not self.on, time.process_time()
        if self.on:
            self.spent.clear()
            signal.signal(signal.SIGPROF, self.look)
        signal.setitimer(signal.ITIMER_PROF, *((0.001, 0.001) if self.on else (0, 0)))
        if not self.on:
            print(json.dumps(self.spent), flush=True)

    def look(self, _: int, frame: FrameType | None) -> None:
        now = time.process_time()
        self.spent[place_of(frame)] += now - self.last
        self.last = now


def place_of(frame: FrameType | None) -> str:
    """What a stack is about."""
    while frame is not None:
        where = f"{frame.f_code.co_filename} {frame.f_code.co_name}"
        for part, place in PLACES.items():
            if part in where:
                return place
        frame = frame.f_back
    return REST


# ---------------------------------------------------------------------------------------------------------- the rounds


@contextmanager
def fronted(replicas: int, at_once: bool) -> Iterator[tuple[psutil.Process, int, subprocess.Popen[str]]]:
    """A front that is ready: its process, its port, and what it prints."""
    env = {**os.environ, **({"STUB_AT_ONCE": "1"} if at_once else {})}
    words = [sys.executable, __file__, "--front", str(replicas)]
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as front:
        assert front.stdout is not None
        port = json.loads(front.stdout.readline())["port"]
        while not answers(port, "/readyz"):
            if front.poll() is not None:
                raise SystemExit("the front has ended")
            time.sleep(0.1)
        try:
            yield psutil.Process(front.pid), port, front
        finally:
            front.terminate()


def measured(replicas: int, rounds: int, at_once: bool) -> dict[str, Any]:
    """CPU seconds of the front: of each round, and where they went in a round that was looked at."""
    question = "请解释 warp divergence 是什么，怎样避免它，并且给出一个例子？"
    batch = [json.dumps({"prompt": [f"{place} {question}" for place in range(QUESTIONS * replicas)]})]
    singles = [json.dumps({"prompt": f"{place} {question}"}) for place in range(2 * CLIENTS * replicas)]
    asked = {"post": (batch, 1), "clients": (singles, CLIENTS * (1 if at_once else replicas))}
    found: dict[str, Any] = {key: [] for key in asked} | {"places": {}, "seconds": {key: [] for key in asked}}
    with fronted(replicas, at_once) as (process, port, front):
        assert front.stdout is not None
        for number in range(rounds + 2):  # the first is to warm up, in the last the stack is looked at
            for key, (bodies, clients) in asked.items():
                is_last = number == rounds + 1
                if is_last:
                    process.send_signal(signal.SIGUSR1)
                    time.sleep(0.2)
                before = cpu_s(process)
                for _ in range(20 if is_last and key == "post" and at_once else 1):
                    reply = asyncio.run(ask(port, "/predict", bodies, clients))
                spent = cpu_s(process) - before
                if is_last:
                    process.send_signal(signal.SIGUSR1)
                    with suppress(json.JSONDecodeError):
                        found["places"][key] = json.loads(front.stdout.readline())
                elif number:
                    found[key].append(spent)
                    found["seconds"][key].append(reply["seconds"])
    return found


def cpu_s(process: psutil.Process) -> float:
    """CPU time of a process's threads so far, by the scheduler's own count in ns: a POST takes less than a tick of 10 ms."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def table(rows: dict[int, dict[str, Any]]) -> list[str]:
    """The lines."""
    lines = [
        "| replicas | CPU ms a 358 questions in one POST | a single question | replicas one front can feed: POSTs | single |"
    ]
    lines += ["| --- | --- | --- | --- | --- |"]
    for count, found in rows.items():
        post = statistics.mean(found["post"]) / count
        single = statistics.mean(found["clients"]) / (2 * CLIENTS * count)
        can = f"{POST_S / post:.0f} | {1 / (single * CLIENTS_PER_S):.0f}" if post else "- | -"
        lines.append(f"| {count} | {1000 * post:.1f} | {1000 * single:.2f} | {can} |")
    for key in ("post", "clients"):
        lines += ["", f"{key}: share of the front's CPU time", ""]
        for count, found in rows.items():
            places = Counter(found["places"].get(key, {}))
            whole = places.total() or 1
            shares = (f"{name} {100 * spent / whole:.0f} %" for name, spent in places.most_common())
            lines.append(f"- {count} ({1000 * whole:.0f} ms seen): {', '.join(shares)}")
    return lines


if __name__ == "__main__":
    main()
