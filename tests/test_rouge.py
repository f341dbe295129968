"""Both ROUGE-L scores against the library that the judge uses, to the bit."""

from __future__ import annotations

import json

import jieba
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

from gpuqa.config.paths import find
from gpuqa.measure import rouge


class SplitOnSpaces(Tokenizer):
    """What turns rouge_score's scorer into one that keeps Chinese."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


JUDGE = RougeScorer(["rougeL"], use_stemmer=False)
CHINESE = RougeScorer(["rougeL"], tokenizer=SplitOnSpaces())


def ours(reference: str, answer: str) -> tuple[float, float]:
    scores = rouge.score(rouge.cut(reference), rouge.cut(answer))
    return scores.judge, scores.chinese


def theirs(reference: str, answer: str) -> tuple[float, float]:
    texts = " ".join(jieba.lcut(reference)), " ".join(jieba.lcut(answer))
    return JUDGE.score(*texts)["rougeL"].fmeasure, CHINESE.score(*texts)["rougeL"].fmeasure


# Pieces that tokenizers disagree on: case that folds in more than one way (İ, ß, the Kelvin sign, ligatures), digits
# that are not [0-9], full-width letters, marks that jieba keeps inside a word, and blanks that are not spaces.
PIECES = [
    *("共享内存", "线程块", "的", "是", "显存带宽", "合并访存", "南京市长江大桥", "，", "。", "：", "（", "）"),
    *("cudaMalloc", "CUDA", "cuda", "__syncthreads", "__shfl_down_sync", "warp", "SM", "sm_90", "fp16", "FP8", "L2"),
    *("128", "3.14", "1e-5", "95%", "C++", "C#", "a.b", "x-y", "<<<grid, block>>>", "#include <cuda.h>", "don't"),
    *("İ", "ı", "ß", "\u212a", "\ufb01", "\u017f", "\u212b", "é", "e\u0301", "Ω"),
    *("ＣＵＤＡ", "ｗａｒｐ", "１２８", "²", "٣", "Ⅷ", "🚀", "𝐆𝐏𝐔"),
    *(" ", "  ", "\n", "\n\n", "\t", "\r\n", "\u3000", "\u00a0", "\u2028", "\u0085", "\u200b", "\ufeff", "_", "__", "-", "."),
]
texts = st.one_of(st.lists(st.sampled_from(PIECES), max_size=30).map("".join), st.text(max_size=40))


@settings(max_examples=400, deadline=None)
@given(texts, texts)
@example("İstanbul", "i stanbul")
@example("\u212a=1", "k=1")
@example("用 cudaMalloc_host 分配", "cudaMalloc host")
def test_both_scores_are_bit_equal_to_rouge_score_over_generated_texts(reference: str, answer: str) -> None:
    assert ours(reference, answer) == theirs(reference, answer)


@settings(max_examples=100, deadline=None)
@given(texts, texts, texts, texts)
def test_both_scores_are_bit_equal_when_the_texts_share_words(start: str, first: str, second: str, end: str) -> None:
    reference, answer = start + " warp " + first + end, start + " warp " + second + end
    assert ours(reference, answer) == theirs(reference, answer)


@pytest.mark.slow
def test_both_scores_are_bit_equal_on_the_shipped_questions() -> None:
    rows = []
    for split in ("test", "warmup"):
        rows += json.loads(find(f"gpuqa/embedded/questions/{split}.json", "dataset.path").read_text(encoding="utf-8"))
    found = []
    for number, row in enumerate(rows):
        reference, neighbour = row["output"], rows[number - 1]["output"]
        for answer in (reference, neighbour, reference[: len(reference) // 2] + neighbour[-80:]):
            scores = ours(reference, answer)
            assert scores == theirs(reference, answer), row["id"]
            found.append(scores)
    assert len({judge for judge, _ in found}) > 100, "the pairs must spread over many scores for this test to mean something"
    assert len({chinese for _, chinese in found}) > 100


@pytest.mark.parametrize(
    ("reference", "answer", "judge", "chinese"),
    [
        pytest.param("共享内存位于片上", "共享内存位于片上", 0.0, 1.0, id="equal Chinese, which the judge does not see"),
        pytest.param("用 cudaMalloc 申请", "调 cudaMalloc 函数", 1.0, 1 / 3, id="one shared identifier is all to the judge"),
        pytest.param("CUDA warp", "cuda WARP", 1.0, 0.0, id="only the judge lower-cases"),
        pytest.param("ＣＵＤＡ", "ＣＵＤＡ", 0.0, 1.0, id="full-width letters are not Latin to the judge"),
        pytest.param("sm_90", "sm 90", 1.0, 0.8, id="an underscore is a word of its own to jieba and none to the judge"),
        pytest.param("a b c d", "a c", 2 / 3, 2 / 3, id="precision 1 and recall one half"),
        pytest.param("a b", "b a", 0.5, 0.5, id="the order of words counts"),
        pytest.param("a b", "c d", 0.0, 0.0, id="nothing in common"),
        pytest.param("warp", "", 0.0, 0.0, id="an empty answer"),
        pytest.param("", "warp", 0.0, 0.0, id="an empty reference"),
        pytest.param("", "", 0.0, 0.0, id="both empty"),
        pytest.param("warp", " \n\u3000", 0.0, 0.0, id="an answer of blanks"),
    ],
)
def test_known_pairs_get_their_known_scores(reference: str, answer: str, judge: float, chinese: float) -> None:
    assert ours(reference, answer) == pytest.approx((judge, chinese), abs=1e-15)
    assert ours(reference, answer) == theirs(reference, answer)


@settings(max_examples=60, deadline=None)
@given(st.lists(texts, min_size=1, max_size=4), texts)
def test_several_references_count_by_the_best_score_as_in_rouge_score_or_by_the_mean(
    references: list[str], answer: str
) -> None:
    cut = [" ".join(jieba.lcut(text)) for text in (*references, answer)]
    best, mean = rouge.score_all(references, answer), rouge.score_all(references, answer, mean=True)
    assert best.judge == JUDGE.score_multi(cut[:-1], cut[-1])["rougeL"].fmeasure
    assert best.chinese == CHINESE.score_multi(cut[:-1], cut[-1])["rougeL"].fmeasure
    each = [theirs(reference, answer) for reference in references]
    assert (mean.judge, mean.chinese) == pytest.approx([sum(scores) / len(each) for scores in zip(*each, strict=True)])
