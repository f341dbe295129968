"""How often a quantized cell passes the constraint on its quality, when it is as good as its baseline and when it is not.

    PYTHONPATH=tests python experiments/verdict/constraint_power.py             # 1,000 studies a figure: minutes
    PYTHONPATH=tests python experiments/verdict/constraint_power.py studies=100

Every study has one unquantized and one quantized cell, and is judged by the project's own `violations`. Their scores and
lengths are real: those of the twelve pairs of cells in tests/traces/wide.json.gz that differ in nothing but quantization
(80 questions, the embedded model, fp8 KV cache). A study draws one pair, then its questions with replacement. For each
question a coin says which of its two real answers is the quantized cell's. So both cells are equally good in truth, while
single answers differ as real ones do: three of four not at all, some by a lot. Then the quantized cell is harmed.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from generated_trials import cell
from race_replay import load

from gpuqa.config.measurement import SelectionConfig
from gpuqa.records import Answer, Trial
from gpuqa.selection.constraints import beside_baseline, violations
from gpuqa.selection.ratios import Kept, score_ratio

QUESTIONS = (8, 24, 80, 92, 358, 400, 1000, 2500)
RULE = SelectionConfig(name="fastest_above_floor", min_rouge_l_f1_judge=0.0, min_rouge_l_f1_of_best=0.0)


@dataclass(frozen=True)
class Study:
    """A quantized cell, its baseline, and the answers of both."""

    quantized: Trial
    baseline: Trial
    answers: dict[str, list[Answer]]


def main() -> None:
    """The whole table, in the form that docs/verdict.md has."""
    studies = int(next((word.removeprefix("studies=") for word in sys.argv[1:] if word.startswith("studies=")), "1000"))
    print(f"| different questions | {' | '.join(map(str, QUESTIONS))} |\n|{' --- |' * (len(QUESTIONS) + 1)}")
    print(f"| default ratio | {' | '.join(f'{score_ratio(RULE, questions).share:.2f}' for questions in QUESTIONS)} |")
    for what in FIGURES:
        rates = [rate(what, questions, studies, seed=0) for questions in QUESTIONS]
        print(f"| {what} | {' | '.join(f'{share:.1%}' for share in rates)} |", flush=True)


def rows(studies: int, seed: int, sizes: Sequence[int] = QUESTIONS) -> list[tuple[str, float]]:
    """The table as labels with their rates; `sizes`: numbers of different questions."""
    return [(f"{what}, {size} questions", rate(what, size, studies, seed)) for what in FIGURES for size in sizes]


def rate(what: str, questions: int, studies: int, seed: int) -> float:
    """The share of studies of which a figure holds."""
    harm, holds = FIGURES[what]
    return sum(holds(study(questions, np.random.default_rng([seed, number]), harm)) for number in range(studies)) / studies


def study(questions: int, generator: np.random.Generator, harm: Harm) -> Study:
    """One study of so many different questions."""
    pairs = real_pairs()
    pair = pairs[generator.integers(len(pairs))]
    asked, coins = generator.integers(0, len(pair[0].scores), size=questions), generator.random(questions) < 0.5
    first, second = (cell.scores[asked] for cell in pair)
    texts = [
        (pair[coin].texts[place], pair[1 - coin].texts[place]) for place, coin in zip(asked, coins.astype(int), strict=True)
    ]
    scores = harm(np.where(coins, second, first), generator), np.where(coins, first, second)
    answers = [answers_of(values, [both[side] for both in texts]) for side, values in enumerate(scores)]
    trials = [trial_of(rows, name) for rows, name in zip(answers, ("fp8_kv", "none"), strict=True)]
    return Study(*trials, {trial.key: rows for trial, rows in zip(trials, answers, strict=True)})


@dataclass(frozen=True)
class RealCell:
    """What a recorded cell reached with each question; the texts are as long as its answers were."""

    scores: Any
    texts: list[str]


@functools.cache
def real_pairs() -> list[tuple[RealCell, RealCell]]:
    """The recorded cells that differ in nothing but quantization; those of 16 sequences at a time repeat those of 64."""
    cells: dict[tuple[str, ...], dict[str, RealCell]] = {}
    for row in load("wide")["cells"]:
        if row["axes"]["engine.args.max_num_seqs"] == "64":
            rest = tuple(value for key, value in row["axes"].items() if key != "quantization")
            real = RealCell(np.array(row["chinese"]), ["字" * chars for chars in row["chars"]])
            cells.setdefault(rest, {})[row["axes"]["quantization"]] = real
    return [(both["none"], both["fp8_kv"]) for both in cells.values()]


def answers_of(scores: Any, texts: Sequence[str]) -> list[Answer]:
    """The answers of a cell to different questions."""
    return [
        Answer(str(place), f"问题 {place}", "", text, 0.4, score, "stop", 0, 0.0)
        for place, (score, text) in enumerate(zip(scores.tolist(), texts, strict=True))
    ]


def trial_of(answers: Sequence[Answer], quantization: str) -> Trial:
    """A measured trial with these answers."""
    numbers = {
        "questions": len(answers),
        "rouge_l_f1": float(np.mean([answer.rouge_l_f1 for answer in answers])),
        "answer_chars_mean": float(np.mean([len(answer.answer) for answer in answers])),
    }
    return cell(64, [1000.0, 1010.0, 1020.0], quantization, **numbers)


def equal(scores: Any, _: np.random.Generator) -> Any:
    """Nothing was lost."""
    return scores


def worse(scores: Any, _: np.random.Generator) -> Any:
    """Every answer is 8 % worse."""
    return scores * 0.92


def tenth_lost(scores: Any, generator: np.random.Generator) -> Any:
    """Each answer is worth nothing with a chance of 10 %."""
    return np.where(generator.random(len(scores)) < 0.1, 0.0, scores)


def at_limit(scores: Any, _: np.random.Generator) -> Any:
    """Every answer is exactly as much worse as the default ratio allows: an error rate."""
    return scores * score_ratio(RULE, len(scores)).share


def fifth_worse(scores: Any, _: np.random.Generator) -> Any:
    """Every answer is 20 % worse."""
    return scores * 0.8


def passes(made: Study, rule: SelectionConfig = RULE) -> bool:
    """Whether the quantized cell has no violation."""
    return not violations(made.quantized, [made.quantized, made.baseline], rule, made.answers)


def passes_099(made: Study) -> bool:
    """The same where the ratio is 0.99 for any number of questions."""
    return passes(made, replace(RULE, min_rouge_l_f1_ratio=0.99))


def shown_worse(made: Study) -> bool:
    """Whether the quantized cell is shown to be worse than the ratio allows."""
    beside = beside_baseline(made.quantized, [made.quantized, made.baseline], RULE, made.answers)
    return beside is not None and beside.kept is Kept.no


Harm = Callable[[Any, np.random.Generator], Any]  # scores of a quantized cell -> what they are after it was harmed
FIGURES: dict[str, tuple[Harm, Callable[[Study], bool]]] = {
    "an equal cell passes": (equal, passes),
    "a cell that is 8 % worse passes": (worse, passes),
    "a cell that lost a tenth of its answers passes": (tenth_lost, passes),
    "a cell exactly at the ratio passes": (at_limit, passes),
    "an equal cell passes with `selection.min_rouge_l_f1_ratio=0.99`": (equal, passes_099),
    "a cell that is 20 % worse is shown to be worse": (fifth_worse, shown_worse),
}

if __name__ == "__main__":
    main()
