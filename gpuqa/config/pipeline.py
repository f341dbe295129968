"""What can be chosen of a pipeline: one dataclass for each group under conf/, and its checks. How a pipeline is measured
and judged is chosen in `gpuqa.config.measurement`.

Values live in conf/, keys and types live here. Checks run in `__post_init__`, which OmegaConf calls when
`gpuqa.config.commands.resolve` turns a composed config into objects. Code below works with these, never with a DictConfig.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from gpuqa.config import UserError, check, plain

PLACEHOLDER = "{question}"


class Backend(Enum):
    """The engines that exist; `gpuqa.engines.BACKENDS` has a line for each."""

    vllm = "vllm"
    transformers = "transformers"


class Scheduler(Enum):
    """vLLM's own scheduler, or `gpuqa.engines.vllm.burst`."""

    default = "default"
    burst = "burst"


class Attention(Enum):
    """vLLM's own attention, or `gpuqa.engines.vllm.shared_prefix`."""

    default = "default"
    shared_prefix = "shared_prefix"


class SystemIn(Enum):
    """Where a prompt's system text goes: a turn of its own, or the first user turn, for templates without a system role."""

    system = "system"
    user = "user"


class Hub(Enum):
    """Where `gpuqa.download` fetches weights from."""

    huggingface = "huggingface"
    modelscope = "modelscope"


DEFAULT_BRANCH = {Hub.huggingface: "main", Hub.modelscope: "master"}


@dataclass
class DownloadConfig:
    """The source of a model's weights; a model that ships with the project has no repository."""

    hub: Hub = Hub.huggingface
    repository: str | None = None
    revision: str | None = None  # branch, tag or commit; None means the hub's default branch, see `DEFAULT_BRANCH`
    sha256: dict[str, str] = field(default_factory=dict)  # file name -> expected digest

    @property
    def wanted(self) -> str:
        """The revision to ask the hub for."""
        return DEFAULT_BRANCH[self.hub] if self.revision is None else self.revision


@dataclass
class ShapeConfig:
    """The decoder that a model's config.json will describe, under the keys that it has there."""

    hidden_size: int = MISSING
    num_hidden_layers: int = MISSING
    num_attention_heads: int = MISSING
    num_key_value_heads: int = MISSING
    head_dim: int = MISSING
    intermediate_size: int = MISSING
    vocab_size: int = MISSING
    tie_word_embeddings: bool = MISSING


@dataclass
class AssumedConfig:
    """What `gpuqa.predict` takes for a model whose folder is not here yet."""

    shape: ShapeConfig = MISSING
    tokenizer: str = MISSING  # the folder of a model whose tokenizer counts instead
    questions: str = MISSING  # instead of a question file that comes with the weights


@dataclass
class ModelConfig:
    """Weights and tokenizer in one local folder."""

    name: str = MISSING
    path: str = MISSING
    warmup: str | None = None  # question file; None means the built-in warm-up questions
    trust_remote_code: bool = False
    note: str | None = None  # shown wherever results of this model are shown
    download: DownloadConfig = field(default_factory=DownloadConfig)
    assumed: AssumedConfig | None = None  # of a model that is not here; never of one that is measured, so no trial has it


@dataclass
class ExampleConfig:
    """One worked example of a few-shot prompt."""

    question: str = MISSING
    answer: str = MISSING


@dataclass
class PostprocessConfig:
    """What happens to the model's text before anybody scores or serves it."""

    strip_thinking: bool = True
    strip_headings: bool = True
    one_line: bool = True


@dataclass
class PromptConfig:
    """One way to ask: system text, worked examples, and the template around the question."""

    name: str = MISSING
    system: str | None = None
    system_in: SystemIn = SystemIn.system
    user: str = PLACEHOLDER
    template: str | None = None  # "plain", "chatml", a Jinja file or its text; None means the model's own
    examples: list[ExampleConfig] = field(default_factory=list)
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)

    def __post_init__(self) -> None:
        check(
            self.user.count(PLACEHOLDER) == 1,
            f"prompt.user of {self.name!r}",
            self.user,
            f"a template that holds {PLACEHOLDER} exactly once",
        )


