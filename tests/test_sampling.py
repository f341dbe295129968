"""Where an answer ends, by the model's own files, and what of their advice is not used; and which values `sampling` takes."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpuqa.config import UserError
from gpuqa.config.app import compose_cell
from gpuqa.config.commands import CellConfig
from gpuqa.config.paths import PACKAGE
from gpuqa.config.pipeline import SamplingConfig
from gpuqa.pipeline.prompts import load_tokenizer
from gpuqa.pipeline.sampling import sampling_notes, stop_token_ids

EMBEDDED = PACKAGE / "embedded" / "model"
CONTROL = ("<|im_end|>", "<|endoftext|>", "<|im_start|>")


def model(folder: Path, generation: Any = None, config: Any = None, tokenizer: Any = None) -> CellConfig:
    """A cell over the embedded model's tokenizer with other files: generation_config.json (none for None), and changes to
    config.json and tokenizer_config.json."""
    shutil.copytree(EMBEDDED, folder, ignore=shutil.ignore_patterns("generation_config.json", "*.safetensors"))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    for name, changes in (("config.json", config or {}), ("tokenizer_config.json", tokenizer or {})):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps({**content, **changes}), encoding="utf-8")
    return compose_cell("experiment=none", "prompt=bare", f"model.path={folder}")


def stops(cell: CellConfig, **sampling: Any) -> list[str]:
    """The tokens that end the cell's answers."""
    tokenizer = load_tokenizer(cell.model)
    ids = stop_token_ids(tokenizer, replace(cell, sampling=replace(cell.sampling, **sampling)))
    assert len(set(ids)) == len(ids)
    return [str(token) for token in tokenizer.convert_ids_to_tokens(ids)]


def test_no_shipped_way_of_sampling_names_the_tokens_of_one_model() -> None:
    for name in ("greedy", "sampled", "fixed_length"):
        assert compose_cell("experiment=none", f"sampling={name}").sampling.stop == []


@pytest.mark.slow
def test_an_answer_ends_where_tokenizer_and_generation_config_say_so(tmp_path: Path) -> None:
    end, text_end, start = load_tokenizer(model(tmp_path / "m").model).convert_tokens_to_ids(list(CONTROL))
    cases = {
        "one in generation_config.json": ({"eos_token_id": text_end}, {"eos_token_id": start}, ["<|im_end|>", "<|endoftext|>"]),
        "several": ({"eos_token_id": [end, text_end, start]}, {}, ["<|im_end|>", "<|endoftext|>", "<|im_start|>"]),
        "only config.json has one": (None, {"eos_token_id": text_end}, ["<|im_end|>", "<|endoftext|>"]),
        "generation_config.json has none": ({"top_k": 20}, {"eos_token_id": [text_end]}, ["<|im_end|>", "<|endoftext|>"]),
        "no file has one": (None, {"eos_token_id": None}, ["<|im_end|>"]),
    }
    for number, (generation, config, expected) in enumerate(cases.values()):
        assert stops(model(tmp_path / str(number), generation, config)) == expected


def test_a_named_stop_is_one_more_and_ignore_eos_leaves_none(tmp_path: Path) -> None:
    cell = model(tmp_path / "model", {"eos_token_id": 4093})
    assert stops(cell, stop=["<|endoftext|>", "<|im_end|>"]) == ["<|endoftext|>", "<|im_end|>"]
    assert stops(cell, stop=["<|endoftext|>"], ignore_eos=True) == []


def test_chatml_ends_an_answer_of_a_base_model_whose_own_end_is_that_of_a_document(tmp_path: Path) -> None:
    cell = model(tmp_path / "base", {"eos_token_id": 4091}, tokenizer={"eos_token": "<|endoftext|>"})
    assert stops(cell) == ["<|endoftext|>"]
    assert stops(replace(cell, prompt=replace(cell.prompt, template="chatml"))) == ["<|im_end|>", "<|endoftext|>"]


def test_a_model_without_any_end_token_is_refused_with_what_to_name(tmp_path: Path) -> None:
    cell = model(tmp_path / "model", {}, {"eos_token_id": None}, {"eos_token": None})
    with pytest.raises(UserError, match=r"sampling.stop: got \[\].*/model names an end token.*such as one of <.endoftext.>"):
        stops(cell)
    assert stops(cell, stop=["<|endoftext|>"]) == ["<|endoftext|>"]


def test_a_stop_that_is_text_is_refused_with_the_key_for_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sampling.stop: got '\\n\\n', .*<.im_end.>; text goes into sampling.stop_strings"):
        stops(model(tmp_path / "model"), stop=["\n\n"])


