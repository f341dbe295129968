"""How often verdicts on speed are right, over generated studies whose truth is known. Every number is seeded.

    PYTHONPATH=tests python experiments/verdict/simulate.py            # 1,000 studies a figure: a quarter of an hour
    PYTHONPATH=tests python experiments/verdict/simulate.py studies=100

A study here is its finals: two cells are measured and judged by the project's own verdict, at the looks and by the rule that a
sweep has, until they are decided. Noise is on log speed, and one series of it runs through all passes in the order in which
they are measured, so that a slow minute slows what lies in it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from generated_trials import RULE, cell

from gpuqa.measure.speed_tests import LOOKS, Unit
from gpuqa.records import Trial
from gpuqa.selection.decision import decide, undecided
from gpuqa.selection.verdict import Outcome, Verdict
from gpuqa.study import finalists
from gpuqa.study.finals import MOST_ON_A_START

SLOW = math.log(0.7)  # what a slow pass loses
FEW = 3  # passes of a cell on one start of its engine, where they take as long as the start


def normal(generator: np.random.Generator, count: int, sd: float = 0.12) -> Any:
    """Independent passes."""
    return generator.normal(0, sd, count)


def quiet(generator: np.random.Generator, count: int) -> Any:
    """What nine starts on an H200 showed within a start (docs/verdict.md)."""
    return normal(generator, count, 0.016)


def bimodal(share: float) -> Callable[[np.random.Generator, int], Any]:
    """A share of the passes is slow, each for itself."""
    return lambda generator, count: SLOW * (generator.random(count) < share) + generator.normal(0, 0.02, count)


def ar1(generator: np.random.Generator, count: int, memory: float = 0.7) -> Any:
    """Each pass is like the one before."""
    shocks = generator.normal(0, 0.12, count) * np.r_[1.0, np.full(count - 1, math.sqrt(1 - memory**2))]
    for place in range(1, count):
        shocks[place] += memory * shocks[place - 1]
    return shocks


def slow_stretches(generator: np.random.Generator, count: int) -> Any:
    """A third of the passes is half as fast, in stretches of ten on average.

    Welch's test of passes, which takes no notice of rounds, finds a lead of 5 % in 17 % of such studies with three repeats and
    in 12 % with 19 (those without a stretch).
    """
    slow = np.empty(count, dtype=bool)
    slow[0] = generator.random() < 1 / 3
    for place, draw in enumerate(generator.random(count - 1), 1):
        slow[place] = draw > 1 / 10 if slow[place - 1] else draw < 1 / 20
    return math.log(0.5) * slow + generator.normal(0, 0.025, count)


def heavy_tails(generator: np.random.Generator, count: int) -> Any:
    """Student's t with two degrees of freedom: now and then a pass is far off."""
    return 0.05 * generator.standard_t(2, count)


NOISES: dict[str, Callable[[np.random.Generator, int], Any]] = {
    "quiet (sd 1.6 %)": quiet,
    "normal (sd 12 %)": normal,
    "bimodal, 30 % slow": bimodal(0.3),
    "bimodal, 50 % slow": bimodal(0.5),
    "AR(1), 0.7": ar1,
    "slow stretches": slow_stretches,
    "t with 2 df": heavy_tails,
}


@dataclass(frozen=True)
class Ended:
    """The finals of one generated study."""

    verdict: Verdict
    cost: int  # rounds, or starts of each engine
    better: Trial  # the cell that is truly faster, if one is

    @property
    def won(self) -> bool:
        """Whether a win was declared."""
        return self.verdict.outcome is Outcome.WIN

    @property
    def right(self) -> bool:
        """Whether the better cell won."""
        return self.won and self.verdict.winner is not None and self.verdict.winner.key == self.better.key


def trial(number: int, logs: Sequence[float], engines: Sequence[str]) -> Trial:
    """A finalist with these log speeds."""
    speeds = [10_000 * math.exp(log) for log in logs]
    return cell(number, speeds, engine_ids=list(engines), first_round_chars_per_s=10_000.0)


def one_engine(generator: np.random.Generator, noise: Callable[[np.random.Generator, int], Any], lead: float) -> Ended:
    """Two cells on one engine, round by round, each round in a random order."""
    rounds = noise(generator, 2 * LOOKS[Unit.rounds][-1]).reshape(-1, 2)
    rounds = generator.permuted(rounds, axis=1) + np.array([0.0, math.log1p(lead)])
    return judged(rounds.T, LOOKS[Unit.rounds], lambda _, count: ["one engine"] * count)


