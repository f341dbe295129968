"""`run.yaml` of a study's folder: by which command it was measured, and the prompts as they went to the model.

Only a tokenizer can tell a prompt as text, and it takes seconds to load; while a study is prepared it is at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gpuqa.machine.files import make_folder, write_atomically
from gpuqa.pipeline.prompts import PromptEncoder
from gpuqa.study.study_file import Damaged, read_yaml

QUESTION = "{question}"


@dataclass(frozen=True, slots=True)
class SentPrompt:
    """A prompt variant as the model reads it."""

    text: str  # with `QUESTION` where the question stands, and with the marks of the chat
    tokens: int  # of all but the question


@dataclass(frozen=True, slots=True)
class RunFile:
    """What the file holds; nothing where a study of an older version has none."""

    command: str = ""
    commit: str = ""  # of the checkout that measured, with "+" where it had uncommitted changes; "" where there was none
    prompts: Mapping[str, SentPrompt] = field(default_factory=dict)  # by the digest of their tokens


def sent_prompt(encoder: PromptEncoder) -> SentPrompt:
    """What an encoder makes of a question, read back."""
    text = encoder.tokenizer.decode(encoder.encode(QUESTION).token_ids, clean_up_tokenization_spaces=False)
    return SentPrompt(text, len(encoder.encode("").token_ids))


def write(folder: Path, run: RunFile) -> None:
    """Write the file into a study's folder.

    Raises:
        FileNotWritten: the disk is full, for example.
    """
    make_folder(folder)
    write_atomically(folder / "run.yaml", yaml.safe_dump(asdict(run), allow_unicode=True, sort_keys=False))


def read(folder: Path) -> RunFile:
    """The file of a study's folder; nothing where it is absent, damaged or edited: no number rests on it."""
    try:
        content: Any = read_yaml(folder / "run.yaml")
        prompts = {str(digest): SentPrompt(str(one["text"]), int(one["tokens"])) for digest, one in content["prompts"].items()}
        return RunFile(str(content["command"]), str(content["commit"]), prompts)
    except (Damaged, KeyError, TypeError, ValueError, AttributeError):
        return RunFile()