@dataclass
class QuantizationConfig:
    """Number formats of weights and KV cache, as engine arguments under the backend's own names."""

    name: str = MISSING
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class EngineConfig:
    """The backend, its arguments under its own names, and the environment it is started in."""

    name: str = MISSING
    backend: Backend = MISSING
    args: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    scheduler: Scheduler = Scheduler.default
    attention: Attention = Attention.default
    start_timeout_s: float = 600.0

    def __post_init__(self) -> None:
        length = self.args.get("max_model_len")
        known = isinstance(length, int) and length >= 16
        check(known, "engine.args.max_model_len", length, "an integer of at least 16 tokens (prompt and answer together)")
        check(0 < self.start_timeout_s < math.inf, "engine.start_timeout_s", self.start_timeout_s, "a number above 0")
        backend = (self.args.get("attention_config") or {}).get("backend")
        chosen_once = backend is None or self.attention is Attention.default
        check(chosen_once, "engine.args.attention_config.backend", backend, "none beside engine.attention=shared_prefix")

    @property
    def max_model_len(self) -> int:
        """Tokens that prompt and answer may take together."""
        return int(self.args["max_model_len"])


@dataclass
class SamplingConfig:
    """How tokens are drawn; never restarts an engine."""

    name: str = MISSING
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0 means all
    min_p: float = 0.0  # of the most likely token's probability; 0 means all tokens
    repetition_penalty: float = 1.0  # for tokens of prompt and answer; 1 means none
    frequency_penalty: float = 0.0  # for each time that a token is in the answer
    presence_penalty: float = 0.0  # for tokens that are in the answer
    max_tokens: int = 256
    min_tokens: int = 0  # before an end token may come
    seed: int = 0
    stop: list[str] = field(default_factory=list)  # tokens that end an answer beside those that the model's files name
    stop_strings: list[str] = field(default_factory=list)  # text that ends an answer and is not part of it
    enable_thinking: bool = False
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        check(0 <= self.temperature <= 2, "sampling.temperature", self.temperature, "a number from 0 to 2")
        check(0 < self.top_p <= 1, "sampling.top_p", self.top_p, "a number above 0, at most 1")
        check(self.top_k >= 0, "sampling.top_k", self.top_k, "an integer of at least 0 (0: all tokens)")
        check(0 <= self.min_p <= 1, "sampling.min_p", self.min_p, "a number from 0 to 1 (0: all tokens)")
        repetition = self.repetition_penalty
        check(0 < repetition < math.inf, "sampling.repetition_penalty", repetition, "a number above 0 (1: none)")
        for key in ("frequency_penalty", "presence_penalty"):
            check(-2 <= getattr(self, key) <= 2, f"sampling.{key}", getattr(self, key), "a number from -2 to 2 (0: none)")
        check(self.max_tokens >= 1, "sampling.max_tokens", self.max_tokens, "an integer of at least 1")
        upper = f"an integer from 0 to sampling.max_tokens ({self.max_tokens})"
        check(0 <= self.min_tokens <= self.max_tokens, "sampling.min_tokens", self.min_tokens, upper)
        check(0 <= self.seed < 2**63, "sampling.seed", self.seed, "an integer from 0 to below 2**63")
        check(all(self.stop_strings), "sampling.stop_strings", self.stop_strings, "a list of texts, none of them empty")
        lone = not self.stop_strings or not (self.min_tokens or self.ignore_eos)
        check(lone, "sampling.stop_strings", self.stop_strings, "[] beside sampling.min_tokens or sampling.ignore_eos")


@dataclass
class PipelineConfig:
    """All that decides an answer and its speed; this is what gets frozen and served."""

    model: ModelConfig = MISSING
    prompt: PromptConfig = MISSING
    quantization: QuantizationConfig = MISSING
    engine: EngineConfig = MISSING
    sampling: SamplingConfig = MISSING

    def __post_init__(self) -> None:
        self.engine_args()
        room = self.engine.max_model_len - self.sampling.max_tokens
        allowed = (
            f"less than engine.args.max_model_len ({self.engine.max_model_len}), so that a question fits before the answer"
        )
        check(room > 0, "sampling.max_tokens", self.sampling.max_tokens, allowed)

    def engine_args(self) -> dict[str, Any]:
        """Arguments of engine and quantization together, under the backend's names.

        Raises:
            UserError: both groups set one argument to different values.
        """
        for key in self.engine.args.keys() & self.quantization.args.keys():
            engine, quantization = self.engine.args[key], self.quantization.args[key]
            if engine != quantization:
                raise UserError(
                    f"engine.args.{key}={engine!r} (engine={self.engine.name}) clashes with "
                    f"quantization.args.{key}={quantization!r} (quantization={self.quantization.name}): set it in one of them"
                )
        return {**self.engine.args, **self.quantization.args}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for hashing and YAML, enums as their names; what is assumed of a model measures nothing."""
        values: dict[str, Any] = plain({key: asdict(getattr(self, key)) for key in PipelineConfig.__dataclass_fields__})
        del values["model"]["assumed"]
        return values
