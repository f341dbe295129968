"""What does the server do under more load than it can take? A real `gpuqa.serve`, clients in a closed loop and in an open one.

    PYTHONPATH=. python experiments/speed/load.py frozen=experiments/embedded/frozen.yaml
    PYTHONPATH=. python experiments/speed/load.py frozen=FILE --seconds 60 --clients 1,64,256 --loads 0.5,1,2,3 --limit 10

Closed: each client sends its next question when it has its answer. The best rate of them is the capacity. Open: questions
come at random times (Poisson), at multiples of the capacity, whether there are answers or not. Goodput is what was answered
with text within --limit seconds, a second, from the moment the server is at capacity (the first third is not counted) to the
last arrival. Meanwhile another process asks for /readyz four times a second, on a connection of its own each time. Words with
a dot go to `gpuqa.serve`. Exit code 0 if at the last of --loads the mean goodput is at least 90 % of that at the capacity, no
accepted question was late, nothing was answered but 200 and 429, and half of /readyz took less than 0.2 s.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from client import request_bytes
from slow_clients import ready_seconds

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = [row["instruction"] for row in json.loads((ROOT / "gpuqa/embedded/questions/test.json").read_text("utf-8"))]
HEAD = (
    "| load | offered /s | goodput /s | of the capacity | refused | late | failed | p50 s | p95 s | slowest s | retry after s "
    "| readyz p50 ms | p99 ms | slowest ms |"
)


@dataclass
class Point:
    """One row: what was asked and what came of it. `ends`: (arrival, end, status, has text) on the clock of the point."""

    name: str
    begin: float
    end: float  # arrivals in between are counted
    ends: list[tuple[float, float, int, bool]] = field(default_factory=list)
    retry_after: list[int] = field(default_factory=list)
    limit_s: float = 0.0
    ready: list[float] = field(default_factory=list)  # seconds of GET /readyz, sorted

    def counted(self, status: int) -> list[float]:
        """Latencies of requests that arrived in the window and ended with a status."""
        return sorted(end - came for came, end, got, _ in self.ends if got == status and self.begin <= came <= self.end)

    @property
    def goodput(self) -> float:
        """Answers with text, in time, that ended in the window, a second."""
        good = [1 for came, end, got, text in self.ends if got == 200 and text and self.begin <= end <= self.end
                and end - came <= self.limit_s]  # fmt: skip
        return len(good) / (self.end - self.begin)

    @property
    def late(self) -> int:
        """Accepted and answered without text, which is so after the server's deadline, or after the limit."""
        return sum(got == 200 and (not text or end - came > self.limit_s) for came, end, got, text in self.ends)

    @property
    def failed(self) -> int:
        """Neither answered nor told to come back."""
        return sum(got not in (200, 429) for _, _, got, _ in self.ends)

    def row(self, capacity: float) -> str:
        """A line of the table."""
        window = self.end - self.begin
        answered, refused = self.counted(200), self.counted(429)
        offered = sum(self.begin <= came <= self.end for came, *_ in self.ends) / window
        at = [f"{answered[int(len(answered) * share)]:.2f}" if answered else "-" for share in (0.5, 0.95)]
        slowest = f"{answered[-1]:.2f}" if answered else "-"
        waits = f"{min(self.retry_after)}-{max(self.retry_after)}" if self.retry_after else "-"
        goodput = f"{self.goodput:.1f} | {self.goodput / capacity:.0%}"
        ready = " | ".join(str(self.ready_ms(share)) for share in (0.5, 0.99, 1))
        return (
            f"| {self.name} | {offered:.1f} | {goodput} | {len(refused)} | {self.late} | {self.failed} | {at[0]} | {at[1]} | "
            f"{slowest} | {waits} | {ready} |"
        )

    def ready_ms(self, share: float) -> int:
        """What /readyz took, in milliseconds, at that share of the sorted times."""
        return round(1000 * self.ready[min(int(len(self.ready) * share), len(self.ready) - 1)])


