"""The texts that are asked: never the same one twice, and equally long for all contestants of a repeat.

Every row of every repeat gets texts of its own, because rows share engines and an engine remembers prefixes. Their
lengths in tokens depend on the repeat and the question's place only, so all rows of a repeat do the same work.
"""

from __future__ import annotations

import random
from typing import Any

SHORTEST, LONGEST = 15, 60
VOCABULARY = (
    "what why how when does a the warp block grid thread kernel shared memory bank conflict occupancy register spill"
    " stream event graph capture launch latency bandwidth cache line coalesced access atomic reduction scan tensor core"
    " matrix tile pipeline barrier cluster Hopper Blackwell cudaMalloc cudaMemcpyAsync nvcc PTX SASS NCCL cuBLAS"
    " explain compare measure between and for with without of in on"
    " 什么是 为什么 如何 请解释 合并访存 共享内存 线程块 线程束 寄存器 占用率 流 事件 核函数 显存 带宽 延迟 同步 原子操作"
    " 归约 矩阵乘法 张量核心 流水线 优化 比较 区别 吞吐 瓶颈 缓存 调度"
)


def system_prompt(tokenizer: Any, tokens: int) -> str:
    """The text that all questions share, about so many tokens long. `tokenizer`: a `tokenizers.Tokenizer`."""
    return text_of(tokenizer, tokens, random.Random(f"system {tokens}"))


def question_texts(tokenizer: Any, row: str, prefix: int, repeat: int, count: int) -> list[str]:
    """Questions that no other row, prefix or repeat asks; the warm-up is repeat -1."""
    words = random.Random(f"{row} {prefix} {repeat}")
    return [text_of(tokenizer, length, words) for length in lengths(repeat, count)]


def lengths(repeat: int, count: int) -> list[int]:
    """Tokens of each question of a repeat; two short of the ends, because cutting a text can move its count a little."""
    draw = random.Random(f"lengths {repeat}")
    return [draw.randint(SHORTEST + 2, LONGEST - 2) for _ in range(count)]


def text_of(tokenizer: Any, tokens: int, draw: random.Random) -> str:
    """Random words, cut after so many tokens; a character that the cut broke is dropped."""
    words = VOCABULARY.split()
    text = " ".join(draw.choice(words) for _ in range(tokens))
    ids = tokenizer.encode(text, add_special_tokens=False).ids[:tokens]
    cut: str = tokenizer.decode(ids)
    return cut.rstrip("\ufffd ")
