"""Clients that are slow, or hold a connection and finish nothing, and a watch on what /readyz says to others meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
SETTLES_S = 3.0  # until what they have sent is worked off: a burst is load, and no stall
STALLS = {  # what each of them sends before it falls silent
    "sends nothing": b"",
    "sends half a head": HEAD[:40],
    "sends half a body": HEAD % 100 + b'{"prompt": ["',
    "never reads": b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20,
}


@dataclass
class Watch:
    """How long GET /readyz took, on a connection of its own each time: (when, seconds) in seconds of the monotonic clock."""

    port: int
    stop: float
    seen: list[tuple[float, float]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Ask four times a second until the time is up."""
        while (began := time.monotonic()) < self.stop:
            try:
                status = ready(self.port)
                if status != 200:
                    self.failed.append(f"/readyz: {status}")
            except OSError as error:
                self.failed.append(f"/readyz: {type(error).__name__}")
            self.seen.append((began, time.monotonic() - began))
            time.sleep(0.25)

    def slowest(self, begin: float, end: float) -> tuple[float, float, float]:
        """Median, 99th percentile and maximum of those that were asked between two moments, in seconds."""
        seconds = sorted(took for began, took in self.seen if begin <= began < end)
        return seconds[len(seconds) // 2], seconds[int(0.99 * len(seconds))], seconds[-1]


def ready_seconds(port: int, begin: float, end: float) -> list[float]:
    """What /readyz took between two moments of the monotonic clock, in seconds; for a process of its own."""
    time.sleep(max(0.0, begin - time.monotonic()))
    watch = Watch(port, end)
    watch.run()
    assert not watch.failed, watch.failed[:3]
    return [took for _, took in watch.seen]


def ready(port: int) -> int:
    """The status of GET /readyz."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    finally:
        connection.close()


def cost_of_stalled(port: int, each: int, seconds: float) -> dict[str, dict[str, float]]:
    """What /readyz takes without anybody else, and beside so many clients of each kind of stall -> milliseconds."""
    time.sleep(SETTLES_S)
    costs = {"nobody": watched(port, seconds)}
    for name, sent in STALLS.items():
        with contextlib.ExitStack() as stack:
            for _ in range(each):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                connection.sendall(sent)
            time.sleep(SETTLES_S)
            costs[f"{each} clients: {name}"] = watched(port, seconds)
    with dripping(port, each):
        costs[f"{each} clients: a byte every 50 ms"] = watched(port, seconds)
    return costs


def watched(port: int, seconds: float) -> dict[str, float]:
    """/readyz for a while: median, 99th percentile and maximum in milliseconds."""
    begin = time.monotonic()
    watch = Watch(port, begin + seconds)
    watch.run()
    names = ("p50", "p99", "slowest")
    return dict(zip(names, (round(1000 * took, 1) for took in watch.slowest(begin, watch.stop)), strict=True))


@contextlib.contextmanager
def dripping(port: int, clients: int) -> Iterator[None]:
    """So many clients that send a head byte by byte and never end it."""
    done = threading.Event()
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(clients)]

        def drip() -> None:
            for place in range(10**6):
                for connection in connections:
                    with contextlib.suppress(OSError):  # the server may have closed it
                        connection.sendall(HEAD[place : place + 1] or b"x")
                if done.wait(0.05):
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def send_slowly(port: int, body: bytes, pause_s: float) -> int:
    """The status of a request whose head comes in four pieces."""
    head = HEAD % len(body)
    with socket.create_connection(("127.0.0.1", port), timeout=330) as connection:
        for place in range(0, len(head), len(head) // 3):
            connection.sendall(head[place : place + len(head) // 3])
            time.sleep(pause_s)
        connection.sendall(body)
        return status_of(connection)


def send_and_half_close(port: int, body: bytes) -> int:
    """The status of a request whose client closes its sending side at once."""
    with socket.create_connection(("127.0.0.1", port), timeout=330) as connection:
        connection.sendall(HEAD % len(body) + body)
        connection.shutdown(socket.SHUT_WR)
        return status_of(connection)


def status_of(connection: socket.socket) -> int:
    """The status of the answer, all of which is read."""
    reply = http.client.HTTPResponse(connection)
    reply.begin()
    reply.read()
    return reply.status
