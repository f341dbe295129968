"""How many values a body may hold. Its bytes do not bound what it costs: 8 MiB of `[],[],...` are three million lists, which
keep the event loop, and with it every other client, for seconds. A question is one value, however long it is."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gpuqa.serving.telemetry import note

BESIDE_QUESTIONS = 20_000  # values of the other fields, or of an unusual but honest request


def bounded_route(max_questions: int) -> type[APIRoute]:
    """A kind of route that refuses a body of too many values (413) before it is parsed: four for each question, and some."""
    limit = 4 * max_questions + BESIDE_QUESTIONS

    class BoundedRoute(APIRoute):
        """Looks at the body, then does what every route does."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def look_and_handle(request: Request) -> Response:
                try:
                    body = await request.body()
                except ClientDisconnect:
                    note(gone=True, reason="the client disconnected before its request was complete")
                    return Response(status_code=400)  # nobody reads it
                if holds_more_values(body, limit):
                    allowed = f"about {limit} (four for each of http.max_questions_per_request, and {BESIDE_QUESTIONS})"
                    raise HTTPException(413, f"the body holds too many values, allowed are {allowed}; send several requests")
                return await handle(request)

            return look_and_handle

    return BoundedRoute


def holds_more_values(body: bytes, limit: int) -> bool:
    """Whether a JSON body holds more values than `limit`, or half of it for lists and objects; milliseconds for each MiB."""
    if separators(body) <= limit:
        return False
    most = 4 * (limit + 1)  # quotation marks: a value is one text at most, and may have a name
    pieces = body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"', most)
    return len(pieces) > most or separators(b"".join(pieces[::2])) > limit  # every second piece is outside of the texts


def separators(body: bytes) -> int:
    """Commas and opening brackets: at least one for each value but the first; a list or an object may have two."""
    return sum(body.count(separator) for separator in (b",", b"[", b"{"))
