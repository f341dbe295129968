"""Does any request bring the server down? Many odd ones (`wild_requests.py`) on real connections, and what is left behind.

    PYTHONPATH=.:tests python experiments/serving/fuzz.py --requests 100000
    PYTHONPATH=.:tests python experiments/serving/fuzz.py --requests 5000 frozen=experiments/embedded/frozen.yaml

Without `frozen=` the engine is the stand-in of the tests, which answers at once: what is tested are the ways in, with
http.openai=lenient. With it, a real `gpuqa.serve` with its engine is asked. Allowed are 2xx, 3xx (a path with a slash too
many), 4xx, and 429 and 503 with Retry-After. Exit code 0 if nothing else came, every complete request was answered within ten
seconds of the one before it on its connection, the log holds no traceback, and no file, task or question in flight was left. A
failure names the number of its request: --seed and --first send it again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import logging
import multiprocessing
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from wild_requests import Wild, draw

SPEED = Path(__file__).resolve().parents[1] / "speed"
PATIENCE_S = 10.0
LEAVES_AFTER_S = 0.05  # a client that has sent no complete request
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Z](?:.|\r\n(?!\r\n))*?(?:\r\n\r\n|$)")  # a head
SPARE_FILES = 5  # connections that are being closed when files are counted


@dataclass
class Outcome:
    """What came back."""

    statuses: Counter[str] = field(default_factory=Counter)  # by kind and status
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


def main() -> int:
    """Exit code 0 if all went as it should; the numbers are printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="frozen=FILE http.KEY=VALUE")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first request")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--log", help="a file that keeps the server's log")
    arguments = parser.parse_args()
    numbers = range(arguments.first, arguments.first + arguments.requests)
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        server = real(arguments.overrides, Path(log.name)) if arguments.overrides else stand_in(Path(log.name))
        with server as (port, process):
            began = time.perf_counter()
            asyncio.run(send_all(port, arguments.seed, range(min(200, len(numbers))), arguments.clients))  # what is made once
            before = counted(port, process) | {"in_flight": 0.0}  # one that is answered now will have been, later
            outcome = asyncio.run(send_all(port, arguments.seed, numbers, arguments.clients))
            seconds = time.perf_counter() - began
            after = settled(port, process, before)
        said = Path(log.name).read_text("utf-8")
        if arguments.log:
            Path(arguments.log).write_text(said, "utf-8")
    failures = outcome.failures + left(before, after) + tracebacks(said)
    by_status = Counter[str]()
    for key, count in outcome.statuses.items():
        by_status[key.rpartition(" ")[2]] += count
    print("\n".join(f"{key}: {count}" for key, count in sorted(outcome.statuses.items())))
    print("\n".join(failures[:20]))
    numbers_of_run = {"requests": len(numbers), "seconds": round(seconds), "statuses": by_status, "failures": len(failures)}
    print(json.dumps({**numbers_of_run, "slowest_s": round(outcome.slowest_s, 2), "before": before, "after": after}))
    return int(bool(failures))


async def send_all(port: int, seed: int, numbers: range, clients: int) -> Outcome:
    """Send the requests of these numbers, so many at a time."""
    outcome, waiting = Outcome(), iter(numbers)

    async def be_client() -> None:
        for number in waiting:
            wild = draw(seed, number)
            began = time.perf_counter()
            answer = await exchange(port, wild)
            outcome.slowest_s = max(outcome.slowest_s, time.perf_counter() - began)
            outcome.failures += [f"request {number}: {wild.kind}: {what}: {wild.sent[:200]!r}" for what in faults(wild, answer)]
            for status in statuses(answer or b"") or ["none"]:
                outcome.statuses[f"{wild.kind} {status}"] += 1

    await asyncio.gather(*(be_client() for _ in range(clients)))
    return outcome


async def exchange(port: int, wild: Wild) -> bytes | None:
    """What the server says until it closes the connection; None if it does not in time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    read = bytearray()
    try:
        writer.write(wild.sent)
        async with asyncio.timeout(PATIENCE_S * wild.requests if wild.complete else LEAVES_AFTER_S):
            while piece := await reader.read(65536):
                read += piece
    except TimeoutError:
        return None if wild.complete else bytes(read)
    except ConnectionError:  # the server refused before it had read all
        return bytes(read)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return bytes(read)


def statuses(answer: bytes) -> list[str]:
    """The statuses of an answer's heads."""
    return [head[1].decode() for head in STATUS.finditer(answer)]


