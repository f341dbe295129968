"""How often `reproduce` says "OUTSIDE" where nothing changed, where the speed fell, and where every answer is 10 % worse.

    python experiments/verdict/reproduce_rates.py [STUDIES]        # of each row, 1,000 unless it is said; minutes

A study of two cells is generated: a first round, finals, and a confirmation of the winner, whose speed is frozen. Then the
winner is measured again on one more start, and compared by the project's own functions. All is seeded.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import count, product
from typing import Any

import numpy as np

from gpuqa.measure.speed_prediction import next_speed, passes_again
from gpuqa.measure.speed_tests import SpeedNoise, StartNoise, speed_noise
from gpuqa.measure.statistics import geometric_mean
from gpuqa.records import Answer
from gpuqa.selection.against_frozen import COVERED, SCORES, against_frozen

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


@dataclass(frozen=True)
class Row:
    """What a generated study is like."""

    noise: str
    repeats: int
    start_sd: float
    design: str = "one start"

    @property
    def seed(self) -> list[int]:
        """Of the generator of its studies."""
        return [*self.noise.encode(), self.repeats, round(self.start_sd * 1000)]


def main() -> None:
    """Print all tables."""
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"{studies} studies each; columns: repeats {REPEATS}; of every noise the starts differ by {START_SDS}")
    for design in DESIGNS:
        worst = table(f"{design}: not OUTSIDE, nothing changed", lambda row: 1 - outside_rate(row, studies), design)
        print(f"the worst row, {worst}: {1 - outside_rate(worst, 10 * studies):.1%} of {10 * studies}")
    table("one start: the next speed lies in the interval that is frozen", lambda row: covered_rate(row, studies), "one start")
    slow_by_chance = [noise for noise in NOISES if "bimodal" in noise]
    for repeats in COVERED:
        rate = min(covered_rate(Row(noise, repeats, 0.01), 10 * studies) for noise in slow_by_chance)
        print(f"{repeats} repeats, passes slow by chance: {rate:.1%} at least of {10 * studies}", flush=True)
    table("one start: OUTSIDE, 20 % slower now", lambda row: outside_rate(row, studies, 0.8), "one start")
    for questions in (24, 80):
        for name, change in CHANGES.items():
            outside, any_outside = outside_rates(questions, change, studies)
            print(f"{questions} questions, {name}: rouge_l_f1 OUTSIDE in {outside:.1%}, any score in {any_outside:.1%}")


def table(title: str, rate: Callable[[Row], float], design: str) -> Row:
    """A line for each noise and start sd -> the row with the lowest rate."""
    print(title)
    known: dict[Row, float] = {}
    for noise, start_sd in product(NOISES, START_SDS):
        rates = {row: rate(row) for repeats in REPEATS if (row := Row(noise, repeats, start_sd, design))}
        print(f"{noise:13} start sd {start_sd:.0%}   " + "  ".join(f"{rate:6.1%}" for rate in rates.values()), flush=True)
        known |= rates
    return min(known, key=known.__getitem__)


def outside_rate(row: Row, studies: int, lead: float = 1.0) -> float:
    """The share of studies whose frozen speed is OUTSIDE where it is measured again and truly `lead` times that of then."""
    generator, outside = np.random.default_rng(row.seed), 0
    for _ in range(studies):
        then, logs = measured_again(generator, row)
        speeds = [lead * math.exp(log) for log in logs]
        [number] = against_frozen(then, {"chars_per_s": geometric_mean(speeds), "chars_per_s_repeats": speeds})
        outside += number.inside is False
    return outside / studies


def covered_rate(row: Row, studies: int) -> float:
    """The share of studies in whose frozen interval, which knows nothing of later passes, the next speed lies."""
    generator, covered = np.random.default_rng(row.seed), 0
    for _ in range(studies):
        then, logs = measured_again(generator, row)
        interval = next_speed(then["chars_per_s"], 1, SpeedNoise(**then["chars_per_s_noise"]), row.repeats)
        covered += interval.low <= math.exp(np.mean(logs[: row.repeats])) <= interval.high
    return covered / studies


def measured_again(generator: np.random.Generator, row: Row) -> tuple[dict[str, Any], list[float]]:
    """What is frozen of a speed, and the log speeds of the passes that `reproduce` takes."""
    cells = starts_of_a_study(generator, row)
    *_, chosen = cells[0].values()
    noise = speed_noise(cells, StartNoise(), row.repeats)
    assert noise is not None
    [logs] = start(generator, NOISES[row.noise], [passes_again(row.repeats)], row.start_sd)
    return {"chars_per_s": math.exp(np.mean(chosen)), "chars_per_s_noise": asdict(noise)}, logs


def starts_of_a_study(generator: np.random.Generator, row: Row) -> list[dict[str, Sequence[float]]]:
    """Of each finalist the log speeds by start; the winner first, and its confirmation last."""
    cells: list[dict[str, Sequence[float]]] = [{}] if row.design == "one start" else [{}, {}]
    names, noise = map(str, count()), NOISES[row.noise]
    if row.design == "one engine":  # a first round, and seven rounds of the finals
        for passes in (row.repeats, 7):
            name = next(names)
            for cell, logs in zip(cells, start(generator, noise, [passes, passes], row.start_sd), strict=True):
                cell[name] = logs
    if row.design == "two engines":  # a first round, and three starts of each engine in the finals
        for cell in cells:
            cell.update({next(names): start(generator, noise, [row.repeats], row.start_sd)[0] for _ in range(4)})
    cells[0][next(names)] = start(generator, noise, [row.repeats], row.start_sd)[0]
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
        outside.append([number.inside is False for number in against_frozen(then, here, pairs)])
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
