"""The application: the routes around a service, and what its exceptions are in HTTP."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from gpuqa.engines import EngineFailed
from gpuqa.routes import contract, health
from gpuqa.service import NotReady, Service

log = logging.getLogger("gpuqa.serve")


def create_app(service: Service) -> FastAPI:
    """The application; the service runs as long as it does."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(title="gpuqa", lifespan=lifespan)
    app.include_router(contract.router(service, service.http))
    app.include_router(health.router(service))
    app.add_exception_handler(NotReady, not_ready)
    app.add_exception_handler(EngineFailed, engine_failed)
    return app


async def not_ready(_: Request, error: Exception) -> JSONResponse:
    """503, with the reason."""
    return JSONResponse({"detail": str(error)}, 503)


async def engine_failed(_: Request, error: Exception) -> JSONResponse:
    """503; the reason is for the log, not for the client."""
    log.error("the engine failed: %s", error)
    return JSONResponse({"detail": "the engine failed"}, 503)
