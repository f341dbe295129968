"""What Ray Serve asks: which replica gets a call, and how many replicas there should be. Only Ray imports this module.

Ray pickles it by value for its controller, so it imports nothing of this project.
"""

from __future__ import annotations

import math
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

QUESTIONS = "questions"  # the name under which an engine's replica tells how many it has


class AskedReplica(RequestRouter):  # type: ignore[misc]  # Ray is not read by mypy
    """The replica that the first argument of a call names, by its unique id; where that one is gone, any other.

    The caller knows how much work each replica has (`gpuqa.serving.shares`). Ray's own routers count calls, of which a batch is
    one and a single question another.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Ranks of replicas, the best first."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # else Ray calls again at once while none takes more calls
        asked = pending_request.args[0]
        return [[each for each in candidate_replicas if each.replica_id.unique_id == asked] or candidate_replicas]


def by_questions(context: Any) -> tuple[float, dict[str, Any]]:
    """So many replicas that each has `target_ongoing_requests` questions, waiting ones included, of all calls together.

    Ray applies bounds, delays and factors of `autoscaling_config` to it.

    Returns:
        how many, and what is to be remembered until the next time.
    """
    told = (context.aggregated_metrics or {}).get(QUESTIONS, {})
    return math.ceil(sum(told.values()) / context.config.get_target_ongoing_requests()), {}
