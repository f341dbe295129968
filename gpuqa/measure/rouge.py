"""Both ROUGE-L F1s of an answer: the judge's, and one that sees Chinese.

The judge cuts both texts with jieba, joins the words with spaces and gives them to
`rouge_score.RougeScorer(["rougeL"], use_stemmer=False)`. That library's default tokenizer lower-cases and keeps only
runs of [a-z0-9], so Chinese words vanish: two equal Chinese answers score 0, two answers that share nothing but
`cudaMalloc` may score 1. `rouge_l_f1_judge` is that formula to the bit; `rouge_l_f1` is the same F1 over the jieba
words themselves. The longest common subsequence comes from rapidfuzz (bit-parallel), F1 from rouge_score's formula
(C.-Y. Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004).
"""

from __future__ import annotations

import functools
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rapidfuzz.distance import LCSseq

NOT_LATIN = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class RougeL:
    """Both F1s of one answer, from 0 to 1."""

    judge: float
    chinese: float


@dataclass(frozen=True, slots=True)
class Words:
    """One text cut for both scores."""

    judge: tuple[str, ...]
    chinese: tuple[str, ...]


@functools.lru_cache(maxsize=2048)
def cut(text: str) -> Words:
    """Cut a text into the words of both scores.

    Cutting is what scoring costs. Trials of a study share their references and are scored one after the other, so the last
    2,048 texts (some 20 MB) hold a study's references, each cut once, beside the answers that come and go.
    """
    joined = " ".join(chinese_cutter()(text))
    latin = NOT_LATIN.sub(" ", joined.lower())
    return Words(judge=tuple(latin.split()), chinese=tuple(joined.split()))


@functools.cache
def chinese_cutter() -> Callable[[str], list[str]]:
    """jieba's cutter; loading its dictionary takes 0.7 s, so only when a text is scored."""
    with warnings.catch_warnings(action="ignore"):  # it asks for pkg_resources and falls back by itself
        import jieba
    jieba.setLogLevel(logging.WARNING)
    cutter: Callable[[str], list[str]] = jieba.lcut
    return cutter


def score_all(references: Sequence[str], answer: str, mean: bool = False) -> RougeL:
    """ROUGE-L F1s of an answer against its references: the best of each, as `rouge_score` has it for several, or the mean."""
    scores = [score(cut(reference), cut(answer)) for reference in references]
    combined = fmean if mean else max
    return RougeL(judge=combined(pair.judge for pair in scores), chinese=combined(pair.chinese for pair in scores))


def score(reference: Words, answer: Words) -> RougeL:
    """ROUGE-L F1 of an answer against its reference; an empty side scores 0."""
    return RougeL(judge=lcs_f1(reference.judge, answer.judge), chinese=lcs_f1(reference.chinese, answer.chinese))


def lcs_f1(reference: Sequence[str], answer: Sequence[str]) -> float:
    """F1 of precision LCS/len(answer) and recall LCS/len(reference), in rouge_score's order of operations."""
    if not reference or not answer:
        return 0.0
    common = LCSseq.similarity(reference, answer)
    precision, recall = common / len(answer), common / len(reference)
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
