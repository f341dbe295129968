"""One configuration -> its passes -> one trial. A failure is a trial too."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

from gpuqa.engines import EngineFailed
from gpuqa.machine import hardware
from gpuqa.machine.child_processes import end_with_parent
from gpuqa.measure.cell import Cell
from gpuqa.measure.metrics import Overhead, measure, measure_prefix_cached, score_answers
from gpuqa.measure.workload import issue
from gpuqa.pipeline.pipeline import Pipeline
from gpuqa.records import Answer, Pass, Question, Trial

FinishedTrial = tuple[Trial, list[Answer]]


@dataclass(frozen=True, slots=True)
class PassRequest:
    """A pass that is to be measured: which repeat of which cell, over which of its questions."""

    cell: Cell
    repeat: int
    questions: list[Question]
    prefix_cached: bool = False
    slice: int | None = None  # see `Pass`


@dataclass(frozen=True, slots=True)
class WarmCell:
    """A cell's pipeline after its warm-up."""

    pipeline: Pipeline
    warmup_s: float


async def warm_up(cell: Cell, pipeline: Pipeline) -> WarmCell:
    """Answer the warm-up questions; nobody reads the answers.

    Raises:
        EngineFailed: as `measure_pass`.
    """
    began = time.perf_counter()
    await pipeline.answer(repeated(cell.warmup, cell.config.workload.warmup_questions))
    return WarmCell(pipeline, time.perf_counter() - began)


async def measure_pass(request: PassRequest, ready: WarmCell, filled: bool = False) -> Pass:
    """One pass from a cold prefix cache, or a warm one.

    Args:
        filled: the cache is as a pass over the same questions left it; where it is not, a pass that nobody counts fills it.

    Raises:
        EngineFailed: the engine died or did not answer; the caller writes the failure down and needs a new engine.
    """
    engine, workload = ready.pipeline.engine, request.cell.config.workload
    if not (request.prefix_cached and filled):
        await engine.reset_prefix_cache()
    if request.prefix_cached and not filled:
        await issue(request.questions, ready.pipeline.answer, workload)
    before, began_at = hardware.conditions(), time.time()
    answered = await issue(request.questions, ready.pipeline.answer, workload)
    after = hardware.conditions()
    if all(completion.error for completion in answered.completions):
        raise EngineFailed(f"every question failed, the first with {answered.completions[0].error}")
    return Pass(
        answered=answered,
        repeat=request.repeat,
        questions=[question.id for question in request.questions],
        began_at=began_at,
        engine_start_s=engine.start_s,
        warmup_s=ready.warmup_s,
        peak_memory_gib=hardware.peak_memory_gib(),
        prefix_cached=request.prefix_cached,
        conditions=[*before, *after],
        slice=request.slice,
    )


async def score_trial(cell: Cell, passes: Sequence[Pass], scorers: ProcessPoolExecutor) -> FinishedTrial:
    """The trial of a cell by its passes, with the first one's answers; made in another process while engines measure."""
    return await asyncio.get_running_loop().run_in_executor(scorers, trial_of, cell, list(passes))


def trial_of(cell: Cell, passes: Sequence[Pass]) -> FinishedTrial:
    """The same in this process, which it keeps busy for long enough to disturb a clock."""
    warm, passes = [one.answered for one in passes if one.prefix_cached], [one for one in passes if not one.prefix_cached]
    answered = [one.answered for one in passes]
    answers = score_answers(cell.questions, answered[0], not cell.config.sampling.ignore_eos)
    overhead = Overhead(
        passes[0].engine_start_s,
        passes[0].warmup_s,
        max(one.peak_memory_gib for one in passes),
        [one.began_at for one in passes],
        [reading for one in passes for reading in one.conditions],
    )
    measurement = measure(answered, answers, overhead)
    measurement = replace(measurement, **measure_prefix_cached(warm))  # type: ignore[arg-type]
    return cell.trial(measurement), answers


def start_scorers() -> ProcessPoolExecutor:
    """A process for `score_trial` that gives way to the engine; it starts with the first score."""
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=give_way, initargs=(os.getpid(),))


def give_way(study: int) -> None:
    """In the scoring process: the engine comes first, Ctrl-C is the study's business, and without it there is no work."""
    os.nice(10)
    end_with_parent(study)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def repeated(texts: Sequence[str], count: int) -> list[str]:
    """`count` texts, starting over where there are fewer."""
    return [texts[place % len(texts)] for place in range(count)]
