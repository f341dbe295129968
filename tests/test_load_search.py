"""The search for the highest load within limits: which rates it tries, and what it says of them.

The passes of most tests are made up: no real engine keeps its limits up to a set rate. One test searches on a real engine.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from generated_trials import measured
from small_study import config, prepared, run

from gpuqa.config.measurement import Issue, SearchConfig, SloConfig, WorkloadConfig
from gpuqa.measure.cell import Cell
from gpuqa.measure.load_search import ends_of, next_workload, passes_that_count, with_search
from gpuqa.records import Answered, Completion, Pass
from gpuqa.study import study
from gpuqa.study.journal import Journal

SEARCH = SearchConfig(attainment=0.95, resolution=0.1, max_passes=40)
WORKLOAD = WorkloadConfig(
    "load_search", Issue.open, repeats=3, rate_per_s=1.0, arrival_seed=7, slo=SloConfig(e2e_ms=1000.0), search=SEARCH
)
SAID = Completion("答", "stop", 9, 2, 0, False, 0.1, 0.2)
Share = Callable[[float, int], float]  # rate and number of the pass at it -> share of its answers that keep the limit


def made_up(rate: float, share: float, repeat: int = 0, saturated: bool = False) -> Pass:
    """A pass over 100 questions of which a share kept the limit of a second."""
    late = round(100 * (1 - share))
    answered = Answered([SAID] * 100, 1.0, [2.0] * late + [0.9] * (100 - late), saturated)
    return Pass(answered, repeat, [], 0.0, 0.0, 0.0, 0.0, rate_per_s=rate)


def searched(share: Share, workload: WorkloadConfig = WORKLOAD) -> list[Pass]:
    """All passes of a search on an engine that keeps limits as a function says."""
    passes: list[Pass] = []
    counts: Counter[float] = Counter()
    while (following := next_workload(passes, workload)) is not None:
        rate = following.rate_per_s
        assert rate is not None
        assert following.arrival_seed == 7 + counts[rate], "every pass at a rate has arrivals of its own"
        passes.append(made_up(rate, share(rate, counts[rate]), len(passes)))
        counts[rate] += 1
    return passes


@pytest.mark.parametrize("limit", [0.13, 0.9, 1.0, 5.5, 700.0])
def test_the_answer_holds_the_highest_rate_within_the_resolution_and_both_ends_have_all_their_passes(limit: float) -> None:
    passes = searched(lambda rate, _: 1.0 if rate <= limit else 0.5)
    kept, missed = ends_of(passes, WORKLOAD)
    assert kept is not None
    assert missed is not None
    assert kept.rate_per_s <= limit < missed.rate_per_s <= kept.rate_per_s * 1.1
    assert (len(kept.passes), len(missed.passes)) == (3, 3)
    found = with_search(measured([1.0]), passes, WORKLOAD)
    assert (found.load_kept_per_s, found.load_missed_per_s) == (kept.rate_per_s, missed.rate_per_s)
    assert (found.load_kept_passes, found.load_missed_passes) == (3, 3)
    assert {one.rate_per_s for one in passes_that_count(passes, WORKLOAD)} == {kept.rate_per_s}


def test_an_end_that_later_passes_turn_is_given_up_and_the_search_goes_on() -> None:
    lucky = searched(lambda rate, count: 1.0 if rate <= 5 or (rate <= 9 and count == 0) else 0.5)
    kept, missed = ends_of(lucky, WORKLOAD)
    assert kept is not None
    assert missed is not None
    assert kept.rate_per_s <= 5 < missed.rate_per_s <= kept.rate_per_s * 1.1
    assert len(kept.passes) == len(missed.passes) == 3


def test_a_noisy_engine_ends_the_search_near_the_rate_at_which_it_keeps_as_much_as_is_asked_for() -> None:
    for seed in range(40):
        draw = Random(seed)

        def share(rate: float, _: int, draw: Random = draw) -> float:
            return min(1.0, max(0.0, 0.95 - 0.5 * math.log(rate / 20) + draw.gauss(0, 0.02)))

        passes = searched(share)
        kept, missed = ends_of(passes, WORKLOAD)
        assert len(passes) < SEARCH.max_passes
        assert kept is not None
        assert missed is not None
        assert 20 * 0.85 < kept.rate_per_s < missed.rate_per_s < 20 * 1.15


def test_where_no_rate_keeps_the_limits_the_search_ends_as_soon_as_hardly_a_question_meets_another() -> None:
    passes = searched(lambda rate, _: 0.5)
    kept, missed = ends_of(passes, WORKLOAD)
    assert kept is None
    assert missed is not None
    assert 0.15 <= missed.rate_per_s * 1.45 < 0.3, "the mean latency is 1.45 s"
    assert len(missed.passes) == 3
    found = with_search(measured([1.0]), passes, WORKLOAD)
    assert (found.load_kept_per_s, found.load_kept_passes, found.load_missed_passes) == (None, None, 3)
    assert passes_that_count(passes, WORKLOAD) == missed.passes


def test_the_most_passes_end_a_search_whose_answer_then_says_how_few_are_behind_it() -> None:
    few = replace(WORKLOAD, search=replace(SEARCH, max_passes=4))
    passes = searched(lambda rate, _: 1.0 if rate <= 5 else 0.5, few)
    found = with_search(measured([1.0]), passes, few)
    assert [one.rate_per_s for one in passes] == [1, 2, 4, 8]
    assert (found.load_kept_per_s, found.load_kept_passes) == (4.0, 1)
    assert (found.load_missed_per_s, found.load_missed_passes) == (8.0, 1)


def test_a_rate_at_which_questions_come_faster_than_answers_is_not_kept_whatever_the_limits() -> None:
    passes = [made_up(1.0, 1.0), made_up(2.0, 1.0, saturated=True)]
    kept, missed = ends_of(passes, WORKLOAD)
    assert (kept and kept.rate_per_s, missed and missed.rate_per_s) == (1.0, 2.0)


def test_a_search_goes_by_its_limits_so_that_they_are_in_the_key_of_its_trial() -> None:
    limits: list[dict[str, Any]] = [{"workload__slo": {"e2e_ms": limit}} for limit in (1000.0, 2000.0)]
    searches = [Cell(config(workload="load_search", **limit), {}, [], [], {}).key for limit in limits]
    others = [Cell(config(workload="open", **limit), {}, [], [], {}).key for limit in limits]
    assert searches[0] != searches[1]
    assert others[0] == others[1]


class Stops:
    """An observer that stops the study, as Ctrl-C would, after so many passes."""

    def __init__(self, after: int) -> None:
        self.left = after

    def engine_starts(self, *_: object) -> None: ...

    def trial_done(self, *_: object, **__: object) -> None: ...

    def pass_done(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_search_on_a_real_engine_ends_at_saturation_and_goes_on_after_an_interruption(tmp_path: Path) -> None:
    row = {"workload": "load_search", "workload__slo__e2e_ms": 60_000.0, "workload__rate_per_s": 30.0, "workload__repeats": 1}
    row |= {
        "dataset__limit": 12,
        "sampling__max_tokens": 2,
        "workload__search__resolution": 1.5,
        "workload__token_times": False,
    }
    cells = prepared(row)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(study.run(cells, Journal(tmp_path), Stops(after=1)))
    [before] = Journal(tmp_path).read_passes(cells[0].key)
    outcome, recorder = run(cells, tmp_path)
    found = outcome.trials[0].measurement
    assert recorder.passes[0][1] == 1, "the first pass is kept"
    assert before.rate_per_s == 30.0
    assert 0 < found.load_kept_per_s < found.load_missed_per_s <= 2.5 * found.load_kept_per_s
    assert not found.saturated, "the numbers are those of the rate that was kept"
    assert (found.load_kept_passes, found.load_missed_passes, found.repeats) == (1, 1, 1)
    assert found.slo_attainment == 1.0
    kept = asdict(Journal(tmp_path).read()[outcome.trials[0].key].measurement)
    assert kept["load_kept_per_s"] == found.load_kept_per_s
