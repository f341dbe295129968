"""How often a search finds the best prompt of a space whose truth is known, what it costs, and how often it claims one of none.

    PYTHONPATH=tests python experiments/prompt_search/simulate_search.py            # 40 seeds a row
    PYTHONPATH=tests python experiments/prompt_search/simulate_search.py worlds=2,5 from=2000 seeds=10

What the full grid finds is in parentheses: it asks every prompt all questions and takes the highest mean. The search has a
quarter of its answers.

The searcher, the choice of what goes to the end and the verdict are the project's own; only the engine is made up. Each
fragment has an effect on the score of an answer, some pairs of fragments have another one together, and every prompt has luck
of its own with every question, which stays when the question is asked again: that is how greedy decoding behaves. A claim is a
WIN of the found prompt over the shipped ones, by the rule best_quality, on questions that the search never saw.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from random import Random
from typing import Any

import numpy as np
from generated_trials import cell

from gpuqa.config.measurement import Rule, SelectionConfig
from gpuqa.config.prompt_search import PromptSearchConfig, SpaceConfig
from gpuqa.prompt_search.choosing import chosen
from gpuqa.prompt_search.objective import Objective, Outcome
from gpuqa.prompt_search.searcher import Made, Recipe, Searcher, Setting
from gpuqa.prompt_search.space import Genes, Pool, Space
from gpuqa.records import Answer, Trial
from gpuqa.selection.decision import decide

FRAGMENTS = {"role": 3, "restate": 2, "numbering": 2, "api": 2, "length": 2, "one_line": 1}
SHIPPED = 6
RULE = SelectionConfig("best_quality", Rule.best_quality, min_rouge_l_f1_judge=0.0, max_empty_fraction=1.0)
FINAL = 40  # questions


@dataclass(frozen=True)
class World:
    """How large the effects are, in units of a score from 0 to 1."""

    name: str
    least: float  # a fragment's effect, from this to `most`, up or down
    most: float
    together: float  # what two of the fragments have together, beyond both
    luck: float = 0.1  # standard deviation of a prompt's luck with a question
    questions: int = 160  # to search with
    own: float = 0.0  # standard deviation of what each prompt has that no piece of it explains


WORLDS = (
    World("effects 0.03 to 0.06", 0.03, 0.06, 0.0),
    World("the same, three pairs with 0.06 together", 0.03, 0.06, 0.06),
    World("effects 0.03 to 0.06, pairs 0.06, 40 questions", 0.03, 0.06, 0.06, questions=40),
    World("the same, and 0.03 of each prompt's own, 40 questions", 0.03, 0.06, 0.06, questions=40, own=0.03),
    World("no effect at all", 0.0, 0.0, 0.0),
    World("no effect at all, 40 questions", 0.0, 0.0, 0.0, questions=40),
)


class Engine:
    """Answers that were never given: scores by the planted effects."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.seed = world, seed
        draw = np.random.default_rng([11, seed])
        self.plant(draw)
        while world.most and not world.own and self.gap() < world.least:
            self.plant(draw)
        self.difficulty = draw.normal(0.4, 0.12, world.questions + FINAL)
        self.answers = 0

    def plant(self, draw: np.random.Generator) -> None:
        """Draw the effects."""
        world = self.world

        def effect() -> float:
            return float(draw.choice([-1, 1]) * draw.uniform(world.least, world.most))

        self.effects = {(name, variant): effect() for name, count in FRAGMENTS.items() for variant in range(count)}
        self.user = effect()
        self.pairs = []
        for _ in range(3):
            names = [str(name) for name in draw.choice(list(FRAGMENTS), 2, replace=False)]
            first, second = ((name, int(draw.integers(FRAGMENTS[name]))) for name in names)
            self.pairs.append((first, second, float(draw.choice([-1, 1]) * world.together)))

    def gap(self) -> float:
        """By how much the best prompt is better than the next."""
        first, second = sorted(map(self.truth, every_prompt()))[-2:][::-1]
        return first - second

    def truth(self, genes: Genes) -> float:
        """The mean score of a prompt over all questions that there could be, but for a constant."""
        on = set(genes.fragments)
        alone = sum(self.effects[fragment] for fragment in on)
        together = sum(effect for first, second, effect in self.pairs if first in on and second in on)
        return alone + together + self.user * genes.user.startswith("Q") + self.own(genes)

    def own(self, genes: Genes) -> float:
        """What a prompt has of its own."""
        if not self.world.own:
            return 0.0
        return float(np.random.default_rng([17, self.seed, *key_of(genes).encode()]).normal(0, self.world.own))

    def scores(self, genes: Genes, begin: int, end: int) -> Any:
        """Of some questions; the same whenever they are asked."""
        luck = np.random.default_rng([13, self.seed, *key_of(genes).encode()]).normal(0, self.world.luck, len(self.difficulty))
        return np.clip(self.difficulty + luck + self.truth(genes), 0.0, 1.0)[begin:end]

    def ask(self, genes: Genes, begin: int, end: int) -> Outcome:
        """One pass."""
        self.answers += end - begin
        scores, length = self.scores(genes, begin, end).tolist(), 40
        count = end - begin
        return Outcome(
            scores, scores, [80] * count, [length] * count, 20 * count, 0.1 + 0.01 * count, [0.01] * count, [0.1] * count
        )


