"""Tests of gpuqa.config.pipeline: what a group refuses, what groups refuse together, and the way to plain values and back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from gpuqa.config import UserError, plain
from gpuqa.config.commands import from_plain
from gpuqa.config.measurement import DatasetConfig, GpuConfig, Issue, SearchConfig, SelectionConfig, SloConfig, WorkloadConfig
from gpuqa.config.paths import conf_folder
from gpuqa.config.pipeline import (
    Backend,
    DownloadConfig,
    EngineConfig,
    ExampleConfig,
    Hub,
    ModelConfig,
    PipelineConfig,
    PostprocessConfig,
    PromptConfig,
    QuantizationConfig,
    SamplingConfig,
)


def engine(**changes: Any) -> EngineConfig:
    return EngineConfig(**{"name": "mine", "backend": Backend.vllm, "args": {"max_model_len": 512}, **changes})


def context(length: Any) -> EngineConfig:
    return engine(args={"max_model_len": length})


def prompt(user: str) -> PromptConfig:
    return PromptConfig(name="polite", user=user)


def sampling(**changes: Any) -> SamplingConfig:
    return SamplingConfig(**{"name": "mine", **changes})


def dataset(limit: int | None) -> DatasetConfig:
    return DatasetConfig(name="mine", path="questions.json", limit=limit)


def workload(**changes: Any) -> WorkloadConfig:
    return WorkloadConfig(**{"name": "mine", "issue": Issue.batch, **changes})


def arrivals(**changes: Any) -> WorkloadConfig:
    return workload(**{"issue": Issue.open, "rate_per_s": 1.0, "arrival_seed": 0, **changes})


def selection(**changes: Any) -> SelectionConfig:
    return SelectionConfig(**{"name": "mine", **changes})


def gpu(**changes: Any) -> GpuConfig:
    return GpuConfig(**{"name": "mine", **changes})


def pipeline(**groups: Any) -> PipelineConfig:
    shipped = {
        "model": ModelConfig(name="tiny", path="models/tiny"),
        "prompt": prompt("{question}"),
        "quantization": QuantizationConfig(name="none"),
        "engine": engine(),
        "sampling": sampling(),
    }
    return PipelineConfig(**{**shipped, **groups})


RANGES = [  # key in the message, how to set it, refused values, accepted values
    ("sampling.temperature", lambda value: sampling(temperature=value), [-0.1, 2.1, math.nan, math.inf], [0, 2]),
    ("sampling.top_p", lambda value: sampling(top_p=value), [0.0, 1.1, math.nan], [1e-6, 1]),
    ("sampling.top_k", lambda value: sampling(top_k=value), [-1], [0, 20]),
    ("sampling.max_tokens", lambda value: sampling(max_tokens=value), [0, -5], [1]),
    ("engine.args.max_model_len", context, [None, 15, -1, "1024", 1024.0, True], [16]),
    ("engine.start_timeout_s", lambda value: engine(start_timeout_s=value), [0.0, -1.0, math.nan, math.inf], [0.1]),
    ("dataset.limit", dataset, [0, -1], [None, 1]),
    ("workload.repeats", lambda value: workload(repeats=value), [0], [1]),
    ("workload.answer_timeout_s", lambda value: workload(answer_timeout_s=value), [0.0, math.nan], [0.1]),
    ("workload.concurrency", lambda value: workload(issue=Issue.closed, concurrency=value), [None, 0], [1]),
    ("workload.rate_per_s", lambda value: arrivals(rate_per_s=value), [None, 0.0, -1.0, math.nan, math.inf], [0.1]),
    *(
        (f"workload.slo.{key}", lambda value, key=key: SloConfig(**{key: value}), [0.0, -1.0, math.nan, math.inf], [None, 0.1])
        for key in ("ttft_ms", "tpot_ms", "e2e_ms")
    ),
    ("workload.search.attainment", lambda value: SearchConfig(value, 0.1, 9), [0.0, 1.1, math.nan], [None, 0.1, 1.0]),
    ("workload.search.resolution", lambda value: SearchConfig(0.9, value, 9), [0.0, -1.0, math.nan, math.inf], [0.01]),
    ("workload.search.max_passes", lambda value: SearchConfig(0.9, 0.1, value), [0], [1]),
    ("workload.ramp_to_per_s", lambda value: arrivals(ramp_to_per_s=value), [1.0, 0.5, math.nan, math.inf], [None, 1.1]),
    ("workload.ramp_to_per_s", lambda value: workload(ramp_to_per_s=value), [2.0], [None]),
    ("workload.arrival_seed", lambda value: arrivals(arrival_seed=value), [None], [0]),
    ("selection.min_rouge_l_f1_judge", lambda value: selection(min_rouge_l_f1_judge=value), [-0.1, 1.1, math.nan], [0, 1]),
    (
        "selection.min_rouge_l_f1_ratio",
        lambda value: selection(min_rouge_l_f1_ratio=value),
        [-0.1, 1.1, math.nan],
        [None, 0, 1],
    ),
    ("selection.min_answer_chars_ratio", lambda value: selection(min_answer_chars_ratio=value), [-0.1, 1.1, math.nan], [0, 1]),
    ("selection.min_rouge_l_f1_of_best", lambda value: selection(min_rouge_l_f1_of_best=value), [-0.1, 1.1, math.nan], [0, 1]),
    ("selection.max_empty_fraction", lambda value: selection(max_empty_fraction=value), [-0.1, 1.1, math.nan], [0, 1]),
    ("selection.max_truncated_fraction", lambda value: selection(max_truncated_fraction=value), [-0.1, 1.1, math.nan], [0, 1]),
    ("selection.speed_weight", lambda value: selection(speed_weight=value), [-0.1, 1.1, math.nan], [0, 1]),
    ("selection.min_chars_per_s", lambda value: selection(min_chars_per_s=value), [-0.1, math.inf, math.nan], [0]),
    ("selection.max_e2e_latency_ms_p95", lambda value: selection(max_e2e_latency_ms_p95=value), [0.0, math.nan], [None, 0.1]),
    ("selection.max_ttft_ms_p95", lambda value: selection(max_ttft_ms_p95=value), [0.0, math.nan], [None, 0.1]),
    ("selection.confidence", lambda value: selection(confidence=value), [0.49, 1.0, math.nan], [0.5, 0.999]),
    ("selection.max_interval_ratio", lambda value: selection(max_interval_ratio=value), [1.0, math.nan], [1.01]),
    ("gpu.bandwidth_gb_per_s", lambda value: gpu(bandwidth_gb_per_s=value), [0.0, -1.0, math.nan, math.inf], [None, 0.1]),
    ("gpu.memory_gb", lambda value: gpu(memory_gb=value), [0.0, -1.0, math.nan, math.inf], [None, 0.1]),
    ("prompt.user", prompt, ["", "an {answer}", "{question} {question}"], ["{question}", "问题：{question}。{}"]),
]


REFUSED = [pytest.param(key, make, value, id=f"{key}={value}") for key, make, bad, _ in RANGES for value in bad]
ACCEPTED = [pytest.param(make, value, id=f"{key}={value}") for key, make, _, good in RANGES for value in good]


@pytest.mark.parametrize(("key", "make", "value"), REFUSED)
def test_a_value_out_of_range_is_refused_with_its_key_the_value_and_what_is_allowed(key, make, value):
    with pytest.raises(UserError) as refused:
        make(value)
    told = str(refused.value)
    assert told.startswith(key)
    assert f"got {value!r}, allowed is " in told


@pytest.mark.parametrize(("make", "value"), ACCEPTED)
def test_a_value_on_the_edge_of_its_range_is_accepted(make, value):
    make(value)


@pytest.mark.parametrize("issue", list(Issue))
@pytest.mark.parametrize(("key", "owner"), [("concurrency", "closed"), ("rate_per_s", "open"), ("arrival_seed", "open")])
def test_a_setting_of_another_way_to_issue_questions_is_refused_and_both_are_named(issue, key, owner):
    own = {Issue.closed: {"concurrency": 8}, Issue.open: {"rate_per_s": 1.0, "arrival_seed": 0}}.get(issue, {})
    if issue.value == owner:
        workload(issue=issue, **{**own, key: 2})
        return
    with pytest.raises(UserError) as refused:
        workload(issue=issue, **own, **{key: 2})
    told = str(refused.value)
    assert told == f"workload.{key}: got 2, allowed is null with workload.issue={issue.value}; it belongs to workload={owner}"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"slo": SloConfig()}, "workload.slo: got 'no limit', allowed is at least one of ttft_ms, tpot_ms, e2e_ms with"),
        ({"ramp_to_per_s": 2.0}, "workload.ramp_to_per_s: got 2.0, allowed is null with workload=load_search"),
        ({"prefix_cached_repeats": 1}, "workload.prefix_cached_repeats: got 1, allowed is 0 with workload=load_search"),
        (
            {"issue": Issue.batch, "rate_per_s": None, "arrival_seed": None},
            "workload.search.attainment: got 0.95, allowed is null with workload.issue=batch; it belongs to",
        ),
    ],
)
def test_a_search_is_refused_without_limits_or_beside_what_no_search_has(changes, told):
    search = {"slo": SloConfig(ttft_ms=200.0), "search": SearchConfig(0.95, 0.1, 9)}
    arrivals(**search)
    with pytest.raises(UserError) as refused:
        arrivals(**{**search, **changes})
    assert str(refused.value).startswith(told)


@pytest.mark.parametrize("file", sorted((conf_folder() / "workload").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_workload_is_accepted_under_its_own_name(file):
    values = yaml.safe_load(file.read_text())
    searches = "search" in values
    shipped = from_plain({**values, "slo": {"ttft_ms": 200}} if searches else values, WorkloadConfig, str(file))
    assert shipped.name == file.stem
    assert shipped.issue.value == ("open" if searches else file.stem)


def test_a_prompt_that_is_refused_is_named():
    with pytest.raises(UserError, match="'polite'"):
        prompt("no place for what was asked")


def test_engine_arguments_are_those_of_engine_and_quantization_together():
    cell = pipeline(
        engine=engine(args={"max_model_len": 512, "seed": 0}), quantization=QuantizationConfig("fp8", {"kv_cache_dtype": "fp8"})
    )
    assert cell.engine_args() == {"max_model_len": 512, "seed": 0, "kv_cache_dtype": "fp8"}


def test_one_argument_set_to_two_values_is_refused_and_both_groups_are_named():
    with pytest.raises(UserError) as refused:
        pipeline(
            engine=engine(name="ours", args={"max_model_len": 512, "dtype": "bfloat16"}),
            quantization=QuantizationConfig("theirs", {"dtype": "float16"}),
        )
    told = str(refused.value)
    assert "engine.args.dtype='bfloat16' (engine=ours)" in told
    assert "quantization.args.dtype='float16' (quantization=theirs)" in told


def test_one_argument_set_to_one_value_by_both_groups_is_no_clash():
    args = {"max_model_len": 512, "dtype": "float16"}
    cell = pipeline(engine=engine(args=args), quantization=QuantizationConfig("gptq", {"dtype": "float16"}))
    assert cell.engine_args() == args


@given(length=st.integers(16, 4096), wanted=st.integers(1, 5000))
@settings(database=None, deadline=None)
def test_a_pipeline_is_accepted_exactly_where_its_context_has_room_for_a_question_and_the_answer(length, wanted):
    parts = {"engine": context(length), "sampling": sampling(max_tokens=wanted)}
    if wanted < length:
        assert pipeline(**parts).engine.max_model_len == length
        return
    with pytest.raises(UserError) as refused:
        pipeline(**parts)
    assert str(refused.value).startswith(f"sampling.max_tokens: got {wanted}, allowed is less than")
    assert f"engine.args.max_model_len ({length})" in str(refused.value)


MISSING = "???"  # OmegaConf's word for a value that is not there
texts = (st.text(max_size=30) | st.text("${}\\:.a ", max_size=10)).filter(lambda text: text != MISSING)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
keys = st.text("abcdefghijklmnopqrstuvwxyz_.-", min_size=1, max_size=10)
nested = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=4
)
args = st.dictionaries(keys, nested, max_size=3)
downloads = st.builds(
    DownloadConfig,
    hub=st.sampled_from(Hub),
    repository=st.none() | texts,
    revision=st.none() | texts,
    sha256=st.dictionaries(keys, texts, max_size=2),
)
pipelines = st.builds(
    PipelineConfig,
    model=st.builds(
        ModelConfig,
        name=texts,
        path=texts,
        warmup=st.none() | texts,
        trust_remote_code=st.booleans(),
        note=st.none() | texts,
        download=downloads,
    ),
    prompt=st.builds(
        PromptConfig,
        name=texts,
        system=st.none() | texts,
        user=texts.map(lambda text: text.replace("{question}", "") + "{question}"),
        examples=st.lists(st.builds(ExampleConfig, question=texts, answer=texts), max_size=2),
        postprocess=st.builds(PostprocessConfig, st.booleans(), st.booleans(), st.booleans()),
    ),
    quantization=st.builds(QuantizationConfig, name=texts, args=st.just({"kv_cache_dtype": "fp8"})),
    engine=st.builds(
        EngineConfig,
        name=texts,
        backend=st.sampled_from(Backend),
        args=args.map(lambda found: {**found, "max_model_len": 1024}),
        env=st.dictionaries(keys, texts, max_size=2),
        start_timeout_s=st.floats(0.1, 1e6),
    ),
    sampling=st.builds(
        SamplingConfig,
        name=texts,
        temperature=st.floats(0, 2),
        top_p=st.floats(0.01, 1),
        top_k=st.integers(0, 100),
        max_tokens=st.integers(1, 1023),
        seed=st.integers(0, 2**31),
        stop=st.lists(texts, max_size=2),
        enable_thinking=st.booleans(),
        ignore_eos=st.booleans(),
    ),
)


@pytest.mark.no_cover
@pytest.mark.slow
@given(pipelines)
@settings(database=None, deadline=None, max_examples=40, phases=[Phase.generate])  # shrinking so large an example takes minutes
def test_a_pipeline_survives_the_way_to_plain_values_and_back(config):
    values = config.as_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert yaml.safe_load(yaml.safe_dump(values)) == values
    assert from_plain(values, PipelineConfig, "a journal") == config


def test_a_prompt_may_hold_what_omegaconf_would_take_for_an_interpolation():
    config = pipeline(prompt=replace(prompt("{question}"), system=r"Expand ${CMAKE_CUDA_FLAGS} and \${HOME}."))
    assert from_plain(config.as_dict(), PipelineConfig, "a frozen file") == config


def test_plain_values_are_a_copy_that_leaves_the_config_alone():
    config = pipeline()
    values = config.as_dict()
    values["engine"]["args"]["max_model_len"] = 1
    values["sampling"]["stop"].append("x")
    assert config == pipeline()


def test_plain_gives_values_that_strict_json_takes():
    found = plain({1: (Hub.modelscope, math.nan), "deep": [{"up": math.inf, "down": -math.inf, "exact": 0.1}], "none": None})
    assert found == {
        "1": ["modelscope", None],
        "deep": [{"up": None, "down": None, "exact": 0.1}],
        "none": None,
    }
    json.dumps(found, allow_nan=False)
