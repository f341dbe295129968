"""One configuration -> its passes -> one trial. A failure is a trial too."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpuqa.config.measurement import WorkloadConfig
from gpuqa.engines import EngineFailed, gpus_of_engine
from gpuqa.machine import hardware
from gpuqa.measure.cell import Cell
from gpuqa.measure.devices import device_of
from gpuqa.measure.goodput import with_goodput
from gpuqa.measure.load_search import passes_that_count, with_search
from gpuqa.measure.metrics import Overhead, measure, measure_prefix_cached, score_answers, with_timings
from gpuqa.measure.ramp import with_ramp
from gpuqa.measure.workload import issue, streamed
from gpuqa.pipeline import pipeline as pipelines
from gpuqa.pipeline.pipeline import Pipeline
from gpuqa.records import Answer, Override, Pass, Question, Trial

FinishedTrial = tuple[Trial, list[Answer]]


@dataclass(frozen=True, slots=True)
class PassRequest:
    """A pass that is to be measured: which repeat of which cell, over which of its questions."""

    cell: Cell
    repeat: int
    questions: list[Question]
    prefix_cached: bool = False
    slice: int | None = None  # see `Pass`
    workload: WorkloadConfig | None = None  # of this pass, where it is not the cell's: the rate that a search tries


@dataclass(frozen=True, slots=True)
class WarmCell:
    """A cell's pipeline after its warm-up."""

    pipeline: Pipeline
    warmup_s: float


async def warm_up(cell: Cell, pipeline: Pipeline) -> WarmCell:
    """Warm up as the server does, at the full width of the engine; nobody reads the answers.

    Raises:
        EngineFailed: as `measure_pass`, or no warm-up question was answered.
    """
    began = time.perf_counter()
    await pipelines.warm_up(pipeline, cell.warmup, None)
    return WarmCell(pipeline, time.perf_counter() - began)


async def measure_pass(request: PassRequest, ready: WarmCell, filled: bool = False) -> Pass:
    """One pass from a cold prefix cache, or a warm one. Which start of which engine it was, the caller fills in.

    Args:
        filled: the cache is as a pass over the same questions left it; where it is not, a pass that nobody counts fills it.

    Raises:
        EngineFailed: the engine died or did not answer; the caller writes the failure down and needs a new engine.
    """
    engine, workload = ready.pipeline.engine, request.workload or request.cell.config.workload
    answer = streamed(ready.pipeline.stream) if workload.token_times else ready.pipeline.answer
    if not (request.prefix_cached and filled):
        await engine.reset_prefix_cache()
    if request.prefix_cached and not filled:
        await issue(request.questions, answer, workload)
    gpus = gpus_of_engine(request.cell.config.engine_args())
    before, began_at, energy_before = hardware.conditions(), time.time(), hardware.energy_j(gpus)
    answered = await issue(request.questions, answer, workload)
    energy_after, after = hardware.energy_j(gpus), hardware.conditions()
    if all(completion.error for completion in answered.completions):
        raise EngineFailed(f"every question failed, the first with {answered.completions[0].error}")
    return Pass(
        answered=answered,
        repeat=request.repeat,
        questions=[question.id for question in request.questions],
        question_digests=[question.digest for question in request.questions],
        began_at=began_at,
        engine_start_s=engine.start_s,
        warmup_s=ready.warmup_s,
        peak_memory_gib=hardware.peak_memory_gib(),
        prefix_cached=request.prefix_cached,
        conditions=[*before, *after],
        slice=request.slice,
        overrides=engine.overrides(),
        rate_per_s=workload.rate_per_s,
        energy_j=used_between(energy_before, energy_after),
    )


def used_between(before_j: float | None, after_j: float | None) -> float | None:
    """What was used between two readings, J; None without both, or where the counter did not move forwards."""
    return after_j - before_j if before_j is not None and after_j is not None and after_j > before_j else None


def trial_of(cell: Cell, passes: Sequence[Pass]) -> FinishedTrial:
    """The trial of a cell by its passes, with the answers of the first one.

    It keeps this process busy for long enough to disturb a clock; see `gpuqa.study.scoring`.
    """
    cold = passes_that_count([measured for measured in passes if not measured.prefix_cached], cell.config.workload)
    prefix_cached = [measured.answered for measured in passes if measured.prefix_cached]
    repeats = [measured.answered for measured in cold]
    answers = with_timings(score_answers(cell.questions, repeats[0], not cell.config.sampling.ignore_eos), repeats)
    overhead = Overhead(
        cold[0].engine_start_s,
        cold[0].warmup_s,
        max(measured.peak_memory_gib for measured in cold),
        [measured.began_at for measured in cold],
        [measured.engine_id for measured in cold],
        [device_of(measured) for measured in cold],
        [reading for measured in cold for reading in measured.conditions],
        [measured.energy_j for measured in cold],
    )
    workload = cell.config.workload
    measurement = with_ramp(measure(repeats, answers, overhead), answers, workload)
    measurement = with_search(with_goodput(measurement, answers, workload.slo), passes, workload)
    measurement = replace(measurement, **measure_prefix_cached(prefix_cached, answers))  # type: ignore[arg-type]
    return replace(cell.trial(measurement), overrides=overrides_of(passes)), answers


def overrides_of(passes: Sequence[Pass]) -> list[Override]:
    """One override for each part of the engine, of the worst pass: off, else limited for a reason, else as it was asked."""
    by_part: dict[str, list[Override]] = {}
    for override in [override for measured in passes for override in measured.overrides]:
        by_part.setdefault(override.part, []).append(override)
    return [
        max(same, key=lambda override: (override.ran != override.asked, bool(override.reason))) for same in by_part.values()
    ]
