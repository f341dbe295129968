"""What can be asked, for people.

GET /docs  every route of /openapi.json with what it takes and answers, as a page that loads nothing else: it works offline
"""

from __future__ import annotations

import json
from collections.abc import Callable
from html import escape
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "pre{overflow:auto;padding:.6rem;border:1px solid #8886;border-radius:.4rem}h2{margin-top:2rem}code{font-size:.95em}"
)
REFERENCE = "#/components/schemas/"


def router(document: Callable[[], dict[str, Any]]) -> APIRouter:
    """GET /docs; `document` makes the OpenAPI document."""
    routes = APIRouter()

    @routes.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> HTMLResponse:
        """The page."""
        return HTMLResponse(
            page_of(document()), headers={"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
        )

    return routes


def page_of(document: dict[str, Any]) -> str:
    """The page for an OpenAPI document."""
    title = f"{document['info']['title']} {document['info']['version']}"
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    ways = [
        way_of(f"{method.upper()} {path}", operation, document)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    link = '<p>For programs: <a href="openapi.json">openapi.json</a>. To try it: <a href="ui">ui</a>.</p>'
    head += f"<title>{escape(title)}</title><style>{STYLE}</style><h1>{escape(title)}</h1>"
    return f"{head}{link}{''.join(ways)}</html>"


def way_of(name: str, operation: dict[str, Any], document: dict[str, Any]) -> str:
    """One route: what it is for, what it takes, what it answers."""
    parts = [f"<h2><code>{escape(name)}</code></h2><p>{escape(operation.get('description', ''))}</p>"]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = json.dumps(resolved(content.get("schema"), document), indent=1, ensure_ascii=False)
        parts.append(f"<details><summary>request body</summary><pre>{escape(schema)}</pre></details>")
    answers = [f"<li><code>{status}</code> {escape(reply['description'])}" for status, reply in operation["responses"].items()]
    return "".join([*parts, "<ul>", *answers, "</ul>"])


def resolved(schema: Any, document: dict[str, Any]) -> Any:
    """A schema with what it refers to in the place of each reference."""
    if isinstance(schema, dict):
        if str(schema.get("$ref", "")).startswith(REFERENCE):
            return resolved(document["components"]["schemas"][schema["$ref"].removeprefix(REFERENCE)], document)
        return {key: resolved(value, document) for key, value in schema.items()}
    return [resolved(value, document) for value in schema] if isinstance(schema, list) else schema
