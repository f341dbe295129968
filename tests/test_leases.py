"""In which order places get plans: the longest first by a guess, which passes correct."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT
from small_study import config

from gpuqa.measure.cell import Cell
from gpuqa.records import Answered, Pass, Question
from gpuqa.study.engine_session import PassDone, Step
from gpuqa.study.executors.leases import Leases
from gpuqa.study.executors.places import PlaceNotThere
from gpuqa.study.executors.side_by_side import run_plans
from gpuqa.study.guesses import CellWork, Work, work_of

sys.path.insert(0, str(ROOT / "experiments" / "executors"))
import makespan


@dataclass
class Named:
    """A plan of which nobody asks for steps."""

    name: str
    work: Work = field(default_factory=dict)
    place: int | None = None

    async def next(self) -> Step | None:
        return None


def plan(name: str, kind: str, seconds: float, passes: int = 10) -> Named:
    return Named(name, {name: CellWork((kind,), seconds, passes)})


def passed(name: str, seconds: float) -> PassDone:
    return PassDone(name, Pass(Answered([], seconds, []), 0, [], 0.0, 2.0, 0.0, 0.0))


def names(leases: Leases[Named], place: int = 0) -> list[str]:
    found = []
    while (taken := leases.take(place)) is not None:
        found.append(taken.name)
    return found


def test_the_longest_plan_is_handed_out_first() -> None:
    plans = [plan("short", "a", 1.0), plan("long", "a", 3.0), plan("many passes", "a", 1.0, passes=20)]
    assert names(Leases(plans)) == ["long", "many passes", "short"]


def test_a_pass_that_takes_longer_than_guessed_moves_the_other_plans_of_its_kind_forward() -> None:
    plans = [plan("first", "slow", 9.0), plan("quick", "quick", 3.0), plan("like the first", "slow", 1.0)]
    leases = Leases(plans)
    taken = leases.take(0)
    assert taken is plans[0]
    leases.learn(taken, passed("first", 90.0))
    leases.learn(plans[1], passed("quick", 1.5))
    assert names(leases) == ["like the first", "quick"], "100 and 15 s, where 10 and 30 s were guessed"


def test_a_kind_that_nobody_measured_is_corrected_by_its_next_of_kin() -> None:
    kin = [Named(name, {name: CellWork(kind, 1.0, 1)}) for name, kind in (("a", ("e", "16", "p")), ("b", ("e", "16", "q")))]
    other = Named("c", {"c": CellWork(("e", "64", "p"), 1.0, 1)})
    leases = Leases([*kin, other])
    leases.learn(kin[0], passed("a", 5.0))
    leases.learn(other, passed("c", 2.0))
    assert leases.durations.factor(("e", "16", "p")) == 5.0
    assert leases.durations.factor(("e", "16", "q")) == 5.0
    assert leases.durations.factor(("e", "8", "p")) == pytest.approx(3.5), "of the engine's other widths"
    assert leases.durations.factor(("another",)) == pytest.approx(3.5)


def test_plans_of_a_place_are_handed_out_there_alone_and_in_their_order() -> None:
    plans = [Named("one", place=1), Named("zero", place=0), Named("one again", place=1)]
    leases = Leases(plans)
    assert names(leases, 0) == ["zero"]
    assert names(leases, 2) == []
    assert names(leases, 1) == ["one", "one again"]


class Opens:
    """A session that starts nothing: its place opens after so many seconds, or not at all."""

    def __init__(self, after_s: float | None) -> None:
        self.after_s, self.ended = after_s, 0

    async def open(self) -> None:
        if self.after_s is None:
            raise PlaceNotThere("it did not start in time")
        await asyncio.sleep(self.after_s)

    async def close(self) -> None: ...

    async def end(self) -> None:
        self.ended += 1


@dataclass
class Somewhere:
    """A place that is there, or not."""

    opened: Opens
    name: str = "somewhere"
    per_plan: bool = False

    def session(self, log: Path) -> Opens:
        return self.opened


def run_at(plans: list[Named], *after_s: float | None) -> list[Opens]:
    sessions = [Opens(seconds) for seconds in after_s]

    async def run() -> None:
        async for _ in run_plans(plans, Path("engine.log"), [Somewhere(one) for one in sessions]):  # type: ignore[misc]
            pass

    asyncio.run(asyncio.wait_for(run(), 20))
    return sessions


def test_a_place_that_cannot_be_had_leaves_its_work_to_the_others() -> None:
    assert [one.ended for one in run_at([Named("a"), Named("b")], None, 0.0)] == [1, 1]


def test_nobody_waits_for_a_place_that_comes_when_all_work_is_done() -> None:
    began = time.monotonic()
    assert [one.ended for one in run_at([Named("a"), Named("b")], 0.0, 600.0)] == [1, 1]
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("places", [(None, None), (0.0, None)], ids=["none is there", "it must be there"])
def test_work_that_no_place_can_do_ends_the_run_with_the_reason(places: tuple[float | None, ...]) -> None:
    with pytest.raises(PlaceNotThere, match="it did not start in time"):
        run_at([Named("a"), Named("at the last", place=1)], *places)


@cache
def questions(count: int) -> list[Question]:
    return [Question(str(place), "问" * 40) for place in range(count)]


def pass_s(count: int = 80, **axes: object) -> float:
    cell = Cell(config(engine="vllm_cpu", quantization="none", **axes), {}, questions(count), [], {})
    return work_of(cell, 1).pass_s


def test_the_roofline_guesses_longer_passes_for_longer_answers_more_questions_and_narrower_engines() -> None:
    usual = pass_s(sampling__max_tokens=128)
    assert pass_s(sampling__max_tokens=256) > 1.8 * usual
    assert pass_s(160, sampling__max_tokens=128) > 1.7 * usual
    assert pass_s(sampling__max_tokens=128, engine__args__max_num_seqs=4) > 1.8 * usual
    assert pass_s(sampling__max_tokens=128, workload="open", workload__rate_per_s=0.5) == 160.0, "the questions come so slowly"
    assert pass_s(sampling__max_tokens=128, engine__args__tensor_parallel_size=2) == pytest.approx(usual), "as on one card"


@pytest.mark.slow
@pytest.mark.no_cover
def test_leases_use_places_nearly_as_well_as_if_all_durations_were_known() -> None:
    """A slice of `experiments/executors/makespan.py`, whose whole is in docs/many_gpus.md."""
    studies = [makespan.groups(400, seed) for seed in range(2)]
    for places in (1, 16, 64, 96, 256):
        row = makespan.row_of(studies, places)
        print(f"{places} places: {row.over_known_worst:.3f} of the makespan of known durations, {row.busy_worst:.3f} busy")
        assert row.over_known_worst <= 1.05
        assert places != 64 or row.busy_worst >= 0.98


@pytest.mark.slow
def test_a_study_of_one_group_at_many_places_is_as_long_as_the_group() -> None:
    [alone] = makespan.groups(1, 0)
    assert makespan.makespan([alone], 8) == pytest.approx(alone.seconds)
    assert makespan.makespan([replace(alone), replace(alone)], 1) == pytest.approx(2 * alone.seconds)
