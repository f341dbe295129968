"""What a prompt may be made of, as genes that can be drawn, changed and mixed. Rendered, they are one like a shipped prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import factorial, prod
from random import Random
from typing import TypeVar

from gpuqa.config.pipeline import PLACEHOLDER, ExampleConfig, PromptConfig
from gpuqa.config.prompt_search import Choice, SpaceConfig

Value = TypeVar("Value")
CHANGES = (1, 1, 1, 2, 2, 3)  # genes that a mutation changes, drawn from these: interactions need more than one


@dataclass(frozen=True)
class Genes:
    """One prompt of a space."""

    fragments: tuple[tuple[str, int], ...] = ()  # name and variant, in the order of the text
    user: str = PLACEHOLDER
    examples: int = 0
    chosen: Choice = Choice.fixed
    max_tokens: int | None = None  # None: as sampling says
    written: str = ""  # a text that stands before the fragments: of a shipped prompt, or a proposer's


@dataclass(frozen=True, slots=True)
class Pool:
    """The worked examples that may be taken, in the order of each choice."""

    ordered: dict[Choice, list[ExampleConfig]]

    def take(self, count: int, chosen: Choice) -> list[ExampleConfig]:
        """The first so many by a choice."""
        return self.ordered.get(chosen, [])[:count]


class Space:
    """All prompts that the genes allow."""

    def __init__(self, config: SpaceConfig, pool: Pool) -> None:
        self.config, self.pool = config, pool
        self.order = {name: place for place, name in enumerate(config.fragments)}

    @property
    def size(self) -> int:
        """How many prompts there are, without those with a written text."""
        variants = [len(texts) for texts in self.config.fragments.values()]
        if self.config.reorder:  # so many fragments are on, in each order
            on = [1.0]
            for count in variants:
                on = [(on[k] if k < len(on) else 0) + (on[k - 1] * count if k else 0) for k in range(len(on) + 1)]
            texts = int(sum(ways * factorial(k) for k, ways in enumerate(on)))
        else:
            texts = prod(count + 1 for count in variants)
        shown = sum(len(self.config.chosen) if count else 1 for count in set(self.config.examples))
        return texts * len(set(self.config.users)) * shown * max(1, len(set(self.config.max_tokens)))

    def draw(self, random: Random) -> Genes:
        """Any prompt of the space; each fragment is in half of them."""
        names = [name for name in self.config.fragments if random.random() < 0.5]
        if self.config.reorder:
            random.shuffle(names)
        fragments = tuple((name, random.randrange(len(self.config.fragments[name]))) for name in names)
        limits = self.config.max_tokens
        user, count, way = (
            random.choice(self.config.users),
            random.choice(self.config.examples),
            random.choice(self.config.chosen),
        )
        return self.normal(Genes(fragments, user, count, way, random.choice(limits) if limits else None))

    def mutate(self, genes: Genes, random: Random) -> Genes:
        """The same prompt with one, two or three of its genes changed."""
        for _ in range(random.choice(CHANGES)):
            genes = self.changed(genes, random)
        return self.normal(genes)

    def changed(self, genes: Genes, random: Random) -> Genes:
        """One gene changed; each gene that has another value is as likely."""
        config = self.config
        kinds = [*(f"fragment {name}" for name in config.fragments)]
        kinds += ["user"] if len(set(config.users) | {genes.user}) > 1 else []
        kinds += ["examples"] if len(set(config.examples)) > 1 else []
        kinds += ["chosen"] if len(config.chosen) > 1 and genes.examples else []
        kinds += ["max_tokens"] if len(config.max_tokens) > 1 else []
        kinds += ["order"] if config.reorder and len(genes.fragments) > 1 else []
        kinds += ["written"] if genes.written else []
        kind = random.choice(kinds)
        if kind == "user":
            return replace(genes, user=another(genes.user, config.users, random))
        if kind == "examples":
            return replace(genes, examples=another(genes.examples, config.examples, random))
        if kind == "chosen":
            return replace(genes, chosen=another(genes.chosen, config.chosen, random))
        if kind == "max_tokens":
            return replace(genes, max_tokens=another(genes.max_tokens, list(config.max_tokens), random))
        if kind == "written":
            return replace(genes, written="")
        if kind == "order":
            fragments = list(genes.fragments)
            fragments.insert(random.randrange(len(fragments)), fragments.pop(random.randrange(len(fragments))))
            return replace(genes, fragments=tuple(fragments))
        return self.with_other_variant(genes, kind.removeprefix("fragment "), random)

    def with_other_variant(self, genes: Genes, name: str, random: Random) -> Genes:
        """One fragment taken out, put in, or said in another way."""
        here = dict(genes.fragments).get(name)
        values = [value for value in (None, *range(len(self.config.fragments[name]))) if value != here]
        value = random.choice(values)
        if here is None:
            place = random.randrange(len(genes.fragments) + 1)
            added = (*genes.fragments[:place], (name, value or 0), *genes.fragments[place:])
            return replace(genes, fragments=added)
        kept = tuple((other, value if other == name else old) for other, old in genes.fragments)
        return replace(genes, fragments=tuple((other, number) for other, number in kept if number is not None))

    def cross(self, first: Genes, second: Genes, random: Random) -> Genes:
        """Each gene of one of two prompts; fragments keep the order of the first, those of the second alone come after."""
        mine, theirs = dict(first.fragments), dict(second.fragments)
        fragments = []
        for name in [*mine, *(name for name in theirs if name not in mine)]:
            value = random.choice((mine, theirs)).get(name)
            if value is not None:
                fragments.append((name, value))
        genes = [random.choice((first, second)) for _ in range(4)]
        written = random.choice((first, second)).written
        user, examples, max_tokens = genes[0].user, genes[1], genes[2].max_tokens
        return self.normal(Genes(tuple(fragments), user, examples.examples, examples.chosen, max_tokens, written))

    def normal(self, genes: Genes) -> Genes:
        """The one way to write a prompt down: no choice of no examples, and fragments in order where that is fixed."""
        fragments = genes.fragments
        if not self.config.reorder:
            fragments = tuple(sorted(fragments, key=lambda fragment: self.order[fragment[0]]))
        return replace(genes, fragments=fragments, chosen=genes.chosen if genes.examples else Choice.fixed)

    def pieces_of(self, genes: Genes) -> list[str]:
        """What a prompt is made of, but for the order."""
        pieces = [f"{name}: {self.config.fragments[name][variant]}" for name, variant in genes.fragments]
        pieces += [f"user: {genes.user}", f"examples: {genes.examples}", f"chosen: {genes.chosen.name}"]
        return [*pieces, f"max_tokens: {genes.max_tokens}", *([f"written: {genes.written}"] if genes.written else [])]

    def texts_of(self, genes: Genes) -> list[str]:
        """The pieces of the system text, in their order."""
        return list(filter(None, [genes.written, *(self.config.fragments[name][place] for name, place in genes.fragments)]))

    def prompt_of(self, genes: Genes, name: str) -> PromptConfig:
        """The prompt as a file of conf/prompt/ would give it."""
        examples = self.pool.take(genes.examples, genes.chosen)
        system, postprocess = joined(self.texts_of(genes)) or None, self.config.postprocess
        return PromptConfig(name, system, user=genes.user, examples=examples, postprocess=postprocess)


def another(value: Value, values: Sequence[Value], random: Random) -> Value:
    """Another one of some values."""
    return random.choice([other for other in values if other != value] or [value])


def joined(texts: Sequence[str]) -> str:
    """Sentences as one text: with a blank only where two words of Latin letters would meet."""
    text = ""
    for part in filter(None, texts):
        apart = bool(text) and text[-1].isascii() and part[0].isascii()
        text += f" {part}" if apart else part
    return text


def difference(parent: Genes, child: Genes, config: SpaceConfig) -> list[str]:
    """What tells a prompt from the one that it was made of, a change a text."""
    before, after = dict(parent.fragments), dict(child.fragments)
    changes = [f"- {name}" for name in before if name not in after]
    changes += [f"+ {name}: {config.fragments[name][after[name]]}" for name in after if name not in before]
    changes += [
        f"{name}: {config.fragments[name][after[name]]}" for name in after if before.get(name, after[name]) != after[name]
    ]
    both = [name for name in before if name in after]
    if both != [name for name in after if name in before]:
        changes.append(f"order: {', '.join(after)}")
    if parent.user != child.user:
        changes.append(f"user: {child.user}")
    if (parent.examples, parent.chosen) != (child.examples, child.chosen):
        changes.append(f"{child.examples} examples, {child.chosen.name}" if child.examples else "no examples")
    if parent.max_tokens != child.max_tokens:
        changes.append(f"max_tokens {child.max_tokens}")
    if parent.written != child.written:
        changes.append(f"text: {child.written}" if child.written else "- the written text")
    return changes
