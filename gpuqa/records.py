"""What flows from one stage to the next: small frozen records, no behaviour beyond what follows from their fields."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

IDLE = "gpu_idle"
SETTINGS = {
    IDLE,
    "applications_clocks_setting",
    "sync_boost",
    "display_clock_setting",
}  # throttle reasons of no concern


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its reference answer (empty where answers are not scored)."""

    id: str
    text: str
    reference: str = ""
    other_references: tuple[str, ...] = ()  # further answers that are as good
    mean_of_references: bool = False  # the mean of the scores against all of them counts, else the best

    @property
    def references(self) -> tuple[str, ...]:
        """All reference answers."""
        return (self.reference, *self.other_references)

    @property
    def digest(self) -> str:
        """Of the text alone, 16 hexadecimal digits of its sha256: repeated questions have the same one."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """One question as the engine gets it."""

    token_ids: list[int]
    question_was_cut: bool  # too long for the engine's context, so its middle was taken out


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine makes of one prompt: token ids, because only the pipeline turns them into text.

    Times are seconds since `generate` was called; None where the engine produced no token.
    """

    token_ids: list[int] = field(default_factory=list)
    finish_reason: str = "error"  # "stop": a stop token ended it; "length": max_tokens did; without an answer: "error": the
    # engine refused the prompt; "late": the deadline came first; "lost": the engine died
    cached_tokens: int = 0  # prompt tokens that came out of the prefix cache
    first_token_s: float | None = None
    last_token_s: float | None = None
    queue_s: float | None = None  # how long it waited in the engine's queue, where the engine tells
    error: str | None = None
    token_times_s: list[float] = field(
        default_factory=list
    )  # of every token, where it was streamed; those of a chunk are equal


@dataclass(frozen=True, slots=True)
class GenerationDelta:
    """The tokens of a generation that came since the last delta. Only the last one has a reason, as in `Generation`."""

    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    cached_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer, cleaned up, with what it took."""

    text: str
    finish_reason: str
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    question_was_cut: bool
    first_token_s: float | None
    last_token_s: float | None
    queue_s: float | None = None
    error: str | None = None
    token_times_s: list[float] = field(default_factory=list)  # see `Generation`


@dataclass(frozen=True, slots=True)
class CompletionDelta:
    """The text of an answer that became certain since the last delta, "" where none did. The last one has the whole answer."""

    text: str
    completion: Completion | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """One pass over the questions: the completions in question order and the clock around them.

    Where arrivals are scheduled (`issue=open`), a call counts from its scheduled time, and so do its tokens.
    """

    completions: list[Completion]
    seconds: float  # sum over calls, as the judge adds up its POSTs; of overlapping calls, first call to last answer
    latencies_s: list[float]  # one for each question: from its call to its answer
    saturated: bool = False  # questions came faster than answers; see `gpuqa.measure.workload.is_saturated`


@dataclass(frozen=True, slots=True)
class Conditions:
    """What NVML read from a GPU at one moment."""

    sm_clock_mhz: int
    memory_clock_mhz: int
    temperature_c: int
    power_w: float
    throttle_reasons: list[str]  # why the clocks are not at their highest, see `gpuqa.machine.hardware.THROTTLE_REASONS`


@dataclass(frozen=True, slots=True)
class Override:
    """A part of an engine that this project may replace by its own: what the configuration asked for, and what ran."""

    part: str  # "scheduler" or "attention"
    asked: str  # the configuration's word, such as "burst" or "default"
    ran: str  # the same, or "default" where the engine's own part ran
    reason: str | None = None  # why what ran is not what was asked for
    version: str = ""  # digest of the code of ours that ran, its first 16 hexadecimal digits; "" for the engine's own part


@dataclass(frozen=True, slots=True)
class Device:
    """What an engine ran on. Speeds of two devices are not exchangeable, not even of two cards of one model."""

    host: str = ""  # name of the machine
    model: str = ""  # as `gpuqa.machine.hardware.describe` says it
    place: str = ""  # which part of the machine, where a study uses several: "GPU 0"


@dataclass(frozen=True, slots=True)
class Pass:
    """One measured pass of a cell over some of its questions: what the journal keeps until the trial is complete."""

    answered: Answered
    repeat: int  # 0, 1, ... of the cold ones, and of the warm ones
    questions: list[str]  # ids, in the order of the completions
    began_at: float  # seconds since the epoch
    engine_start_s: float  # of the engine that answered
    warmup_s: float  # of the cell on that engine
    peak_memory_gib: float  # right after the pass
    prefix_cached: bool = False  # the same questions had just been answered, and the prefix cache was not reset
    conditions: list[Conditions] = field(default_factory=list)  # right before and right after; none without NVML
    slice: int | None = None  # of a race (`gpuqa.study.racing`), instead of all questions; `repeat` is 0 then
    engine_id: str = ""  # of the start of the engine that answered; no two starts share one
    round: int = 0  # place of this pass among all passes of that engine, from 0
    host: str = ""  # name of the machine
    device: str = ""  # what the engine ran on, as `gpuqa.machine.hardware.describe` says it
    place: str = ""  # see `Device`
    overrides: list[Override] = field(default_factory=list)  # that ran in this pass
    question_digests: list[str] = field(default_factory=list)  # of the texts, in the order of `questions`; see `Question`
    rate_per_s: float | None = None  # at which its questions arrived; None where that is no setting of its workload
    energy_j: float | None = None  # that the engine's GPUs used meanwhile; None where NVML does not tell


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval. A format is applied to both ends: `f"{interval:.1%}"` is "1.0% to 2.5%"."""

    low: float
    high: float

    def __format__(self, form: str) -> str:
        return f"{self.low:{form}} to {self.high:{form}}"


