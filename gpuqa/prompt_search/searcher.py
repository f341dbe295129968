"""Successive halving over generations of prompts: which prompt is asked which slice next.

Every new prompt is asked the first, small slice; one of `search.growth` goes on to the next, until a few have answered all
questions (K. Jamieson and A. Talwalkar, AISTATS 2016). How good a prompt is, is told by its own answers and by those of prompts
with the same pieces. The genes of the best make the next generation. All that is drawn comes from the seed and all decisions
from what was told, so that a search that is told its earlier outcomes again goes on as if it had never ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from gpuqa.config.prompt_search import PromptSearchConfig
from gpuqa.prompt_search.cost import Costs
from gpuqa.prompt_search.effects import Effects, Seen, learn
from gpuqa.prompt_search.objective import QUALITIES, Objective, Outcome, Score
from gpuqa.prompt_search.space import Genes, Space

PARENTS = 4  # the best, of which a generation is made
TRIES = 60  # at a prompt that is new, before a generation is as large as it is
MUTATED, CROSSED = 0.6, 0.25  # shares of the children; the rest is drawn anew


@dataclass(frozen=True, slots=True)
class Made:
    """A prompt of a search."""

    key: str  # equal for prompts that reach the model as the same tokens
    name: str
    genes: Genes | None  # None: a shipped prompt that the space cannot say
    origin: str  # "shipped", "drawn", "mutation", "crossing" or "proposer"
    parents: tuple[str, ...]  # keys
    tokens: int  # of all but the question
    generation: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A pass that a search wants: a prompt and the number of a slice."""

    key: str
    slice: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a prompt came about, before it is known whether it can be made."""

    genes: Genes
    origin: str
    parents: tuple[str, ...]
    generation: int


Make = Callable[[Recipe], Made | None]  # None: it cannot be asked, such as one that leaves no room for a question
Proposals = Callable[[int], Sequence[Recipe]]  # those of other authors for a generation


@dataclass
class Setting:
    """What a search is about."""

    space: Space
    objective: Objective
    config: PromptSearchConfig
    slices: Sequence[int]  # how many questions each has
    make: Make
    proposals: Proposals = field(default=lambda _: [])


class Searcher:
    """One search."""

    def __init__(self, setting: Setting, shipped: Sequence[Made]) -> None:
        self.setting, self.shipped = setting, list(shipped)
        self.random, self.costs = Random(f"search {setting.config.seed}"), Costs()
        self.made: dict[str, Made] = {prompt.key: prompt for prompt in shipped}
        self.outcomes: dict[str, dict[int, Outcome]] = {prompt.key: {} for prompt in shipped}
        self.failed: dict[str, str] = {}  # key -> why
        self.pruned: dict[str, str] = {}  # key -> why it was not measured
        self.reference: str | None = None  # the shipped prompt that a found one must not be slower than
        self.generation = 0
        self.leader: Score | None = None  # the score of the best, when the generation was made
        self.tried: set[Genes] = set()
        self.exhausted = False  # no new prompt could be made any more
        self.effects: dict[str, Effects] = {}  # by the name of the scores in an outcome
        self.known: dict[tuple[str, int, int], Score] = {}  # by key, slices, and how many passes the costs are from

    def rounds(self) -> Iterator[list[Asked]]:
        """The passes of each round; those of one may be measured in any order and are told before the next is asked for.

        A round has a slice for each of the last generations, the largest first, so that engines seldom wait for a round's last
        scores. It ends where no new prompt is found any more.
        """
        every = len(self.setting.slices)
        yield [Asked(prompt.key, part) for part in range(every) for prompt in self.shipped]
        if self.setting.config.at_least_as_fast:
            self.reference = next(iter(self.best(1)), None)
        self.next_generation()
        for part in range(every):  # one after the other, since there is nothing to change or to mix before
            yield [Asked(key, part) for key in self.going_on(part)]
        self.learn()
        while self.next_generation() or any(len(self.outcomes[key]) < every for key in self.running()):
            yield [Asked(key, part) for part in reversed(range(every)) for key in self.going_on(part)]
            self.learn()

    def learn(self) -> None:
        """What the pieces of prompts bring, by all that was told."""
        floor = ["judge"] if self.setting.objective.rule.min_rouge_l_f1_judge else []
        for name in {self.quality, *floor}:
            self.effects[name] = learn(self.seen(name), self.effects.get(name))

    @property
    def quality(self) -> str:
        """Where an outcome has the scores that the search goes by."""
        return QUALITIES[self.setting.config.quality]

    def seen(self, name: str) -> dict[str, Seen]:
        """What is known of each prompt by one kind of scores. Of a shipped one that the space cannot say, it is one piece."""
        space, seen = self.setting.space, {}
        for key, outcomes in self.outcomes.items():
            genes = self.made[key].genes
            if outcomes and key not in self.failed:
                scores = {part: getattr(outcome, name) for part, outcome in outcomes.items()}
                seen[key] = Seen([key] if genes is None else space.pieces_of(genes), scores)
        return seen

    def aim(self, upto: int | None = None) -> Objective:
        """What is looked for on the slices up to this one, or all.

        A limit in chars/s is for all questions at once: a few at a time are slower. So it counts with all slices only.
        """
        objective = self.setting.objective
        if upto is not None and upto + 1 < len(self.setting.slices):
            objective = replace(objective, rule=replace(objective.rule, min_chars_per_s=0.0))
        if self.reference is None:
            return objective
        return replace(objective, least_speed=self.score(self.reference, None if upto is None else upto + 1).speed)

    def tell(self, asked: Asked, outcome: Outcome | str) -> None:
        """What came of a pass: numbers, or why there are none."""
        if isinstance(outcome, str):
            self.failed[asked.key] = outcome
            return
        self.outcomes[asked.key][asked.slice] = outcome
        self.costs.learn(outcome)

    def running(self) -> list[str]:
        """The keys of the prompts that are neither failed nor pruned."""
        return [key for key in self.made if key not in self.failed and key not in self.pruned]

    def going_on(self, part: int) -> list[str]:
        """The prompts that are asked this slice next: the best of all that have the slices before it, of any generation.

        A good prompt that was unlucky with few questions so gets a second chance, when those before it have gone on.
        """
        ready = [key for key in self.running() if len(self.outcomes[key]) == part]
        if part == 0:
            return ready
        config = self.setting.config
        scores = self.expected(self.scores(ready, part - 1))
        return self.aim(part - 1).order(scores)[: math.ceil(config.children / config.growth**part)]

    def next_generation(self) -> list[str]:
        """The keys of new prompts: proposals first, then changed ones, mixed ones and drawn ones. None: there are no more."""
        self.generation += 1
        best = self.best(PARENTS)
        self.leader = next(iter(self.expected(self.scores(best)).values()), None)
        parents = [self.made[key] for key in best if self.made[key].genes is not None]
        keys = [key for recipe in self.setting.proposals(self.generation) if (key := self.born(recipe))]
        for _ in range(0 if self.exhausted else self.setting.config.children * TRIES):
            if len(keys) >= self.setting.config.children:
                break
            if key := self.born(self.recipe(parents)):
                keys.append(key)
        self.exhausted = not keys
        return keys

    def recipe(self, parents: Sequence[Made]) -> Recipe:
        """A child of the parents, the better ones more often."""
        chance, space, random = self.random.random(), self.setting.space, self.random
        if not parents or chance >= MUTATED + CROSSED or self.generation == 1:
            return Recipe(space.draw(random), "drawn", (), self.generation)
        weights = [1 / (place + 1) for place in range(len(parents))]
        first, second = random.choices(parents, weights, k=2)
        assert first.genes is not None, "a shipped prompt without genes has no children"
        assert second.genes is not None, "a shipped prompt without genes has no children"
        if chance < MUTATED or first is second:
            return Recipe(space.mutate(first.genes, random), "mutation", (first.key,), self.generation)
        return Recipe(space.cross(first.genes, second.genes, random), "crossing", (first.key, second.key), self.generation)

    def born(self, recipe: Recipe) -> str | None:
        """The key of a prompt that is new, can be asked, and may be good enough by its tokens; else None."""
        if recipe.genes in self.tried:
            return None
        self.tried.add(recipe.genes)
        prompt = self.setting.make(recipe)
        if prompt is None or prompt.key in self.made:
            return None
        self.made[prompt.key], self.outcomes[prompt.key] = prompt, {}
        bound = self.costs.bound(prompt.tokens, sum(self.setting.slices))
        if bound is not None and self.aim().hopeless(bound, self.leader):
            self.pruned[prompt.key] = f"{prompt.tokens} tokens: at most {bound:,.0f} chars/s"
            return None
        return prompt.key

    def complete(self) -> list[str]:
        """The keys of the prompts that have answered all questions of the search."""
        every = len(self.setting.slices)
        return [key for key, outcomes in self.outcomes.items() if len(outcomes) == every and key not in self.failed]

    def best(self, count: int) -> list[str]:
        """The best of them."""
        return self.aim().order(self.expected(self.scores(self.complete())))[:count]

    def expected(self, scores: Mapping[str, Score]) -> dict[str, Score]:
        """The same with the qualities that the prompts are expected to have on all questions of the search."""

        def of(name: str, key: str, seen: float) -> float:
            return self.effects[name].quality.get(key, seen) if name in self.effects else seen

        return {
            key: replace(score, quality=of(self.quality, key, score.quality), judge=of("judge", key, score.judge))
            for key, score in scores.items()
        }

    def scores(self, keys: Sequence[str], upto: int | None = None) -> dict[str, Score]:
        """The scores of the prompts that have the slices up to this one."""
        every = len(self.setting.slices) if upto is None else upto + 1
        there = [key for key in keys if key not in self.failed and set(range(every)) <= set(self.outcomes[key])]
        return {key: self.score(key, every) for key in there}

    def score(self, key: str, slices: int | None = None) -> Score:
        """What is known of a prompt over its first slices, or all."""
        count = len(self.outcomes[key]) if slices is None else slices
        place = key, count, self.costs.fitted[0]
        if place not in self.known:
            outcomes = [outcome for _, outcome in sorted(self.outcomes[key].items())][:count]
            self.known[place] = self.setting.objective.score(outcomes, self.costs.seconds_of(outcomes))
        return self.known[place]