def key_of(genes: Genes) -> str:
    """The name of a prompt."""
    return f"{sorted(genes.fragments)} {genes.user}"


def space_of() -> Space:
    """1,296 prompts."""
    fragments = {name: [f"{name} {variant}" for variant in range(count)] for name, count in FRAGMENTS.items()}
    return Space(SpaceConfig("simulated", fragments, reorder=False, users=["{question}", "Q: {question}"]), Pool({}))


@cache
def every_prompt() -> list[Genes]:
    """The full grid."""
    values = [[None, *range(count)] for count in FRAGMENTS.values()]
    rows = [tuple((name, v) for name, v in zip(FRAGMENTS, row, strict=True) if v is not None) for row in product(*values)]
    return [Genes(row, user) for row in rows for user in ("{question}", "Q: {question}")]


@dataclass(frozen=True)
class Ended:
    """One search."""

    found: bool  # the planted best prompt goes to the end
    in_grid: bool  # it has the highest mean where every prompt answers all questions
    regret: float  # by how much the found prompt's true score is below the best one's
    grids_regret: float  # the same of the prompt with that highest mean
    share: float  # of the full grid's answers
    claimed: bool
    optimism: float  # the found prompt's lead over the best shipped one in the search, less the one in the end


def search(world: World, seed: int, budget: float = 0.25, **settings: Any) -> Ended:
    """One search with at most `budget` of the full grid's answers."""
    engine, space, grid = Engine(world, seed), space_of(), every_prompt()
    config = PromptSearchConfig(minutes=1.0, seed=seed, **settings)
    sizes = sizes_of(world.questions, config)
    ends = np.cumsum(sizes).tolist()
    begins = [0, *ends[:-1]]
    shipped = [Made(key_of(g), f"shipped {n}", g, "shipped", (), 20, 0) for n, g in enumerate(drawn(engine, space, seed))]
    genes = {prompt.key: prompt.genes for prompt in shipped}

    def make(recipe: Recipe) -> Made:
        key = key_of(recipe.genes)
        genes[key] = recipe.genes
        return Made(key, key, recipe.genes, recipe.origin, recipe.parents, 20, recipe.generation)

    searcher = Searcher(Setting(space, Objective(RULE, config), config, sizes, make), shipped)
    most = budget * len(grid) * world.questions
    for asked in searcher.rounds():
        if engine.answers + sum(sizes[one.slice] for one in asked) > most:
            break
        for one in asked:
            prompt = genes[one.key]
            assert prompt is not None
            searcher.tell(one, engine.ask(prompt, begins[one.slice], ends[one.slice]))
    choice = chosen(searcher, [str(place) for place in range(world.questions)], 1)
    best = max(grid, key=engine.truth)
    highest = max(grid, key=lambda one: engine.scores(one, 0, world.questions).mean())
    winner = genes[choice.keys[0]] if choice.keys else None
    if winner is None:
        return Ended(False, False, 0.0, 0.0, engine.answers / most * budget, False, 0.0)
    claimed, lead = final(engine, [p.genes for p in shipped if p.genes], winner)
    return Ended(
        engine.truth(winner) == engine.truth(best),
        highest == best,
        engine.truth(best) - engine.truth(winner),
        engine.truth(best) - engine.truth(highest),
        engine.answers / (len(grid) * world.questions),
        claimed,
        choice.lead - lead,
    )