@dataclass(frozen=True, slots=True)
class RampThird:
    """A third of the questions of a ramp, in the order of their arrival: how fast they came, and how they fared."""

    arrivals_per_s: float
    answers_per_s: float  # that came in the same time, mean over the repeats; to these questions or to those before them
    e2e_latency_ms_p50: float | None  # of these questions, over all repeats
    e2e_latency_ms_p95: float | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """The numbers of one trial, as they were measured. Units are in the names; speeds are geometric means over the repeats,
    since that is what they are ranked and tested by.

    `gpuqa.measure.metrics` has the formulas, `gpuqa.measure.metric_table` how each number is shown. What follows from these
    numbers and the answers is computed when it is read: intervals by `gpuqa.measure.metrics.intervals_of`,
    `roofline_fraction` by `gpuqa.roofline.roofline.fraction`.

    Every repeat begins with an empty prefix cache. Only the `prefix_cached_*` numbers are of passes that found the cache as a
    pass over the same questions had left it; they are in no other number. Percentiles are over all answers of all repeats; one
    that the different questions cannot support is None, see `gpuqa.measure.percentiles.percentile`. Scores and the counts of
    answers are those of the first repeat.

    The repeats of a study that was cut off come from two engines, started alike. `engine_start_s` and `warmup_s` are then
    those of the engine of the first repeat, the one whose answers are scored; the other start is the interruption's cost.
    """

    questions: int  # of one repeat
    repeats: int
    seconds: float  # geometric mean of the time of one repeat
    chars_per_s: float  # geometric mean of: characters of all answers / seconds of the repeat; the judge's "tokens/s"
    chars_per_s_mad: float  # median absolute deviation over the repeats
    chars_per_s_repeats: list[float]  # every repeat's, in the order measured
    output_tokens_per_s: float  # geometric mean of: output tokens of all answers / seconds of the repeat
    questions_per_s: float  # questions / seconds
    ttft_ms_p50: float | None  # time from the call to the first token
    ttft_ms_p95: float | None
    tpot_ms_mean: float | None  # mean over answers of two tokens or more: (latency - time to first token) / (output tokens - 1)
    e2e_latency_ms_p50: float | None  # time from the call (issue=open: from the scheduled arrival) to the answer
    e2e_latency_ms_p95: float | None
    e2e_latency_ms_p99: float | None
    prefix_cache_hit_rate: float  # cached_tokens / prompt_tokens; 0 without a prompt token
    cached_tokens: int  # prompt tokens that came out of the prefix cache, sum over all repeats
    prompt_tokens: int  # sum over all repeats
    output_tokens: int  # sum over all repeats
    rouge_l_f1_judge: (
        float | None
    )  # mean by the judge's formula, which sees only [a-z0-9]+; None where answers ran past their end
    rouge_l_f1: float | None  # mean of the same F1 over jieba words, Chinese kept
    answer_chars_mean: float  # characters of all answers / questions
    answers_truncated: int  # ended by max_tokens instead of a stop token
    truncated_fraction: float  # answers_truncated / questions
    answers_empty: int
    answers_multi_line: int
    answers_failed: int  # the engine raised for this question; counted as empty too
    questions_cut: int  # too long for the context, so their middle was taken out
    engine_start_s: float  # of the engine of the first repeat; all cells of a group share it
    warmup_s: float  # of this cell on that engine
    peak_memory_gib: float  # host memory of this process and its children so far; on a GPU also its memory in use
    saturated: bool = False  # in any repeat, questions came faster than answers: `workload.rate_per_s` is too high
    repeats_began_at: list[float] = field(default_factory=list)  # of every repeat, seconds since the epoch
    engine_ids: list[str] = field(default_factory=list)  # of every repeat, the start of the engine that answered; see `Pass`
    devices: list[Device] = field(default_factory=list)  # of every repeat
    first_round_chars_per_s: float | None = None  # of a finalist, whose other numbers are from measuring it again
    conditions: list[Conditions] = field(default_factory=list)  # before and after every repeat; none without NVML
    sm_clock_mhz_min: int | None = None  # of all readings of all passes but those of an idle GPU; None without NVML
    temperature_c_max: int | None = None
    throttle_reasons: list[str] | None = None  # that were given in any pass, "gpu_idle" apart; None without NVML
    prefix_cached_repeats: int = 0
    prefix_cached_chars_per_s: float | None = None  # as without `prefix_cached_`, over the repeats with a filled cache
    prefix_cached_output_tokens_per_s: float | None = None
    prefix_cached_ttft_ms_p50: float | None = None
    prefix_cached_ttft_ms_p95: float | None = None
    prefix_cached_hit_rate: float | None = None
    itl_ms_mean: float | None = None  # over every gap between two tokens of an answer, as a client sees them come
    itl_ms_p50: float | None = None  # of those gaps; None without `workload.token_times`
    itl_ms_p95: float | None = None
    itl_ms_p99: float | None = None
    seconds_repeats: list[float] = field(default_factory=list)  # every repeat's time, in the order measured
    goodput_questions_per_s: float | None = None  # geometric mean of: answers that keep `workload.slo` / seconds
    goodput_questions_per_s_repeats: list[float] = field(default_factory=list)  # every repeat's; none without a limit
    joules_per_output_token: float | None = None  # geometric mean of: energy of the engine's GPUs / tokens
    joules_per_output_token_repeats: list[float] = field(default_factory=list)  # every repeat's
    ramp: list[RampThird] = field(default_factory=list)  # of `workload.ramp_to_per_s`, the slowest third first; else none
    saturates_at_per_s: float | None = None  # arrivals_per_s of the first third with fewer than 3 answers for 4 arrivals
    load_kept_per_s: float | None = None  # of a search, the highest rate that kept the limits; the other numbers are from there
    load_kept_passes: int | None = None  # at that rate
    load_missed_per_s: float | None = None  # the lowest rate that did not, above which none counts
    load_missed_passes: int | None = None
    slo_attainment: float | None = None  # answers that keep all limits / answers, over all repeats; None without a limit


