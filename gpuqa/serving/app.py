"""The application: the routes around a service, the middleware around every request, and the HTTP status of each exception."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from gpuqa import __version__
from gpuqa.engines import EngineFailed
from gpuqa.serving.admission import Refused
from gpuqa.serving.auth import Keys, RequireKey
from gpuqa.serving.disconnect import CancelOnDisconnect
from gpuqa.serving.routes import contract, health, info, openai, page
from gpuqa.serving.service import NotReady, Service
from gpuqa.serving.telemetry import RequestTelemetry

log = logging.getLogger("gpuqa.serve")
POLLED = ("/", "/livez", "/readyz", "/metrics")
FREE = (*POLLED, "/ui")  # no key is needed for these, nor for what is below /ui


def create_app(service: Service, facts: dict[str, Any] | None = None, keys: Keys | None = None) -> FastAPI:
    """The application; the service runs as long as it does.

    `facts` are shown at /info. Without `keys`, every client may call everything.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(title="gpuqa", version=__version__, lifespan=lifespan)
    app.include_router(contract.router(service, service.http))
    app.include_router(health.router(service))
    app.include_router(info.router(service, facts or {}))
    app.include_router(openai.router(service, (facts or {}).get("frozen", {}).get("digest")))
    app.include_router(page.router())
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(NotReady, not_ready)
    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(EngineFailed, engine_failed)
    app.add_middleware(
        CancelOnDisconnect, max_body_bytes=service.http.max_body_bytes
    )  # the innermost; the last is the outermost
    if keys is not None:
        app.add_middleware(RequireKey, keys=keys, free=FREE)
    app.add_middleware(RequestTelemetry, telemetry=service.telemetry, polled=POLLED)
    return app


async def invalid(_: Request, error: Exception) -> JSONResponse:
    """422, where and why; without the input, which may be large, and may be something that JSON cannot hold."""
    assert isinstance(error, RequestValidationError)
    details = [{key: detail[key] for key in ("type", "loc", "msg")} for detail in error.errors()]
    return JSONResponse({"detail": details}, 422)


async def not_ready(_: Request, error: Exception) -> JSONResponse:
    """503, with the reason."""
    return JSONResponse({"detail": str(error)}, 503, headers={"Retry-After": "5"})


async def refused(_: Request, error: Exception) -> JSONResponse:
    """429, and in how many seconds to ask again."""
    assert isinstance(error, Refused)
    return JSONResponse({"detail": str(error)}, 429, headers={"Retry-After": str(error.retry_after_s)})


async def engine_failed(_: Request, error: Exception) -> JSONResponse:
    """503; the reason is for the log, not for the client."""
    log.error("the engine failed: %s", error)
    return JSONResponse({"detail": "the engine failed"}, 503, headers={"Retry-After": "5"})
