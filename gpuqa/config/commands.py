"""The config of each command: what its YAML file may hold, and the way from a composed config to typed, checked objects."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gpuqa.config import UserError, check
from gpuqa.config.executor import ExecutorConfig
from gpuqa.config.http import HttpConfig
from gpuqa.config.measurement import DatasetConfig, GpuConfig, SelectionConfig, WorkloadConfig
from gpuqa.config.pipeline import ModelConfig, PipelineConfig
from gpuqa.config.prompt_search import PromptSearchConfig, ProposerConfig, SpaceConfig
from gpuqa.config.wrong_values import explained_value, no_value, unknown_key
from gpuqa.machine.log_lines import Logs

LONGEST_NAME = 255  # bytes of a folder's name on the file systems of Linux


@dataclass
class StudyConfig:
    """The name of a study, where its results go, and how its cells are raced."""

    name: str = MISSING
    root: str = "experiments"
    finalists: int = 3  # of the first round, measured again until they are decided; 0: the first round decides
    max_repeats: int | None = None  # of each finalist; null: 32 on one engine, 18 starts of each of several
    seconds: float = 600.0  # for finalists: no more passes are begun than will end within this time, but for the first look
    logs: Logs = Logs.text  # what the command says: text for people, or a JSON object a line
    racing: bool = False  # ask all cells a slice first and drop those that cannot win; see `gpuqa.study.racing`
    racing_first_slice: int = 16  # questions
    racing_growth: int = 4  # each slice is so many times as large as the one before
    racing_confidence: float = 0.95  # that the winner of the full grid is not dropped
    racing_seed: int = 0  # which questions are in the slices

    def __post_init__(self) -> None:
        check(self.finalists >= 0, "study.finalists", self.finalists, "an integer of at least 0")
        most = self.max_repeats
        check(most is None or most >= 1, "study.max_repeats", most, "an integer of at least 1, or null")
        check(0 < self.seconds < math.inf, "study.seconds", self.seconds, "a number above 0")
        check(self.racing_first_slice >= 2, "study.racing_first_slice", self.racing_first_slice, "an integer of at least 2")
        check(self.racing_growth >= 1, "study.racing_growth", self.racing_growth, "an integer of at least 1")
        sure = self.racing_confidence
        check(0.5 <= sure < 1, "study.racing_confidence", sure, "a number from 0.5 to below 1")
        plain = self.name not in ("", ".", "..") and "/" not in self.name and "\\" not in self.name
        short = len(self.name.encode(errors="replace")) <= LONGEST_NAME
        check(plain and short, "study.name", self.name, f"a plain folder name of at most {LONGEST_NAME} bytes")

    @property
    def folder(self) -> Path:
        """The folder of this study's trials, tables and frozen winner."""
        return Path(self.root) / self.name


@dataclass
class CellConfig(PipelineConfig):
    """One cell of a study: a pipeline, and how it is measured, judged, bounded and run."""

    dataset: DatasetConfig = MISSING
    workload: WorkloadConfig = MISSING
    selection: SelectionConfig = MISSING
    gpu: GpuConfig = MISSING
    executor: ExecutorConfig = MISSING
    study: StudyConfig = MISSING


@dataclass
class SweepConfig(CellConfig):
    """Config of `sweep`: a cell of a study, and whether it is only looked ahead."""

    plan: bool = False  # say what the study would take, and start nothing


@dataclass
class SearchCommandConfig(CellConfig):
    """Config of `search`: a cell with a shipped prompt, and which other prompts are tried in its place."""

    space: SpaceConfig = MISSING
    search: PromptSearchConfig = MISSING
    proposer: ProposerConfig = MISSING


@dataclass
class PredictConfig(CellConfig):
    """Config of `predict`: a cell of a study that is not measured, and how long its answers would be."""

    answer_tokens: int | None = None  # None means sampling.max_tokens, the most that an answer may have

    def __post_init__(self) -> None:
        super().__post_init__()
        limit = self.sampling.max_tokens
        allowed = f"an integer from 1 to sampling.max_tokens ({limit}), or null"
        check(self.answer_tokens is None or 1 <= self.answer_tokens <= limit, "answer_tokens", self.answer_tokens, allowed)


@dataclass
class CheckConfig(CellConfig):
    """Config of `check`: a cell of the study that the machine should be ready for, and the server after it."""

    http: HttpConfig = MISSING
    json: bool = False  # print one JSON object instead of lines


