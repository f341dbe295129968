"""The application: the routes around a service, and the middleware around every request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware

from gpuqa import __version__
from gpuqa.serving.auth import Keys, RequireKey
from gpuqa.serving.connections import Connections, RefuseCrowd
from gpuqa.serving.disconnect import CancelOnDisconnect
from gpuqa.serving.ignored import EMPTY_HEADER, HEADER, Ignored
from gpuqa.serving.refusals import ANSWERED, refuse
from gpuqa.serving.routes import contract, docs, health, info, openai, page
from gpuqa.serving.service import Service
from gpuqa.serving.telemetry import RequestTelemetry

POLLED = ("/", "/health", "/livez", "/readyz", "/metrics")
FREE = (*POLLED, "/ui")  # no key is needed for these, nor for what is below /ui


def create_app(service: Service, keys: Keys | None = None, connections: Connections | None = None) -> FastAPI:
    """The application; the service runs as long as it does.

    Without `keys`, every client may call everything. `connections` are those of its server.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    http, ignored = service.http, Ignored()
    app = FastAPI(
        title="gpuqa",
        version=__version__,
        lifespan=lifespan,
        root_path=http.root_path,
        docs_url=None,  # FastAPI's own pages load scripts from the network
        redoc_url=None,
        strict_content_type=False,  # a body without a content type is taken for JSON
    )
    app.include_router(contract.router(service, http, ignored))
    app.include_router(health.router(service))
    app.include_router(info.router(service))
    app.include_router(openai.router(service, ignored))
    app.include_router(page.router())
    app.include_router(docs.router(app.openapi))
    service.telemetry.expect(route.path for route in app.routes if isinstance(route, APIRoute))
    for kind in ANSWERED:
        app.add_exception_handler(kind, refuse)
    app.add_middleware(CancelOnDisconnect, max_body_bytes=http.max_body_bytes)  # the innermost; the last is the outermost
    app.add_middleware(HeadAsGet)
    if keys is not None:
        app.add_middleware(RequireKey, keys=keys, free=FREE, deny=refuse)
    if connections is not None:
        app.add_middleware(RefuseCrowd, connections=connections, free=POLLED, deny=refuse)
    if http.cors_origins:
        shown = ["X-Request-ID", "Retry-After", HEADER, EMPTY_HEADER]
        app.add_middleware(
            CORSMiddleware, allow_origins=http.cors_origins, allow_methods=["*"], allow_headers=["*"], expose_headers=shown
        )
    app.add_middleware(RequestTelemetry, telemetry=service.telemetry, polled=POLLED)
    return app


class HeadAsGet:
    """ASGI middleware: a HEAD is handled as the GET of the same path; the server leaves the body out."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        as_get = {**scope, "method": "GET"}
        try:
            await self.app(as_get, receive, send)
        finally:
            scope["route"] = as_get.get("route")  # for the telemetry
