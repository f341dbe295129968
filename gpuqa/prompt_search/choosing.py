"""Which prompts of a search go to the end, and by how much the search's own numbers are too good.

The best of many prompts on some questions is the best partly by luck with them. Where there are questions of a selection split,
they choose. Where there are none, the search's own do, by cross-validation: many times the questions are cut in two halves, one
half names its best prompt and the other tells how good that is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean
from typing import Any

from gpuqa.prompt_search.objective import Outcome, together
from gpuqa.prompt_search.searcher import Searcher

HALVINGS = 100
LONG_LIST = 16  # of the best by all questions, among which the halves choose


@dataclass(frozen=True, slots=True)
class Chosen:
    """The prompts that go to the end, the first first, and what the search thinks of the first."""

    keys: list[str]
    lead: float  # of its quality over the best shipped prompt's, on the questions that searched
    cross_validated: float | None  # mean lead on the halves that did not choose; None where other questions chose
    votes: Mapping[str, float]  # of each prompt, in how many halvings it was named


def chosen(searcher: Searcher, clusters: Sequence[str], count: int, selection: Mapping[str, Outcome] | None = None) -> Chosen:
    """The first so many prompts that are none of the shipped ones.

    Args:
        clusters: of each question, in the order of the slices, its text: those that repeat one stay in one half.
        selection: what the best made of the questions of a selection split, by their keys.
    """
    objective, shipped = searcher.aim(), {prompt.key for prompt in searcher.shipped}
    scores = searcher.scores(searcher.complete())
    of_shipped = [key for key in objective.order(scores) if key in shipped][:1]
    ours = [key for key in objective.order(scores) if key not in shipped]
    votes, lead = dict[str, float](), None
    if selection:
        on_new = {key: objective.score([outcome], searcher.costs.seconds_of([outcome])) for key, outcome in selection.items()}
        least = on_new[searcher.reference].speed if searcher.reference in on_new else 0.0
        ours = [key for key in replace(objective, least_speed=least).order(on_new) if key not in shipped]
    elif ours:
        votes, lead = cross_validated(searcher, ours[:LONG_LIST], of_shipped, clusters)
        ours = sorted(ours, key=lambda key: -votes.get(key, 0.0))
    own = scores[ours[0]].quality - (scores[of_shipped[0]].quality if of_shipped else 0.0) if ours else 0.0
    return Chosen(ours[:count], own, lead, votes)


def cross_validated(
    searcher: Searcher, keys: Sequence[str], shipped: Sequence[str], clusters: Sequence[str]
) -> tuple[dict[str, float], float]:
    """The share of the halvings in which each prompt was named, and the mean lead of the named one on the other half."""
    objective, random = searcher.aim(), Random(f"halves {searcher.setting.config.seed}")
    whole = {key: as_told(searcher, key) for key in [*keys, *shipped]}
    texts, named, leads = sorted(set(clusters)), Counter[str](), list[float]()
    for _ in range(HALVINGS):
        first_half = set(random.sample(texts, len(texts) // 2))
        mine = [place for place, text in enumerate(clusters) if text in first_half]
        others = [place for place, text in enumerate(clusters) if text not in first_half]
        best = objective.order({key: objective.score([part_of(whole[key], mine)]) for key in keys})[0]
        named[best] += 1
        there = {key: objective.score([part_of(whole[key], others)]).quality for key in [best, *shipped]}
        leads.append(there[best] - (there[shipped[0]] if shipped else 0.0))
    return {key: count / HALVINGS for key, count in named.items()}, fmean(leads)


def as_told(searcher: Searcher, key: str) -> Outcome:
    """All outcomes of a prompt as one, with the time that its tokens tell."""
    outcomes = [outcome for _, outcome in sorted(searcher.outcomes[key].items())]
    return replace(together(outcomes), seconds=searcher.costs.seconds_of(outcomes))


def part_of(outcome: Outcome, places: Sequence[int]) -> Outcome:
    """The scores of some of the questions; the speed is that of all of them."""
    share = len(places) / len(outcome.quality)
    rows: dict[str, Any] = {
        name: [getattr(outcome, name)[place] for place in places] for name in ("quality", "judge", "chars", "output_tokens")
    }
    seconds = outcome.seconds * (sum(rows["chars"]) / sum(outcome.chars) if sum(outcome.chars) else share)
    return replace(
        outcome, **rows, seconds=seconds, empty=round(outcome.empty * share), truncated=round(outcome.truncated * share)
    )