@dataclass
class AskConfig(CellConfig):
    """Config of `ask`: what answers. That is a cell, unless a frozen winner or a running server is named."""

    frozen: str | None = None
    allow_mismatch: bool = False  # this one and the next two as for `serve`
    trust_frozen: bool = False
    model_path: str | None = None
    url: str | None = None
    keys_file: str | None = None  # as for `evaluate`
    keys_variable: str = "GPUQA_KEYS"
    timeout_s: float = 360.0  # without a word from the server
    json: bool = False  # print one JSON object instead of text

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.url is not None:
            check_url(self.url)
        check(bool(self.keys_variable), "keys_variable", self.keys_variable, "the name of an environment variable")
        check(0 < self.timeout_s < math.inf, "timeout_s", self.timeout_s, "a number above 0")


@dataclass
class ServeConfig:
    """Config of `serve`: which frozen winner, and how it is reached."""

    frozen: str = MISSING
    http: HttpConfig = MISSING
    allow_mismatch: bool = False
    trust_frozen: bool = False  # let the file name code to run: trust_remote_code, classes of engine arguments, variables
    model_path: str | None = None  # where the frozen weights lie on this machine, if elsewhere
    warmup: str | None = None  # question file instead of the model's


@dataclass
class FreezeConfig:
    """Config of `freeze`: which study, decided anew by which rule."""

    study: StudyConfig = MISSING
    selection: SelectionConfig = MISSING


@dataclass
class CompareConfig:
    """Config of `compare`: which two sides are compared, and how sure the answer must be."""

    a: str = MISSING  # a frozen.yaml, a study folder (its winner), or FOLDER:TRIAL with the start of a trial's key
    b: str = MISSING
    confidence: float = 0.95
    min_flip: float = 0.2  # an answer flipped if its rouge_l_f1 changed by more
    shown_flips: int = 10
    json: bool = False  # print one JSON object instead of tables

    def __post_init__(self) -> None:
        check(0.5 <= self.confidence < 1, "confidence", self.confidence, "a number from 0.5 to below 1")
        check(0 <= self.min_flip <= 1, "min_flip", self.min_flip, "a number from 0 to 1")
        check(self.shown_flips >= 0, "shown_flips", self.shown_flips, "an integer of at least 0")


@dataclass
class ReproduceConfig:
    """Config of `reproduce`: which frozen winner to measure again."""

    frozen: str = MISSING
    model_path: str | None = None  # where the frozen weights lie on this machine, if elsewhere
    trust_frozen: bool = False  # as for `serve`


@dataclass
class EvaluateConfig:
    """Config of `evaluate`: which service, which questions, how long to wait."""

    url: str = MISSING
    dataset: DatasetConfig = MISSING
    ready_timeout_s: float = 420.0
    answer_timeout_s: float = 360.0
    output: str = "evaluation.json"
    keys_file: str | None = None  # a bearer key for a service that wants one; as `http.keys_file` of the server
    keys_variable: str = "GPUQA_KEYS"  # an environment variable that may hold it, too

    def __post_init__(self) -> None:
        check_url(self.url)
        check(bool(self.keys_variable), "keys_variable", self.keys_variable, "the name of an environment variable")
        check(0 < self.ready_timeout_s < math.inf, "ready_timeout_s", self.ready_timeout_s, "a number above 0")
        check(0 < self.answer_timeout_s < math.inf, "answer_timeout_s", self.answer_timeout_s, "a number above 0")


@dataclass
class WatchConfig:
    """Config of `watch`: which server, how often."""

    url: str = MISSING
    interval_s: float = 1.0  # from one scrape to the next
    once: bool = False  # print one snapshot and end
    json: bool = False  # a JSON object a snapshot
    keys_file: str | None = None  # as for `evaluate`
    keys_variable: str = "GPUQA_KEYS"

    def __post_init__(self) -> None:
        check_url(self.url)
        check(
            1 <= self.interval_s < math.inf, "interval_s", self.interval_s, "a number of at least 1: a scrape costs the server"
        )
        check(bool(self.keys_variable), "keys_variable", self.keys_variable, "the name of an environment variable")


