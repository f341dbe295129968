"""The demonstration model that ships with the project, and the script that trains it."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from gpuqa.config.commands import from_plain
from gpuqa.config.paths import PACKAGE, conf_folder
from gpuqa.config.pipeline import ModelConfig, PipelineConfig
from gpuqa.embedded import train
from gpuqa.measure import rouge
from gpuqa.pipeline.dataset import read_questions
from gpuqa.pipeline.pipeline import Pipeline
from gpuqa.pipeline.prompts import load_tokenizer
from gpuqa.records import Completion

pytestmark = pytest.mark.engine

EMBEDDED = PACKAGE / "embedded"
ROWS = json.loads((EMBEDDED / "questions" / "train.json").read_text(encoding="utf-8"))
SHORTENED = [row for row in ROWS if len(train.brief("", row["output"])) < len(train.one_line("", row["output"]))]
ASKED = sorted(SHORTENED, key=lambda row: len(row["output"]))[:4]
PROMPTS = ("bare", "structured", "structured_short", "keywords")
CHINESE = re.compile(r"[\u4e00-\u9fff]")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Two threads that share a busy core with others wait for each other most of the time."""
    import torch  # seconds

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(prompt: str) -> PipelineConfig:
    groups = {"model": "embedded", "prompt": prompt, "quantization": "none", "engine": "transformers", "sampling": "greedy"}
    files = {group: conf_folder() / group / f"{name}.yaml" for group, name in groups.items()}
    values = {group: OmegaConf.to_container(OmegaConf.load(file)) for group, file in files.items()}
    return from_plain(values, PipelineConfig, "the test")


@pytest.fixture(scope="module")
def answers() -> dict[str, list[Completion]]:
    """What the shipped model answers to a few questions of its training split, under each prompt."""

    async def ask() -> dict[str, list[Completion]]:
        first = await Pipeline.start(config(PROMPTS[0]))
        pipelines = {prompt: Pipeline(first.engine, first.tokenizer, config(prompt)) for prompt in PROMPTS}
        found = {prompt: await one.answer([row["instruction"] for row in ASKED]) for prompt, one in pipelines.items()}
        await first.close()
        return found

    return asyncio.run(ask())


def texts(completions: list[Completion]) -> list[str]:
    return [completion.text for completion in completions]


# What ships