def sizes_of(questions: int, config: PromptSearchConfig) -> list[int]:
    """The slices of a search, as `gpuqa.prompt_search.splits` cuts them."""
    from gpuqa.prompt_search.splits import slices_of
    from gpuqa.records import Question

    return [len(part) for part in slices_of([Question(f"{place:04}", str(place)) for place in range(questions)], config)]


def drawn(engine: Engine, space: Space, seed: int) -> list[Genes]:
    """Shipped prompts: some of the space, but for the planted best, which there would be nothing to find beside."""
    random, genes, best = Random(f"shipped {seed}"), list[Genes](), max(every_prompt(), key=engine.truth)
    while len(genes) < SHIPPED:
        if (one := space.draw(random)) not in genes and (one != best or not engine.world.most):
            genes.append(one)
    return genes


def final(engine: Engine, shipped: list[Genes], winner: Genes) -> tuple[bool, float]:
    """Whether the found prompt wins on new questions, and its lead over the best shipped one there."""
    begin = engine.world.questions
    trials, answers = list[Trial](), {}
    for number, genes in enumerate([*shipped, winner]):
        scores = engine.scores(genes, begin, begin + FINAL).tolist()
        mean = float(np.mean(scores))
        trial = cell(number, [1000.0, 1000.0, 1000.0], rouge_l_f1=mean, rouge_l_f1_judge=mean, questions=FINAL)
        trials.append(replace(trial, key=f"{number}"))
        answers[f"{number}"] = [
            Answer(str(place), str(place), "", "", score, score, "stop", 40, 0.1) for place, score in enumerate(scores)
        ]
    verdict = decide(trials, RULE, answers)
    won = verdict.outcome is not None and verdict.outcome.value == "WIN"
    means = [trial.measurement.rouge_l_f1 or 0.0 for trial in trials if trial.measurement]
    return won and verdict.winner is trials[-1], means[-1] - max(means[:-1])


def rows(worlds: Sequence[World], seeds: Sequence[int]) -> Iterator[str]:
    """The table as Markdown, line by line."""
    yield "| effects | best found | below the best's true score | share of the grid's answers | claims | lead too good by |"
    yield "| --- " * 6 + "|"
    for world in worlds:
        ended = [search(world, seed) for seed in seeds]

        def mean(name: str, ended: Sequence[Ended] = ended) -> float:
            return float(np.mean([getattr(one, name) for one in ended]))

        found = f"{mean('found'):.1%} ({mean('in_grid'):.1%})" if world.most else ""
        below = f"{mean('regret'):.4f} ({mean('grids_regret'):.4f})" if world.most else ""
        rest = f"{mean('share'):.1%} | {mean('claimed'):.1%} | {mean('optimism'):.4f}"
        yield f"| {world.name} | {found} | {below} | {rest} |"


def main() -> None:
    """Print the table."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    begin, count = int(words.get("from", "0")), int(words.get("seeds", "40"))
    worlds = [WORLDS[int(number)] for number in words["worlds"].split(",")] if "worlds" in words else WORLDS
    for line in rows(worlds, range(begin, begin + count)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
