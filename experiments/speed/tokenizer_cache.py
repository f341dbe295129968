"""What is it worth that the tokenizer remembers words, and what does it take?

    PYTHONPATH=. python experiments/speed/tokenizer_cache.py --words 0,64,256,1000,10000

The embedded model's tokenizer with a cache of so many words (it comes with 10,000), fewest first. Memory: how much larger this
process, which encodes in one thread, is after 12,000 new Chinese questions. Time: CPU for 358 questions in one call, out of the
shipped training questions, which come again, and new ones; medians, all caches in turn.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import psutil

from gpuqa.config.pipeline import ModelConfig
from gpuqa.measure.statistics import median_and_mad
from gpuqa.pipeline.prompts import load_tokenizer

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [row["instruction"] for row in json.loads((ROOT / "gpuqa/embedded/questions/train.json").read_text("utf-8"))]
CHARACTERS = sorted({character for text in SHIPPED for character in text if "\u4e00" <= character <= "\u9fff"})


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", default="0,64,256,1000,10000")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    rng, grown, seconds = random.Random(0), {}, {}
    tokenizers = {}
    for words in sorted(map(int, arguments.words.split(","))):
        tokenizers[words] = load_tokenizer(ModelConfig(name="embedded", path=str(ROOT / "gpuqa/embedded/model")))
        tokenizers[words].backend_tokenizer.model._resize_cache(words)
        before = psutil.Process().memory_info().rss
        for _ in range(12_000):
            encode(tokenizers[words], [new_question(rng)])
        grown[words] = (psutil.Process().memory_info().rss - before) / 2**20
    for _ in range(arguments.repeats):
        known, new = rng.choices(SHIPPED, k=358), [new_question(rng) for _ in range(358)]
        for words, tokenizer in tokenizers.items():
            for name, questions in (("known", known), ("new", new)):
                began = time.process_time()
                encode(tokenizer, questions)
                seconds.setdefault((words, name), []).append(time.process_time() - began)
    print("| words | MiB | 358 known, ms | 358 new, ms |\n| --- | --- | --- | --- |")
    for words in tokenizers:
        known, new = (1000 * median_and_mad(seconds[words, name])[0] for name in ("known", "new"))
        print(f"| {words:,} | {grown[words]:.1f} | {known:.1f} | {new:.1f} |")


def new_question(rng: random.Random) -> str:
    """Two phrases of characters that nobody has put together before."""
    first, second = ("".join(rng.choices(CHARACTERS, k=rng.randint(5, most))) for most in (40, 20))
    return f"{first}，{second}？"


def encode(tokenizer: Any, questions: list[str]) -> None:
    """As `PromptEncoder` does it."""
    tokenizer(questions, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False)


if __name__ == "__main__":
    main()
