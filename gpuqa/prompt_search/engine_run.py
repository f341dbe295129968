"""A search on real engines: the passes that the searcher wants go to engines that stay up, and what they show goes back to it.

The engines are those of a study: one in this process, or one at each of the executor's places. None is started again for a
prompt, and none warms up for it. A pass is on the disk before the next one begins there. Answers are scored meanwhile, in the
study's scoring process; only the end of a round waits for scores.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

from gpuqa.engines import EngineFailed
from gpuqa.measure.cell import Cell
from gpuqa.measure.failures import Failure, kind_of
from gpuqa.measure.metrics import CLEAN_ENDS
from gpuqa.measure.trial import PassRequest
from gpuqa.prompt_search.journal import SearchJournal, SearchPass
from gpuqa.prompt_search.objective import Outcome
from gpuqa.prompt_search.searcher import Asked, Searcher
from gpuqa.records import Answer, Pass, Question
from gpuqa.study.engine_session import CellFailed, EngineStarts, Event, PassDone, StartFailed, Step
from gpuqa.study.executors.places import Place
from gpuqa.study.executors.side_by_side import run_plans
from gpuqa.study.guesses import Work
from gpuqa.study.scoring import Scoring

SELECTED = 8  # of the best, that are asked the questions of a selection split
MOST_FAILURES = 3  # prompts in a row on which an engine broke, before the search gives up


@dataclass
class Bench:
    """What a search measures with."""

    cells: dict[str, Cell]  # by the key of their prompt
    warm: Cell  # is warmed up on every engine, before anything is asked there
    slices: Sequence[list[Question]]  # those of the search, and behind them the one that chooses, if there is one
    journal: SearchJournal
    log: Path
    places: Sequence[Place]
    minutes: float
    keep_answers: bool  # for a proposer
    engine_starts: Callable[[], None]
    clock: Callable[[], float] = time.monotonic


class SearchPlan:
    """The passes of one place."""

    def __init__(self, run: SearchRun, place: int | None) -> None:
        self.run, self.place = run, place
        self.work: Work = {}
        self.asked: Asked | None = None  # what is measured now

    async def next(self) -> Step | None:
        """The next pass that is wanted, as soon as there is one; None where the search is over."""
        self.asked = await self.run.take()
        if self.asked is None:
            return None
        cell = self.run.bench.cells[self.asked.key]
        questions = self.run.bench.slices[self.asked.slice]
        return Step([self.run.bench.warm], PassRequest(cell, 0, questions, slice=self.asked.slice))


class SearchRun:
    """One run of a search: what is wanted, what is under way and what came of it."""

    def __init__(self, bench: Bench, scoring: Sequence[Scoring]) -> None:
        """`scoring`: the processes that score, which take turns."""
        self.bench, self.scoring = bench, cycle(scoring)
        self.waiting: deque[Asked] = deque()
        self.results: dict[Asked, asyncio.Future[Outcome | str | None]] = {}
        self.answers: dict[str, list[Answer]] = {}  # by the key of their prompt, over all its slices
        self.more, self.over, self.limited = asyncio.Event(), False, True
        self.tried_again: set[Asked] = set()
        self.failures = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.before_s = bench.journal.spent_s
        self.began: float | None = None  # when the first engine was asked for

    @property
    def spent_s(self) -> float:
        """The search's time so far, over all its runs; it runs while engines do."""
        return self.before_s + (self.bench.clock() - self.began if self.began is not None else 0.0)

    @property
    def time_is_up(self) -> bool:
        """Whether the budget is spent."""
        return self.spent_s >= self.bench.minutes * 60

    async def search(self, searcher: Searcher, at_each_round: Callable[[Searcher], None]) -> dict[str, Outcome]:
        """Rounds until the time is up or no prompt is left; then the best answer the slice that chooses, if there is one.

        Returns:
            What came of that slice, by the key of the prompt. The budget does not limit it.

        Raises:
            EngineFailed: an engine does not start, or broke on several prompts in a row.
        """
        measuring = asyncio.create_task(self.measure())
        try:
            for asked in searcher.rounds():
                at_each_round(searcher)
                if not await self.round(searcher, asked, measuring):
                    break
            return await self.select(searcher, measuring)
        finally:
            self.over = True
            self.more.set()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            await measuring

    async def select(self, searcher: Searcher, measuring: asyncio.Task[None]) -> dict[str, Outcome]:
        """What the best make of questions that the search has not asked."""
        if len(self.bench.slices) == len(searcher.setting.slices):
            return {}
        self.limited = False
        keys = dict.fromkeys([*searcher.best(SELECTED), *filter(None, [searcher.reference])])
        wanted = [Asked(key, len(self.bench.slices) - 1) for key in keys]
        results = await self.results_of(wanted, measuring)
        return {one.key: result for one, result in zip(wanted, results, strict=True) if isinstance(result, Outcome)}

    async def round(self, searcher: Searcher, asked: Sequence[Asked], measuring: asyncio.Task[None]) -> bool:
        """Measure a round and tell the searcher -> whether all of it came before the time was up."""
        results = await self.results_of(asked, measuring)
        for one, result in zip(asked, results, strict=True):
            if result is not None:
                searcher.tell(one, result)
        return all(result is not None for result in results)

    async def results_of(self, asked: Sequence[Asked], measuring: asyncio.Task[None]) -> list[Outcome | str | None]:
        """What came of some passes; None of those for which there was no time. What is kept is not measured again."""
        loop = asyncio.get_running_loop()
        for one in asked:
            self.results[one] = loop.create_future()
            kept = self.bench.journal.passes.get((self.bench.cells[one.key].key, one.slice))
            if kept is not None:
                self.start_scoring(one, kept.measured)
            else:
                self.waiting.append(one)
        self.more.set()
        wanted: set[asyncio.Future[Any]] = {self.results[one] for one in asked}
        while wanted and not measuring.done():
            done, _ = await asyncio.wait({*wanted, measuring}, return_when=asyncio.FIRST_COMPLETED)
            wanted -= done
        if wanted:
            await measuring  # raises what ended it
        return [self.results[one].result() for one in asked]

    async def take(self) -> Asked | None:
        """The next pass for a place."""
        while not self.waiting and not self.over:
            self.more.clear()
            await self.more.wait()
        self.began = self.bench.clock() if self.began is None and self.waiting else self.began
        if self.limited and self.time_is_up:
            while self.waiting:
                self.results[self.waiting.popleft()].set_result(None)
            return await self.take() if not self.over else None
        return self.waiting.popleft() if self.waiting else None

    async def measure(self) -> None:
        """Let the executor's engines take passes until the search is over."""
        numbers: list[int | None] = [*range(len(self.bench.places))]
        plans = [SearchPlan(self, number) for number in numbers or [None]]
        async with aclosing(run_plans(plans, self.bench.log, self.bench.places)) as events:
            async for plan, event in events:
                self.take_event(plan, event)

    def take_event(self, plan: SearchPlan, event: Event) -> None:
        """Write a pass down and have it scored; try once more where an engine died.

        Raises:
            EngineFailed: it is of no use to go on.
        """
        asked = plan.asked
        assert asked is not None, "an event comes of a pass"
        if isinstance(event, EngineStarts):
            self.bench.engine_starts()
        elif isinstance(event, PassDone):
            self.failures = 0
            key = self.bench.cells[asked.key].key
            self.bench.journal.write_pass(SearchPass(key, asked.slice, event.measured, self.spent_s))
            self.start_scoring(asked, event.measured)
        elif isinstance(event, StartFailed):
            raise EngineFailed(event.error)
        elif isinstance(event, CellFailed):
            self.fail(asked, event.error)

    def fail(self, asked: Asked, error: str) -> None:
        """A pass on which the engine broke."""
        if kind_of(error) is Failure.engine_died and asked not in self.tried_again:
            self.tried_again.add(asked)
            self.waiting.appendleft(asked)
            return
        self.failures += 1
        if self.failures >= MOST_FAILURES:
            raise EngineFailed(f"the engine broke on {self.failures} prompts in a row, the last time: {error}")
        self.results[asked].set_result(error)

    def start_scoring(self, asked: Asked, measured: Pass) -> None:
        """Have a pass scored in the background."""
        task = asyncio.create_task(self.score(asked, measured))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def score(self, asked: Asked, measured: Pass) -> None:
        """The outcome of a pass."""
        cell = replace(self.bench.cells[asked.key], questions=self.bench.slices[asked.slice])
        trial, answers = await next(self.scoring).trial(cell, [measured])
        if self.bench.keep_answers:
            self.answers.setdefault(asked.key, []).extend(answers)
        self.results[asked].set_result(trial.error or outcome_of(measured, answers))


def scorers(cores: int) -> int:
    """How many processes score: small slices on a fast card end before a single one has scored the last."""
    return max(1, min(4, cores // 4))


def outcome_of(measured: Pass, answers: Sequence[Answer]) -> Outcome:
    """What a search learns from a pass."""
    completions, latencies = measured.answered.completions, measured.answered.latencies_s
    firsts = [one.first_token_s for one in completions]
    return Outcome(
        quality=[answer.rouge_l_f1 or 0.0 for answer in answers],
        judge=[answer.rouge_l_f1_judge or 0.0 for answer in answers],
        chars=[len(one.text) for one in completions],
        output_tokens=[one.output_tokens for one in completions],
        computed_tokens=sum(one.prompt_tokens - one.cached_tokens for one in completions),
        seconds=measured.answered.seconds,
        ttft_s=[whole if first is None else first for first, whole in zip(firsts, latencies, strict=True)],
        latency_s=latencies,
        empty=sum(not one.text for one in completions),
        truncated=sum(one.finish_reason not in CLEAN_ENDS for one in completions),
    )
