"""How a pipeline is measured, judged, bounded and run: one dataclass for each of those groups under conf/, and its checks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from gpuqa.config import check


class Issue(Enum):
    """How a workload hands its questions to the pipeline."""

    batch = "batch"
    serial = "serial"
    closed = "closed"
    open = "open"


class References(Enum):
    """Which score counts for a question with several reference answers."""

    best = "best"  # the highest of those against each reference, for each metric by itself
    mean = "mean"


@dataclass
class FieldsConfig:
    """What the rows of a question file call their fields, where that is no name that is known."""

    question: str | None = None  # None with answer=None: by the names that docs/questions.md lists
    answer: str | None = None
    id: str | None = None  # None: "id"

    def __post_init__(self) -> None:
        complete = (self.question is None) == (self.answer is None) and not (self.question is None and self.id is not None)
        names = {"question": self.question, "answer": self.answer, "id": self.id}
        check(complete, "dataset.fields", names, "both question and answer, with id if there is one, or none of them")


IGNORABLE = ("system", "history", "context", "options")  # what belongs to a question and has no place in a prompt


@dataclass
class DatasetConfig:
    """The questions that are measured and scored. docs/questions.md has the formats of their file."""

    name: str = MISSING
    path: str = MISSING
    limit: int | None = None  # the first so many questions; None means all
    fields: FieldsConfig = field(default_factory=FieldsConfig)
    references: References | None = None  # needed where a question has several
    ignore: list[str] = field(default_factory=list)  # of IGNORABLE: left out knowingly where rows have them

    def __post_init__(self) -> None:
        check(self.limit is None or self.limit >= 1, "dataset.limit", self.limit, "an integer of at least 1, or null")
        check(set(self.ignore) <= set(IGNORABLE), "dataset.ignore", self.ignore, f"a list of some of {', '.join(IGNORABLE)}")


@dataclass
class SloConfig:
    """Limits that an answer keeps or not (service level objectives), ms; null is no limit. They are counted, not enforced."""

    ttft_ms: float | None = None  # from the call (issue=open: from the scheduled arrival) to the first token
    tpot_ms: float | None = None  # (latency - time to first token) / (output tokens - 1)
    e2e_ms: float | None = None  # from the same moment to the answer

    def __post_init__(self) -> None:
        for key in ("ttft_ms", "tpot_ms", "e2e_ms"):
            value = getattr(self, key)
            check(value is None or 0 < value < math.inf, f"workload.slo.{key}", value, "a number above 0, or null")

    @property
    def any_limit(self) -> bool:
        """Whether there is something to keep."""
        return (self.ttft_ms, self.tpot_ms, self.e2e_ms) != (None, None, None)


@dataclass
class SearchConfig:
    """How the highest arrival rate is looked for that keeps the limits of `workload.slo`, see `gpuqa.measure.load_search`."""

    attainment: float | None = None  # share of the answers that must keep every limit; null: nothing is looked for
    resolution: float = 0.1  # the rates that did and did not keep them are to differ by no more than this share
    max_passes: int = 40  # of a cell; then the search ends where it is

    def __post_init__(self) -> None:
        share, passes = self.attainment, self.max_passes
        check(share is None or 0 < share <= 1, "workload.search.attainment", share, "a number above 0, up to 1, or null")
        check(0 < self.resolution < math.inf, "workload.search.resolution", self.resolution, "a number above 0")
        check(passes >= 1, "workload.search.max_passes", passes, "an integer of at least 1")


ISSUE_SETTINGS = {  # key of a workload -> the one value of `issue` with which it must be set; with the others it must be null
    "concurrency": Issue.closed,
    "rate_per_s": Issue.open,
    "arrival_seed": Issue.open,
}


@dataclass
class WorkloadConfig:
    """How the questions are issued and how often.

    There are no repeats with a filled prefix cache by default: each costs as much time as a cold one, and the judge asks every
    question once.
    """

    name: str = MISSING
    issue: Issue = MISSING
    repeats: int = 3  # each from an empty prefix cache
    prefix_cached_repeats: int = 0  # and so many that find it filled by the same questions
    answer_timeout_s: float = 600.0  # for one repeat; issue=open counts it from the last scheduled arrival
    concurrency: int | None = None  # issue=closed: clients at once
    rate_per_s: float | None = None  # issue=open: mean arrivals a second
    ramp_to_per_s: float | None = None  # issue=open: the rate rises linearly from rate_per_s to this over a pass
    arrival_seed: int | None = None  # issue=open: every pass and every cell with this seed gets the same arrivals
    token_times: bool = False  # stream every answer and note when each token came, for `itl_ms_*`
    slo: SloConfig = field(default_factory=SloConfig)  # by which goodput is counted; without a search it changes no measurement
    search: SearchConfig = field(default_factory=SearchConfig)  # issue=open: of the highest rate that keeps the slo

    def __post_init__(self) -> None:
        check(self.repeats >= 1, "workload.repeats", self.repeats, "an integer of at least 1")
        check(
            self.prefix_cached_repeats >= 0,
            "workload.prefix_cached_repeats",
            self.prefix_cached_repeats,
            "an integer of at least 0",
        )
        check(0 < self.answer_timeout_s < math.inf, "workload.answer_timeout_s", self.answer_timeout_s, "a number above 0")
        for key, owner in ISSUE_SETTINGS.items():
            fits = (getattr(self, key) is not None) == (self.issue is owner)
            allowed = f"{'a number' if self.issue is owner else 'null'} with workload.issue={self.issue.value}"
            check(fits, f"workload.{key}", getattr(self, key), f"{allowed}; it belongs to workload={owner.value}")
        clients, rate = self.concurrency, self.rate_per_s
        check(clients is None or clients >= 1, "workload.concurrency", clients, "an integer of at least 1")
        check(rate is None or 0 < rate < math.inf, "workload.rate_per_s", rate, "a number above 0")
        rises = self.ramp_to_per_s is None or (rate is not None and rate < self.ramp_to_per_s < math.inf)
        allowed = "null, or with workload=open a number above workload.rate_per_s"
        check(rises, "workload.ramp_to_per_s", self.ramp_to_per_s, allowed)
        if self.searches:
            self.check_search()

    def check_search(self) -> None:
        """Raise a UserError where there is nothing to search by, or something that no search has."""
        share, others = (
            self.search.attainment,
            f"null with workload.issue={self.issue.value}; it belongs to workload=load_search",
        )
        check(self.issue is Issue.open, "workload.search.attainment", share, others)
        limits = "at least one of ttft_ms, tpot_ms, e2e_ms with workload=load_search, such as workload.slo={ttft_ms: 200}"
        check(self.slo.any_limit, "workload.slo", "no limit", limits)
        check(self.ramp_to_per_s is None, "workload.ramp_to_per_s", self.ramp_to_per_s, "null with workload=load_search")
        cached = self.prefix_cached_repeats
        check(cached == 0, "workload.prefix_cached_repeats", cached, "0 with workload=load_search")

    @property
    def searches(self) -> bool:
        """Whether passes look for a rate, instead of repeating one."""
        return self.search.attainment is not None

    @property
    def most_at_once(self) -> int | None:
        """How many questions wait for their answers at one time, at most. None: all of them, since none is held back."""
        return 1 if self.issue is Issue.serial else self.concurrency


class Rule(Enum):
    """What makes the best of the eligible trials; quality is `rouge_l_f1`, which nonsense with the right words cannot have.

    `gpuqa.selection.ranking.RANKINGS` has a row for each.
    """

    fastest = "fastest"  # chars/s
    best_quality = "best_quality"
    weighted = "weighted"  # chars/s ** speed_weight * quality ** (1 - speed_weight)
    knee = "knee"  # of the Pareto front of chars/s and quality
    goodput = "goodput"  # answers a second that keep `workload.slo`
    cheapest = "cheapest"  # fewest joules per output token


class ConstraintTest(Enum):
    """What becomes of a quantized trial of which too few questions show whether it keeps its share of its baseline's quality.

    One that is shown to keep it is accepted, and one that is shown to keep less is refused.
    """

    bound = "bound"  # refused
    refuted = "refuted"  # accepted
    point = "point"  # its mean decides, of all quantized trials


@dataclass
class SelectionConfig:
    """Limits that a trial must keep, and what makes the best among those that keep them.

    `min_rouge_l_f1_ratio=None` means by the number of different questions: `gpuqa.selection.ratios.DEFAULT_RATIOS`.
    """

    name: str = MISSING
    rule: Rule = Rule.fastest
    min_rouge_l_f1_judge: float = 0.35
    min_rouge_l_f1_of_best: float = 0.75  # of the study's best rouge_l_f1; against nonsense that holds the judge's words
    max_empty_fraction: float = 0.05
    max_truncated_fraction: float = 0.5
    min_chars_per_s: float = 0.0
    max_e2e_latency_ms_p95: float | None = None
    max_ttft_ms_p95: float | None = None
    speed_weight: float = 0.5  # of rule=weighted
    baseline_quantization: str = "none"
    constraint_test: ConstraintTest = ConstraintTest.bound
    min_rouge_l_f1_ratio: float | None = None  # of the baseline's; None: the narrower, the more different questions there are
    min_answer_chars_ratio: float = 0.90  # the same of the answers' mean length; only what is shown to be shorter is refused
    confidence: float = 0.97  # of intervals, tests and bounds; above 0.95, so that 1000 equal pairs stay below 5 % of wins
    max_interval_ratio: float = 1.1  # of two trials that tie: the whole interval of their ratio lies from 1 / this to this
    min_lead: float = 0.01  # of a win: a smaller lead is none that matters, however sure it is

    def __post_init__(self) -> None:
        shares = ("min_rouge_l_f1_judge", "min_rouge_l_f1_of_best", "max_empty_fraction", "max_truncated_fraction")
        for key in (*shares, "speed_weight", "min_answer_chars_ratio"):
            value = getattr(self, key)
            check(0 <= value <= 1, f"selection.{key}", value, "a number from 0 to 1")
        ratio, by_questions = self.min_rouge_l_f1_ratio, "a number from 0 to 1, or null for one by the number of questions"
        check(ratio is None or 0 <= ratio <= 1, "selection.min_rouge_l_f1_ratio", ratio, by_questions)
        check(0 <= self.min_chars_per_s < math.inf, "selection.min_chars_per_s", self.min_chars_per_s, "a number of at least 0")
        for key in ("max_e2e_latency_ms_p95", "max_ttft_ms_p95"):
            check((value := getattr(self, key)) is None or value > 0, f"selection.{key}", value, "a number above 0, or null")
        check(0.5 <= self.confidence < 1, "selection.confidence", self.confidence, "a number from 0.5 to below 1")
        check(self.max_interval_ratio > 1, "selection.max_interval_ratio", self.max_interval_ratio, "a number above 1")
        check(0 <= self.min_lead < 1, "selection.min_lead", self.min_lead, "a number from 0 to below 1")


@dataclass
class GpuConfig:
    """What a card's data sheet says. `predict` and the reports compute from it how fast a model could be at best."""

    name: str = MISSING
    bandwidth_gb_per_s: float | None = None  # None means that no bound is computed
    memory_gb: float | None = None
    bf16_tflops: float | None = None  # dense, FP32 accumulate; None leaves operations out of the bound
    fp8_tflops: float | None = None  # the same; None where the card has no fp8
    source: str = ""

    def __post_init__(self) -> None:
        for key in ("bandwidth_gb_per_s", "memory_gb", "bf16_tflops", "fp8_tflops"):
            value = getattr(self, key)
            check(value is None or 0 < value < math.inf, f"gpu.{key}", value, "a number above 0, or null")
