"""The cells of a command with axes, each composed when it is wanted: a wrong one is told before all the others are composed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TypeVar

from omegaconf import DictConfig

Made = TypeVar("Made")


class Cells:
    """What the study sweeper hands over. Hydra takes a tenth of a second for each cell, so a large study takes many."""

    def __init__(
        self,
        composers: Mapping[tuple[str, ...], Callable[[], DictConfig]],
        told: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.overrides, self._composers, self._told = list(composers), list(composers.values()), told

    @property
    def axes(self) -> list[dict[str, str]]:
        """What tells each cell from the others: its overrides that are not the same in all cells."""
        rows = [dict(override.lstrip("+").split("=", 1) for override in cell) for cell in self.overrides]
        varying = [key for key in rows[0] if len({row[key] for row in rows}) > 1]
        return [{key: row[key] for key in varying} for row in rows]

    def compose(self, place: int) -> DictConfig:
        """The config of one cell.

        Raises:
            UserError: Hydra refuses its overrides.
        """
        with self._told():
            return self._composers[place]()

    def each(self, make: Callable[[DictConfig], Made], then: Callable[[list[Made]], None] = lambda _: None) -> list[Made]:
        """What `make` makes of every cell, in their order.

        It is called for some cells first that have every value of every axis, as few as the longest axis has values: a wrong
        one is refused after these at the latest, unless it is wrong together with another value only.

        Args:
            then: is called once, after those cells, with what was made of them.
        """
        made = self.with_all_values(make)
        then(list(made.values()))
        made |= {place: make(self.compose(place)) for place in range(len(self.overrides)) if place not in made}
        return [made[place] for place in range(len(self.overrides))]

    def with_all_values(self, make: Callable[[DictConfig], Made]) -> dict[int, Made]:
        """What `make` makes of a few cells, by their places, that together have every value of every axis."""
        return {place: make(self.compose(place)) for place in self._places_of_all_values()}

    def _places_of_all_values(self) -> list[int]:
        """Of cells that together have all overrides; each has as many new ones as any that is left."""
        chosen, unseen = list[int](), set().union(*self.overrides)
        while unseen:
            chosen.append(max(range(len(self.overrides)), key=lambda place: len(unseen.intersection(self.overrides[place]))))
            unseen.difference_update(self.overrides[chosen[-1]])
        return chosen or [0]
