"""Issues questions and holds the clock. Knows no model and no score: anything that answers a list of texts will do."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random
from typing import Any, TypeVar

from gpuqa.config.measurement import Issue, WorkloadConfig
from gpuqa.engines import EngineFailed
from gpuqa.records import Answered, Completion, CompletionDelta, Question

Answer = Callable[[Sequence[str]], Awaitable[list[Completion]]]
Stream = Callable[[str], AsyncGenerator[CompletionDelta]]
Result = TypeVar("Result")
KEPT_UP = 3 / 4  # answers for an arrival, below which an engine does not keep up


@dataclass(frozen=True, slots=True)
class Timed:
    """One answer with the times, on one clock, between which its caller waited for it."""

    completion: Completion
    since: float
    until: float


async def issue(questions: Sequence[Question], answer: Answer, config: WorkloadConfig) -> Answered:
    """Ask all questions once, in the configured way.

    Raises:
        EngineFailed: the pass took longer than `workload.answer_timeout_s`, or the engine died.
    """
    schedule_s = arrivals_s(len(questions), config)[-1] if config.issue is Issue.open and questions else 0.0
    try:
        return await asyncio.wait_for(ISSUES[config.issue](questions, answer, config), schedule_s + config.answer_timeout_s)
    except TimeoutError as error:
        raise EngineFailed(f"no answer within workload.answer_timeout_s={config.answer_timeout_s:g} s") from error


async def issue_batch(questions: Sequence[Question], answer: Answer, _: WorkloadConfig) -> Answered:
    """All questions in one call. A question's latency is the time until the engine finished it."""
    began = time.perf_counter()
    completions = await answer([question.text for question in questions])
    seconds = time.perf_counter() - began
    return Answered(completions, seconds, [completion.last_token_s or seconds for completion in completions])


async def issue_serial(questions: Sequence[Question], answer: Answer, _: WorkloadConfig) -> Answered:
    """One call a question, each after the answer to the last."""
    completions, latencies = [], []
    for question in questions:
        began = time.perf_counter()
        completions += await answer([question.text])
        latencies.append(time.perf_counter() - began)
    return Answered(completions, sum(latencies), latencies)


async def issue_closed(questions: Sequence[Question], answer: Answer, config: WorkloadConfig) -> Answered:
    """`workload.concurrency` clients, each with its next question as soon as its last is answered."""
    assert config.concurrency is not None, "WorkloadConfig checks it"
    waiting = iter(enumerate(questions))  # shared: the next client that is free takes the next
    done: dict[int, Timed] = {}

    async def client() -> None:
        for place, question in waiting:
            done[place] = await ask(question, answer)

    await together([client() for _ in range(min(config.concurrency, len(questions)))])
    return answered([done[place] for place in range(len(questions))])


async def issue_open(questions: Sequence[Question], answer: Answer, config: WorkloadConfig) -> Answered:
    """One call a question at its scheduled time, whatever became of the others.

    Everything counts from the scheduled time, also where the call itself came late: a server that stalls would
    otherwise be spared the waiting of the questions that came meanwhile (coordinated omission; Gil Tene, "How NOT to Measure
    Latency", and his wrk2).
    """
    schedule = arrivals_s(len(questions), config)
    began = time.perf_counter()

    async def arrival(question: Question, due: float) -> Timed:
        await asyncio.sleep(due - time.perf_counter())
        called = time.perf_counter()
        timed = await ask(question, answer)
        return Timed(later(timed.completion, called - due), due, timed.until)

    arrivals = [arrival(question, began + due) for question, due in zip(questions, schedule, strict=True)]
    outcome = answered(await together(arrivals))
    return replace(outcome, saturated=is_saturated(outcome.latencies_s, schedule))


def arrivals_s(count: int, config: WorkloadConfig) -> list[float]:
    """Seconds from the start of a pass at which questions arrive: the first at once, then a Poisson process.

    The gaps are drawn from the seed alone and divided by the rate: all rates of a sweep get one pattern, ever denser. A ramp
    gets it in another time, in which the rate rises linearly and reaches its end with the last arrival (P. A. W. Lewis and
    G. S. Shedler, Naval Research Logistics Quarterly 26, 1979, on processes whose rate changes).
    """
    assert config.rate_per_s is not None, "WorkloadConfig checks it"
    draw, rate, end = Random(config.arrival_seed), config.rate_per_s, config.ramp_to_per_s
    units = list(accumulate((draw.expovariate(1.0) for _ in range(count - 1)), initial=0.0))[:count]
    if end is None or count < 2:
        return [unit / rate for unit in units]
    shares = [unit / units[-1] for unit in units]  # of the arrivals that are to be expected by then
    return [2 * (count - 1) * share / (rate + math.sqrt(rate**2 + (end**2 - rate**2) * share)) for share in shares]


def is_saturated(latencies_s: Sequence[float], schedule_s: Sequence[float]) -> bool:
    """Whether questions came faster than answers, so that the latencies are no steady state's.

    True where during the second half of the arrivals fewer than three answers were given for four questions that came.
    Growing latencies would not tell: in an engine that answers all at once, those who come late slow the first as well.
    A pass that is hardly longer than one answer counts as saturated; below some 80 questions chance may decide.
    """
    half = schedule_s[len(schedule_s) // 2 :]
    if len(half) < 2:
        return False
    answers = sum(half[0] < due + latency <= half[-1] for due, latency in zip(schedule_s, latencies_s, strict=True))
    return answers < (len(half) - 1) * KEPT_UP  # the first of the half came as it began


def streamed(stream: Stream) -> Answer:
    """An answer function that streams every answer of a call, all at once: its completions say when each token came."""

    async def whole(text: str) -> Completion:
        async with aclosing(stream(text)) as deltas:
            async for delta in deltas:
                if delta.completion is not None:
                    return delta.completion
        raise AssertionError("the last delta has the completion")

    async def answer(texts: Sequence[str]) -> list[Completion]:
        return await together([whole(text) for text in texts])

    return answer


async def ask(question: Question, answer: Answer) -> Timed:
    """One call with one question."""
    began = time.perf_counter()
    (completion,) = await answer([question.text])
    return Timed(completion, began, time.perf_counter())


def later(completion: Completion, by_s: float) -> Completion:
    """The same answer for a caller that had waited so long before the call."""
    first, last = completion.first_token_s, completion.last_token_s
    return replace(
        completion,
        first_token_s=None if first is None else first + by_s,
        last_token_s=None if last is None else last + by_s,
        token_times_s=[moment + by_s for moment in completion.token_times_s],
    )


async def together(coroutines: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """All results in order. The first error ends all the others and flies as it is (a TaskGroup would wrap it)."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # no call is left when the engine is closed


def answered(timed: Sequence[Timed]) -> Answered:
    """Calls that overlap as one pass: its clock runs from the first of them to the last answer."""
    seconds = max((call.until for call in timed), default=0.0) - min((call.since for call in timed), default=0.0)
    return Answered([call.completion for call in timed], seconds, [call.until - call.since for call in timed])


ISSUES: dict[Issue, Callable[[Sequence[Question], Answer, WorkloadConfig], Coroutine[Any, Any, Answered]]] = {
    Issue.batch: issue_batch,
    Issue.serial: issue_serial,
    Issue.closed: issue_closed,
    Issue.open: issue_open,
}
