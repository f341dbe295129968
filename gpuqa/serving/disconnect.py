"""What happens when a client sends too large a body, or disconnects before its answer.

ASGI tells an application that its client has disconnected only if the application asks. This middleware asks while the answer
is being made, and cancels the request's task, so that the engine stops computing for it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import HTTPException

from gpuqa.serving.telemetry import note


class CancelOnDisconnect:
    """ASGI middleware: cancels the request of a client that has disconnected, and refuses a body that is too large (413)."""

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
                note(gone=True, reason="the client disconnected before its answer")
        finally:
            watching.cancel()
            if not answering.done():
                answering.cancel()
                await asyncio.wait((answering,))
        if not answering.cancelled():
            answering.result()  # raises what the application raised


class Body:
    """The body of a request: hands it on as the application asks for it, then waits for the end of the connection."""

    def __init__(self, receive: Any, limit: int, headers: list[tuple[bytes, bytes]]) -> None:
        """`limit` is in bytes."""
        self._receive, self.limit, self.size = receive, limit, 0
        self.announced = next((int(value) for name, value in headers if name == b"content-length" and value.isdigit()), 0)
        self.encoding = next((value.decode("latin-1").lower() for name, value in headers if name == b"content-encoding"), "")
        self._read, self._gone = asyncio.Event(), asyncio.Event()

    async def receive(self) -> Any:
        """What the application gets of the body.

        Raises:
            HTTPException: 413, the body is larger than allowed; 415, it is compressed.
        """
        if self._read.is_set():
            await self._gone.wait()
            return {"type": "http.disconnect"}
        if self.announced > self.limit:
            raise self._too_large()
        if self.encoding not in ("", "identity"):
            raise HTTPException(415, f"the body's Content-Encoding is {self.encoding!r:.40}, allowed is none: send it as it is")
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._read.set()
            self._gone.set()
            return message
        self.size += len(message.get("body", b""))
        if self.size > self.limit:
            raise self._too_large()
        if not message.get("more_body", False):
            self._read.set()
        return message

    async def client_leaves(self) -> None:
        """Return when the client has disconnected; asks only after the body was read, because ASGI gives each message once."""
        await self._read.wait()
        while not self._gone.is_set():
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._gone.set()

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the body is larger than http.max_body_bytes={self.limit} allows; send several requests")
