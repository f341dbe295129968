"""Which prompts of a search go to the end, and by how much the search's own numbers are too good.

The best of many prompts on some questions is the best partly by luck with them. Where there are questions of a selection split,
they choose. Where there are none, the search's own do, by what `effects` makes of them, and cross-validation tells what that is
worth: many times the questions are cut in two halves, one half names its best prompt and the other tells how good that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean

from gpuqa.prompt_search.effects import Seen, learn
from gpuqa.prompt_search.objective import Outcome
from gpuqa.prompt_search.searcher import Searcher

HALVINGS = 20


@dataclass(frozen=True, slots=True)
class Chosen:
    """The prompts that go to the end, the first first, and what the search thinks of the first."""

    keys: list[str]
    lead: float  # of its quality over the best shipped prompt's, on the questions that searched
    cross_validated: float | None  # mean lead on the halves that did not choose; None where other questions chose


def chosen(searcher: Searcher, clusters: Sequence[str], count: int, selection: Mapping[str, Outcome] | None = None) -> Chosen:
    """The first so many prompts that are none of the shipped ones.

    Args:
        clusters: of each question, in the order of the slices, its text: those that repeat one stay in one half.
        selection: what the best made of the questions of a selection split, by their keys.
    """
    objective, shipped = searcher.aim(), {prompt.key for prompt in searcher.shipped}
    scores = searcher.scores(searcher.complete())
    of_shipped = next((key for key in objective.order(scores) if key in shipped), None)
    ours = [key for key in objective.order(searcher.expected(scores)) if key not in shipped]
    lead = None
    if selection:
        on_new = {key: objective.score([outcome], searcher.costs.seconds_of([outcome])) for key, outcome in selection.items()}
        least = on_new[searcher.reference].speed if searcher.reference in on_new else 0.0
        ours = [key for key in replace(objective, least_speed=least).order(on_new) if key not in shipped]
    elif ours:
        lead = cross_validated(searcher, ours, of_shipped, clusters)
    own = scores[ours[0]].quality - (scores[of_shipped].quality if of_shipped else 0.0) if ours else 0.0
    return Chosen(ours[:count], own, lead)


def cross_validated(searcher: Searcher, keys: Sequence[str], shipped: str | None, clusters: Sequence[str]) -> float:
    """The mean lead over a shipped prompt, on the other half, of the prompt that each half names."""
    objective, random, name = searcher.aim(), Random(f"halves {searcher.setting.config.seed}"), searcher.quality
    seen, scores = searcher.seen(name), searcher.scores(keys)
    before, texts, leads = searcher.effects.get(name), sorted(set(clusters)), list[float]()
    for _ in range(HALVINGS):
        first_half = set(random.sample(texts, len(texts) // 2))
        mine = [text in first_half for text in clusters]
        here, there = part_of(seen, mine), part_of(seen, [not one for one in mine])
        expected = learn(here, before, steps=1).quality
        best = objective.order({key: replace(scores[key], quality=expected[key]) for key in keys})[0]
        leads.append(mean_of(there[best]) - (mean_of(there[shipped]) if shipped else 0.0))
    return fmean(leads)


def part_of(seen: Mapping[str, Seen], taken: Sequence[bool]) -> dict[str, Seen]:
    """What is known of the prompts by some of the questions; `taken`: whether each is one, in the order of the slices."""
    sizes = {part: len(scores) for one in seen.values() for part, scores in one.scores.items()}
    begins = {part: sum(sizes[before] for before in range(part)) for part in sizes}
    parts = {}
    for key, one in seen.items():
        kept = {
            part: [score for place, score in enumerate(scores, begins[part]) if taken[place]]
            for part, scores in one.scores.items()
        }
        if scores := {part: scores for part, scores in kept.items() if scores}:
            parts[key] = Seen(one.pieces, scores)
    return parts


def mean_of(seen: Seen) -> float:
    """The mean score of all answers."""
    return fmean([score for scores in seen.scores.values() for score in scores])
