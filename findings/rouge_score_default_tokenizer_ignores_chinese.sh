#!/usr/bin/env bash
# Finding: rouge_score gives two equal Chinese answers 0.0, and two opposite ones that share one Latin word 1.0.
#
# Packages:
#   rouge_score==0.1.2
#   absl-py==2.5.1 click==8.5.1 defusedxml==0.7.1 joblib==1.6.0 nltk==3.10.4
#   numpy==2.4.6 regex==2026.11.19 six==1.17.0 tqdm==4.70.1
#
# Tried with: Python 3.11.7 on Linux, 2026-11-30
#
# Expected: equal texts score 1.0, and a text that says the opposite scores less.
#
# Behaviour: without a tokenizer of its caller's, `RougeScorer` takes `[a-z0-9]+` as words and every other character as a
#   space. It gives no warning. A Chinese sentence then has no words at all. With a tokenizer that splits at spaces, equal
#   texts score 1.0 and the opposite ones less.
#
# Here: accuracies published for Chinese answers may count little but the Latin words in them. gpuqa therefore shows the
#   plain formula as `rouge_l_f1_judge`, and beside it `rouge_l_f1`, which counts the Chinese words, too.
#
# Output:
#   default tokenizer, equal texts: 0.000
#   default tokenizer, opposite texts that share one Latin word: 1.000
#   split at spaces, equal texts: 1.000
#   split at spaces, opposite texts that share one Latin word: 0.571
#
# Exit status: 0 if the output is the one above, 1 if it differs, 2 if the packages could not be installed.
set -euo pipefail
header() { sed -n "/^# $1:/,/^#\$/s/^#   //p" "${BASH_SOURCE[0]}"; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
read -ra packages <<<"$(header Packages | tr '\n' ' ')"
{ python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q --no-deps "${packages[@]}"; } || exit 2

output=$("$folder/venv/bin/python" - <<'PYTHON'
from rouge_score.rouge_scorer import RougeScorer


class SplitAtSpaces:
    """A tokenizer as rouge_score takes one: an object with a `tokenize` method."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


EQUAL = ("共享 内存 比 全局 内存 快", "共享 内存 比 全局 内存 快")  # "shared memory is faster than global memory"
OPPOSITE = ("cudaMalloc 会 分配 显存", "cudaMalloc 不会 分配")  # "cudaMalloc allocates memory", "... does not allocate"

for name, tokenizer in {"default tokenizer": None, "split at spaces": SplitAtSpaces()}.items():
    scorer = RougeScorer(["rougeL"], use_stemmer=False, tokenizer=tokenizer)
    print(f"{name}, equal texts: {scorer.score(*EQUAL)['rougeL'].fmeasure:.3f}")
    print(f"{name}, opposite texts that share one Latin word: {scorer.score(*OPPOSITE)['rougeL'].fmeasure:.3f}")
PYTHON
)
echo "$output"
[ "$output" = "$(header Output)" ] || { echo "The behaviour has changed; the header says what it was." >&2; exit 1; }