def check_url(url: str) -> None:
    """Raise a UserError unless it is the address of a service; a password in it is not quoted."""
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        bare = not (parts.username or parts.password or parts.query or parts.fragment)
    except ValueError:  # a port that is none, half an IPv6 address
        whole, bare = False, True
    if whole and not bare:
        raise UserError("url: holds a user, a query or a fragment, allowed is http://HOST:PORT; a key goes into keys_file")
    check(whole, "url", url, "an http:// or https:// address with a host")


class TableFormat(Enum):
    """The files that `report` writes of a study's tables."""

    none = "none"
    csv = "csv"
    parquet = "parquet"


@dataclass
class ReportConfig:
    """Config of `report`: which studies, and in which form their tables are written."""

    study: str = MISSING  # names of studies in `root`, with commas between them
    root: str = StudyConfig.root
    tables: TableFormat = TableFormat.none
    confidence: float = 0.95

    def __post_init__(self) -> None:
        check(all(self.names), "study", self.study, "the names of studies, such as a or a,b")
        check(len(set(self.names)) == len(self.names), "study", self.study, "each study once")
        check(0.5 <= self.confidence < 1, "confidence", self.confidence, "a number from 0.5 to below 1")

    @property
    def names(self) -> list[str]:
        """The studies, in the order of the command."""
        return [name.strip() for name in self.study.split(",")]


@dataclass
class ModelDownloadConfig:
    """Config of `download`: the model whose weights are fetched, with the hub that has them."""

    model: ModelConfig = MISSING


COMMANDS: dict[str, type] = {
    "sweep": SweepConfig,
    "search": SearchCommandConfig,
    "predict": PredictConfig,
    "check": CheckConfig,
    "serve": ServeConfig,
    "ask": AskConfig,
    "watch": WatchConfig,
    "freeze": FreezeConfig,
    "compare": CompareConfig,
    "report": ReportConfig,
    "evaluate": EvaluateConfig,
    "reproduce": ReproduceConfig,
    "download": ModelDownloadConfig,
}

Config = TypeVar("Config")
INTERPOLATION = re.compile(r"(\\*)\$\{")  # OmegaConf halves the backslashes before it


def register_schemas() -> None:
    """Give Hydra the schema that each root file in conf/ names first in its defaults list."""
    for name, schema in COMMANDS.items():
        ConfigStore.instance().store(name=f"{name}_schema", node=schema)


def resolve(config: DictConfig, schema: type[Config]) -> Config:
    """Turn a composed config into typed, checked objects.

    Raises:
        UserError: a value is missing, of the wrong type or out of range.
    """
    known = [field.name for field in fields(schema)]  # type: ignore[arg-type]
    try:
        refuse_unknown_keys(config, schema)
        if missing := [name for name in known if OmegaConf.is_missing(config, name)]:
            raise UserError(no_value(missing))
        nodes = {name: config[name] for name in known}
        return schema(**{key: OmegaConf.to_object(node) if OmegaConf.is_config(node) else node for key, node in nodes.items()})
    except OmegaConfBaseException as error:
        raise UserError(explained_value(error, schema)) from error


def refuse_unknown_keys(node: Any, schema: type, place: str = "") -> None:
    """Raise a UserError for a key that no dataclass has: Hydra's `+key=value` adds any, and OmegaConf would keep it."""
    kind = OmegaConf.get_type(node) if isinstance(node, DictConfig) else None
    if not is_dataclass(kind):
        return
    known = {"hydra", *(field.name for field in fields(kind))}
    for key in node:
        if key not in known:
            raise UserError(unknown_key(f"{place}{key}", schema))
        if key != "hydra" and not OmegaConf.is_missing(node, key):
            refuse_unknown_keys(node[key], schema, f"{place}{key}.")


def from_plain(values: dict[str, Any], schema: type[Config], source: str) -> Config:
    """The inverse of `as_dict`: typed objects from plain values, for frozen files and journals.

    Raises:
        UserError: the values do not fit the schema; the message names the source.
    """
    try:
        return resolve(OmegaConf.merge(OmegaConf.structured(schema), escaped(values)), schema)  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        raise UserError(f"{source}: {explained_value(error, schema)}") from error
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def escaped(value: Any) -> Any:
    """Plain values with every `${` made harmless: a prompt may hold one, and OmegaConf would look it up."""
    if isinstance(value, str):
        return INTERPOLATION.sub(lambda match: match[1] * 2 + r"\${", value)
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    return [escaped(item) for item in value] if isinstance(value, list) else value
