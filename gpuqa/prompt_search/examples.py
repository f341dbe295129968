"""The worked examples that a prompt may have, from a question file that nobody is measured by, in the order of each choice."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rapidfuzz import fuzz, process

from gpuqa.config import UserError
from gpuqa.config.measurement import DatasetConfig
from gpuqa.config.pipeline import ExampleConfig
from gpuqa.config.prompt_search import Choice, SpaceConfig
from gpuqa.pipeline import dataset
from gpuqa.prompt_search.leaks import Leaks
from gpuqa.prompt_search.space import Pool
from gpuqa.records import Question


def pool_of(config: SpaceConfig, leaks: Leaks, searched: Sequence[Question]) -> tuple[Pool, int]:
    """The examples of a space, and how many of its file were left out since they are like a measured question.

    Args:
        searched: the questions that the search asks; the others must not even choose examples.

    Raises:
        UserError: the file cannot be read, or has fewer examples than a prompt may have.
    """
    most = max(config.examples)
    if not most or config.examples_from is None:
        return Pool({}), 0
    try:
        rows = dataset.load(DatasetConfig("examples", config.examples_from))
    except UserError as error:
        raise UserError(str(error).replace("dataset.path", "space.examples_from")) from error
    examples = [ExampleConfig(row.text, row.reference) for row in rows if row.reference]
    clean = [example for example in examples if not leaks.of_example(example)]
    if len(clean) < most:
        raise UserError(
            f"space.examples_from: {config.examples_from} has {len(clean)} examples that are unlike every measured question, "
            f"and space.examples asks for {most}; name another file or fewer examples"
        )
    ordered = {way: in_order(clean, way, most, searched) for way in config.chosen}
    return Pool(ordered), len(examples) - len(clean)


def in_order(examples: Sequence[ExampleConfig], way: Choice, count: int, searched: Sequence[Question]) -> list[ExampleConfig]:
    """The first so many examples by a choice."""
    if way is Choice.fixed:
        return list(examples[:count])
    texts = [example.question for example in examples]
    near = process.cdist(texts, [question.text for question in searched], scorer=fuzz.ratio)
    means = [float(fmean(row)) for row in near]
    by_nearness = sorted(range(len(texts)), key=lambda place: -means[place])
    if way is Choice.similar:
        return [examples[place] for place in by_nearness[:count]]
    chosen = by_nearness[:1]  # diverse: the nearest, then each as far from those before it as possible
    apart = process.cdist(texts, texts, scorer=fuzz.ratio)
    while len(chosen) < count:
        left = [place for place in range(len(texts)) if place not in chosen]
        chosen.append(min(left, key=lambda place: (max(apart[place][other] for other in chosen), place)))
    return [examples[place] for place in chosen]
