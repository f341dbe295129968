"""How many answers change when an engine setting does, beside how many change of themselves?

    python experiments/speed/same_answers.py --first engine.attention=default --second engine.attention=shared_prefix \\
        engine=vllm_hopper prompt=structured

The first engine answers all questions of the files twice, in another order and so in other batches; then the second one answers
them as often. Greedy answers of a GPU depend on what else is in a batch, by ties that rounding decides: that share is the
measure for the second engine's. Exit code 0; the judge's score of both stands beside it,
and the interval of their difference over the questions.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
from dataclasses import replace

from gpuqa.config.app import compose_cell
from gpuqa.measure import rouge
from gpuqa.measure.statistics import paired_interval
from gpuqa.pipeline import dataset
from gpuqa.pipeline.pipeline import Pipeline
from gpuqa.records import Question


def main() -> None:
    """Ask both engines and print one line for each pair of passes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", required=True, help="an override; its engine is the measure")
    parser.add_argument("--second", required=True, help="an override")
    parser.add_argument("--passes", type=int, default=3, help="of each engine, at least 2")
    arguments, overrides = parser.parse_known_args()
    questions = [one for name in ("embedded_train", "embedded") for one in questions_of(name)]
    first = asyncio.run(passes([*overrides, arguments.first], questions, arguments.passes))
    second = asyncio.run(passes([*overrides, arguments.second], questions, arguments.passes))
    pairs = [(one, other) for place, one in enumerate(first) for other in first[:place]]
    report(f"{arguments.first} with itself", pairs)
    report(f"{arguments.first} with {arguments.second}", [(one, other) for one in first for other in second])
    scores = [judged(each, questions) for each in (first, second)]
    for name, values in zip((arguments.first, arguments.second), scores, strict=True):
        print(f"{name}: judge {statistics.mean(values):.5f}")
    change = statistics.mean(scores[1]) - statistics.mean(scores[0])
    interval = paired_interval(scores[1], scores[0], 0.95, [question.text for question in questions])
    print(f"judge, the second less the first: {change:+.5f} (95 % interval {interval.low:+.5f} to {interval.high:+.5f})")


def judged(found: list[dict[str, str]], questions: list[Question]) -> list[float]:
    """The judge's score of each question, the mean over the passes."""
    references = [rouge.cut(question.reference) for question in questions]
    each = [
        [rouge.score(reference, rouge.cut(answers[question.id])).judge for answers in found]
        for question, reference in zip(questions, references, strict=True)
    ]
    return [statistics.mean(values) for values in each]


def questions_of(name: str) -> list[Question]:
    """All questions of an option of conf/dataset, their ids made unlike those of other options."""
    found = dataset.load(compose_cell("experiment=none", f"dataset={name}", "dataset.limit=null").dataset)
    return [replace(question, id=f"{name}/{question.id}") for question in found]


async def passes(overrides: list[str], questions: list[Question], count: int) -> list[dict[str, str]]:
    """Question id -> answer, for each pass over all questions; each in an order of its own, cut into batches of 96."""
    pipeline = await Pipeline.start(compose_cell("experiment=none", *overrides))
    try:
        found = []
        for seed in range(count):
            order = random.Random(seed).sample(questions, len(questions))
            answers: dict[str, str] = {}
            for place in range(0, len(order), 96):
                batch = order[place : place + 96]
                completions = await pipeline.answer([question.text for question in batch])
                answers |= {question.id: one.text for question, one in zip(batch, completions, strict=True)}
            found.append(answers)
        return found
    finally:
        await pipeline.close()


def report(name: str, pairs: list[tuple[dict[str, str], dict[str, str]]]) -> None:
    """How many answers differ over all pairs of passes."""
    compared = sum(len(one) for one, _ in pairs)
    different = sum(one[key] != other[key] for one, other in pairs for key in one)
    print(f"{name}: {different} of {compared} answers differ ({different / compared:.2%})")


if __name__ == "__main__":
    main()
