"""Cells that are the same in effect on this machine, which has vLLM for the CPU: shared-prefix attention is off here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_study import config, prepared, run

from gpuqa.config.pipeline import Attention
from gpuqa.measure.cell import Cell
from gpuqa.study.same_effect import Effects, effective, switched_off

SHARED = "engine.attention=shared_prefix"


def cell(**axes: Any) -> Cell:
    """A cell with nothing read from the disk."""
    axes = {"engine": "vllm_cpu", **axes}
    return Cell(config(**axes), {key.replace("__", "."): str(value) for key, value in axes.items()}, [], [], {})


def grid(*prompts: str, **fixed: Any) -> list[Cell]:
    attentions = ("shared_prefix", "default")
    return [cell(prompt=prompt, engine__attention=attention, **fixed) for prompt in prompts for attention in attentions]


@pytest.mark.slow
def test_an_override_that_is_off_is_named_with_its_reason_and_one_that_runs_is_not() -> None:
    assert switched_off(cell().config) == {}
    assert switched_off(config(engine="transformers")) == {}
    assert switched_off(cell(engine__attention="shared_prefix").config) == {SHARED: "there is no CUDA device"}
    fp8 = cell(engine__attention="shared_prefix", quantization="fp8_kv")
    assert switched_off(fp8.config) == {SHARED: "there is no CUDA device"}
    assert effective(fp8.config, switched_off(fp8.config)).engine.attention is Attention.default


def test_of_cells_that_are_the_same_in_effect_the_one_that_asks_for_what_it_gets_is_measured() -> None:
    cells = grid("bare", "expert")
    copies = Effects(cells).copies()
    assert [trial.key for trial in copies] == [cells[0].key, cells[2].key]
    plain = cells[1].trial(None).name
    assert copies[0].skipped == f"the same as {plain}, whose numbers count for both: {SHARED} is off (there is no CUDA device)"
    assert Effects([cells[0], cells[2]]).copies() == [], "without the plain ones all are measured"
    assert Effects([cell(sampling__max_tokens=tokens) for tokens in (4, 5)]).copies() == []


@pytest.mark.parametrize("name", ["nvfp4_per_token", "int8_per_channel_weight_only"])
def test_a_number_format_for_experts_is_off_for_a_model_without_experts(name: str) -> None:
    plain, other = cell(quantization="none"), cell(quantization=name)
    [copy] = Effects([plain, other]).copies()
    assert copy.key == other.key
    assert f"quantization={name} is off (vLLM changes the weights of experts only, and this model has none)" in str(
        copy.skipped
    )
    assert Effects([plain, cell(quantization="fp8_per_channel")]).copies() == []


def test_a_model_with_experts_gets_a_number_format_for_experts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"num_experts": 8}')
    experts = cell(quantization="nvfp4_per_token", model__path=str(tmp_path)).config
    assert switched_off(experts) == {}


def test_an_axis_without_effect_and_an_override_that_is_off_are_told_once_each() -> None:
    off, idle = Effects(grid("bare", "expert")).notes()
    assert off == f"{SHARED} is off in 2 of 4 cells: there is no CUDA device"
    assert idle.startswith("The axis engine.attention has no effect in this study: shared_prefix, default measure the same")
    assert Effects([cell(prompt=name) for name in ("bare", "expert")]).notes() == []


@pytest.mark.parametrize("key", ["top_p", "top_k", "min_p", "seed"])
def test_at_temperature_0_an_axis_that_draws_among_likely_tokens_has_no_effect(key: str) -> None:
    values = (1, 2) if key in ("top_k", "seed") else (0.5, 1)
    for temperature, notes in ((0, 1), (1, 0)):
        cells = [cell(sampling__temperature=temperature, **{f"sampling__{key}": value}) for value in values]
        assert len(Effects(cells).notes()) == notes
        assert len(Effects(cells).copies()) == notes
    penalised = [cell(sampling__repetition_penalty=value) for value in (1.0, 1.1)]
    assert Effects(penalised).copies() == [], "a penalty changes which token is the most likely one"


@pytest.mark.engine
def test_a_study_measures_cells_that_are_the_same_in_effect_once(tmp_path, prepared_twins) -> None:
    outcome, recorder = run(prepared_twins, tmp_path)
    copy, original = outcome.trials
    assert copy.skipped.startswith("the same as ")
    assert copy.error is None
    assert original.measurement.questions == 2
    assert {key for key, _ in recorder.passes} == {original.key}
    assert recorder.kept == [], "the copy was skipped in this run"
    assert outcome.engine_starts == 1
    again, recorder = run(prepared_twins, tmp_path)
    assert recorder.passes == []
    assert recorder.kept == [original.axes]
    assert again.trials == outcome.trials


@pytest.fixture
def prepared_twins() -> list[Cell]:
    rows = [{"engine": "vllm_cpu", "engine__attention": name} for name in ("shared_prefix", "default")]
    return prepared(*({**row, "engine__args__max_num_seqs": 4} for row in rows))
