"""Why a request is refused: one sentence, which stands in the answer and in the request's log line, and its HTTP status.

The answer is {"detail": sentence}, and under /v1 OpenAI's shape.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from gpuqa.engines import EngineFailed
from gpuqa.serving.admission import Refused
from gpuqa.serving.openai_errors import CODES, ApiError
from gpuqa.serving.service import NotReady
from gpuqa.serving.telemetry import note, plain, route_path

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


def refusal(error: Exception, request: Request) -> ApiError:
    """Status, sentence, field and headers of each exception that refuses a request."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        where, sentence = invalid(error, request)
        return ApiError(422, sentence, where, "invalid_value")
    if isinstance(error, HTTPException):
        code = CODES.get(error.status_code, "invalid_body")
        return with_headers(ApiError(error.status_code, unserved(error, request), code=code), error.headers)
    return failure(error)


def failure(error: Exception) -> ApiError:
    """The same for what goes wrong while an answer is made; what an engine died of is for the log, not for the client."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Refused):
        return with_headers(ApiError(429, str(error), code="rate_limit_exceeded"), {"Retry-After": str(error.retry_after_s)})
    if isinstance(error, NotReady | EngineFailed):
        reason = str(error) if isinstance(error, NotReady) else "the engine failed"
        if isinstance(error, EngineFailed):
            log.error("the engine failed: %s", error)
        return with_headers(ApiError(503, reason, code="unavailable"), {"Retry-After": "5"})
    return ApiError(500, "this server failed; its log says why", code="failed")


def with_headers(error: ApiError, headers: Mapping[str, str] | None) -> ApiError:
    """The error with headers of its answer."""
    error.headers.update(headers or {})
    return error


ANSWERED = (ApiError, RequestValidationError, NotReady, Refused, EngineFailed, HTTPException, Exception)  # by `refuse`


async def refuse(request: Request, error: Exception) -> JSONResponse:
    """The answer to a request that is refused."""
    known = refusal(error, request)
    note(reason=str(known), **({"param": plain(known.param)} if known.param else {}))
    if is_openai(request.scope):
        status = 400 if isinstance(error, RequestValidationError) else known.status  # OpenAI has no 422
        return JSONResponse(known.body, status, headers=known.headers)
    shape = f"; {SHAPE}" if isinstance(error, RequestValidationError) else ""
    note(reason=f"{known}{shape}")
    return JSONResponse({"detail": f"{known}{shape}"}, known.status, headers=known.headers)


def is_openai(scope: Mapping[str, Any]) -> bool:
    """Whether a request is for OpenAI's API."""
    return f"{route_path(scope)}/".startswith("/v1/")


def unserved(error: HTTPException, request: Request) -> str:
    """Why nothing serves this request, or why its body cannot be read."""
    place = f"{request.method} {request.scope['path']!r:.100}"
    if error.status_code == 404 and error.detail == "Not Found":
        routes = [route for route in request.app.routes if getattr(route, "include_in_schema", False)]
        known = ", ".join(sorted(f"{min(route.methods)} {route.path_format}" for route in routes))
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
    allowed = " or ".join(dict.fromkeys(ALLOWED[detail["type"]] for detail in nearest if detail["type"] in ALLOWED))
    got = KINDS.get(type(nearest[0]["input"]), "something else")
    return where, f"{where}: got {got}, allowed is {allowed}" if allowed else f"{where}: {nearest[0]['msg']}"
