"""Tests of gpuqa.config.commands: all of conf/ composes, resolves to typed objects, and wrong values are refused."""

from __future__ import annotations

import math
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from gpuqa.config import UserError
from gpuqa.config.app import introduce_to_hydra
from gpuqa.config.commands import (
    COMMANDS,
    CellConfig,
    EvaluateConfig,
    FreezeConfig,
    ServeConfig,
    StudyConfig,
    from_plain,
    resolve,
)
from gpuqa.config.http import HttpConfig, Status
from gpuqa.config.measurement import DatasetConfig
from gpuqa.config.paths import conf_folder, find
from gpuqa.config.pipeline import Backend, Hub, ModelConfig, PipelineConfig, SamplingConfig

SMALLEST_ROOT = {"http": "serve", "selection": "freeze", "dataset": "evaluate", "model": "download", "space": "search"}
OPTIONS = sorted(file.relative_to(conf_folder()).with_suffix("") for file in conf_folder().glob("*/*.yaml"))
EXPERIMENTS = [option.name for option in OPTIONS if option.parent.name == "experiment"]


@pytest.fixture(scope="module", autouse=True)
def registered():
    """What gpuqa.config.app registers before Hydra composes."""
    introduce_to_hydra()


def composed(root: str, *overrides: str, with_hydra: bool = False) -> DictConfig:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose(root, list(overrides), return_hydra_config=with_hydra)


def resolved(root: str, *overrides: str) -> Any:
    return resolve(composed(root, *overrides), COMMANDS[root])


def axes_of(experiment: str) -> dict[str, list[str]]:
    """The axes of a shipped experiment, each with its values written as overrides."""
    params = composed(root_of(experiment), f"experiment={experiment}", with_hydra=True).hydra.sweeper.params
    parser = OverridesParser.create()
    parsed = {key: parser.parse_override(f"{key}={value}") for key, value in params.items()}
    return {key: [f"{key}={value}" for value in override.sweep_string_iterator()] for key, override in parsed.items()}


def root_of(experiment: str) -> str:
    """The command that an experiment is for."""
    return "search" if "search" in OmegaConf.load(conf_folder() / "experiment" / f"{experiment}.yaml") else "sweep"


@pytest.mark.parametrize("root", sorted(COMMANDS))
def test_every_root_composes_and_resolves_as_it_is(root):
    nothing_to_assume = {"compare": ("a=new", "b=old"), "report": ("study=new",)}
    assert type(resolved(root, *nothing_to_assume.get(root, ()))) is COMMANDS[root]


@pytest.mark.no_cover
@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_option_file_composes_resolves_and_is_called_as_its_file(option):
    group = option.parent.name
    limits = ["workload.slo={ttft_ms: 200}"] if option.name == "load_search" else []  # which it looks for
    root = root_of(option.name) if group == "experiment" else SMALLEST_ROOT.get(group, "sweep")
    config = resolved(root, f"{group}={option.name}", *limits)
    if group == "experiment":
        assert config.study.name
    elif group != "http":
        assert getattr(config, group).name == option.name


@pytest.mark.no_cover
@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_value_of_every_axis_of_an_experiment_composes_and_resolves(experiment):
    axes = axes_of(experiment).values()
    rows = max(map(len, axes), default=0)
    for row in zip(*(islice(cycle(values), rows) for values in axes), strict=True):
        assert isinstance(resolved(root_of(experiment), f"experiment={experiment}", *row), CellConfig)


def test_the_default_study_needs_no_file_that_is_not_shipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = resolved("sweep")
    for key, path in [("model", config.model.path), ("warmup", config.model.warmup), ("dataset", config.dataset.path)]:
        assert find(path, key).exists()


@pytest.mark.parametrize("file", sorted(conf_folder().rglob("*.yaml")), ids=lambda file: str(file.relative_to(conf_folder())))
def test_conf_holds_values_and_no_class_names(file):
    assert "_target_" not in file.read_text(encoding="utf-8")


def test_below_the_door_there_are_typed_objects_and_no_omegaconf():
    config = resolved("sweep", "prompt=few_shot", "model=qwen3_0_6b_gpu_pro", "+engine.args.deep={list: [1]}")
    assert config.engine.backend is Backend.vllm
    assert config.model.download.hub is Hub.modelscope
    plain_types = [config.engine.args, config.engine.args["deep"]["list"], config.prompt.examples, config.sampling.stop]
    assert [type(value) for value in plain_types] == [dict, list, list, list]
    assert config.prompt.examples[0].question


def test_what_identifies_a_cell_is_its_pipeline_and_not_how_it_is_measured():
    config = resolved("sweep")
    assert set(config.as_dict()) == {"model", "prompt", "quantization", "engine", "sampling"}
    pipeline = from_plain(config.as_dict(), PipelineConfig, "a journal")
    assert type(pipeline) is PipelineConfig
    assert all(getattr(pipeline, group) == getattr(config, group) for group in config.as_dict())


