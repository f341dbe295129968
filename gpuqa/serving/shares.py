"""Which replica answers which question of a batch. Pure.

The work of a question is an upper bound of the tokens that it takes: what it may have of the context, a token a character, and
the tokens that its answer may have.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from gpuqa.config.pipeline import PipelineConfig


def works_of(questions: Sequence[str], config: PipelineConfig) -> list[int]:
    """The work of each question."""
    answer = config.sampling.max_tokens
    return [min(len(question), config.engine.max_model_len - answer) + answer for question in questions]


def shares_of(works: Sequence[int], loads: Sequence[int]) -> list[list[int]]:
    """The places of the questions that each replica answers, in their order; some replicas may get none.

    The question with the most work first, each to the replica that has the least work then.

    Args:
        works: of each question.
        loads: the work that each replica has already.
    """
    shares: list[list[int]] = [[] for _ in loads]
    by_load = [(load, replica) for replica, load in enumerate(loads)]
    heapq.heapify(by_load)
    for place in sorted(range(len(works)), key=works.__getitem__, reverse=True):
        load, replica = by_load[0]
        shares[replica].append(place)
        heapq.heapreplace(by_load, (load + works[place], replica))
    return [sorted(share) for share in shares]