@dataclass(frozen=True, slots=True)
class Timing:
    """What one answer of one repeat took."""

    latency_s: float  # from its call (issue=open: from its scheduled arrival) to the answer
    first_token_s: float | None  # from the same moment; None where there was no token
    output_tokens: int
    failed: bool = False  # the engine raised, so there is no answer

    @property
    def tpot_s(self) -> float | None:
        """(latency - time to first token) / (output tokens - 1), s; None below two tokens."""
        if self.first_token_s is None or self.output_tokens < 2:
            return None
        return (self.latency_s - self.first_token_s) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class Answer:
    """One question of one trial, kept for people who want to read what was scored."""

    id: str
    question: str
    reference: str
    answer: str
    rouge_l_f1_judge: float | None  # None where `sampling.ignore_eos` made the answer run past its end: it is not scored
    rouge_l_f1: float | None
    finish_reason: str
    output_tokens: int
    latency_s: float
    error: str | None = None
    question_digest: str = ""  # see `Question.digest`
    other_references: list[str] = field(default_factory=list)  # see `Question`
    timings: list[Timing] = field(default_factory=list)  # of every repeat, in the order measured; the rest is of the first


@dataclass(frozen=True, slots=True)
class Dropped:
    """Why a race took a cell out, and the numbers of what it was asked until then, which are not those of a whole trial."""

    reason: str
    seen: Measurement | None  # over all questions if it came so far, else over its last slice; None if it was never asked
    race: str = ""  # digest of the cells and the rule of the race: in another race the cell would have to be measured again


@dataclass(frozen=True, slots=True)
class Trial:
    """One cell of a study after it was run; a failure is a trial too, and a cell that a race dropped."""

    key: str
    axes: dict[str, str]  # override key -> value: how the user would name this cell
    pipeline: dict[str, Any]  # resolved values, see PipelineConfig.as_dict
    fingerprint: dict[str, Any]  # digests, versions and device that the key covers
    measurement: Measurement | None = None
    error: str | None = None
    setting: dict[str, Any] = field(default_factory=dict)  # dataset, workload and gpu as they were configured
    skipped: str | None = None  # why it was not measured, and will not be as long as that holds; no failure
    dropped: Dropped | None = None  # then there is no measurement: such a trial can neither win nor be ranked
    overrides: list[Override] = field(default_factory=list)  # that ran in its passes

    @property
    def name(self) -> str:
        """The cell in words, for tables and messages."""
        return name_of(self.axes)


def name_of(axes: Mapping[str, str]) -> str:
    """A cell in words."""
    return " ".join(f"{key.removeprefix('engine.args.')}={value}" for key, value in axes.items()) or "the only cell"
