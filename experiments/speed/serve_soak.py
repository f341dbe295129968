"""Does the server hold for long? A real `gpuqa.serve` under mixed load, its memory and its engine's looked at all the time.

    python experiments/speed/serve_soak.py frozen=experiments/embedded/frozen.yaml --minutes 10

Single questions, batches, clients that leave, bodies that are no JSON, and scrapes of /metrics. Memory is the resident set of
the server and of its engine; the slope is a line of least squares through all but the first fifth, with what a line
cannot explain beside it. Exit code 0 if every reply was one that it should be and nothing was left inside.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import sys
import threading
import time
from typing import Any

import numpy as np
import psutil
from load import QUESTIONS, serving

EXPECTED = {"single": {200}, "batch": {200}, "leaves": {0}, "no json": {422}, "scrape": {200}}


def main() -> int:
    """Exit code 0 if all went as it should; the numbers are printed as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", metavar="frozen=FILE http.KEY=VALUE")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=8)
    arguments = parser.parse_args()
    arguments.waiting, arguments.deadline = 4096, 330.0
    counted: dict[str, int] = {}
    wrong: list[str] = []
    with serving(arguments) as port:
        stop = time.monotonic() + 60 * arguments.minutes
        threads = [
            threading.Thread(target=client, args=(port, seed, stop, counted, wrong)) for seed in range(arguments.clients)
        ]
        for thread in threads:
            thread.start()
        memory = watch_memory(stop)
        for thread in threads:
            thread.join()
        left = inside(port)
    print(json.dumps({"replies": counted, "wrong": wrong[:5], "left_inside": left, **memory}, indent=1))
    return int(bool(wrong) or bool(left))


def client(port: int, seed: int, stop: float, counted: dict[str, int], wrong: list[str]) -> None:
    """One client: all kinds of requests in random order, until the time is up."""
    rng = random.Random(seed)
    while time.monotonic() < stop:
        kind = rng.choices(list(EXPECTED), [8, 2, 1, 1, 1])[0]
        status = ask(port, kind, rng)
        counted[kind] = counted.get(kind, 0) + 1
        if status not in EXPECTED[kind]:
            wrong.append(f"{kind}: {status}")


def ask(port: int, kind: str, rng: random.Random) -> int:
    """The status of one request; 0 if it was left."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=330)
    try:
        if kind == "scrape":
            connection.request("GET", "/metrics")
        else:
            many = [f"{rng.random()} {rng.choice(QUESTIONS)}" for _ in range(1 if kind == "single" else 24)]
            body = "{" if kind == "no json" else json.dumps({"prompt": many})
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
        if kind == "leaves":
            time.sleep(rng.random())
            return 0
        reply = connection.getresponse()
        reply.read()
        return reply.status
    finally:
        connection.close()


def watch_memory(stop: float) -> dict[str, Any]:
    """Resident sets once a second until the time is up -> first, last and slope of each process."""
    [server] = [one for one in psutil.Process().children() if "gpuqa.serve" in " ".join(one.cmdline())]
    [engine] = [one for one in server.children(recursive=True) if "EngineCore" in one.name()]
    begun, seen = time.monotonic(), []
    while time.monotonic() < stop:
        with contextlib.suppress(psutil.NoSuchProcess):
            seen.append((time.monotonic() - begun, server.memory_info().rss / 2**20, engine.memory_info().rss / 2**20))
        time.sleep(1)
    steady = np.array([row for row in seen if row[0] > seen[-1][0] / 5])
    told: dict[str, Any] = {"seconds": round(seen[-1][0])}
    for place, name in ((1, "server"), (2, "engine")):
        slope, start = np.polyfit(steady[:, 0], steady[:, place], 1)
        scatter = float(np.std(steady[:, place] - (start + slope * steady[:, 0])))
        told |= {f"{name}_mib_first": round(float(steady[0, place]), 1), f"{name}_mib_last": round(float(steady[-1, place]), 1)}
        told |= {f"{name}_slope_mib_per_h": round(3600 * float(slope), 1), f"{name}_scatter_mib": round(scatter, 2)}
    return told


def inside(port: int) -> float:
    """Questions that the server still counts as admitted, a second after everybody has gone."""
    time.sleep(1)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("gpuqa_questions_inside "))


if __name__ == "__main__":
    sys.exit(main())