def test_advice_that_is_not_used_is_told_once_for_each_model_and_advice_that_a_cell_follows_is_not(tmp_path: Path) -> None:
    advice = {
        "do_sample": True,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 1.0,
        "repetition_penalty": 1.05,
        "eos_token_id": 4093,
    }
    cell = model(tmp_path / "model", advice)
    drawn = replace(cell, sampling=replace(cell.sampling, temperature=0.6))
    [note] = sampling_notes([cell, drawn, drawn])
    assert note == (
        "model=embedded: its generation_config.json recommends top_k=20, repetition_penalty=1.05, which is not used: "
        "the group `sampling` alone decides how tokens are drawn"
    )
    followed = replace(drawn, sampling=replace(drawn.sampling, top_k=20, repetition_penalty=1.05))
    assert sampling_notes([followed]) == []
    assert len(sampling_notes([cell, model(tmp_path / "other", {"min_p": 0.1})])) == 2
    assert sampling_notes([compose_cell("experiment=none")]) == [], "the embedded model gives no advice"


@pytest.mark.parametrize("token", [-1, 1_000_000_000, 4096, "</s>", True, 2.0], ids=repr)
def test_an_end_token_that_the_model_does_not_have_is_refused_with_its_file(token: Any, tmp_path: Path) -> None:
    refusal = rf"^model.path: .*/generation_config.json: eos_token_id: got {token!r}, allowed is a token id from 0 to 4095; "
    with pytest.raises(UserError, match=refusal):
        stops(model(tmp_path / "model", {"eos_token_id": [4093, token]}))


def test_an_end_token_of_config_json_is_looked_at_where_no_other_file_names_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^model.path: .*/config.json: eos_token_id: got -1, allowed is a token id from 0"):
        stops(model(tmp_path / "model", None, {"eos_token_id": -1}))


def test_an_end_token_in_the_padding_of_the_vocabulary_is_one_that_the_model_has(tmp_path: Path) -> None:
    cell = model(tmp_path / "model", {"eos_token_id": 4100}, {"vocab_size": 4224})
    assert 4100 in stop_token_ids(load_tokenizer(cell.model), cell)


def test_a_model_that_draws_nothing_by_chance_gives_no_advice_on_chance(tmp_path: Path) -> None:
    advice = {"do_sample": False, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.1}
    assert sampling_notes([model(tmp_path / "greedy", advice)]) == []
    [note] = sampling_notes([model(tmp_path / "penalty", {**advice, "repetition_penalty": 1.05})])
    assert "recommends repetition_penalty=1.05, which" in note


WRONG = [
    ({"temperature": 2.1}, "a number from 0 to 2"),
    ({"top_p": 0.0}, "a number above 0, at most 1"),
    ({"top_p": 1.1}, "a number above 0, at most 1"),
    ({"top_k": -1}, "an integer of at least 0"),
    ({"min_p": -0.1}, "a number from 0 to 1"),
    ({"min_p": 1.1}, "a number from 0 to 1"),
    ({"repetition_penalty": 0.0}, "a number above 0"),
    ({"repetition_penalty": math.inf}, "a number above 0"),
    ({"frequency_penalty": -2.1}, "a number from -2 to 2"),
    ({"presence_penalty": 2.1}, "a number from -2 to 2"),
    ({"presence_penalty": math.nan}, "a number from -2 to 2"),
    ({"min_tokens": -1}, r"an integer from 0 to sampling.max_tokens \(256\)"),
    ({"min_tokens": 257}, r"an integer from 0 to sampling.max_tokens \(256\)"),
    ({"seed": -1}, "an integer from 0"),
    ({"stop_strings": ["END", ""]}, "none of them empty"),
    ({"stop_strings": ["END"], "min_tokens": 1}, r"\[\] beside sampling.min_tokens or sampling.ignore_eos"),
    ({"stop_strings": ["END"], "ignore_eos": True}, r"\[\] beside sampling.min_tokens or sampling.ignore_eos"),
]


@pytest.mark.parametrize(("values", "allowed"), WRONG, ids=str)
def test_a_value_out_of_range_is_refused_with_what_is_allowed(values: dict[str, Any], allowed: str) -> None:
    key = next(iter(values))
    with pytest.raises(UserError, match=rf"^sampling.{key}: got .*, allowed is .*{allowed}"):
        SamplingConfig(name="wrong", **values)


EDGES = [
    {"temperature": 2.0, "top_p": 1.0, "min_p": 1.0, "repetition_penalty": 0.1},
    {"frequency_penalty": -2.0, "presence_penalty": 2.0, "min_tokens": 256, "seed": 2**63 - 1},
]


@pytest.mark.parametrize("values", EDGES, ids=["first", "second"])
def test_vllm_takes_the_edges_of_what_is_allowed(values: dict[str, Any]) -> None:
    from gpuqa.engines.vllm.engine import sampling_params

    params = sampling_params(SamplingConfig(name="edge", **{"temperature": 1.0, **values}), [1], "FINAL_ONLY")
    assert {key: getattr(params, key) for key in values} == values