def two_engines(
    generator: np.random.Generator,
    noise: Callable[[np.random.Generator, int], Any],
    lead: float,
    start_sd: float,
    a_start: int = MOST_ON_A_START,
) -> Ended:
    """Two cells, each on starts of its own engine; the engines start in turn, the other way round every second time."""
    starts = LOOKS[Unit.starts][-1]
    series = noise(generator, 2 * starts * a_start).reshape(starts, 2, a_start)
    series[1::2] = series[1::2, ::-1]
    series = series + generator.normal(0, start_sd, (starts, 2, 1)) + np.array([0.0, math.log1p(lead)])[:, None]
    logs = series.transpose(1, 0, 2).reshape(2, -1)
    looks = [look * a_start for look in LOOKS[Unit.starts]]
    ended = judged(logs, looks, lambda number, count: [f"{number} {place // a_start}" for place in range(count)])
    return replace(ended, cost=ended.cost // a_start)


def judged(logs: Any, looks: Sequence[int], engines: Callable[[int, int], list[str]]) -> Ended:
    """The verdict at the first look at which more passes would not change it, else at the last."""
    for look in looks:
        trials = [trial(number, row[:look].tolist(), engines(number, look)) for number, row in enumerate(logs)]
        verdict = decide(trials, RULE)
        if not undecided(verdict, RULE):
            break
    return Ended(verdict, look, trials[1])


def frozen_bias(generator: np.random.Generator, noise: Callable[[np.random.Generator, int], Any]) -> tuple[float, float, float]:
    """How far the winner's speed is off the truth, in logs, of eight equal cells on one engine: in the first round, in the
    finals, and by passes that did not choose it."""
    first_round = [
        cell(number, (10_000 * np.exp(row)).tolist()) for number, row in enumerate(noise(generator, 24).reshape(8, 3))
    ]
    chosen = finalists.finalists(first_round, RULE, {}, 3).finalists
    rounds = noise(generator, len(chosen) * LOOKS[Unit.rounds][-1]).reshape(len(chosen), -1)
    for look in LOOKS[Unit.rounds]:
        trials = [trial(number, row[:look].tolist(), ["one engine"] * look) for number, row in enumerate(rounds)]
        verdict = decide(trials, RULE)
        if not undecided(verdict, RULE):
            break
    assert verdict.winner is not None
    assert verdict.winner.measurement is not None
    measured = [chosen[0].measurement.chars_per_s, verdict.winner.measurement.chars_per_s]  # type: ignore[union-attr]
    fresh = 10_000 * math.exp(float(np.mean(noise(generator, FEW))))
    off = [math.log(speed / 10_000) for speed in (*measured, fresh)]
    return off[0], off[1], off[2]


def rows(studies: int) -> Iterator[str]:
    """The tables as Markdown, line by line."""
    for a_start in (MOST_ON_A_START, FEW):
        title = f"Two equal cells on two engines, {a_start} passes on a start: WIN"
        yield from ["", title, "", "| noise | start sd 0 % | 1 % | 2 % | 3 % |", "| --- " * 5 + "|"]
        for name, noise in NOISES.items():
            wins = [[two_engines(draw, noise, 0.0, sd, a_start).won for draw in draws(studies)] for sd in SDS]
            yield f"| {name} | " + " | ".join(f"{np.mean(found):.1%}" for found in wins) + " |"
    header = "| noise | equal: WIN | 5 % faster: WIN | wrong | rounds | 10 % faster: WIN | rounds |"
    yield from ["", "Two cells on one engine", "", header, "| --- " * 7 + "|"]
    for name, noise in NOISES.items():
        equal, five, ten = ([one_engine(draw, noise, lead) for draw in draws(studies)] for lead in (0.0, 0.05, 0.1))
        wrong = np.mean([ended.won and not ended.right for ended in five])
        figures = [f"{np.mean([ended.won for ended in equal]):.1%}", *won(five), f"{wrong:.1%}", rounds_of(five)]
        yield f"| {name} | " + " | ".join([*figures, *won(ten), rounds_of(ten)]) + " |"
    for a_start in (MOST_ON_A_START, FEW):
        title = f"Two cells on two engines, {a_start} passes on a start, one truly 5 or 10 % faster, by the start sd: WIN"
        header = "| noise | 5 %: 1 % | 2 % | 3 % | 10 %: 1 % | 2 % | 3 % | starts for 10 % at 1 % |"
        yield from ["", title, "", header, "| --- " * 8 + "|"]
        for name, noise in NOISES.items():
            cases = [(lead, sd) for lead in (0.05, 0.1) for sd in SDS[1:]]
            found = [[two_engines(draw, noise, *case, a_start) for draw in draws(studies)] for case in cases]
            yield f"| {name} | " + " | ".join([*(won(ended)[0] for ended in found), rounds_of(found[3])]) + " |"
    header = "| noise | first round | finals | frozen |"
    yield from ["", "The winner's speed, how far off the truth: of eight equal cells", "", header, "| --- " * 4 + "|"]
    for name, noise in NOISES.items():
        truth = float(np.mean(noise(np.random.default_rng(0), 1_000_000)))
        off = np.mean([frozen_bias(draw, noise) for draw in draws(studies)], axis=0) - truth
        yield f"| {name} | " + " | ".join(f"{math.expm1(value):+.1%}" for value in off) + " |"


SDS = (0.0, 0.01, 0.02, 0.03)


def draws(studies: int) -> Iterator[np.random.Generator]:
    """A generator for each study."""
    return (np.random.default_rng([7, number]) for number in range(studies))


def won(ended: Sequence[Ended]) -> list[str]:
    """How often the better cell won."""
    return [f"{np.mean([study.right for study in ended]):.1%}"]


def rounds_of(ended: Sequence[Ended]) -> str:
    """What it cost on average."""
    return f"{np.mean([study.cost for study in ended]):.1f}"


def main(rows: Callable[[int], Iterator[str]] = rows) -> None:
    """Print tables."""
    studies = int(next((word.removeprefix("studies=") for word in sys.argv[1:] if word.startswith("studies=")), "1000"))
    for line in rows(studies):
        print(line, flush=True)


if __name__ == "__main__":
    main()
