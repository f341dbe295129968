"""Which plan a place gets next: of those that may run there the longest, so that none runs alone in the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from gpuqa.study.engine_session import Steps

Plan = TypeVar("Plan", bound=Steps)


class Leases(Generic[Plan]):
    """The plans of one call of an executor that no place has got yet."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.left = list(plans)

    def take(self, place: int) -> Plan | None:
        """The next plan for a place; None where there is none. Plans of one place are handed out in their order."""
        fitting = [plan for plan in self.left if plan.place in (None, place)]
        if not fitting:
            return None
        longest = max(fitting, key=lambda plan: plan.guess)
        self.left.remove(longest)
        return longest
