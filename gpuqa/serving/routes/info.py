"""What is running here.

GET /info     which frozen winner, its digests, versions, device, the numbers that it was chosen for, and the overrides: those
              that ran when it was measured (frozen.overrides) and those that run now (here.overrides)
GET /metrics  for Prometheus; gpuqa.serving.telemetry lists the names
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import generate_latest

from gpuqa.serving.auth import UNAUTHORIZED
from gpuqa.serving.service import Service

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"  # the one that every scraper reads


def router(service: Service, facts: dict[str, Any]) -> APIRouter:
    """GET /info and GET /metrics; `facts` are plain values that hold as long as the process lives."""
    routes = APIRouter()

    @routes.get("/info", responses=UNAUTHORIZED)
    async def info() -> dict[str, Any]:
        """The frozen winner, the machine, the state of the engine, and which of our parts run in it at this moment."""
        here = {**facts.get("here", {}), "overrides": [asdict(override) for override in service.overrides()]}
        return {"state": service.look().name, **facts, "here": here}

    @routes.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """All metrics in Prometheus' text format, whichever one is asked for.

        In OpenMetrics, which Prometheus prefers, prometheus_client turns the colon of vLLM's names into `_`, and the dashboard
        would lack them (findings/prometheus_client_renames_metrics_with_a_colon.sh).
        """
        return Response(generate_latest(service.telemetry.registry), media_type=TEXT_FORMAT)

    return routes
