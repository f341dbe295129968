"""One configuration -> one trial. A failure is a trial too."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context

from gpuqa import hardware, identity, roofline
from gpuqa.config import plain
from gpuqa.engines import EngineFailed
from gpuqa.failures import explained
from gpuqa.metrics import Overhead, measure, score_answers
from gpuqa.pipeline import Pipeline
from gpuqa.records import Answer, Answered, Measurement, Question, Trial
from gpuqa.roots import CellConfig
from gpuqa.workload import issue


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a study before it runs."""

    config: CellConfig
    axes: dict[str, str]
    questions: list[Question]
    warmup: list[str]
    identity: dict[str, object]

    @property
    def key(self) -> str:
        """Digest of all that a trial's numbers depend on: the same key means the same trial."""
        return identity.sha256_of(
            {
                "pipeline": self.config.as_dict(),
                "workload": self.config.workload.__dict__,
                "gpu": self.config.gpu.__dict__,
                "identity": self.identity,
            }
        )

    @property
    def engine_key(self) -> str:
        """Digest of all that an engine is started with: cells with the same one share a start."""
        plain = self.config.as_dict()
        return identity.sha256_of([plain["model"], plain["engine"], self.config.engine_args()])

    def failed(self, error: str) -> Trial:
        """This cell as a trial that did not work."""
        return self.trial(None, explained(error))

    def trial(self, measurement: Measurement | None, error: str | None = None) -> Trial:
        """This cell with what became of it."""
        config = self.config
        setting = plain({"dataset": asdict(config.dataset), "workload": asdict(config.workload), "gpu": asdict(config.gpu)})
        return Trial(self.key, self.axes, config.as_dict(), self.identity, measurement, error, setting)


@dataclass(frozen=True, slots=True)
class Measured:
    """What the clock saw of a cell; its answers are not scored yet."""

    cell: Cell
    passes: list[Answered]
    engine_start_s: float
    warmup_s: float


async def run_trial(cell: Cell, pipeline: Pipeline) -> Measured:
    """Warm up, then measure every repeat from a cold prefix cache.

    Raises:
        EngineFailed: the engine died or did not answer; the caller writes the failure down and needs a new engine.
    """
    workload = cell.config.workload
    began = time.perf_counter()
    await pipeline.answer(repeated(cell.warmup, workload.warmup_questions))
    warmup_s = time.perf_counter() - began
    passes = []
    for _ in range(workload.repeats):
        await pipeline.engine.reset_prefix_cache()
        passes.append(await issue(cell.questions, pipeline.answer, workload))
    if all(completion.error for completion in passes[0].completions):
        raise EngineFailed(f"every question failed, the first with {passes[0].completions[0].error}")
    return Measured(cell, passes, pipeline.engine.start_s, warmup_s)


async def score_trial(measured: Measured, scorers: ProcessPoolExecutor) -> tuple[Trial, list[Answer]]:
    """Score the first pass's answers in another process: the engine measures the next cell meanwhile."""
    cell, passes = measured.cell, measured.passes
    scoring = asyncio.get_running_loop().run_in_executor(scorers, score_answers, cell.questions, passes[0])
    answers, peak_gib = await asyncio.gather(scoring, asyncio.to_thread(hardware.peak_memory_gib))
    overhead = Overhead(measured.engine_start_s, measured.warmup_s, peak_gib)
    measurement = roofline.with_fraction(measure(passes, answers, overhead, not cell.config.sampling.ignore_eos), cell.config)
    return cell.trial(measurement), answers


def start_scorers() -> ProcessPoolExecutor:
    """A process for `score_trial` that gives way to the engine; it starts with the first score."""
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=give_way)


def give_way() -> None:
    """In the scoring process: the engine comes first, Ctrl-C is the study's business, and without it there is no work."""
    os.nice(10)
    hardware.end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def repeated(texts: Sequence[str], count: int) -> list[str]:
    """`count` texts, starting over where there are fewer."""
    return [texts[place % len(texts)] for place in range(count)]
