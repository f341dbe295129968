"""The pipeline on the transformers backend: clean-up, stop tokens, and what it warms up with."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from gpuqa.config import CleanupConfig, PipelineConfig, UserError
from gpuqa.pipeline import BUILTIN_WARMUP, Pipeline, warmup_questions
from gpuqa.places import conf_folder
from gpuqa.roots import from_plain

pytestmark = pytest.mark.engine


def shipped(prompt: str = "bare") -> PipelineConfig:
    """The embedded model on the transformers backend, from the files in conf/."""
    options = {"model": "embedded", "prompt": prompt, "quantization": "none", "engine": "transformers", "sampling": "greedy"}
    values = {
        group: OmegaConf.to_container(OmegaConf.load(conf_folder() / group / f"{name}.yaml")) for group, name in options.items()
    }
    return from_plain(values, PipelineConfig, "conf")


async def answers(config: PipelineConfig, questions: list[str]) -> list[str]:
    pipeline = await Pipeline.start(config)
    try:
        return [completion.text for completion in await pipeline.answer(questions)]
    finally:
        await pipeline.close()


def questions_with_several_lines(count: int) -> list[str]:
    rows = json.loads((conf_folder().parent / "gpuqa/embedded/questions/train.json").read_text(encoding="utf-8"))
    return [row["instruction"] for row in rows if "\n" in row["output"]][:count]


def test_line_breaks_stay_or_go_as_the_prompt_variant_says():
    config, questions = shipped(), questions_with_several_lines(2)
    kept = asyncio.run(answers(config, questions))
    one_line = replace(config, prompt=replace(config.prompt, cleanup=CleanupConfig(one_line=True)))
    assert all("\n" in text for text in kept)
    assert asyncio.run(answers(one_line, questions)) == [" ".join(text.split("\n")) for text in kept]


def test_a_stop_that_is_no_token_is_refused_before_any_engine_starts():
    config = shipped()
    with pytest.raises(UserError, match=r"sampling.stop: got '\\n\\n'.*<\|im_end\|>"):
        asyncio.run(Pipeline.start(replace(config, sampling=replace(config.sampling, stop=["\n\n"]))))


def test_an_unknown_argument_is_refused_with_the_nearest_names():
    config = shipped()
    engine = replace(config.engine, args={**config.engine.args, "batchsize": 4})
    with pytest.raises(UserError, match=r"engine\.args\.batchsize: .*nearest: batch_size"):
        asyncio.run(Pipeline.start(replace(config, engine=engine)))


def test_warm_up_takes_the_given_file_then_the_models_then_the_built_in_ones(tmp_path: Path):
    model = shipped().model
    given = tmp_path / "warm.json"
    given.write_text(json.dumps([{"instruction": "q", "output": "a"}]), encoding="utf-8")
    assert warmup_questions(model, str(given)) == ["q"]
    assert len(warmup_questions(model)) == 16
    assert warmup_questions(replace(model, warmup=None)) == list(BUILTIN_WARMUP)


def test_warm_up_never_asks_what_will_be_measured():
    model = shipped().model
    measured = set(warmup_questions(model)[:15])
    assert not measured & set(warmup_questions(model, never=measured))
    assert warmup_questions(model, never=set(warmup_questions(model))) == list(BUILTIN_WARMUP)


def test_an_absent_warm_up_file_names_the_path_and_the_setting():
    model = shipped().model
    with pytest.raises(UserError, match=r"model\.warmup: 'nowhere\.json' does not exist"):
        warmup_questions(replace(model, warmup="nowhere.json"))
    with pytest.raises(UserError, match=r"^warmup: 'gone\.json' does not exist"):
        warmup_questions(model, "gone.json")
