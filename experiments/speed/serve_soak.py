"""Does the server hold for long? A real `gpuqa.serve` under mixed load, its memory and its engine's looked at all the time.

    PYTHONPATH=. python experiments/speed/serve_soak.py frozen=experiments/embedded/frozen.yaml --minutes 30

First, what clients that stall cost another's /readyz, on the idle server. Then single questions, batches, chats whole and
streamed, clients that leave, close their sending side or send their head in pieces, bodies that are no JSON, chats that are
refused, and scrapes of /metrics; no question comes twice. A row a minute: requests, latency of single questions, /readyz on a
connection of its own four times a second, memory and open files. Memory is the resident set of the server and of its engine,
once a second. The first half of the time is for what is kept once and for all (caches, the allocator's reserve); the slope is
that of the second half: a line of least squares through the means of ten stretches, since neighbouring seconds are no
independent witnesses, with its interval at 95 %. A process is steady if the whole interval lies below --most, growing if it
lies above, else the run was too short to tell. Exit code 0 if both are steady, every reply was one that it should be, no
question was left in flight, and no file stayed open.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
from load import QUESTIONS, serving
from slow_clients import Watch, cost_of_stalled, send_and_half_close, send_slowly

from gpuqa.measure.statistics import t_quantile

KINDS = {  # kind of request -> its status (0: left), its share
    "single": (200, 8),
    "batch": (200, 2),
    "chat": (200, 1),
    "streamed": (200, 1),
    "leaves": (0, 1),
    "half-closes": (200, 1),
    "slow head": (200, 1),
    "no json": (422, 1),
    "refused chat": (400, 1),
    "scrape": (200, 1),
}
STRETCHES = 10
SPARE_FILES = 3  # a scrape or a health check may be under way when files are counted


@dataclass
class Load:
    """What the clients share: where they ask, from when until when, and what they saw."""

    port: int
    model: str
    begin: float
    stop: float
    replies: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    wrong: list[str] = field(default_factory=list)
    ends: list[tuple[float, str, float]] = field(default_factory=list)  # when it ended, its kind, its seconds


def main() -> int:
    """Exit code 0 if all went as it should; the rows are printed, and the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", metavar="frozen=FILE http.KEY=VALUE")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--stalled", type=int, default=64, help="clients of each kind of stall")
    parser.add_argument("--stalled-seconds", type=float, default=20.0, help="of each kind")
    parser.add_argument("--most", type=float, default=20.0, help="MiB an hour that a steady process may seem to grow by")
    arguments = parser.parse_args()
    arguments.waiting, arguments.deadline, arguments.log = 4096, 330.0, None
    with serving(arguments) as port:
        costs = cost_of_stalled(port, arguments.stalled, arguments.stalled_seconds)
        print("\n".join(f"{name}: {cost}" for name, cost in costs.items()), flush=True)
        model = json.loads(get(port, "/v1/models"))["data"][0]["id"]
        files = open_files()
        begin = time.monotonic()
        load = Load(port, model, begin, begin + 60 * arguments.minutes)
        watch = Watch(port, load.stop)
        seen = run(load, watch, arguments.clients)
        left, files_left = in_flight(port), open_files() - files
    print("\n".join(rows(load, watch, seen)))
    memory = {name: judge(seen[:, 0], seen[:, place], arguments.most) for place, name in ((1, "server"), (2, "engine"))}
    wrong = load.wrong + watch.failed
    report = {"seconds": round(seen[-1, 0]), "replies": load.replies, "wrong": len(wrong), "first_wrong": wrong[:5]}
    print(json.dumps({**report, "left_in_flight": left, "files_left": files_left, **memory}, indent=1))
    steady = all(process["verdict"] == "steady" for process in memory.values())
    return int(bool(wrong) or bool(left) or files_left > SPARE_FILES or not steady)


def run(load: Load, watch: Watch, clients: int) -> Any:
    """All clients until the time is up -> see `watch_processes`."""
    threads = [threading.Thread(target=client, args=(load, seed)) for seed in range(clients)]
    threads.append(threading.Thread(target=watch.run))
    for thread in threads:
        thread.start()
    seen = watch_processes(load.stop)
    for thread in threads:
        thread.join()
    return seen


def client(load: Load, seed: int) -> None:
    """One client: all kinds of requests in random order, until the time is up."""
    rng = random.Random(seed)
    while (began := time.monotonic()) < load.stop:
        kind = rng.choices(list(KINDS), [share for _, share in KINDS.values()])[0]
        try:
            status: int | str = ask(load, kind, rng)
        except (OSError, http.client.HTTPException) as error:
            status = f"{type(error).__name__}: {error}"
        load.replies[kind] += 1
        load.ends.append((time.monotonic(), kind, time.monotonic() - began))
        if status != KINDS[kind][0]:
            load.wrong.append(f"{kind}: {status}")


