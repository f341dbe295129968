"""The application: the routes around a service, and the middleware around every request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from gpuqa import __version__
from gpuqa.serving.auth import Keys, RequireKey
from gpuqa.serving.disconnect import CancelOnDisconnect
from gpuqa.serving.refusals import ANSWERED, refuse
from gpuqa.serving.routes import contract, health, info, openai, page
from gpuqa.serving.service import Service
from gpuqa.serving.telemetry import RequestTelemetry

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
    service.telemetry.expect(route.path for route in app.routes if isinstance(route, APIRoute))
    for kind in ANSWERED:
        app.add_exception_handler(kind, refuse)
    app.add_middleware(
        CancelOnDisconnect, max_body_bytes=service.http.max_body_bytes
    )  # the innermost; the last is the outermost
    if keys is not None:
        app.add_middleware(RequireKey, keys=keys, free=FREE)
    app.add_middleware(RequestTelemetry, telemetry=service.telemetry, polled=POLLED)
    return app
