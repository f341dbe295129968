"""`run.yaml`: the command of a study and its prompts as the model reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuqa.config.app import compose_cell
from gpuqa.pipeline.pipeline import checked_encoder
from gpuqa.pipeline.prompts import load_tokenizer
from gpuqa.study import run_file
from gpuqa.study.run_file import RunFile, SentPrompt

RUN = RunFile("python -m gpuqa.sweep prompt=bare", "abc+", {"d" * 64: SentPrompt("<|im_start|>用户\n{question}", 7)})


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    run_file.write(tmp_path / "study", RUN)
    assert run_file.read(tmp_path / "study") == RUN


@pytest.mark.parametrize(
    "content", [None, "", "[1]", "command: a\n", "command: a\ncommit: b\nprompts: [1]\n", "{", "prompts: {a: 1}\n"]
)
def test_a_study_whose_file_is_absent_damaged_or_edited_is_reported_without_it(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.yaml").write_text(content, encoding="utf-8")
    assert run_file.read(tmp_path) == RunFile()


def test_a_prompt_is_kept_as_the_model_reads_it_with_the_place_of_the_question_and_its_tokens() -> None:
    config = compose_cell("prompt=structured_short")
    tokenizer = load_tokenizer(config.model)
    encoder = checked_encoder(tokenizer, config)
    sent = run_file.sent_prompt(encoder)
    assert config.prompt.system is not None
    assert config.prompt.system in sent.text
    assert "{question}" in sent.text
    assert sent.text.startswith("<|im_start|>system\n")
    question = "什么是 warp？"
    assert sent.text.replace("{question}", question) == tokenizer.decode(encoder.encode(question).token_ids)
    assert sent.tokens == len(encoder.before) + len(tokenizer.encode(config.prompt.user.replace("{question}", ""))) + len(
        encoder.after
    )
