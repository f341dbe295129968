"""How a pipeline is measured, judged, bounded and run: one dataclass for each of those groups under conf/, and its checks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING

from gpuqa.config import check


class Issue(Enum):
    """How a workload hands its questions to the pipeline."""

    batch = "batch"
    serial = "serial"


@dataclass
class DatasetConfig:
    """The questions that are measured and scored."""

    name: str = MISSING
    path: str = MISSING
    limit: int | None = None  # the first so many questions; None means all

    def __post_init__(self) -> None:
        check(self.limit is None or self.limit >= 1, "dataset.limit", self.limit, "an integer of at least 1, or null")


@dataclass
class WorkloadConfig:
    """How the questions are issued and how often."""

    name: str = MISSING
    issue: Issue = MISSING
    repeats: int = 3
    warmup_questions: int = 16
    answer_timeout_s: float = 600.0  # for one repeat

    def __post_init__(self) -> None:
        check(self.repeats >= 1, "workload.repeats", self.repeats, "an integer of at least 1")
        check(self.warmup_questions >= 1, "workload.warmup_questions", self.warmup_questions, "an integer of at least 1")
        check(0 < self.answer_timeout_s < math.inf, "workload.answer_timeout_s", self.answer_timeout_s, "a number above 0")


@dataclass
class SelectionConfig:
    """Fastest above a floor, guarded against answers that are fast because they got worse or shorter."""

    name: str = MISSING
    min_rouge_l_f1_judge: float = 0.35
    baseline_quantization: str = "none"
    min_rouge_l_f1_ratio: float = 0.99
    min_answer_chars_ratio: float = 0.90

    def __post_init__(self) -> None:
        for key in ("min_rouge_l_f1_judge", "min_rouge_l_f1_ratio", "min_answer_chars_ratio"):
            value = getattr(self, key)
            check(0 <= value <= 1, f"selection.{key}", value, "a number from 0 to 1")


@dataclass
class GpuConfig:
    """Data-sheet numbers of one card, for the bounds."""

    name: str = MISSING
    bandwidth_gb_per_s: float | None = None  # None means that no bound is computed
    memory_gb: float | None = None
    bf16_tflops: float | None = None  # dense, FP32 accumulate; None leaves operations out of the bound
    fp8_tflops: float | None = None  # the same; None where the card has no fp8
    source: str = ""

    def __post_init__(self) -> None:
        for key in ("bandwidth_gb_per_s", "memory_gb", "bf16_tflops", "fp8_tflops"):
            check((value := getattr(self, key)) is None or value > 0, f"gpu.{key}", value, "a number above 0, or null")


class Executor(Enum):
    """Where groups of trials run; `gpuqa.executors.EXECUTORS` has one function for each."""

    local = "local"


@dataclass
class ExecutorConfig:
    """Where groups of trials run."""

    name: str = MISSING
    kind: Executor = MISSING
