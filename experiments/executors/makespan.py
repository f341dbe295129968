"""How well places are used: the order in which leases hand out engine groups, against one that knows all durations.

    python experiments/executors/makespan.py                                # the table of docs/many_gpus.md
    python experiments/executors/makespan.py out=docs/makespan.svg          # and its plot

A group is an engine with some of its cells. Its durations are recorded ones, drawn anew for each group with a seed: starts,
warm-ups and passes of 48 cells on four engines of vLLM on a CPU (tests/traces; the machine of every second study was busy).
What the leases guess of it comes from the same functions as in a sweep, and they learn of a pass when it ends.
"""

from __future__ import annotations

import gzip
import heapq
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from gpuqa.config.app import compose_cell
from gpuqa.config.commands import CellConfig
from gpuqa.records import Answered, Pass, Question
from gpuqa.study.engine_session import PassDone, Step
from gpuqa.study.executors.leases import Leases
from gpuqa.study.guesses import CellWork, Work, work_of_config

ROOT = Path(__file__).parents[2]
TRACES = ("wide", "busy")
PLACES = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256)


@dataclass
class Group:
    """An engine group with durations that are known: a plan of which nobody asks for steps."""

    work: Work
    start_s: float
    passes: list[tuple[str, float, float]]  # key of the cell, its warm-up where this is its first pass, seconds
    place: int | None = None

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.start_s + sum(warmup_s + seconds for _, warmup_s, seconds in self.passes)

    async def next(self) -> Step | None:
        """It is not run."""
        return None


@cache
def recorded(name: str) -> Any:
    """A recording."""
    return json.loads(gzip.decompress((ROOT / "tests" / "traces" / f"{name}.json.gz").read_bytes()))


@cache
def option(word: str) -> CellConfig:
    """A cell of the default study with one other option."""
    return compose_cell("experiment=none", word)


@cache
def guessed(name: str, number: int) -> CellWork:
    """What the leases would guess of a pass of a recorded cell."""
    axes = recorded(name)["cells"][number]["axes"]
    plain = option(f"quantization={axes['quantization']}")
    sampling = replace(plain.sampling, max_tokens=int(axes["sampling.max_tokens"]))
    engine = replace(plain.engine, args={**plain.engine.args, "max_num_seqs": int(axes["engine.args.max_num_seqs"])})
    config = replace(plain, prompt=option(f"prompt={axes['prompt']}").prompt, sampling=sampling, engine=engine)
    questions = [Question(str(place), "问" * 40) for place in range(recorded(name)["questions"])]
    return work_of_config(config, questions, 0)


def groups(count: int, seed: int) -> list[Group]:
    """The groups of a study: 1 to 12 cells, 2 to 10 repeats of each."""
    generator = np.random.default_rng([seed, count])
    return [group(TRACES[seed % 2], generator) for _ in range(count)]


def group(name: str, generator: np.random.Generator) -> Group:
    """One group of a recording."""
    trace = recorded(name)
    engine, repeats = int(generator.integers(len(trace["engines"]))), int(generator.integers(2, 11))
    own = [number for number, cell in enumerate(trace["cells"]) if int(cell["engine"]) == engine]
    chosen = generator.choice(own, size=int(generator.integers(1, len(own) + 1)), replace=False).tolist()
    work, passes = {}, []
    for number in chosen:
        cell, key = trace["cells"][number], f"{name} {number}"
        one = guessed(name, number)
        work[key] = CellWork(one.kind, one.pass_s, repeats)
        drawn = generator.choice([one["seconds"] for one in cell["passes"]], size=repeats).tolist()
        passes += [(key, cell["warmup_s"] if place == 0 else 0.0, seconds) for place, seconds in enumerate(drawn)]
    starts = [one["start_s"] for one in trace["engines"]]
    return Group(work, float(generator.choice(starts)), passes)


