"""Does scoring one trial disturb the clock of the next, and what does scoring 400 answers cost?

    PYTHONPATH=. python experiments/speed/scoring_overlap.py --repeats 12

One engine, passes over all questions of a cell, every other one while the study's own scoring process is kept busy from the
pass's beginning to its end. Then 400 answers of 256 characters in a process that has loaded jieba: the first time, when no
reference is known, and after that (references are cut once a study, answers every time).
"""

from __future__ import annotations

import argparse
import asyncio
import time
from concurrent.futures import Future, ProcessPoolExecutor

from gpuqa.config.app import compose_cell
from gpuqa.measure import metrics, rouge
from gpuqa.measure.statistics import median_and_mad
from gpuqa.measure.trial import PassRequest, measure_pass, warm_up
from gpuqa.pipeline.pipeline import Pipeline
from gpuqa.records import Answered, Completion, Question
from gpuqa.study import study
from gpuqa.study.scoring import start_pool

ANSWERS, CHARACTERS = 400, 256


def main() -> None:
    """Print medians with their MAD, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=12, help="passes of each kind")
    with start_pool() as scorers:
        speeds = asyncio.run(measure(parser.parse_args().repeats, scorers))
    with start_pool() as scorers:
        first, *later = costs(scorers)
    for name, values in speeds.items():
        middle, mad = median_and_mad(values)
        print(f"{name}: {middle:,.0f} chars/s (MAD {mad:,.0f}) over {len(values)} passes")
    print(f"scored meanwhile / alone: {median_and_mad(speeds['scored meanwhile'])[0] / median_and_mad(speeds['alone'])[0]:.3f}")
    print(f"{ANSWERS} answers of {CHARACTERS} characters: {first:.3f} s first, {median_and_mad(later)[0]:.3f} s after that")


async def measure(repeats: int, scorers: ProcessPoolExecutor) -> dict[str, list[float]]:
    """Speeds of the passes by kind, chars/s."""
    [cell] = study.prepare([(compose_cell("experiment=none", "prompt=structured_short"), {})])
    pipeline = await Pipeline.start(cell.config)
    ready = await warm_up(cell, pipeline)
    speeds: dict[str, list[float]] = {"alone": [], "scored meanwhile": []}
    try:
        for repeat in range(repeats):
            for name in sorted(speeds, reverse=bool(repeat % 2)):
                busy = keep_busy(scorers, cell.questions) if name != "alone" else []
                answered = (await measure_pass(PassRequest(cell, repeat, cell.questions), ready)).answered
                speeds[name].append(metrics.chars(answered.completions) / answered.seconds)
                assert not busy or not busy[-1].done(), "the scorer ran out of work"
                await drain(busy)
    finally:
        await pipeline.close()
    return speeds


def costs(scorers: ProcessPoolExecutor) -> list[float]:
    """Seconds of scoring, time after time."""
    [cell] = study.prepare([(compose_cell("experiment=none"), {})])
    scorers.submit(rouge.cut, "jieba").result()
    seconds = []
    for turn in range(6):
        work = made_up(cell.questions, f"cost {turn}")
        began = time.perf_counter()
        scorers.submit(metrics.score_answers, *work).result()
        seconds.append(time.perf_counter() - began)
    return seconds


def keep_busy(scorers: ProcessPoolExecutor, questions: list[Question]) -> list[Future[object]]:
    """Scoring for longer than a pass lasts."""
    return [scorers.submit(metrics.score_answers, *made_up(questions, str(place))) for place in range(60)]


async def drain(busy: list[Future[object]]) -> None:
    """Drop what has not begun, wait for what has."""
    running = [one for one in busy if not one.cancel()]
    await asyncio.gather(*map(asyncio.wrap_future, running))


def made_up(questions: list[Question], salt: str) -> tuple[list[Question], Answered]:
    """So many questions, and answers that nobody has cut before."""
    asked = [questions[place % len(questions)] for place in range(ANSWERS)]
    texts = [(f"{salt} {place} " + one.reference * 8)[:CHARACTERS] for place, one in enumerate(asked)]
    return asked, Answered([Completion(text, "stop", 1, 1, 0, False, 0.1, 0.2) for text in texts], 1.0, [1.0] * ANSWERS)


if __name__ == "__main__":
    main()
