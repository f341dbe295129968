"""Replays of recorded or generated studies: the full grid and the race on one draw, who wins, and what each costs.

A trace (see experiments/racing/record.py) holds for every cell its passes over slices and over all questions, its scores,
and what its warm-up and its engine's start took. A replay draws what is random: which questions the study has (a bootstrap
of them), which seeded slice is asked, which pass is which repeat. Both sides get the same draw. The race is charged for
every engine start, warm-up and slice that it adds.
"""

from __future__ import annotations

import functools
import gzip
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpuqa.config.measurement import SelectionConfig
from gpuqa.measure.statistics import geometric_mean, median_and_mad
from gpuqa.records import Answer, Measurement, Trial
from gpuqa.selection.decision import decide
from gpuqa.study.racing.evidence import Candidate, SlicePass
from gpuqa.study.racing.race import Race, WantedPass

Noise = Callable[[np.random.Generator, int], Any]  # -> on the log speed of so many passes, in turn
TRACES = Path(__file__).parent / "traces"


@dataclass(frozen=True)
class Replay:
    """One draw: both winners, both costs in seconds of engine time, and how many engines the race started."""

    grid_winner: str | None
    race_winner: str | None
    grid_s: float
    race_s: float
    starts: int
    dropped: dict[str, str]

    @property
    def saved(self) -> float:
        """The share of the engine time that the race saves."""
        return 1 - self.race_s / self.grid_s


@dataclass(frozen=True)
class Drawn:
    """One cell of a draw: its trial without numbers, its answers, its slices and its repeats as (seconds, characters)."""

    trial: Trial
    engine: str
    warmup_s: float
    answers: list[Answer]
    slices: list[tuple[list[int], float, int]]  # places of the questions, seconds, characters
    repeats: list[tuple[float, int]]


@functools.cache
def load(name: str) -> dict[str, Any]:
    """A recorded trace."""
    trace: dict[str, Any] = json.loads(gzip.decompress((TRACES / f"{name}.json.gz").read_bytes()))
    return trace


def draw(trace: dict[str, Any], repeats: int, size: int, seed: int) -> list[Drawn]:
    """One draw of a study: its questions are a bootstrap of the trace's, so that one may be there twice."""
    generator, count = np.random.default_rng(seed), trace["questions"]
    questions = generator.integers(0, count, size=count)
    slice_seed = int(generator.choice(sorted({one["seed"] for one in trace["cells"][0]["slices"] if one["size"] == size})))
    places = random.Random(slice_seed).sample(range(count), count)[:size]  # as it was recorded
    cells = []
    for number, row in enumerate(trace["cells"]):
        answers = [answer_of(row, question, str(place)) for place, question in enumerate(questions)]
        taken = [one for one in row["slices"] if one["seed"] == slice_seed and one["size"] == size]
        passes = [row["passes"][place] for place in generator.permutation(len(row["passes"]))[:repeats]]
        cells.append(
            Drawn(
                Trial(str(number), row["axes"], row["pipeline"], {}),
                str(row["engine"]),
                row["warmup_s"],
                answers,
                [(places, one["seconds"], one["chars"]) for one in taken],
                [(one["seconds"], one["chars"]) for one in passes],
            )
        )
    return cells


def disturbed(cells: Sequence[Drawn], noise: Noise, seed: int) -> list[Drawn]:
    """The draw with noise on the log speed of every pass besides, one series of it in the order in which passes are measured.

    That is engine by engine, the slices of its cells before repeat by repeat, so that a slow stretch slows neighbours.
    """
    engines, parts = [cell.engine for cell in cells], len(cells[0].slices) + len(cells[0].repeats)
    series = iter(np.exp(-noise(np.random.default_rng([11, seed]), len(cells) * parts)).tolist())
    slower = np.empty((len(cells), parts))
    for engine in dict.fromkeys(engines):
        for part in range(parts):
            for place in np.flatnonzero(np.array(engines) == engine):
                slower[place, part] = next(series)
    return [
        replace(
            cell,
            slices=[(places, seconds * by, chars) for (places, seconds, chars), by in zip(cell.slices, row, strict=False)],
            repeats=[(seconds * by, chars) for (seconds, chars), by in zip(cell.repeats, row[len(cell.slices) :], strict=True)],
        )
        for cell, row in zip(cells, slower.tolist(), strict=True)
    ]


