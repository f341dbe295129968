"""Why a request is refused: one sentence, which stands in the answer and in the request's log line, and its HTTP status."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from gpuqa.engines import EngineFailed
from gpuqa.serving.admission import Refused
from gpuqa.serving.service import NotReady
from gpuqa.serving.telemetry import note

log = logging.getLogger("gpuqa.serve")
KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}
ALLOWED = {  # by pydantic's name of an error
    "string_type": "text",
    "list_type": "a list",
    "bool_type": "true or false",
    "int_type": "an integer",
    "float_type": "a number",
    "model_attributes_type": "an object",
    "model_type": "an object",
    "dict_type": "an object",
}
SHAPE = 'send {"prompt": "..."} or {"prompt": ["...", ...]} as application/json'


def answer(error: Exception, request: Request) -> tuple[int, str, Mapping[str, str]]:
    """Status, sentence and headers of each exception that refuses a request."""
    if isinstance(error, RequestValidationError):
        return 422, f"{invalid(error, request)[1]}; {SHAPE}", {}
    if isinstance(error, Refused):
        return 429, str(error), {"Retry-After": str(error.retry_after_s)}
    if isinstance(error, HTTPException):
        return error.status_code, unserved(error, request), error.headers or {}
    if isinstance(error, EngineFailed):  # its reason is for the log, not for the client
        log.error("the engine failed: %s", error)
        return 503, "the engine failed", {"Retry-After": "5"}
    return 503, str(error), {"Retry-After": "5"}


ANSWERED = (RequestValidationError, NotReady, Refused, EngineFailed, HTTPException)  # what `answer` knows


async def refuse(request: Request, error: Exception) -> JSONResponse:
    """The answer to a request that is refused."""
    status, sentence, headers = answer(error, request)
    note(reason=sentence)
    return JSONResponse({"detail": sentence}, status, headers=dict(headers))


def unserved(error: HTTPException, request: Request) -> str:
    """Why nothing serves this request, or why its body cannot be read."""
    place = f"{request.method} {request.scope['path']!r:.100}"
    if error.status_code == 404:
        routes = [route for route in request.app.routes if getattr(route, "include_in_schema", False)]
        known = ", ".join(sorted(f"{min(route.methods)} {route.path}" for route in routes))
        return f"there is no {place}; there are {known}, GET /ui"
    if error.status_code == 405:
        return f"{place} is not allowed; allowed is {(error.headers or {}).get('Allow', 'another method')}"
    return "the body cannot be read as JSON" if error.status_code == 400 else str(error.detail)


def invalid(error: RequestValidationError, request: Request) -> tuple[str | None, str]:
    """Where a body is wrong (None for all of it), and a sentence that says so.

    It does not quote the value, which may be large, or be something that JSON cannot hold. Where a value may have several
    forms, pydantic tells an error for each; the one that lies deepest is the nearest.
    """
    details = error.errors()
    depth = max(len(detail["loc"]) for detail in details)
    nearest = [detail for detail in details if len(detail["loc"]) == depth]
    kind, location = nearest[0]["type"], nearest[0]["loc"]
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if location == ("body",) and error.body and not content_type.endswith(("/json", "+json")):
        return None, f"the Content-Type is {repr(content_type) if content_type else 'absent':.100}, allowed is application/json"
    if kind == "json_invalid":
        return None, f"the body is not valid JSON: {nearest[0]['ctx']['error']} (at character {location[1]})"
    if location == ("body",):
        return (
            None,
            f"the body is {'empty or null' if kind == 'missing' else KINDS.get(type(nearest[0]['input']), 'no object')}",
        )
    where = ".".join(str(part) for part in location[1:] if "[" not in str(part) and part != "str")
    if kind == "missing":
        return where, f"{where}: is missing"
    allowed = " or ".join(ALLOWED[detail["type"]] for detail in nearest if detail["type"] in ALLOWED)
    got = KINDS.get(type(nearest[0]["input"]), "something else")
    return where, f"{where}: got {got}, allowed is {allowed}" if allowed else f"{where}: {nearest[0]['msg']}"
