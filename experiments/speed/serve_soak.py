"""Does the server hold for long? A real `gpuqa.serve` under mixed load, its memory and its engine's looked at all the time.

    PYTHONPATH=. python experiments/speed/serve_soak.py frozen=experiments/embedded/frozen.yaml --minutes 10

Single questions, batches, chats whole and streamed, clients that leave, bodies that are no JSON, and scrapes of /metrics; no
question comes twice. Memory is the resident set of the server and of its engine, once a second. The first half of the time
is for what is kept once and for all (caches, the allocator's reserve); the slope is that of the second half: a line of least
squares through the means of ten stretches, since neighbouring seconds are no independent witnesses, with its interval at
95 %. A process is steady if the whole interval lies below --most, growing if it lies above, else the run was too short to
tell. Exit code 0 if both are steady, every reply was one that it should be and nothing was left inside.
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

from gpuqa.measure.statistics import t_quantile

EXPECTED = {"single": 200, "batch": 200, "chat": 200, "streamed": 200, "leaves": 0, "no json": 422, "scrape": 200}
SHARES = (8, 2, 1, 1, 1, 1, 1)  # of the kinds above
STRETCHES = 10


@dataclass
class Load:
    """What the clients share: where they ask, until when, and what they saw."""

    port: int
    model: str
    stop: float
    replies: dict[str, int] = field(default_factory=lambda: dict.fromkeys(EXPECTED, 0))
    wrong: list[str] = field(default_factory=list)


def main() -> int:
    """Exit code 0 if all went as it should; the numbers are printed as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", metavar="frozen=FILE http.KEY=VALUE")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--most", type=float, default=20.0, help="MiB an hour that a steady process may seem to grow by")
    arguments = parser.parse_args()
    arguments.waiting, arguments.deadline = 4096, 330.0
    with serving(arguments) as port:
        model = json.loads(get(port, "/v1/models"))["data"][0]["id"]
        load = Load(port, model, time.monotonic() + 60 * arguments.minutes)
        threads = [threading.Thread(target=client, args=(load, seed)) for seed in range(arguments.clients)]
        for thread in threads:
            thread.start()
        seen = watch_memory(load.stop)
        for thread in threads:
            thread.join()
        left = in_flight(port)
    seconds = seen[:, 0]
    memory = {name: judge(seconds, seen[:, place], arguments.most) for place, name in ((1, "server"), (2, "engine"))}
    told = {"seconds": round(seconds[-1]), "replies": load.replies, "wrong": load.wrong[:5], "left_inside": left, **memory}
    print(json.dumps(told, indent=1))
    return int(bool(load.wrong) or bool(left) or any(one["verdict"] != "steady" for one in memory.values()))


def client(load: Load, seed: int) -> None:
    """One client: all kinds of requests in random order, until the time is up."""
    rng = random.Random(seed)
    while time.monotonic() < load.stop:
        kind = rng.choices(list(EXPECTED), SHARES)[0]
        status = ask(load, kind, rng)
        load.replies[kind] += 1
        if status != EXPECTED[kind]:
            load.wrong.append(f"{kind}: {status}")


def ask(load: Load, kind: str, rng: random.Random) -> int:
    """The status of one request; 0 if it was left."""
    connection = http.client.HTTPConnection("127.0.0.1", load.port, timeout=330)
    try:
        if kind == "scrape":
            connection.request("GET", "/metrics")
        else:
            many = [f"{rng.random()} {rng.choice(QUESTIONS)}" for _ in range(24 if kind in ("batch", "leaves") else 1)]
            path, content = "/predict", {"prompt": many}
            if kind in ("chat", "streamed"):
                messages = [{"role": "user", "content": many[0]}]
                path, content = (
                    "/v1/chat/completions",
                    {"model": load.model, "messages": messages, "stream": kind == "streamed"},
                )
            body = "{" if kind == "no json" else json.dumps(content)
            connection.request("POST", path, body, {"Content-Type": "application/json"})
        if kind == "leaves":
            time.sleep(rng.random())
            return 0
        reply = connection.getresponse()
        reply.read()
        return reply.status
    finally:
        connection.close()


def watch_memory(stop: float) -> Any:
    """Once a second until the time is up -> rows of seconds, MiB of the server, MiB of its engine.

    Raises:
        psutil.NoSuchProcess: one of them ended.
    """
    [server] = [one for one in psutil.Process().children() if "gpuqa.serve" in " ".join(one.cmdline())]
    engine = max(server.children(recursive=True), key=lambda one: one.memory_info().rss)  # vLLM cannot always give it a name
    begun, seen = time.monotonic(), []
    while time.monotonic() < stop:
        seen.append((time.monotonic() - begun, server.memory_info().rss / 2**20, engine.memory_info().rss / 2**20))
        time.sleep(1)
    return np.array(seen)


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