def answer_of(row: dict[str, Any], question: int, name: str) -> Answer:
    """A cell's answer to a question: as long and as good as it was, but without its text."""
    ends = "length" if row["truncated"][question] else "stop"
    text = "字" * row["chars"][question]
    return Answer(name, f"question {name}", "", text, row["judge"][question], row["chinese"][question], ends, 0, 0.0)


def replayed(cells: Sequence[Drawn], starts_s: Sequence[float], rule: SelectionConfig, confidence: float = 0.95) -> Replay:
    """The full grid and the race on one draw."""
    repeats, by_key = len(cells[0].repeats), {cell.trial.key: cell for cell in cells}
    trials = [trial_of(cell, repeats) for cell in cells]
    verdict = decide(trials, rule, {cell.trial.key: cell.answers for cell in cells})
    grid_s = sum(starts_s) + sum(cell.warmup_s + sum(seconds for seconds, _ in cell.repeats) for cell in cells)
    candidates = {cell.trial.key: Candidate(cell.trial, cell.engine, len(cell.answers)) for cell in cells}
    race = Race(candidates, rule, confidence, [[] for _ in cells[0].slices], repeats)
    race_s, starts = 0.0, 0
    for engine in engines_of(race):
        warm: set[str] = set()
        while wanted_passes := race.next_round(engine):
            if not warm:
                race_s, starts = race_s + starts_s[int(engine)], starts + 1
            for wanted in wanted_passes:
                cell = by_key[wanted.key]
                race_s += (0 if wanted.key in warm else cell.warmup_s) + answer(race, wanted, cell)
                warm.add(wanted.key)
    ended = race.trials()
    found = decide(ended, rule, {trial.key: race.candidates[trial.key].known for trial in ended})
    return Replay(key_of(verdict.winner), key_of(found.winner), grid_s, race_s, starts, dict(race.dropped))


def engines_of(race: Race) -> Iterator[str]:
    """The engines of a race in turn, then those whose cells are called back."""
    yield from race.engines(nothing_known)
    while recall := race.recall():
        yield from recall


def answer(race: Race, wanted: WantedPass, cell: Drawn) -> float:
    """Give the race what was recorded; the seconds that it took."""
    if wanted.slice is not None:
        places, seconds, chars = cell.slices[wanted.slice]
        answers = [cell.answers[place] for place in places]
        race.measured_slice(wanted.key, SlicePass(numbers([(seconds, chars)], answers, cell.engine), answers))
        return seconds
    assert wanted.repeat is not None
    race.measured(trial_of(cell, wanted.repeat + 1), cell.answers)
    return cell.repeats[wanted.repeat][0]


def trial_of(cell: Drawn, repeats: int) -> Trial:
    """The cell after so many repeats."""
    return replace(cell.trial, measurement=numbers(cell.repeats[:repeats], cell.answers, cell.engine))


def numbers(passes: Sequence[tuple[float, int]], answers: Sequence[Answer], engine: str = "one engine") -> Measurement:
    """A measurement of what a verdict reads; the rest is 1."""
    speeds = [chars / seconds for seconds, chars in passes]
    middle, mad = geometric_mean(speeds), median_and_mad(speeds)[1]
    needed = [one.name for one in fields(Measurement) if one.default is MISSING and one.default_factory is MISSING]
    same: dict[str, Any] = dict.fromkeys(needed, 1.0)
    same |= {"questions": len(answers), "repeats": len(passes), "chars_per_s": middle, "chars_per_s_mad": mad}
    same |= {"chars_per_s_repeats": speeds, "engine_ids": [engine] * len(speeds), "repeats_began_at": [], "conditions": []}
    same |= {"first_round_chars_per_s": None, "saturated": False, "throttle_reasons": None, "sm_clock_mhz_min": None}
    same |= {"rouge_l_f1_judge": mean([one.rouge_l_f1_judge for one in answers])}
    same |= {"rouge_l_f1": mean([one.rouge_l_f1 for one in answers])}
    same |= {"answer_chars_mean": mean([len(one.answer) for one in answers])}
    same |= {"truncated_fraction": mean([one.finish_reason == "length" for one in answers])}
    same |= {"answers_empty": sum(not one.answer for one in answers)}
    same |= {"answers_truncated": sum(one.finish_reason == "length" for one in answers)}
    return Measurement(**same)


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def key_of(trial: Trial | None) -> str | None:
    return trial.key if trial else None


def nothing_known(key: str, tokens: float) -> float | None:
    return None


