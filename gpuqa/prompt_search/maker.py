"""Genes -> a prompt that can be asked: rendered by the model's chat template, with room for a question, and without a leak."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from gpuqa.config import UserError, plain
from gpuqa.config.commands import CellConfig
from gpuqa.config.pipeline import PLACEHOLDER, PromptConfig, SystemIn
from gpuqa.measure import fingerprint
from gpuqa.measure.cell import Cell
from gpuqa.pipeline.pipeline import checked_encoder
from gpuqa.pipeline.prompts import PromptEncoder, load_tokenizer, marks_of
from gpuqa.prompt_search.leaks import Leaks
from gpuqa.prompt_search.searcher import Made, Recipe
from gpuqa.prompt_search.space import Genes, Space


class PromptMaker:
    """Makes the prompts of a search, and keeps the cell of each."""

    def __init__(self, space: Space, leaks: Leaks, shipped: Sequence[Cell]) -> None:
        """`shipped`: cells that differ in their prompt alone, as `gpuqa.study.study.prepare` makes them."""
        self.space, self.leaks, self.base = space, leaks, shipped[0]
        self.tokenizer: Any = load_tokenizer(shipped[0].config.model)
        template = str(self.tokenizer.chat_template or "")
        self.marks = {*self.tokenizer.all_special_tokens, *marks_of(self.tokenizer, template)}  # that part the turns of a chat
        self.cells: dict[str, Cell] = {}  # by the key of their prompt
        self.refused: Counter[str] = Counter()  # why prompts could not be made
        self.shipped = [self.of_shipped(cell) for cell in shipped]

    def of_shipped(self, cell: Cell) -> Made:
        """A shipped prompt, with genes where the space can say it: then it may have children.

        Raises:
            UserError: a measured question or its answer is in it.
        """
        prompt = cell.config.prompt
        if why := self.leaks.of_prompt(prompt):
            raise UserError(f"prompt={prompt.name}: {why}; what is measured must not be in a prompt: take another one")
        encoder = checked_encoder(self.tokenizer, cell.config)
        key = key_of(encoder, cell.config)
        self.cells[key] = cell
        sayable = not prompt.examples and prompt.system_in is SystemIn.system and prompt.template is None
        genes = Genes(written=prompt.system or "", user=prompt.user)
        same = sayable and prompt.postprocess == self.space.config.postprocess
        return Made(key, prompt.name, genes if same else None, "shipped", (), tokens_of(encoder), 0)

    def check_space(self) -> None:
        """Refuse a space in which some fragment or template could never be asked.

        Raises:
            UserError: names it and says why.
        """
        config = self.space.config
        for name, variants in config.fragments.items():
            for variant, text in enumerate(variants):
                self.check(Genes(((name, variant),)), f"space.fragments.{name}", text)
        for user in config.users:
            self.check(Genes(user=user), "space.users", user)
        for limit in config.max_tokens:
            self.check(Genes(max_tokens=limit), "space.max_tokens", str(limit))

    def check(self, genes: Genes, key: str, text: str) -> None:
        """Raise a UserError where these genes make no prompt."""
        made = self.cell_of(genes)
        if isinstance(made, str):
            raise UserError(f"{key}: {text!r} cannot be used: {made}")

    def make(self, recipe: Recipe) -> Made | None:
        """The prompt of a recipe; None where it cannot be asked, which is counted."""
        made = self.cell_of(recipe.genes)
        if isinstance(made, str):
            self.refused[made] += 1
            return None
        cell, encoder = made
        key = key_of(encoder, cell.config)
        self.cells.setdefault(key, cell)
        name, tokens = cell.config.prompt.name, tokens_of(encoder)
        return Made(key, name, recipe.genes, recipe.origin, recipe.parents, tokens, recipe.generation)

    def why_not(self, genes: Genes) -> str:
        """Why these genes make no prompt; "" where they do."""
        made = self.cell_of(genes)
        return made if isinstance(made, str) else ""

    def cell_of(self, genes: Genes) -> tuple[Cell, PromptEncoder] | str:
        """The cell of a prompt and its encoder, or why there is none."""
        prompt = self.space.prompt_of(genes, "made")
        if why := self.unusable(prompt, self.space.texts_of(genes)):
            return why
        config = replace(self.base.config, prompt=prompt)
        try:
            if genes.max_tokens is not None:
                config = replace(config, sampling=replace(config.sampling, max_tokens=genes.max_tokens))
            encoder = checked_encoder(self.tokenizer, config)
        except UserError as error:
            return str(error).removeprefix("prompt=made: ")
        name = f"made_{key_of(encoder, config)[:8]}"
        axes = {"prompt": name} | ({"sampling.max_tokens": str(genes.max_tokens)} if genes.max_tokens is not None else {})
        return self.with_prompt(replace(config, prompt=replace(prompt, name=name)), encoder, axes), encoder

    def with_prompt(self, config: CellConfig, encoder: PromptEncoder, axes: dict[str, str]) -> Cell:
        """A cell like the shipped ones, with another prompt."""
        digests = self.base.fingerprint["digests"]
        assert isinstance(digests, dict), "prepare makes it"
        known = {**self.base.fingerprint, "digests": {**digests, "prompt_tokens": encoder.digest}}
        return replace(self.base, config=config, axes=axes, fingerprint=known)

    def unusable(self, prompt: PromptConfig, pieces: Sequence[str]) -> str:
        """Why a prompt of these pieces cannot be asked, as far as its text tells; "" if it can."""
        system = prompt.system or ""
        if len(system) > self.space.config.max_system_chars:
            return f"the system text is longer than space.max_system_chars={self.space.config.max_system_chars}"
        texts = [system, prompt.user, *(text for example in prompt.examples for text in (example.question, example.answer))]
        if broken := sorted(mark for mark in self.marks if any(mark in text for text in texts)):
            return f"it holds {broken[0]!r}, by which the chat template parts the turns; write it without that"
        if PLACEHOLDER in system:
            return f"it holds {PLACEHOLDER}, which belongs into the user's turn"
        return self.leaks.of_prompt(prompt, pieces)


def key_of(encoder: PromptEncoder, config: CellConfig) -> str:
    """What tells a prompt from others: its tokens, what is done to its answers, and how long they may be."""
    return fingerprint.sha256_of([encoder.digest, plain(asdict(config.prompt.postprocess)), config.sampling.max_tokens])


def tokens_of(encoder: PromptEncoder) -> int:
    """The tokens of all but the question."""
    return len(encoder.encode("").token_ids)
