"""A page for people.

GET /ui  ask a question, watch the answer come in, read the numbers and what is served

One file that loads nothing else, so it works without a network; it talks to /readyz, /info and /v1/chat/completions. The page
itself needs no key. Where the server has keys, the page has a field for one, because questions need it.
"""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from gpuqa.config.paths import PACKAGE

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def router() -> APIRouter:
    """GET /ui."""
    routes = APIRouter()
    text = (PACKAGE / "serving" / "page.html").read_text(encoding="utf-8")

    @routes.get("/ui", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        """The page."""
        return HTMLResponse(text, headers={"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"})

    return routes
