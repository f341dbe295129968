"""One configuration -> one trial. A failure is a trial too."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from gpuqa import hardware, identity, roofline
from gpuqa.engines import EngineFailed
from gpuqa.metrics import Overhead, measure, score_answers
from gpuqa.pipeline import Pipeline
from gpuqa.records import Answer, Question, Trial
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
        return Trial(self.key, self.axes, self.config.as_dict(), self.identity, error=error)


async def run_trial(cell: Cell, pipeline: Pipeline) -> tuple[Trial, list[Answer]]:
    """Warm up, measure every repeat from a cold prefix cache, then score the first one's answers.

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
    answers = score_answers(cell.questions, passes[0])
    overhead = Overhead(pipeline.engine.start_s, warmup_s, hardware.peak_memory_gib())
    measurement = roofline.with_fraction(measure(passes, answers, overhead, not cell.config.sampling.ignore_eos), cell.config)
    return Trial(cell.key, cell.axes, cell.config.as_dict(), cell.identity, measurement), answers


def repeated(texts: Sequence[str], count: int) -> list[str]:
    """`count` texts, starting over where there are fewer."""
    return [texts[place % len(texts)] for place in range(count)]