def main() -> int:
    """Serve, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", metavar="frozen=FILE http.KEY=VALUE")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each point")
    parser.add_argument("--clients", default="1,8,64")
    parser.add_argument("--loads", default="0.5,1,1.5,2,3", help="multiples of the best closed loop")
    parser.add_argument(
        "--rounds", type=int, default=1, help="of the loads, in turn: a slow minute of the machine hits all of them"
    )
    parser.add_argument("--waiting", type=int, default=128, help="http.max_waiting_questions")
    parser.add_argument("--deadline", type=float, default=60.0, help="http.deadline_s")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds within which an answer is a good one")
    arguments = parser.parse_args()
    arguments.log = None
    with serving(arguments) as port, ProcessPoolExecutor(1, get_context("spawn")) as others:
        closed_points, open_points = asyncio.run(measure(port, arguments, others))
    capacity = max(point.goodput for point in closed_points)
    rows = [point.row(capacity) for point in (*closed_points, *open_points)]
    print("\n".join([HEAD, "| --- " * HEAD.count(" | ") + "| --- |", *rows]))
    by_load = goodput_by_load(open_points)
    print(", ".join(f"{name}: {goodput:.1f} /s" for name, goodput in by_load.items()))
    kept = list(by_load.values())[-1] >= 0.9 * by_load["open, 1 x capacity"]
    bad = any(point.failed or point.late or point.ready_ms(0.5) >= 200 for point in open_points)
    return int(not kept or bad)


def goodput_by_load(points: list[Point]) -> dict[str, float]:
    """The mean goodput of the rounds of each load."""
    rounds: dict[str, list[float]] = {}
    for point in points:
        rounds.setdefault(point.name, []).append(point.goodput)
    return {name: sum(goodputs) / len(goodputs) for name, goodputs in rounds.items()}


@contextlib.contextmanager
def serving(arguments: argparse.Namespace) -> Iterator[int]:
    """The port of a server that is ready."""
    limits = [f"http.max_waiting_questions={arguments.waiting}", f"http.deadline_s={arguments.deadline}"]
    command = [sys.executable, "-m", "gpuqa.serve", *arguments.overrides, *limits, "http.host=127.0.0.1", "http.port=0"]
    with tempfile.NamedTemporaryFile("w+", suffix=".log") if arguments.log is None else arguments.log.open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            while '"message": "engine started' not in (said := Path(log.name).read_text("utf-8")):
                if server.poll() is not None:
                    raise SystemExit(f"the server ended:\n{said}")
                time.sleep(0.2)
            found = re.search(r"running on http://127\.0\.0\.1:(\d+)", said)
            assert found
            yield int(found[1])
        finally:
            server.terminate()
            server.wait()


async def measure(port: int, arguments: argparse.Namespace, others: ProcessPoolExecutor) -> tuple[list[Point], list[Point]]:
    """The points of the closed loop and those of the open one, one after the other; each begins with an empty server."""
    asker, closed_points, open_points = Asker(port), [], []
    for clients in map(int, arguments.clients.split(",")):
        point = begun(f"closed, {clients} clients", arguments)
        watched = others.submit(ready_seconds, port, point.begin, point.end)
        await closed(asker, clients, point)
        closed_points.append(await with_ready(point, watched))
    capacity = max(point.goodput for point in closed_points)
    for load in arguments.rounds * [float(load) for load in arguments.loads.split(",")]:
        point = begun(f"open, {load:g} x capacity", arguments)
        watched = others.submit(ready_seconds, port, point.begin, point.end)
        await opened(asker, capacity * load, point)
        open_points.append(await with_ready(point, watched))
    return closed_points, open_points


def begun(name: str, arguments: argparse.Namespace) -> Point:
    """A point that begins now."""
    now = time.perf_counter()
    return Point(name, now + arguments.seconds / 3, now + arguments.seconds, limit_s=arguments.limit)


async def with_ready(point: Point, watched: Future[list[float]]) -> Point:
    """The point with what was seen of /readyz meanwhile."""
    point.ready = sorted(await asyncio.wrap_future(watched))
    return point


async def closed(asker: Asker, clients: int, point: Point) -> None:
    """Each client asks again as soon as it has its answer."""

    async def be_client() -> None:
        while time.perf_counter() < point.end:
            await asker.ask(point)

    await asyncio.gather(*(be_client() for _ in range(clients)))


async def opened(asker: Asker, rate_per_s: float, point: Point) -> None:
    """Questions come at random times, whatever the server does."""
    rng, running, comes = random.Random(point.name), [], time.perf_counter()
    while comes < point.end:
        await asyncio.sleep(max(0.0, comes - time.perf_counter()))
        running.append(asyncio.create_task(asker.ask(point)))
        comes += rng.expovariate(rate_per_s)
    await asyncio.gather(*running)


class Asker:
    """Sends questions that nobody has asked before, over connections that are kept."""

    def __init__(self, port: int) -> None:
        self.port, self.asked = port, 0
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    def kept(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection that is open and idle, if there is one; the server closes those that were idle for long."""
        while self.idle:
            reader, writer = self.idle.pop()
            if not reader.at_eof():
                return reader, writer
        return None

    async def ask(self, point: Point) -> None:
        """One question; its end is noted in the point."""
        self.asked += 1
        question = f"{self.asked} {QUESTIONS[self.asked % len(QUESTIONS)]}"
        came = time.perf_counter()
        reader, writer = connection = self.kept() or await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request_bytes("/predict", json.dumps({"prompt": question}, ensure_ascii=False)))
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        body = json.loads(await reader.readexactly(int(fields["content-length"])))
        self.idle.append(connection)
        status = int(head.split(" ", 2)[1])
        if status == 429:
            point.retry_after.append(int(fields["retry-after"]))
        point.ends.append((came, time.perf_counter(), status, status == 200 and bool(body["response"][0])))


if __name__ == "__main__":
    sys.exit(main())
