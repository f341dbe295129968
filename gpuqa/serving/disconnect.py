"""What a client may do with its connection: send a body of so many bytes, and go away.

ASGI tells an application that its client has gone only if it asks. This middleware asks while the answer is being made, and
cancels the request's task: whatever was computed for it, down to the engine's slots, is given back.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import HTTPException

from gpuqa.serving.telemetry import note


class Connection:
    """ASGI middleware around the application."""

    def __init__(self, app: Any, max_body_bytes: int) -> None:
        self.app, self.max_body_bytes = app, max_body_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = Body(receive, self.max_body_bytes, scope["headers"])
        sent_all = False

        async def send_and_look(message: Any) -> None:
            nonlocal sent_all
            await send(message)
            sent_all = message["type"] == "http.response.body" and not message.get("more_body", False)

        answering = asyncio.ensure_future(self.app(scope, body.receive, send_and_look))
        watching = asyncio.ensure_future(body.client_leaves())
        try:
            await asyncio.wait((answering, watching), return_when=asyncio.FIRST_COMPLETED)
            if sent_all:  # what ASGI calls a disconnect is then the end of the answer
                await answering
            if not answering.done():
                note(gone=True)
        finally:
            watching.cancel()
            if not answering.done():
                answering.cancel()
                await asyncio.wait((answering,))
        if not answering.cancelled():
            answering.result()  # an exception flies on


class Body:
    """A request's way in: hands the body on, then waits for the end of the connection."""

    def __init__(self, receive: Any, most: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._receive, self.most, self.size = receive, most, 0
        self.announced = next((int(value) for name, value in headers if name == b"content-length" and value.isdigit()), 0)
        self._read, self._gone = asyncio.Event(), asyncio.Event()

    async def receive(self) -> Any:
        """What the application gets of the body.

        Raises:
            HTTPException: 413, the body is larger than allowed.
        """
        if self._read.is_set():
            await self._gone.wait()
            return {"type": "http.disconnect"}
        if self.announced > self.most:
            raise self._too_large()
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._read.set()
            self._gone.set()
            return message
        self.size += len(message.get("body", b""))
        if self.size > self.most:
            raise self._too_large()
        if not message.get("more_body", False):
            self._read.set()
        return message

    async def client_leaves(self) -> None:
        """Return when the client has gone; ask only after its body was read, for a message is given once."""
        await self._read.wait()
        while not self._gone.is_set():
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._gone.set()

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the body is larger than http.max_body_bytes={self.most}")