@dataclass(frozen=True)
class Shape:
    """A study to generate: its grid, and what a run of it would cost. Times are those of a 0.6B model on an H200.

    A step of a batch takes 1.65 ms and 9.2 us a sequence (experiments/LOG.md), so sixteen questions take 0.36 of the time of
    358; an engine starts in 12 s with a warm compile cache (experiments/h200).
    """

    noise: float  # median absolute deviation of speed between repeats
    quantizations: int = 4
    widths: int = 2
    prompts: int = 6
    questions: int = 358
    repeats: int = 3
    start_s: float = 12.0
    slice: int = 16

    @property
    def slice_share(self) -> float:
        """Time of a slice over the time of all questions."""
        return (1.65 + 0.0092 * self.slice) / (1.65 + 0.0092 * self.questions)


def generated(shape: Shape, seed: int) -> dict[str, Any]:
    """A trace of a study whose cells differ in speed and quality at random, with planted noise."""
    generator = np.random.default_rng([seed, shape.quantizations, shape.widths])
    quantizations = ["none", *(f"format{number}" for number in range(1, shape.quantizations))]
    prompt_speed, prompt_quality = generator.normal(0, 0.12, shape.prompts), generator.normal(0, 0.02, shape.prompts)
    format_speed = dict(zip(quantizations, [0.0, *generator.normal(0.05, 0.08, shape.quantizations - 1)], strict=True))
    width_speed = [-0.2 * number + generator.normal(0, 0.05) for number in range(shape.widths)]
    base, chars = generator.normal(0.38, 0.15, shape.questions), generator.integers(60, 260, shape.questions)
    places = random.Random(0).sample(range(shape.questions), shape.questions)[: shape.slice]
    scores: dict[tuple[int, int], Any] = {}
    cells, engines = [], []
    for name in quantizations:
        for width in range(shape.widths):
            engines.append({"start_s": shape.start_s})
            for prompt in range(shape.prompts):
                own = np.clip(base + prompt_quality[prompt] + generator.normal(0, 0.1, shape.questions), 0, 1)
                if name == "none":
                    scores[prompt, width] = own
                else:  # three answers of ten come out differently
                    changed = generator.random(shape.questions) < 0.3
                    own = np.where(
                        changed,
                        np.clip(scores[prompt, width] + generator.normal(-0.005, 0.1, len(own)), 0, 1),
                        scores[prompt, width],
                    )
                lengths = np.maximum(1, chars * generator.normal(1, 0.1, shape.questions)).astype(int)
                log_speed = prompt_speed[prompt] + format_speed[name] + width_speed[width] + generator.normal(0, 0.02)
                cells.append(
                    generated_cell(shape, generator, log_speed, own, lengths, places, (prompt, name, width, len(engines) - 1))
                )
    return {"questions": shape.questions, "engines": engines, "cells": cells}


def generated_cell(
    shape: Shape,
    generator: np.random.Generator,
    log_speed: float,
    scores: Any,
    lengths: Any,
    places: Sequence[int],
    names: tuple[int, str, int, int],
) -> dict[str, Any]:
    """One cell in the form of a recorded one."""
    prompt, quantization, width, engine = names
    whole_s = 2.0 / math.exp(log_speed)
    noise = np.exp(generator.normal(0, 1.4826 * shape.noise, shape.repeats + 1))
    slice_s = whole_s * shape.slice_share * math.exp(generator.normal(0, 0.05)) * noise[-1]
    return {
        "axes": {"prompt": str(prompt), "quantization": quantization, "width": str(width)},
        "engine": engine,
        "warmup_s": 0.6,
        "slices": [{"seed": 0, "size": shape.slice, "seconds": slice_s, "chars": int(lengths[list(places)].sum())}],
        "passes": [{"seconds": whole_s * one, "chars": int(lengths.sum())} for one in noise[:-1]],
        "judge": np.clip(scores + 0.02, 0, 1).tolist(),
        "chinese": scores.tolist(),
        "chars": lengths.tolist(),
        "truncated": [False] * shape.questions,
        "pipeline": {
            "prompt": {"name": str(prompt), "system": "。" * (10 * prompt), "user": "{question}", "examples": []},
            "quantization": {"name": quantization},
            "engine": {"backend": "vllm", "args": {"max_num_seqs": 512 >> width}, "scheduler": "default"},
            "sampling": {"max_tokens": 256},
        },
    }
