"""Tests of gpuqa.config.cells: in which order cells are composed, and in which they come back."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from omegaconf import DictConfig, OmegaConf

from gpuqa.config import UserError
from gpuqa.config.cells import Cells


def config(words: tuple[str, ...]) -> DictConfig:
    return OmegaConf.create({"words": list(words)})


def words_of(composed: DictConfig) -> tuple[str, ...]:
    return tuple(composed.words)


def cells_of(*axes: list[str], compose: Callable[[tuple[str, ...]], DictConfig] = config) -> Cells:
    return Cells({words: partial(compose, words) for words in itertools.product(*axes)}, contextlib.nullcontext)


PROMPTS, SIZES, FIXED = ["prompt=a", "prompt=b", "prompt=c"], ["size=1", "size=2"], ["+seed=7"]


def test_every_value_of_every_axis_is_met_in_as_few_cells_as_the_longest_axis_has_values():
    met, at_first = list[tuple[str, ...]](), list[list[tuple[str, ...]]]()

    def meet(composed: DictConfig) -> tuple[str, ...]:
        met.append(words_of(composed))
        return met[-1]

    cells_of(PROMPTS, SIZES, FIXED).each(meet, at_first.append)
    assert met[:3] == [
        ("prompt=a", "size=1", "+seed=7"),
        ("prompt=b", "size=2", "+seed=7"),
        ("prompt=c", "size=1", "+seed=7"),
    ]
    assert at_first == [met[:3]], "it is called once, with what was made of these"
    assert len(met) == len(set(met)) == 6, "and no cell is composed twice"


def test_a_command_that_needs_every_value_and_not_every_combination_composes_just_these_cells():
    cells = cells_of(PROMPTS, SIZES, FIXED)
    made = cells.with_all_values(words_of)
    assert len(made) == 3
    assert {word for words in made.values() for word in words} == {*PROMPTS, *SIZES, *FIXED}
    assert [cells.overrides[place] for place in made] == list(made.values())


@pytest.mark.parametrize("axes", [(), (FIXED,), (PROMPTS, SIZES, FIXED), (SIZES, PROMPTS)], ids=len)
def test_what_is_made_comes_back_in_the_order_of_the_cells(axes: tuple[list[str], ...]):
    cells = cells_of(*axes)
    assert cells.each(words_of) == cells.overrides == list(itertools.product(*axes))


def test_a_cell_that_is_refused_is_the_last_one_that_is_composed():
    met: list[tuple[str, ...]] = []

    def refuse(composed: DictConfig) -> None:
        met.append(words_of(composed))
        if "prompt=b" in composed.words:
            raise UserError("no b")

    with pytest.raises(UserError, match="no b"):
        cells_of(PROMPTS, SIZES).each(refuse)
    assert len(met) == 2


def test_the_axes_are_the_overrides_that_differ_without_the_plus_before_them():
    assert cells_of(["+size=1", "+size=2"], FIXED).axes == [{"size": "1"}, {"size": "2"}]
    assert cells_of(FIXED).axes == [{}]


def test_an_error_of_composing_is_told_but_none_of_what_is_made_of_a_cell():
    @contextlib.contextmanager
    def told() -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise UserError(f"told: {error}") from error

    def raising(*_: object) -> DictConfig:
        raise ValueError("oops")

    with pytest.raises(UserError, match="told: oops"):
        Cells({("a=1",): partial(raising)}, told).each(words_of)
    with pytest.raises(ValueError, match=r"^oops$"):
        Cells({("a=1",): partial(config, ("a=1",))}, told).each(raising)
