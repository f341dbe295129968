"""Which passes finalists get, until when, and on which engines; passes that nobody measured stand for real ones.

`tests/test_finalists.py` measures finalists on a real engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest
from generated_trials import cell
from small_study import BARE, KEYWORDS, NARROW, prepared

from gpuqa.measure.cell import Cell
from gpuqa.measure.fingerprint import Stage
from gpuqa.records import Answered, Pass, Trial
from gpuqa.study.engine_session import CellFailed, PassDone
from gpuqa.study.finals import MOST_ON_A_START, Finals, Passes, schedule_of

Played = list[list[tuple[str, int]]]  # for each start of an engine its passes: which cell, which number


def cells(*rows: dict[str, Any], **settings: Any) -> list[Cell]:
    found = prepared(*({"workload__repeats": 2, **row, **settings} for row in rows))
    return [replace(cell, stage=Stage.finals) for cell in found]


def everything(passes: Passes) -> Collection[str]:
    return list(passes)


def nothing(_: Passes) -> Collection[str]:
    return []


def played(
    found: list[Cell],
    undecided: Callable[[Passes], Collection[str]] = everything,
    kept: Passes | None = None,
    fails: str = "",
    clock: Callable[[], float] = lambda: 0.0,
    first_round: Sequence[Trial] = (),
) -> Played:
    """What is measured, start by start; the cell `fails` breaks in its second pass."""
    finals, starts = Finals(found, kept or {}, undecided, schedule_of(found, first_round), clock), []

    async def play() -> None:
        for plans in finals.stages():
            for plan in plans:
                passes: list[tuple[str, int]] = []
                while step := await plan.next():
                    key, number = step.request.cell.key, step.request.repeat
                    if key == fails and number == 1:
                        plan.take(CellFailed(key, "oops"))
                        continue
                    plan.take(PassDone(key, Pass(Answered([], 1.0, []), number, [], 0.0, 1.0, 1.0, 0.0)))
                    passes.append((key, number))
                if passes:
                    starts.append(passes)

    asyncio.run(play())
    return starts


def test_on_one_engine_finalists_take_turns_until_nothing_is_open() -> None:
    found = cells(BARE, KEYWORDS)
    [passes] = played(found, nothing)
    assert [number for _, number in passes] == [0, 0, 1, 1, 2, 2, 3, 3], "four rounds, then the first look"
    assert all({passes[place][0], passes[place + 1][0]} == {cell.key for cell in found} for place in range(0, 8, 2))


@pytest.mark.slow
def test_what_is_open_at_a_look_goes_on_to_the_next_and_ends_at_the_last() -> None:
    found, seen = cells(BARE, KEYWORDS), []

    def twice(passes: Passes) -> Collection[str]:
        seen.append({key: len(measured) for key, measured in passes.items()})
        return list(passes) if len(seen) == 1 else []

    [passes] = played(found, twice)
    assert len(passes) == 2 * 7
    assert seen == [{cell.key: count for cell in found} for count in (4, 7)], "each look sees the passes up to it"
    assert len(played(found)[0]) == 2 * 32
    assert len(played(cells(BARE, KEYWORDS, study__max_repeats=12))[0]) == 2 * 12
    assert len(played(cells(BARE, KEYWORDS, study__max_repeats=3))[0]) == 2 * 3, "below the first look there is one"


def test_a_finalist_that_is_decided_is_measured_no_more() -> None:
    found = cells(BARE, KEYWORDS, {"prompt": "structured"})

    def without_the_last(passes: Passes) -> Collection[str]:
        return [] if len(passes[found[0].key]) == 7 else [found[0].key, found[1].key]

    [passes] = played(found, without_the_last)
    counts = {cell.key: sum(key == cell.key for key, _ in passes) for cell in found}
    assert list(counts.values()) == [7, 7, 4]


def test_finalists_of_two_engines_get_starts_of_both_in_alternating_order() -> None:
    found = cells(BARE, NARROW)
    starts = played(found, nothing)
    first, second = found[0].key, found[1].key
    assert [start[0][0] for start in starts] == [first, second, second, first, first, second]
    assert [[number for _, number in start] for start in starts] == [[0, 1]] * 2 + [[2, 3]] * 2 + [[4, 5]] * 2
    assert len(played(found)) == 2 * 18
    assert len(played(cells(BARE, NARROW, study__max_repeats=12))) == 2 * 6


@pytest.mark.parametrize(
    ("start_s", "passes"), [(0.5, 2), (4.5, 4), (3600.0, MOST_ON_A_START)], ids=["quick", "slower", "slow"]
)
def test_a_start_has_as_many_passes_as_take_the_time_of_starting(start_s: float, passes: int) -> None:
    found = cells(BARE, NARROW)
    first_round = [cell(number, [10_000.0], engine_start_s=start_s - 0.2, warmup_s=0.2, seconds=1.0) for number in (1, 2)]
    starts = played(found, nothing, first_round=first_round)
    assert [[number for _, number in start] for start in starts[::2]] == [
        list(range(start * passes, (start + 1) * passes)) for start in range(3)
    ]
    assert len(played(found, first_round=first_round)) == 2 * 18


def test_finalists_that_share_an_engine_share_its_starts() -> None:
    found = cells(BARE, KEYWORDS, NARROW)
    starts = played(found, nothing)
    assert [len({key for key, _ in start}) for start in starts] == [2, 1, 1, 2, 2, 1]


def test_no_look_is_begun_that_the_time_does_not_last_for() -> None:
    moments = iter([0.0, *[40.0] * 99])
    [passes] = played(cells(BARE, KEYWORDS, study__seconds=60.0), everything, clock=lambda: next(moments))
    assert len(passes) == 2 * 4, "four rounds took 40 s, so that three more would end after 70 s"
    moments = iter([0.0, *[30.0] * 99])
    [passes] = played(cells(BARE, KEYWORDS, study__seconds=60.0), everything, clock=lambda: next(moments))
    assert len(passes) > 2 * 4


def test_passes_of_an_earlier_run_are_not_measured_again_and_more_time_goes_on_from_them() -> None:
    found = cells(BARE, KEYWORDS)
    kept = {cell.key: [Pass(Answered([], 1.0, []), number, [], 0.0, 1.0, 1.0, 0.0) for number in range(4)] for cell in found}
    assert played(found, nothing, kept) == [], "no engine starts"
    [passes] = played(found, everything, kept)
    assert {number for _, number in passes} == set(range(4, 32))


@pytest.mark.parametrize("rows", [(BARE, KEYWORDS), (BARE, NARROW)], ids=["one engine", "two engines"])
def test_a_finalist_that_breaks_is_left_out_and_the_others_go_on(rows: tuple[dict[str, Any], ...]) -> None:
    found = cells(*rows)
    passes = [entry for start in played(found, everything, fails=found[1].key) for entry in start]
    assert [number for key, number in passes if key == found[1].key] == [0]
    assert len([number for key, number in passes if key == found[0].key]) >= 20
