"""Limits that hold before there is a request for the application to look at, on top of uvicorn's own protocol.

uvicorn closes a connection that is idle after an answer (`KEEP_ALIVE_S`). It bounds neither the bytes of a request's head (h11
does, httptools does not), nor the time until a request is complete, nor the number of connections in a way that leaves health
checks alone. So each connection here is *waiting* from its first moment until a request of its client is complete, and again
from the first byte of the next one. One that waits too long, or sends too much before the end of a head, is closed. Where there
are too many connections, the one that waits longest is closed, so that a new client gets in; while none waits, because all are
being answered, only what `free` names is answered.

A client that closes only its sending side gets its answer, too. On the wire that looks like one that has gone; "100 Continue",
which every client skips, makes the difference: the kernel of one that has gone refuses it.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from gpuqa.config.http import HttpConfig
from gpuqa.serving.telemetry import route_path

KEEP_ALIVE_S = 75  # longer than load balancers keep an idle connection: a server that closes first may lose a request
OTHER_FILES = 256  # that this process opens beside its connections
SPARE = 32  # connections above the limit, for health checks while all others are being answered
BEHIND = 32  # requests of a connection that may wait behind the one that is being answered
SAY_EVERY_S = 60.0
LOOK_EVERY_S = 0.5

log = logging.getLogger("gpuqa.serve")


class Connections:
    """All connections of a server."""

    def __init__(self, http: HttpConfig) -> None:
        self.http, self.limit = http, affordable(http.max_connections)
        self.open: set[Connection] = set()
        self.waiting: dict[Connection, None] = {}  # for a complete request, the one that waits longest first
        self._said_at = -SAY_EVERY_S

    def uvicorn_settings(self) -> dict[str, Any]:
        """The keyword arguments of `uvicorn.Config` that put these limits in force."""
        sizes = {"h11_max_incomplete_event_size": self.http.max_head_bytes}
        return {"http": partial(Connection, self), "ws": "none", "timeout_keep_alive": KEEP_ALIVE_S, **sizes}

    @property
    def crowded(self) -> bool:
        """Whether there are too many, and all of them are being answered or have sent the head of a request."""
        return len(self.open) > self.limit and all(connection.has_head() for connection in self.waiting)

    def add(self, new: Connection) -> None:
        """Note a connection; close another one, or this one, where there are too many."""
        self.open.add(new)
        if len(self.open) > self.limit:
            self._say()
            if longest := next(iter(self.waiting), None):
                longest.end("there are too many connections")
            elif len(self.open) > self.limit + SPARE:
                new.end("there are too many connections")
        self.waiting[new] = None

    def remove(self, gone: Connection) -> None:
        """Forget a connection."""
        self.open.discard(gone)
        self.waiting.pop(gone, None)

    def end_waiting(self) -> None:
        """Close what waits for a request, at the end of the server: a half request would keep it for seconds."""
        for connection in list(self.waiting):
            connection.end("this server ends", 503)

    def _say(self) -> None:
        if time.monotonic() - self._said_at > SAY_EVERY_S:
            self._said_at = time.monotonic()
            log.warning("http.max_connections: all %d are taken; those that wait longest for a request are closed", self.limit)


def affordable(connections: int) -> int:
    """So many connections as this process may have, after it has raised its limit of open files as far as it needs and may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE + OTHER_FILES
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < wanted:
        soft = wanted if hard == unlimited else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == unlimited or soft >= wanted:
        return connections
    fewer = max(1, soft - SPARE - OTHER_FILES)
    log.warning("http.max_connections=%d is %d here: this process may open %d files (ulimit -n)", connections, fewer, soft)
    return fewer


