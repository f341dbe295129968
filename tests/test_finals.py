"""Which passes finalists get, until when, and on which engines; passes that nobody measured stand for real ones.

`tests/test_finalists.py` measures finalists on a real engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from generated_trials import cell
from small_study import BARE, KEYWORDS, NARROW, prepared

from gpuqa.measure.cell import Cell
from gpuqa.measure.fingerprint import Stage
from gpuqa.records import Answered, Pass, Trial
from gpuqa.study.engine_session import CellFailed, PassDone
from gpuqa.study.executors.leases import Leases
from gpuqa.study.executors.local import LocalPlace
from gpuqa.study.finals import MOST_ON_A_START, Finals, FinalsPlan, Passes, schedule_of

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_no_look_is_begun_that_the_time_does_not_last_for() -> None:
    moments = iter([0.0, *[40.0] * 99])
    [passes] = played(cells(BARE, KEYWORDS, study__seconds=60.0), everything, clock=lambda: next(moments))
    assert len(passes) == 2 * 4, "four rounds took 40 s, so that three more would end after 70 s"
    moments = iter([0.0, *[30.0] * 99])
    [passes] = played(cells(BARE, KEYWORDS, study__seconds=60.0), everything, clock=lambda: next(moments))
    assert len(passes) > 2 * 4


@pytest.mark.slow
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


CARDS = [LocalPlace(f"GPU {number}", {"CUDA_VISIBLE_DEVICES": str(number)}) for number in range(8)]
CORES = [LocalPlace(f"cores {number}", cores=(number,)) for number in range(2)]


@dataclass
class AtPlaces:
    """Finals at several places: what was measured at each, start by start, and how many passes were under way at one time."""

    starts: dict[int, Played]
    most_at_once: int = 0
    at_once: int = 0


def at_places(
    found: list[Cell], places: list[LocalPlace], undecided: Callable[[Passes], Collection[str]] = nothing, fails: str = ""
) -> AtPlaces:
    """The finals as an executor runs them; place 0 is slow. The cell `fails` breaks in its first pass at the last place."""
    finals, seen = (
        Finals(found, {}, undecided, schedule_of(found, (), places)),
        AtPlaces({place: [] for place in range(len(places))}),
    )

    async def one_start(plan: FinalsPlan, place: int) -> None:
        passes: list[tuple[str, int]] = []
        while step := await plan.next():
            key, number = step.request.cell.key, step.request.repeat
            seen.at_once += 1
            seen.most_at_once = max(seen.most_at_once, seen.at_once)
            for _ in range(1 if place else 5):
                await asyncio.sleep(0)
            seen.at_once -= 1
            broken = key == fails and place == len(places) - 1
            measured = Pass(Answered([], 1.0, []), number, [], 0.0, 1.0, 1.0, 0.0)
            plan.take(CellFailed(key, "oops") if broken else PassDone(key, measured))
            passes += [] if broken else [(key, number)]
        seen.starts[place] += [passes] if passes else []

    async def work(leases: Leases[FinalsPlan], place: int) -> None:
        while plan := leases.take(place):
            await one_start(plan, place)

    async def play() -> None:
        for plans in finals.stages():
            leases = Leases(plans)
            await asyncio.wait_for(asyncio.gather(*(work(leases, place) for place in range(len(places)))), timeout=10)

    asyncio.run(play())
    return seen


def test_every_finalist_starts_as_often_on_every_card_and_the_order_alternates_on_each() -> None:
    found = cells(BARE, NARROW)
    first, second = (cell.key for cell in found)
    seen = at_places(found, CARDS[:2])
    assert [start[0][0] for start in seen.starts[0]] == [first, second, second, first]
    assert [start[0][0] for start in seen.starts[1]] == [second, first, first, second]
    numbers = [number for starts in seen.starts.values() for start in starts for key, number in start if key == first]
    assert sorted(numbers) == list(range(8)), "four starts of two passes: the first look is after three starts or more"
    assert seen.most_at_once == 2, "cards measure side by side"


def test_finalists_of_one_engine_take_turns_on_every_card_and_wait_for_each_other_at_a_look() -> None:
    found, looks = cells(BARE, KEYWORDS), []

    def twice(passes: Passes) -> Collection[str]:
        looks.append({key: sorted(measured.repeat for measured in known) for key, known in passes.items()})
        return list(passes) if len(looks) == 1 else []

    seen = at_places(found, CARDS[:2], twice)
    assert looks == [{cell.key: list(range(count)) for cell in found} for count in (4, 8)], "nobody ran ahead of the slow card"
    assert [len(starts) for starts in seen.starts.values()] == [1, 1], "one start on each card for all its rounds"
    assert [{number for _, number in starts[0]} for starts in seen.starts.values()] == [{0, 2, 4, 6}, {1, 3, 5, 7}]


def test_on_eight_cards_every_one_has_a_start_before_the_first_look() -> None:
    seen = at_places(cells(BARE, NARROW, study__max_repeats=20), CARDS)
    assert all(len(starts) == 2 for starts in seen.starts.values())


def test_few_repeats_are_shared_by_all_cards() -> None:
    found = cells(BARE, NARROW, study__max_repeats=4)
    slow_starts = [cell(number, [10_000.0], engine_start_s=60.0, seconds=1.0) for number in (1, 2)]
    assert schedule_of(found, slow_starts, CARDS[:2]).a_start == 2
    assert schedule_of(found, slow_starts).a_start == 4


@pytest.mark.parametrize("rows", [(BARE, KEYWORDS), (BARE, NARROW)], ids=["one engine", "two engines"])
def test_places_that_share_a_processor_take_turns(rows: tuple[dict[str, Any], ...]) -> None:
    seen = at_places(cells(*rows), CORES)
    assert seen.most_at_once == 1
    assert all(seen.starts.values()), "both places measured"


@pytest.mark.parametrize("rows", [(BARE, KEYWORDS), (BARE, NARROW)], ids=["one engine", "two engines"])
@pytest.mark.parametrize("places", [CARDS[:3], CORES], ids=["cards", "cores"])
def test_a_finalist_that_breaks_on_one_card_is_left_out_on_all_and_nobody_waits_for_it(
    rows: tuple[dict[str, Any], ...], places: list[LocalPlace]
) -> None:
    found = cells(*rows)
    seen = at_places(found, places, everything, fails=found[1].key)
    passes = [entry for starts in seen.starts.values() for start in starts for entry in start]
    assert len([number for key, number in passes if key == found[1].key]) <= 2 * (len(places) - 1)
    assert len([number for key, number in passes if key == found[0].key]) >= 18