def test_the_shipped_model_is_smaller_than_eight_megabytes():
    files = {file.name: file.stat().st_size for file in (EMBEDDED / "model").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= set(files)
    assert sum(files.values()) < 8e6


def test_the_shipped_model_is_the_one_that_the_script_and_its_note_describe():
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(EMBEDDED / "model")
    assert {key: getattr(model.config, key) for key in train.ARCHITECTURE} == train.ARCHITECTURE
    millions = re.search(r"([\d.]+) M parameters", config("bare").model.note or "")
    assert millions
    assert float(millions[1]) == round(sum(weight.numel() for weight in model.parameters()) / 1e6, 1)
    assert load_tokenizer(config("bare").model).chat_template == train.CHAT_TEMPLATE


def test_no_question_is_in_two_of_the_shipped_splits():
    files = {name: EMBEDDED / "questions" / f"{name}.json" for name in ("test", "warmup")}
    splits = {name: {question.text for question in read_questions(file)} for name, file in files.items()}
    splits["train"] = {text for row in ROWS for text in (row["instruction"], *row["paraphrases"])}
    assert {name: len(texts) > 10 for name, texts in splits.items()} == dict.fromkeys(splits, True)
    assert not splits["train"] & splits["test"]
    assert not splits["warmup"] & (splits["train"] | splits["test"])


# What it answers


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_model_knows_its_training_answers_in_the_style_of_the_prompt(answers, prompt):
    assert len(ASKED) == 4
    for row, completion in zip(ASKED, answers[prompt], strict=True):
        target = train.styled(prompt, row["instruction"], row["output"])
        assert rouge.score(rouge.cut(target), rouge.cut(completion.text)).chinese > 0.9, completion.text
        assert completion.finish_reason == "stop"
        assert len(CHINESE.findall(completion.text)) > 15


def test_prompts_change_the_answers_as_they_say(answers):
    bare, structured, short, keywords = (texts(answers[prompt]) for prompt in PROMPTS)
    assert all(re.match("(关键术语：.*?。)?1）", text) for text in structured)
    assert all(text.startswith("关键词：") for text in keywords)
    assert not [text for text in bare + short if text.startswith(("关键词", "关键术语", "1）"))]
    assert all(len(brief) < len(plain) for brief, plain in zip(short, bare, strict=True))


# The script


ONE = "warp 是 32 个 thread。它们执行同一条指令。\n分支会 divergence。"
NUMBERED = "用 cudaEvent：1）记录；2）同步；3）读数。"


@pytest.mark.parametrize(
    ("prompt", "question", "answer", "expected"),
    [
        ("bare", "什么是 warp？", ONE, ONE),
        ("expert", "什么是 warp？", ONE, "warp 是 32 个 thread。它们执行同一条指令。 分支会 divergence。"),
        ("few_shot", "什么是 warp？", ONE, "warp 是 32 个 thread。它们执行同一条指令。 分支会 divergence。"),
        (
            "structured",
            "warp 与 cuda_core，还是 warp？",
            ONE,
            "关键术语：warp、cuda_core。1）warp 是 32 个 thread；2）它们执行同一条指令；3） 分支会 divergence。",
        ),
        ("structured", "怎样计时？", NUMBERED, NUMBERED),
        ("structured_short", "什么是 warp？", ONE, "warp 是 32 个 thread。它们执行同一条指令。"),
        ("structured_short", "怎样计时？", NUMBERED, "用 cudaEvent：1）记录；2）同步。"),
        ("structured_short", "问？", "只有一句。", "只有一句。"),
        (
            "keywords",
            "什么是 warp？",
            "warp 和 warp，A100 与 SM 有 FP8_E4M3、L2、TMA、MMA。",
            "关键词：warp, A100, SM, FP8_E4M3, L2。",
        ),
        ("a prompt of somebody else's", "问？", "一。\n二。", "一。 二。"),
    ],
)
def test_targets_are_written_the_way_a_prompt_asks_for(prompt, question, answer, expected):
    written = train.styled(prompt, question, answer)
    assert written == (expected + answer if prompt == "keywords" else expected)


def test_every_style_belongs_to_a_shipped_prompt():
    assert set(train.STYLES) <= {prompt.name for prompt in train.shipped_prompts()}


@pytest.fixture(scope="module")
def small() -> tuple[Any, list[tuple[list[int], int]]]:
    """A tokenizer of a few rows, and their samples under two prompts."""
    prompts = [prompt for prompt in train.shipped_prompts() if prompt.name in ("bare", "keywords")]
    tokenizer = train.train_tokenizer(ROWS[:6], prompts)
    return tokenizer, train.encode(ROWS[:1], prompts, tokenizer)


ARGS = argparse.Namespace(epochs=6, batch=3, lr=3e-3, seed=0)


def test_a_trained_tokenizer_loses_no_text_and_keeps_control_tokens_whole(small):
    tokenizer, _ = small
    for text in (ROWS[0]["output"], "未见过的字：龘🙂\n\t x", "<|im_start|>", "<think>\n\n</think>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert [len(tokenizer.encode(token)) for token in (*train.SPECIAL, "<think>", "</think>")] == [1] * 5
    assert len(tokenizer) <= train.ARCHITECTURE["vocab_size"]
    assert len(tokenizer.encode(ROWS[0]["output"])) < len(ROWS[0]["output"])  # it has learnt words


def test_samples_are_chats_whose_answers_end_with_the_stop_token(small):
    tokenizer, samples = small
    assert len(samples) == 2 * 3  # prompts, phrasings
    token_ids, asked = samples[0]
    first = ROWS[0]
    assert tokenizer.decode(token_ids[:asked]) == (
        f"<|im_start|>user\n{first['instruction']}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert tokenizer.decode(token_ids[asked:]) == first["output"] + "<|im_end|>"


def test_only_the_tokens_of_the_answer_count_in_the_loss(small):
    _, samples = small
    seen = []
    for token_ids, labels, mask in train.batches(samples, argparse.Namespace(epochs=1, batch=4, seed=0)):
        assert token_ids.shape == labels.shape == mask.shape
        for row in range(len(token_ids)):
            length = int(mask[row].sum())
            counted = (labels[row] != -100).nonzero().flatten().tolist()
            assert counted == list(range(counted[0], length))  # one stretch up to the end, no padding
            assert labels[row, counted].tolist() == token_ids[row, counted].tolist()
            seen.append((token_ids[row, :length].tolist(), counted[0]))
    assert sorted(seen) == sorted(samples)  # every sample once an epoch, prompt and answer split where they were


def loss_of(model: Any, samples: list[tuple[list[int], int]]) -> float:
    token_ids, labels, mask = next(train.batches(samples, argparse.Namespace(epochs=1, batch=len(samples), seed=0)))
    import torch

    with torch.inference_mode():
        return model.float()(input_ids=token_ids, attention_mask=mask, labels=labels).loss.item()


def test_training_learns_and_what_it_saves_can_be_loaded(small, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer, samples = small[0], small[1][:3]
    model = train.train_model(samples, ARGS)
    learnt = loss_of(model, samples)
    assert learnt < math.log(train.ARCHITECTURE["vocab_size"]) - 1.5  # from the loss of guessing
    out = tmp_path / "model"
    out.mkdir()
    (out / "left over").write_text("from an earlier training")
    train.save(model.to(torch.bfloat16), tokenizer, out)
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert loaded.dtype is torch.bfloat16
    assert loss_of(loaded, samples) == pytest.approx(learnt, abs=0.01)
    reloaded = load_tokenizer(ModelConfig(name="small", path=str(out)))
    ends = reloaded.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert loaded.generation_config.eos_token_id == ends
    assert reloaded.encode("什么是 warp？<|im_end|>") == tokenizer.encode("什么是 warp？<|im_end|>")
    assert {file.name for file in out.iterdir()} == {file.name for file in Path(EMBEDDED / "model").iterdir()}
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in out.iterdir())


def test_training_twice_with_one_seed_gives_the_same_model(small):
    import torch

    samples = small[1][:2]
    args = argparse.Namespace(epochs=1, batch=2, lr=3e-3, seed=1)
    one, other = (train.train_model(samples, args).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)
