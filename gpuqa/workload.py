"""Issues questions and holds the clock. Knows no model and no score: anything that answers a list of texts will do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from gpuqa.criteria import Issue, WorkloadConfig
from gpuqa.engines import EngineFailed
from gpuqa.records import Answered, Completion, Question

Answer = Callable[[Sequence[str]], Awaitable[list[Completion]]]


async def issue(questions: Sequence[Question], answer: Answer, config: WorkloadConfig) -> Answered:
    """Ask all questions once, in the configured way.

    Raises:
        EngineFailed: the pass took longer than `workload.answer_timeout_s`, or the engine died.
    """
    try:
        return await asyncio.wait_for(ISSUES[config.issue](questions, answer), config.answer_timeout_s)
    except TimeoutError as error:
        raise EngineFailed(f"no answer within workload.answer_timeout_s={config.answer_timeout_s:g} s") from error


async def issue_batch(questions: Sequence[Question], answer: Answer) -> Answered:
    """All questions in one call. A question's latency is the time until the engine finished it."""
    began = time.perf_counter()
    completions = await answer([question.text for question in questions])
    seconds = time.perf_counter() - began
    return Answered(completions, seconds, [completion.last_token_s or seconds for completion in completions])


async def issue_serial(questions: Sequence[Question], answer: Answer) -> Answered:
    """One call a question, each after the answer to the last."""
    completions, latencies = [], []
    for question in questions:
        began = time.perf_counter()
        completions += await answer([question.text])
        latencies.append(time.perf_counter() - began)
    return Answered(completions, sum(latencies), latencies)


ISSUES: dict[Issue, Callable[[Sequence[Question], Answer], Awaitable[Answered]]] = {
    Issue.batch: issue_batch,
    Issue.serial: issue_serial,
}