def ask(load: Load, kind: str, rng: random.Random) -> int:
    """The status of one request; 0 if it was left."""
    many = [f"{rng.random()} {rng.choice(QUESTIONS)}" for _ in range(24 if kind in ("batch", "leaves") else 1)]
    if kind == "half-closes":
        return send_and_half_close(load.port, json.dumps({"prompt": many}).encode())
    if kind == "slow head":
        return send_slowly(load.port, json.dumps({"prompt": many}).encode(), rng.random())
    connection = http.client.HTTPConnection("127.0.0.1", load.port, timeout=330)
    try:
        connection.request(*request(load, kind, many), {"Content-Type": "application/json"})
        if kind == "leaves":
            time.sleep(rng.random())
            return 0
        reply = connection.getresponse()
        reply.read()
        return reply.status
    finally:
        connection.close()


def request(load: Load, kind: str, questions: list[str]) -> tuple[str, str, str | None]:
    """Method, path and body of a kind of request."""
    if kind == "scrape":
        return "GET", "/metrics", None
    if kind not in ("chat", "streamed", "refused chat"):
        return "POST", "/predict", "{" if kind == "no json" else json.dumps({"prompt": questions})
    messages = [{"role": "user", "content": questions[0]}]
    chat = {"model": load.model, "messages": messages, "stream": kind == "streamed"}
    return "POST", "/v1/chat/completions", json.dumps(chat | ({"temperature": 1.5} if kind == "refused chat" else {}))


def processes() -> tuple[psutil.Process, psutil.Process]:
    """The server and its engine."""
    [server] = [child for child in psutil.Process().children() if "gpuqa.serve" in " ".join(child.cmdline())]
    return server, max(server.children(recursive=True), key=lambda child: child.memory_info().rss)  # vLLM cannot always name it


def open_files() -> int:
    """Files and sockets that the server has open, a second after the last client has gone."""
    time.sleep(1)
    return int(processes()[0].num_fds())


def watch_processes(stop: float) -> Any:
    """Once a second until the time is up -> rows of seconds, MiB of the server, MiB of its engine, the server's open files.

    Raises:
        psutil.NoSuchProcess: one of them ended.
    """
    (server, engine), begun, seen = processes(), time.monotonic(), []
    while time.monotonic() < stop:
        mib = [process.memory_info().rss / 2**20 for process in (server, engine)]
        seen.append((time.monotonic() - begun, *mib, server.num_fds()))
        time.sleep(1)
    return np.array(seen)


def rows(load: Load, watch: Watch, seen: Any) -> list[str]:
    """A table with a row for each minute; a request belongs to the minute of its end."""
    head = (
        "| minute | requests | single p50 s | p95 s | readyz p50 ms | p99 ms | slowest ms | server MiB | engine MiB | files |"
    )
    table = [head, "| --- " * head.count(" | ") + "| --- |"]
    for minute in range(int((load.stop - load.begin) // 60)):
        begin, end = load.begin + 60 * minute, load.begin + 60 * (minute + 1)
        ended = [(kind, took) for at, kind, took in load.ends if begin <= at < end]
        single = sorted(took for kind, took in ended if kind == "single") or [float("nan")]
        quick = " | ".join(f"{1000 * took:.0f}" for took in watch.slowest(begin, end))
        _, server, engine, files = seen[(seen[:, 0] >= 60 * minute) & (seen[:, 0] < 60 * (minute + 1))].mean(axis=0)
        latency = f"{single[len(single) // 2]:.2f} | {single[int(0.95 * len(single))]:.2f}"
        table.append(f"| {minute + 1} | {len(ended)} | {latency} | {quick} | {server:.1f} | {engine:.1f} | {files:.0f} |")
    return table


def judge(seconds: Any, mib: Any, most: float) -> dict[str, Any]:
    """What one process took, and whether it is steady; see above."""
    half = len(seconds) // 2
    means = np.array([part.mean(axis=1) for part in np.array_split(np.stack((seconds, mib))[:, half:], STRETCHES, axis=1)])
    (slope, _), covariance = np.polyfit(means[:, 0], means[:, 1], 1, cov=True)
    width = t_quantile(0.95, STRETCHES - 2) * float(covariance[0, 0]) ** 0.5
    low, high = 3600 * (float(slope) - width), 3600 * (float(slope) + width)
    return {
        "mib_first_half_way_last": [round(float(mib[place]), 1) for place in (0, half, -1)],
        "slope_mib_per_h": round(3600 * float(slope), 1),
        "interval": [round(low, 1), round(high, 1)],
        "verdict": "steady" if high < most else "growing" if low > most else "too short to tell",
    }


def in_flight(port: int) -> float:
    """Questions that the server still counts as admitted, a second after everybody has gone."""
    time.sleep(1)
    lines = get(port, "/metrics").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("gpuqa_questions_in_flight "))


def get(port: int, path: str) -> str:
    """The body of a reply."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
