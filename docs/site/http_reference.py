"""The page of all routes: from the OpenAPI document that the server itself hands out."""

from __future__ import annotations

import json
from typing import Any

from comments import row, table, text_of
from prometheus_client import CollectorRegistry

from gpuqa.config.http import HttpConfig
from gpuqa.pipeline.pipeline import Pipeline
from gpuqa.serving.app import create_app
from gpuqa.serving.life import Winner
from gpuqa.serving.routes.docs import resolved
from gpuqa.serving.service import Service
from gpuqa.serving.telemetry import Telemetry

HEAD = """# HTTP reference

This page is generated from the OpenAPI document of the server, which a running one has at `/openapi.json` and shows at `/docs`.
What each answer means for a client, limits and keys: [Serving](serving.md); clients that work: [Clients](clients.md).
"""


async def no_engine() -> Pipeline:
    """Nobody asks this server anything."""
    raise NotImplementedError


def page() -> str:
    """The page."""
    service = Service(Winner({"": no_engine}, ()), HttpConfig(), Telemetry(CollectorRegistry()), print)
    document = create_app(service).openapi()
    lines = [HEAD]
    for path, ways in document["paths"].items():
        for method, operation in ways.items():
            lines += [
                f"## `{method.upper()} {path}`",
                "",
                text_of(operation.get("description", "")),
                *body_of(operation, document),
            ]
            lines += [*table("status", "meaning")]
            lines += [row(f"`{status}`", text_of(reply["description"])) for status, reply in operation["responses"].items()]
            lines.append("")
    return "\n".join(lines)


def body_of(operation: dict[str, Any], document: dict[str, Any]) -> list[str]:
    """The schema of what a route takes."""
    schemas = [content.get("schema") for content in operation.get("requestBody", {}).get("content", {}).values()]
    texts = [json.dumps(resolved(schema, document), indent=1, ensure_ascii=False) for schema in schemas]
    return [line for text in texts for line in ("", "Request body:", "", "```json", text, "```", "")]
