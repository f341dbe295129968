"""What orchestrators and load balancers ask.

GET /livez   200 as long as the process answers
GET /readyz  200 while questions are answered, else 503; the state is in the body
GET /health  the same without a body, as vLLM's server answers it: load tools ask for it
"""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import BaseModel

from gpuqa.serving.life import State
from gpuqa.serving.service import Service


class HealthResponse(BaseModel):
    """One word."""

    status: str


def router(service: Service) -> APIRouter:
    """GET /livez, GET /readyz and GET /health."""
    routes = APIRouter()

    @routes.get("/livez", response_model=HealthResponse)
    async def livez() -> HealthResponse:
        """The process runs and its event loop turns."""
        return HealthResponse(status="alive")

    @routes.get("/readyz", response_model=HealthResponse, responses={503: {"model": HealthResponse}})
    async def readyz(response: Response) -> HealthResponse:
        """Whether a question that is sent now would be answered."""
        state = service.look()
        response.status_code = 200 if state is State.ready else 503
        return HealthResponse(status=state.name)

    @routes.get("/health", response_class=Response, responses={503: {"description": "not ready"}})
    async def health() -> Response:
        """As /readyz, without a body."""
        return Response(status_code=200 if service.look() is State.ready else 503)

    return routes
