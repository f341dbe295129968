"""What does the server do under more load than it can take? A real `gpuqa.serve`, clients in a closed loop and in an open one.

    python experiments/speed/load.py frozen=experiments/embedded/frozen.yaml
    python experiments/speed/load.py frozen=FILE --seconds 60 --clients 1,64,256 --loads 0.5,1,2,3 http.deadline_s=10

Closed: each client sends its next question when it has its answer. The best rate of them is the capacity. Open: questions
come at random times (Poisson), at multiples of the capacity, whether there are answers or not. Goodput is what was answered
with text within the deadline, a second, from the moment the server is at capacity (the first third is not counted) to the last
arrival. Words with a dot go to `gpuqa.serve`. Exit code 0 if at 3 times the capacity (or the highest of --loads) the goodput
is within 5 % of its peak and no accepted question missed its deadline.
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
from dataclasses import dataclass, field
from pathlib import Path

from client import request_bytes

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = [row["instruction"] for row in json.loads((ROOT / "gpuqa/embedded/questions/test.json").read_text("utf-8"))]
HEAD = "| load | offered /s | goodput /s | of the peak | refused | late | failed | p50 s | p95 s | slowest s | retry after s |"


@dataclass
class Point:
    """One row: what was asked and what came of it. `ends`: (arrival, end, status, has text) on the clock of the point."""

    name: str
    begin: float
    end: float  # arrivals in between are counted
    ends: list[tuple[float, float, int, bool]] = field(default_factory=list)
    retry_after: list[int] = field(default_factory=list)
    deadline_s: float = 0.0

    def counted(self, status: int) -> list[float]:
        """Latencies of requests that arrived in the window and ended with a status."""
        return sorted(end - came for came, end, got, _ in self.ends if got == status and self.begin <= came <= self.end)

    @property
    def goodput(self) -> float:
        """Answers with text, in time, that ended in the window, a second."""
        good = [1 for came, end, got, text in self.ends if got == 200 and text and self.begin <= end <= self.end
                and end - came <= self.deadline_s]  # fmt: skip
        return len(good) / (self.end - self.begin)

    @property
    def late(self) -> int:
        """Accepted and answered without text, or after the deadline."""
        return sum(got == 200 and (not text or end - came > self.deadline_s) for came, end, got, text in self.ends)

    def row(self, peak: float) -> str:
        """A line of the table."""
        window = self.end - self.begin
        answered, refused = self.counted(200), self.counted(429)
        failed = sum(got not in (200, 429) for _, _, got, _ in self.ends)
        offered = sum(self.begin <= came <= self.end for came, *_ in self.ends) / window
        at = [f"{answered[int(len(answered) * share)]:.2f}" if answered else "-" for share in (0.5, 0.95)]
        slowest = f"{answered[-1]:.2f}" if answered else "-"
        waits = f"{min(self.retry_after)}-{max(self.retry_after)}" if self.retry_after else "-"
        return (
            f"| {self.name} | {offered:.1f} | {self.goodput:.1f} | {self.goodput / peak:.0%} | {len(refused)} | {self.late} | "
            f"{failed} | {at[0]} | {at[1]} | {slowest} | {waits} |"
        )


def main() -> int:
    """Serve, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", metavar="frozen=FILE http.KEY=VALUE")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each point")
    parser.add_argument("--clients", default="1,8,64")
    parser.add_argument("--loads", default="0.5,1,1.5,2,3", help="multiples of the best closed loop")
    parser.add_argument("--waiting", type=int, default=128, help="http.max_waiting_questions")
    parser.add_argument("--deadline", type=float, default=60.0, help="http.deadline_s")
    arguments = parser.parse_args()
    with serving(arguments) as port:
        points = asyncio.run(measure(port, arguments))
    peak = max(point.goodput for point in points)
    print("\n".join([HEAD, "| --- " * HEAD.count(" | ") + "| --- |", *(point.row(peak) for point in points)]))
    worst = points[-1]
    return int(worst.goodput < 0.95 * peak or bool(worst.late))


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


async def measure(port: int, arguments: argparse.Namespace) -> list[Point]:
    """All points, one after the other; each begins with an empty house."""
    points = []
    asker = Asker(port)
    for clients in map(int, arguments.clients.split(",")):
        points.append(await closed(asker, clients, arguments.seconds, arguments.deadline))
    capacity = max(point.goodput for point in points)
    for load in map(float, arguments.loads.split(",")):
        points.append(await opened(asker, load, capacity * load, arguments.seconds, arguments.deadline))
    return points


async def closed(asker: Asker, clients: int, seconds: float, deadline_s: float) -> Point:
    """Each client asks again as soon as it has its answer."""
    begun = time.perf_counter()
    point = Point(f"closed, {clients} clients", begun + seconds / 3, begun + seconds, deadline_s=deadline_s)

    async def be_client() -> None:
        while time.perf_counter() < point.end:
            await asker.ask(point)

    await asyncio.gather(*(be_client() for _ in range(clients)))
    return point


async def opened(asker: Asker, load: float, rate_per_s: float, seconds: float, deadline_s: float) -> Point:
    """Questions come at random times, whatever the server does."""
    begun, rng, running = time.perf_counter(), random.Random(load), []
    point = Point(f"open, {load:g} x capacity", begun + seconds / 3, begun + seconds, deadline_s=deadline_s)
    comes = begun
    while comes < point.end:
        await asyncio.sleep(max(0.0, comes - time.perf_counter()))
        running.append(asyncio.create_task(asker.ask(point)))
        comes += rng.expovariate(rate_per_s)
    await asyncio.gather(*running)
    return point


class Asker:
    """Sends questions that nobody has asked before, over connections that are kept."""

    def __init__(self, port: int) -> None:
        self.port, self.asked = port, 0
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, point: Point) -> None:
        """One question; its end is noted in the point."""
        self.asked += 1
        question = f"{self.asked} {QUESTIONS[self.asked % len(QUESTIONS)]}"
        came = time.perf_counter()
        connection = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = connection
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
