"""Question files for tests: written, refused, and one of the same form as the course's public one."""

from __future__ import annotations

import json
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

import pytest

from gpuqa.config import UserError
from gpuqa.config.measurement import DatasetConfig
from gpuqa.pipeline.dataset import load
from gpuqa.records import Question

THINGS = [
    *("warp", "block", "grid", "共享内存", "寄存器", "L2 缓存", "全局内存", "常量内存", "纹理内存", "流", "事件", "原子操作"),
    *(
        "合并访问",
        "bank 冲突",
        "占用率",
        "分支发散",
        "统一内存",
        "固定内存",
        "Tensor Core",
        "CUDA Graph",
        "协作组",
        "屏障",
        "Nsight",
    ),
]
ASKED = ["什么是{}？", "{}为什么影响性能？", "怎样正确使用{}？", "{}有哪些限制？"]
COURSE_ROWS, COURSE_QUESTIONS = 358, len(THINGS) * len(ASKED)


def course_file(path: Path) -> Path:
    """As the course's public questions: an Alpaca list of 358 rows with 92 different questions, some there four times."""
    questions = [asked.format(thing) for asked, thing in product(ASKED, THINGS)]
    rows = [
        {"instruction": question, "input": "", "output": f"关于 {question} 的参考答案，第 {place} 行：先看文档，再测量。"}
        for place, question in enumerate(islice(cycle(questions), COURSE_ROWS))
    ]
    return written(path, json.dumps(rows, ensure_ascii=False, indent=2))


def written(path: Path, content: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(content.encode(encoding))
    return path


def json_lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def as_list(*rows: Any) -> str:
    return json.dumps(rows, ensure_ascii=False)


def read(path: Path, **config: Any) -> list[Question]:
    """The questions of a file under a dataset's configuration."""
    return load(DatasetConfig(name="mine", path=str(path), **config))


def pairs_of(path: Path, **config: Any) -> list[tuple[str, str]]:
    """The texts of a file's questions, and their references."""
    return [(question.text, question.reference) for question in read(path, **config)]


def refusal(path: Path, **config: Any) -> str:
    """The message about a file, without the file's name, which it must begin with."""
    with pytest.raises(UserError) as refused:
        read(path, **config)
    message = str(refused.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")