def faults(wild: Wild, answer: bytes | None) -> list[str]:
    """What is wrong with an answer."""
    if answer is None:
        return [f"no end within {PATIENCE_S * wild.requests:g} s"]
    heads = list(STATUS.finditer(answer))
    found = [f"status {head[1].decode()}" for head in heads if not allowed(head[1], head[0].lower())]
    return found or (["no answer"] if wild.complete and not heads else [])


def allowed(status: bytes, head: bytes) -> bool:
    """Whether a server may answer so."""
    if status in (b"429", b"503"):
        return b"\r\nretry-after: " in head
    return status[:1] in b"234" or status == b"100"


def counted(port: int, process: Any) -> dict[str, float]:
    """What the server has open: files, questions in flight, and tasks where it tells."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics", headers={"Connection": "close"})
    lines = connection.getresponse().read().decode().splitlines()
    asked = next(float(line.split()[1]) for line in lines if line.startswith("gpuqa_questions_in_flight "))
    return {"files": psutil.Process(process.pid).num_fds(), "in_flight": asked, "tasks": process.tasks()}


def settled(port: int, process: Any, before: dict[str, float]) -> dict[str, float]:
    """The same after the last client has gone: the server has ten seconds to notice it."""
    end = time.monotonic() + 10
    while left(before, after := counted(port, process)) and time.monotonic() < end:
        time.sleep(0.2)
    return after


def left(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """What has grown."""
    spare = {"files": SPARE_FILES, "tasks": SPARE_FILES, "in_flight": 0}
    return [f"left: {after[name] - before[name]:g} {name}" for name in before if after[name] > before[name] + spare[name]]


def tracebacks(log: str) -> list[str]:
    """Lines of the log that tell of an error in the server."""
    lines = log.splitlines()
    return [f"log: {line[:300]}" for line in lines if "Traceback" in line or " ERROR " in line or '"level": "ERROR"' in line]


@dataclass
class Process:
    """The server's process."""

    pid: int
    questions: Any = None  # a connection over which a stand-in tells the number of its tasks

    def tasks(self) -> int:
        """Tasks of its event loop; 0 where it does not tell."""
        if self.questions is None:
            return 0
        self.questions.send("tasks")
        return int(self.questions.recv())


@contextlib.contextmanager
def stand_in(log: Path) -> Iterator[tuple[int, Process]]:
    """The application with its usual limits and the stand-in engine of the tests, in a process of its own."""
    ours, its = multiprocessing.get_context("spawn").Pipe()
    child = multiprocessing.get_context("spawn").Process(target=serve_stand_in, args=(its, str(log)))
    child.start()
    try:
        port = ours.recv()
        yield port, Process(int(child.pid or 0), ours)
    finally:
        ours.send("end")
        child.join()


def serve_stand_in(asked: Any, log: str) -> None:
    """Serve until the other side of the connection says "end"; answer "tasks" by their number."""
    from stand_in_service import ScriptedEngine, scripted, serving

    from gpuqa.config.http import HttpConfig, OpenAI
    from gpuqa.records import Generation

    logging.basicConfig(filename=log, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    engine = ScriptedEngine(lambda _: Generation([100, 200, 300], "stop"))
    engine.open.set()
    with serving(scripted(engine), HttpConfig(openai=OpenAI.lenient)) as served:  # more requests come as far as an answer
        served.wait_for((200, {"status": "batch"}))
        asked.send(served.port)
        while asked.recv() != "end":
            asked.send(len(asyncio.all_tasks(engine.loop)))


@contextlib.contextmanager
def real(overrides: list[str], log: Path) -> Iterator[tuple[int, Process]]:
    """A real `gpuqa.serve`."""
    sys.path.insert(0, str(SPEED))
    from load import serving

    limits = argparse.Namespace(overrides=overrides, waiting=4096, deadline=330.0, log=log)
    with serving(limits) as port:
        [server] = [child for child in psutil.Process().children() if "gpuqa.serve" in " ".join(child.cmdline())]
        yield port, Process(server.pid)


if __name__ == "__main__":
    sys.exit(main())
