"""What is running here.

GET /info     which frozen winner, its digests, versions, device, the numbers that it was chosen for, and the overrides: those
              that ran when it was measured (frozen.overrides) and those that run now (here.overrides); with several replicas
              the state of each (here.replicas)
              Of paths it shows the last part.
GET /metrics  for Prometheus; gpuqa.serving.telemetry lists the names
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import generate_latest

from gpuqa.serving.auth import UNAUTHORIZED
from gpuqa.serving.service import Service

PATHS = ("file", "path", "template", "tokenizer", "warmup")  # keys whose values are paths, relative ones too
TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"  # the one that every scraper reads


def router(service: Service) -> APIRouter:
    """GET /info and GET /metrics."""
    routes = APIRouter()

    @routes.get("/info", responses=UNAUTHORIZED)
    async def info() -> dict[str, Any]:
        """The frozen winner, the machine, the state of the engine, and which of our parts run in it at this moment."""
        shown = without_paths(dict(service.winner.facts))
        here = {**shown.get("here", {}), "overrides": [asdict(override) for override in service.overrides()]}
        replicas = {"replicas": service.each()} if service.each() else {}
        return {"state": service.look().name, **shown, "here": {**here, **replicas}}

    @routes.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """All metrics in Prometheus' text format, whichever one is asked for.

        In OpenMetrics, which Prometheus prefers, prometheus_client turns the colon of vLLM's names into `_`, and the dashboard
        would lack them (findings/prometheus_client_renames_metrics_with_a_colon.sh).
        """
        return Response(generate_latest(service.telemetry.registry), media_type=TEXT_FORMAT)

    return routes


def without_paths(value: Any) -> Any:
    """Plain values with the last part of each path in its place: where files lie on this machine is nobody's business."""
    if isinstance(value, dict):
        return {key: last_part(item) if key in PATHS else without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    return last_part(value) if isinstance(value, str) and value.startswith(("/", "~", "./", "../")) else value


def last_part(value: Any) -> Any:
    """What a path leads to."""
    is_text = not isinstance(value, str) or "\n" in value or "{" in value  # a template may be its text
    return value if is_text else value.rstrip("/").rpartition("/")[2]