class Connection(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
    """uvicorn's protocol of one connection, with an end to its patience."""

    def __init__(self, limits: Connections, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self.limits = limits
        self.clock: asyncio.TimerHandle | None = None  # runs while a request is awaited
        self.head_bytes: int | None = None  # of a head that is not complete yet
        self.has_begun = False  # whether a part of the awaited request has come
        self.answered: Any = None  # uvicorn's cycle that is being answered; `cycle` is of the request that came last

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.limits.add(self)
        self._await_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.head_bytes is not None:
            self.head_bytes += len(data)
            if self.head_bytes > self.limits.http.max_head_bytes:
                self.end("the head of the request is larger than http.max_head_bytes allows", 431)
        self.has_begun = not self.is_answering()
        if self.has_begun:
            self._await_request()
        else:
            self._stop_clock()
            self.limits.waiting.pop(self, None)

    def on_message_begin(self) -> None:  # httptools calls these two; h11 bounds a head by itself
        if len(self.pipeline) >= BEHIND:
            raise ValueError("too many requests at once")  # ends the parser: uvicorn says 400 and closes the connection
        super().on_message_begin()
        self.head_bytes = 0

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.head_bytes = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing() and not self.is_answering():
            self.limits.waiting[self] = None  # without a clock: uvicorn closes an idle one

    def eof_received(self) -> bool | None:
        """Keep the connection of a client that still listens, until it has its answer."""
        if not self.is_answering():
            return None
        self.cycle.keep_alive = False
        is_next = self.answered in (None, self.cycle) and not self.cycle.response_started
        if is_next and self.cycle.scope["http_version"] == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.loop.call_later(LOOK_EVERY_S, self._look_after_client)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        self.limits.remove(self)
        super().connection_lost(exc)
        if self.answered is not None and not self.answered.response_complete:  # uvicorn tells it to the last request alone
            self.answered.disconnected = True
            self.answered.message_event.set()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:  # httptools calls it; h11 takes one request at a time
        self.answered = cycle
        super()._start_asgi_task(cycle, app)

    def end(self, reason: str, status: int = 408) -> None:
        """Close it; a client that has sent a part of a request is told why."""
        if self.transport.is_closing():
            return
        was_answered_early = self.cycle is not None and self.cycle.more_body and self.cycle.response_started
        tell = self.has_begun and not was_answered_early
        client = self.client[0] if self.client else "a client"
        log.log(logging.INFO if tell else logging.DEBUG, "the connection of %s is closed: %s", client, reason)
        if tell:
            head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nconnection: close\r\ncontent-length: {len(reason) + 1}"
            self.transport.write(f"{head}\r\ncontent-type: text/plain\r\n\r\n{reason}\n".encode())
        self.transport.close()
        self.limits.remove(self)

    def has_head(self) -> bool:
        """Whether there is a request without a complete answer whose head, at least, is here."""
        return self.cycle is not None and not self.cycle.response_complete

    def is_answering(self) -> bool:
        """Whether there is a complete request that has no complete answer yet."""
        return self.has_head() and not self.cycle.more_body

    def _await_request(self) -> None:
        if self.clock is None and not self.transport.is_closing():
            self.limits.waiting[self] = None
            timeout_s = self.limits.http.request_timeout_s
            self.clock = self.loop.call_later(timeout_s, self.end, f"no complete request came in {timeout_s:g} s")

    def _stop_clock(self) -> None:
        if self.clock is not None:
            self.clock.cancel()
            self.clock = None

    def _look_after_client(self) -> None:
        """Close the connection of a client that has gone: its kernel has said so to ours."""
        if self.transport.is_closing():
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        elif self.is_answering():
            self.loop.call_later(LOOK_EVERY_S, self._look_after_client)


class RefuseCrowd:
    """ASGI middleware: 503 for everything but the paths in `free` while there are too many connections to answer."""

    def __init__(self, app: Any, connections: Connections, free: Sequence[str], deny: Callable[..., Awaitable[Any]]) -> None:
        """`deny` makes the answer out of the request and the exception."""
        self.app, self.connections, self.free, self.deny = app, connections, free, deny

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or route_path(scope) in self.free or not self.connections.crowded:
            await self.app(scope, receive, send)
            return
        headers = {"Retry-After": "1", "Connection": "close"}
        reason = "all connections of this server are being answered (http.max_connections)"
        answer = await self.deny(Request(scope), HTTPException(503, reason, headers))
        await answer(scope, receive, send)