def makespan(found: Sequence[Group], places: int) -> float:
    """Seconds until the last place is done, where the leases hand out the groups."""
    leases, ended = Leases(found), 0.0
    running: list[tuple[float, int, int, Group]] = []  # when its next pass ends, where, which pass it is

    def begin(place: int, now: float) -> None:
        if (taken := leases.take(place)) is not None:
            heapq.heappush(running, (now + taken.start_s + sum(taken.passes[0][1:]), place, 0, taken))

    for place in range(places):
        begin(place, 0.0)
    while running:
        now, place, number, taken = heapq.heappop(running)
        key, warmup_s, seconds = taken.passes[number]
        measured = Pass(Answered([], seconds, []), number, [], 0.0, taken.start_s, warmup_s, 0.0)
        leases.learn(taken, PassDone(key, measured))
        ended = max(ended, now)
        if number + 1 < len(taken.passes):
            heapq.heappush(running, (now + sum(taken.passes[number + 1][1:]), place, number + 1, taken))
        else:
            begin(place, now)
    return ended


def longest_first(found: Sequence[Group], places: int) -> float:
    """The same where all durations are known."""
    free = [0.0] * places
    for seconds in sorted((one.seconds for one in found), reverse=True):
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def bound(found: Sequence[Group], places: int) -> float:
    """Seconds below which no order can end: the work shared out, or the longest group."""
    return max(sum(one.seconds for one in found) / places, *(one.seconds for one in found))


@dataclass(frozen=True)
class Row:
    """What studies of one size came to at so many places, the mean and the worst."""

    places: int
    over_known: float  # makespan over that of the longest first with known durations
    over_known_worst: float
    busy: float  # bound over makespan
    busy_worst: float


def row_of(studies: Sequence[Sequence[Group]], places: int) -> Row:
    """All studies at so many places."""
    ours = [makespan(found, places) for found in studies]
    over = [seconds / longest_first(found, places) for seconds, found in zip(ours, studies, strict=True)]
    busy = [bound(found, places) / seconds for seconds, found in zip(ours, studies, strict=True)]
    return Row(places, fmean(over), max(over), fmean(busy), min(busy))


def rows(studies: int, count: int = 400) -> list[Row]:
    """The table."""
    found = [groups(count, seed) for seed in range(studies)]
    return [row_of(found, places) for places in PLACES]


def table(found: Sequence[Row]) -> Iterator[str]:
    """It as Markdown."""
    yield from ["| places | over known durations: mean | worst | busy share over the bound: mean | worst |", "| --- " * 5 + "|"]
    for row in found:
        yield f"| {row.places} | {row.over_known:.4f} | {row.over_known_worst:.4f} | {row.busy:.4f} | {row.busy_worst:.4f} |"


def svg(found: Sequence[Row]) -> str:
    """The worst of all studies over the number of places: the makespan over known durations, and the busy share."""
    width, height, left, top = 640, 300, 60, 40
    low, high, step = 0.94, 1.06, (width - left - 40) / (len(found) - 1)

    def y(value: float) -> float:
        return top + (high - value) / (high - low) * (height - top - 40)

    def text(x: float, y: float, words: str, anchor: str = "middle", colour: str = "black") -> str:
        return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{colour}">{words}</text>'

    def line(values: Sequence[float], colour: str) -> str:
        points = " ".join(f"{left + place * step:.0f},{y(value):.1f}" for place, value in enumerate(values))
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">'
    ]
    parts.append('<rect width="100%" height="100%" fill="white"/>')
    for value in (0.95, 0.98, 1.0, 1.05):
        parts.append(f'<line x1="{left}" x2="{width - 40}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#dddddd"/>')
        parts.append(text(left - 8, y(value) + 4, f"{value:.2f}", "end"))
    parts += [text(left + place * step, height - 20, str(row.places)) for place, row in enumerate(found)]
    parts += [text(width / 2, height - 4, "places"), line([row.over_known_worst for row in found], "#c0392b")]
    parts += [line([row.busy_worst for row in found], "#2e7d32")]
    parts.append(text(left, 16, "makespan over that of known durations, longest first: the worst study", "start", "#c0392b"))
    parts.append(text(left, 32, "busy share over max(sum / places, longest): the worst study", "start", "#2e7d32"))
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    """Print the table, and draw it where a file is named."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    found = rows(int(words.get("studies", "10")))
    print("\n".join(table(found)))
    if "out" in words:
        Path(words["out"]).write_text(svg(found), encoding="utf-8")


if __name__ == "__main__":
    main()