@pytest.mark.parametrize(
    ("root", "override", "told"),
    [
        ("sweep", "sampling.temperature=3", "sampling.temperature: got 3.0"),
        ("sweep", "sampling.max_tokens=1024", "sampling.max_tokens: got 1024"),
        ("sweep", "+quantization.args.dtype=float32", "quantization.args.dtype='float32'"),
        ("sweep", "prompt.user='no place'", "prompt.user of 'structured': got 'no place'"),
        ("sweep", "study.name=..", "study.name: got '..'"),
        ("freeze", "selection.min_rouge_l_f1_judge=2", "selection.min_rouge_l_f1_judge: got 2.0"),
        ("freeze", "study.name='${nowhere}'", "nowhere"),
        ("serve", "http.port=70000", "http.port: got 70000"),
        ("serve", "frozen=???", "frozen"),
        ("evaluate", "url=localhost:8000", "url: got 'localhost:8000'"),
    ],
)
def test_a_wrong_value_in_a_composed_config_is_refused_with_its_key(root, override, told):
    with pytest.raises(UserError) as refused:
        resolved(root, override)
    assert told in str(refused.value)


@pytest.mark.parametrize("override", ["+nope=1", "+sampling.temprature=0.7", "+model.download.token=secret"])
def test_a_key_that_no_config_knows_is_refused_even_where_a_plus_lets_hydra_add_it(override):
    with pytest.raises(UserError, match=override.lstrip("+").partition("=")[0].rpartition(".")[2]):
        resolved("sweep", override)


def test_engine_and_quantization_take_any_argument_because_the_backend_checks_its_names():
    config = resolved("sweep", "+engine.args.new_argument=1", "+quantization.args.other=x", "+engine.env.VARIABLE=1")
    assert config.engine_args().items() >= {"new_argument": 1, "other": "x"}.items()
    assert config.engine.env["VARIABLE"] == "1"


@pytest.mark.parametrize(
    ("make", "key", "value"),
    [
        *[
            (lambda value: StudyConfig(name=value), "study.name", name)
            for name in ("", ".", "..", "a/b", "../up", "/root", "a\\b")
        ],
        *[(lambda value: HttpConfig(port=value), "http.port", port) for port in (-1, 65536)],
        *[(lambda value: HttpConfig(shutdown_timeout_s=value), "http.shutdown_timeout_s", seconds) for seconds in (0, -1)],
        *[(lambda value: EvaluateConfig(url=value), "url", url) for url in ("", "127.0.0.1:8000", "ftp://host")],
        *[
            (lambda value: EvaluateConfig("http://host", ready_timeout_s=value), "ready_timeout_s", seconds)
            for seconds in (0.0, -1.0, math.nan)
        ],
        *[
            (lambda value: EvaluateConfig("http://host", answer_timeout_s=value), "answer_timeout_s", seconds)
            for seconds in (0.0, -1.0, math.nan)
        ],
    ],
)
def test_a_value_out_of_range_is_refused_with_its_key_the_value_and_what_is_allowed(make, key, value):
    with pytest.raises(UserError) as refused:
        make(value)
    assert str(refused.value).startswith(f"{key}: got {value!r}, allowed is ")


def test_values_on_the_edge_of_their_range_are_accepted():
    assert [HttpConfig(port=port).port for port in (0, 65535)] == [0, 65535]
    assert HttpConfig(shutdown_timeout_s=1).shutdown_timeout_s == 1
    assert EvaluateConfig("https://host", ready_timeout_s=0.1, answer_timeout_s=0.1).url == "https://host"


def test_a_study_keeps_its_results_in_a_folder_of_its_own_name():
    assert StudyConfig(name="第一.study 2", root="results").folder == Path("results/第一.study 2")


@pytest.mark.parametrize(("option", "status"), [("batch", Status.batch), ("serial", Status.ok)])
def test_the_http_options_say_what_the_evaluator_wants_to_hear(option, status):
    assert resolved("serve", f"http={option}").http.status is status


def test_an_option_on_the_command_line_wins_over_the_experiment():
    config = resolved("sweep", "experiment=gpu_pro", "model=embedded", "dataset.limit=5")
    assert (config.study.name, config.model.name, config.dataset.name, config.dataset.limit) == (
        "gpu_pro",
        "embedded",
        "qwen_zh_basic",
        5,
    )


@pytest.mark.parametrize(
    ("schema", "values", "told"),
    [
        (SamplingConfig, {"name": "mine", "temprature": 1.0}, "temprature"),
        (SamplingConfig, {"name": "mine", "temperature": "warm"}, "warm"),
        (SamplingConfig, {"name": "mine", "temperature": 9}, "sampling.temperature: got 9.0"),
        (SamplingConfig, {"temperature": 0.5}, "name"),
        (DatasetConfig, {"name": "mine", "path": None}, "path"),
        (ModelConfig, {"name": "m", "path": "p", "download": {"hub": "nowhere"}}, "nowhere"),
        (FreezeConfig, {"study": "a text", "selection": {"name": "mine"}}, "study"),
        (ServeConfig, {"frozen": "f.yaml", "http": {"status": "maybe"}}, "maybe"),
        (PipelineConfig, {"model": {"name": "m", "path": "p"}}, "prompt"),
    ],
)
def test_plain_values_that_do_not_fit_are_refused_with_their_source(schema, values, told):
    with pytest.raises(UserError) as refused:
        from_plain(values, schema, "frozen.yaml of yesterday")
    assert str(refused.value).startswith("frozen.yaml of yesterday: ")
    assert told in str(refused.value).removeprefix("frozen.yaml of yesterday: ")
