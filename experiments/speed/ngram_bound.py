"""How many tokens a step could n-gram speculation give on real answers? No engine: the answers are the references.

    python experiments/speed/ngram_bound.py prompt=structured
    python experiments/speed/ngram_bound.py dataset=qwen_zh_basic model=qwen3_0_6b_gpu_pro --drafts 5

As vLLM's `method: ngram`: where the longest of the last `--longest` to `--shortest` tokens stood before, in the prompt or in
the answer so far, the `--drafts` tokens behind that place are proposed, and as many of them are taken as the answer has
next. A model that gives exactly these answers would need this many steps. Prints tokens a step; without it that is 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from gpuqa.config.app import compose_cell
from gpuqa.pipeline import dataset
from gpuqa.pipeline.pipeline import encoder_for
from gpuqa.pipeline.prompts import load_tokenizer
from gpuqa.roofline.load import common_prefix


def main() -> None:
    """Replay every reference of the cell's dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shortest", type=int, default=2)
    parser.add_argument("--longest", type=int, default=4)
    parser.add_argument("--drafts", type=int, default=3)
    arguments, overrides = parser.parse_known_args()
    cell = compose_cell("experiment=none", "dataset.limit=null", *overrides)
    questions, tokenizer = dataset.load(cell.dataset), load_tokenizer(cell.model)
    encoder = encoder_for(tokenizer, cell)
    tokens = steps = 0
    for question in questions:
        answer = tokenizer.encode(question.reference, add_special_tokens=False)
        tokens += len(answer)
        steps += steps_for(answer, encoder.encode(question.text).token_ids, arguments)
    each = f"{len(questions)} answers of {tokens / len(questions):.0f} tokens"
    print(f"{each} with prompt={cell.prompt.name}: {tokens / steps:.3f} tokens a step")


def steps_for(answer: Sequence[int], prompt: Sequence[int], arguments: argparse.Namespace) -> int:
    """Steps that make the answer: each takes the drafts that fit and one token of the model's own."""
    known, steps = list(prompt), 0
    while (done := len(known) - len(prompt)) < len(answer):
        rest = answer[done:]
        known += rest[: common_prefix(proposed(known, arguments), rest) + 1]
        steps += 1
    return steps


def proposed(known: list[int], arguments: argparse.Namespace) -> list[int]:
    """What followed the last tokens where they stood first; nothing where they are new."""
    for length in range(arguments.longest, arguments.shortest - 1, -1):
        last = known[-length:]
        for begin in range(len(known) - length):
            if known[begin : begin + length] == last:
                return known[begin + length : begin + length + arguments.drafts]
    return []


if __name__ == "__main__":
    main()
