"""The process that serves: uvicorn, its signals, and the files that it follows."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from contextvars import Context
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from gpuqa.config import UserError
from gpuqa.machine.child_processes import kill_children
from gpuqa.serving.app import create_app
from gpuqa.serving.auth import Keys
from gpuqa.serving.connections import Connections
from gpuqa.serving.service import Service

Follow = Callable[[], Coroutine[Any, Any, None]]
LAST_BYTES_S = 5  # for answers that slow clients are still reading when everything else has ended
LOOK_EVERY_S = 1.0  # between two looks at the frozen file
log = logging.getLogger("gpuqa.serve")


class Server(uvicorn.Server):
    """uvicorn, which drains the service on the first signal while health checks are answered, and ends at the second."""

    def __init__(self, service: Service, keys: Keys | None, frozen: str, follow: Follow) -> None:
        """`follow`: serves the winner that the file `frozen` holds now. At SIGHUP, and with `http.watch_frozen`."""
        http, connections = service.http, Connections(service.http)
        settings: dict[str, Any] = {"timeout_graceful_shutdown": LAST_BYTES_S, "log_config": None, "access_log": False}
        app = create_app(service, keys, connections)
        app.openapi()  # made once, and now: it would cost the others of the first client who asks a third of a second
        super().__init__(uvicorn.Config(app, host=http.host, port=http.port, **settings, **connections.uvicorn_settings()))
        self.service, self.keys, self.connections = service, keys, connections
        self.frozen, self.follow = frozen, follow
        self._following: set[asyncio.Task[None]] = set()
        self._signalled = False
        self._draining: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        if self.service.http.watch_frozen:
            self._begin(self._watch())
        await super().serve(sockets)

    def handle_exit(self, sig: int, _: FrameType | None) -> None:
        if self._signalled:
            kill_children(set())
            os._exit(128 + sig)
        self._signalled = True
        self._loop.call_soon_threadsafe(self._begin_to_end, context=Context())  # that of no request, whichever it interrupts

    def _hang_up(self) -> None:
        """Read the files again that this server was started with."""
        self._read_keys()
        self._begin(self.follow())

    def _begin(self, doing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(doing)
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    async def _watch(self) -> None:
        """Follow the frozen file whenever it has changed, and is no longer being written."""
        file = Path(self.frozen)
        served = seen = stamp_of(file)
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = stamp_of(file)
            if now is not None and now == seen != served:
                served = now
                await self.follow()
            seen = now

    def _read_keys(self) -> None:
        """Take the keys that their file holds now; where it holds none, those before stay."""
        try:
            count = self.keys.read_again() if self.keys is not None else None
        except UserError as error:
            log.error("SIGHUP: the keys stay as they were: %s", error)
        else:
            log.info("SIGHUP: %s", "there are no keys to read again" if count is None else f"{count} keys are accepted now")

    def _begin_to_end(self) -> None:
        for task in self._following:
            task.cancel()
        self._draining = asyncio.create_task(self._drain())  # kept: the loop holds tasks weakly

    async def _drain(self) -> None:
        await self.service.drain()
        self.connections.end_waiting()
        self.should_exit = True


def stamp_of(file: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written or another one takes its place; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
