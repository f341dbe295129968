"""How often `reproduce` says "inside" where nothing changed, and "OUTSIDE" where every answer is 10 % worse.

    python experiments/verdict/reproduce_rates.py [STUDIES]        # of each row, 1,000 unless it is said; minutes

A study of two cells is generated: a first round, finals, and a confirmation of the winner, whose speed is frozen. Then the
winner is measured again on one more start, and compared by the project's own functions. All is seeded.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np

from gpuqa.measure.speed_prediction import next_speed, speed_noise
from gpuqa.measure.speed_tests import StartNoise
from gpuqa.records import Answer
from gpuqa.selection.against_frozen import SCORES, against_frozen

Noise = tuple[float, float, float]  # sd of log speed; share of passes that are 30 % slower; correlation with the pass before
NOISES: dict[str, Noise] = {  # between the passes of one start
    "normal 2 %": (0.02, 0.0, 0.0),
    "normal 12 %": (0.12, 0.0, 0.0),
    "bimodal 30 %": (0.02, 0.3, 0.0),
    "bimodal 50 %": (0.02, 0.5, 0.0),
    "AR(1) 2 %": (0.02, 0.0, 0.7),
    "AR(1) 12 %": (0.12, 0.0, 0.7),
}
DESIGNS = ("two engines", "one engine", "one start")
START_SDS, REPEATS = (0.0, 0.01, 0.02, 0.03), (2, 3, 5, 10)


def main() -> None:
    """Print both tables."""
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"inside where nothing changed, {studies} studies each; columns: repeats {REPEATS}")
    for design in DESIGNS:
        for noise in NOISES:
            for start_sd in START_SDS:
                rates = [inside_rate(noise, repeats, start_sd, design, studies) for repeats in REPEATS]
                row = "  ".join(f"{rate:6.1%}" for rate in rates)
                print(f"{design:12} {noise:13} start sd {start_sd:.0%}   {row}", flush=True)
    for questions in (24, 80):
        for name, change in CHANGES.items():
            outside, any_outside = outside_rates(questions, change, studies)
            print(f"{questions} questions, {name}: rouge_l_f1 OUTSIDE in {outside:.1%}, any score in {any_outside:.1%}")


def inside_rate(noise: str, repeats: int, start_sd: float, design: str, studies: int) -> float:
    """The share of studies whose frozen speed is met by one more start of as many repeats."""
    generator, inside = np.random.default_rng([*noise.encode(), repeats, round(start_sd * 1000)]), 0
    for _ in range(studies):
        cells = starts_of_a_study(generator, noise, repeats, start_sd, design)
        *_, chosen = cells[0].values()
        known = speed_noise(cells, StartNoise(), repeats)
        assert known is not None
        interval = next_speed(math.exp(np.mean(chosen)), 1, known, repeats)
        [again] = start(generator, NOISES[noise], [repeats], start_sd)
        inside += interval.low <= math.exp(np.mean(again)) <= interval.high
    return inside / studies


def starts_of_a_study(
    generator: np.random.Generator, noise: str, repeats: int, start_sd: float, design: str
) -> list[dict[str, Sequence[float]]]:
    """Of each finalist the log speeds by start; the winner first, and its confirmation last."""
    cells: list[dict[str, Sequence[float]]] = [{}] if design == "one start" else [{}, {}]
    names = map(str, count())
    if design == "one engine":  # a first round, and seven rounds of the finals
        for passes in (repeats, 7):
            name = next(names)
            for cell, logs in zip(cells, start(generator, NOISES[noise], [passes, passes], start_sd), strict=True):
                cell[name] = logs
    if design == "two engines":  # a first round, and three starts of each engine in the finals
        for cell in cells:
            cell.update({next(names): start(generator, NOISES[noise], [repeats], start_sd)[0] for _ in range(4)})
    cells[0][next(names)] = start(generator, NOISES[noise], [repeats], start_sd)[0]
    return cells


def start(generator: np.random.Generator, noise: Noise, passes: Sequence[int], start_sd: float) -> list[list[float]]:
    """The log speeds of cells that take turns on one start of an engine."""
    sd, slow, correlation = noise
    logs, before = [], 0.0
    for number in range(sum(passes)):
        fresh = generator.normal(0, sd)
        before = correlation * before + math.sqrt(1 - correlation**2) * fresh if number else fresh
        logs.append(before + math.log(0.7) * (generator.random() < slow))
    shift, cells = generator.normal(0, start_sd), len(passes)
    return [(np.asarray(logs[place::cells]) + shift).tolist() for place in range(cells)]


def nothing(_: np.random.Generator, scores: Any) -> Any:
    """Greedy answers come out the same."""
    return scores


def few(generator: np.random.Generator, scores: Any) -> Any:
    """One answer in five comes out otherwise, as much better as worse."""
    changed = generator.random(len(scores)) < 0.2
    return np.clip(scores + changed * generator.normal(0, 0.15, len(scores)), 0, 1)


def all_of_them(generator: np.random.Generator, scores: Any) -> Any:
    """Every answer comes out otherwise, as much better as worse."""
    return scores + generator.normal(0, 0.1, len(scores))


def worse(_: np.random.Generator, scores: Any) -> Any:
    """Every answer is 10 % worse."""
    return 0.9 * scores


def worse_and_other(generator: np.random.Generator, scores: Any) -> Any:
    """Answers come out otherwise, and 10 % worse on average; the spread is that of quantized answers."""
    return 0.9 * scores + generator.normal(0, 0.165 * scores.mean(), len(scores))


CHANGES = {
    "nothing changed": nothing,
    "one answer in five is another": few,
    "all answers are others": all_of_them,
    "every answer 10 % worse": worse,
    "other answers, 10 % worse on average": worse_and_other,
}


def outside_rates(questions: int, change: Any, studies: int) -> tuple[float, float]:
    """How often rouge_l_f1 is OUTSIDE, and how often either score is."""
    generator, outside = np.random.default_rng([questions, *change.__name__.encode()]), []
    for _ in range(studies):
        scores = np.clip(generator.normal(0.4, 0.2, (2, questions)), 0, 1)
        before, now = scores, [change(generator, row) for row in scores]
        pairs = list(zip(answers_of(now), answers_of(before), strict=True))
        then, here = (dict(zip(SCORES, [float(row.mean()) for row in rows], strict=True)) for rows in (before, now))
        outside.append([number.inside is False for number in against_frozen(then, here, 1, pairs)])
    found = np.asarray(outside)
    return float(found[:, 1].mean()), float(found.any(axis=1).mean())


def answers_of(rows: Any) -> list[Answer]:
    """Answers that have nothing but their scores."""
    return [
        Answer(str(number), f"question {number}", "", "", float(judge), float(score), "stop", 1, 0.1)
        for number, (judge, score) in enumerate(zip(*rows, strict=True))
    ]


if __name__ == "__main__":
    main()
