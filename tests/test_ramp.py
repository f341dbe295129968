"""Arrivals that come ever faster: when they come, and what is told of them by thirds.

The answer functions are fakes: no real engine answers at a set pace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from generated_trials import measured

from gpuqa.config.measurement import Issue, WorkloadConfig
from gpuqa.measure.metrics import Overhead, measure, score_answers, with_timings
from gpuqa.measure.ramp import with_ramp
from gpuqa.measure.workload import arrivals_s, issue
from gpuqa.records import Answer, Completion, Question, Timing
from gpuqa.study import report


def ramp(begin: float, end: float | None, seed: int = 0) -> WorkloadConfig:
    return WorkloadConfig("mine", Issue.open, rate_per_s=begin, ramp_to_per_s=end, arrival_seed=seed, answer_timeout_s=60.0)


def answers(latencies_s: Sequence[float], repeats: int = 1) -> list[Answer]:
    return [
        Answer(
            str(place), f"问 {place}", "", "答", None, None, "stop", 1, latency, timings=[Timing(latency, None, 1)] * repeats
        )
        for place, latency in enumerate(latencies_s)
    ]


def test_a_ramp_begins_at_one_rate_ends_at_the_other_and_rises_by_as_much_in_every_second() -> None:
    due = arrivals_s(30_001, ramp(10.0, 50.0))
    assert (due[0], due == sorted(due)) == (0.0, True)
    assert due[-1] == pytest.approx(30_000 / 30.0), "at the mean of both rates"
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        moment = share * due[-1]
        nearby = sum(abs(arrival - moment) <= 25 for arrival in due)
        assert nearby / 50 == pytest.approx(10 + 40 * share, rel=0.08), share


def test_a_ramp_is_drawn_from_its_seed_alone() -> None:
    due = arrivals_s(50, ramp(1.0, 4.0))
    assert due == arrivals_s(50, ramp(1.0, 4.0))
    assert due != arrivals_s(50, ramp(1.0, 4.0, seed=1))
    assert arrivals_s(50, ramp(2.0, 8.0)) == pytest.approx([moment / 2 for moment in due])
    assert (arrivals_s(1, ramp(1.0, 4.0)), arrivals_s(0, ramp(1.0, 4.0))) == ([0.0], [])
    nearly_even = arrivals_s(50, ramp(2.0, 2.0 + 1e-9))
    gaps = [[later - sooner for sooner, later in pairwise(times)] for times in (nearly_even, arrivals_s(50, ramp(2.0, None)))]
    ratios = [ours / theirs for ours, theirs in zip(*gaps, strict=True)]
    assert ratios == pytest.approx([ratios[0]] * 49), "the same pattern as at an even rate"


def test_the_thirds_of_a_ramp_tell_how_fast_questions_came_and_how_they_fared() -> None:
    config, count = ramp(1.0, 9.0), 300
    due = arrivals_s(count, config)
    found = with_ramp(measured([1.0]), answers([0.01] * 200 + [1000.0] * 100, repeats=2), config)
    assert [third.e2e_latency_ms_p50 for third in found.ramp] == pytest.approx([10.0, 10.0, 1e6])
    assert [third.e2e_latency_ms_p95 for third in found.ramp] == pytest.approx([10.0, 10.0, 1e6])
    rates = [100 / (due[100] - due[0]), 100 / (due[200] - due[100]), 99 / (due[299] - due[200])]
    assert [third.arrivals_per_s for third in found.ramp] == pytest.approx(rates)
    assert [third.answers_per_s for third in found.ramp[:2]] == pytest.approx(rates[:2], rel=0.03)
    assert found.ramp[2].answers_per_s < 0.1
    assert found.saturates_at_per_s == pytest.approx(rates[2])
    idle = with_ramp(measured([1.0]), answers([0.01] * count), config)
    assert (len(idle.ramp), idle.saturates_at_per_s) == (3, None)
    few = with_ramp(measured([1.0]), answers([0.01] * 6), config)
    assert (few.ramp[0].e2e_latency_ms_p50, few.ramp[0].e2e_latency_ms_p95) == (pytest.approx(10.0), None)


def test_without_a_ramp_or_with_hardly_a_question_for_each_third_there_are_none() -> None:
    before = measured([1.0], saturates_at_per_s=None)
    assert with_ramp(before, answers([0.01] * 30), ramp(1.0, None)) == before
    assert with_ramp(before, answers([0.01] * 5), ramp(1.0, 9.0)) == before


@pytest.mark.slow
def test_a_server_of_a_set_pace_saturates_where_the_ramp_passes_it() -> None:
    async def of_60_a_second(texts: Sequence[str]) -> list[Completion]:
        async with lock:
            await asyncio.sleep(1 / 60)
        return [Completion(text, "stop", 1, 1, 0, False, 0.0, 0.0) for text in texts]

    lock, config = asyncio.Lock(), ramp(10.0, 120.0)
    questions = [Question(str(number), f"{number}？") for number in range(90)]
    passes = [asyncio.run(issue(questions, of_60_a_second, config))]
    timed = with_timings(score_answers(questions, passes[0], scored=False), passes)
    found = with_ramp(measure(passes, timed, Overhead(0.0, 0.0, 0.0)), timed, config)
    assert passes[0].saturated
    assert found.ramp[0].arrivals_per_s < 60 < found.ramp[2].arrivals_per_s
    assert found.saturates_at_per_s in (found.ramp[1].arrivals_per_s, found.ramp[2].arrivals_per_s)
    assert found.ramp[2].answers_per_s < 65


def test_the_leaderboard_has_columns_for_each_third() -> None:
    found = with_ramp(measured([1.0]), answers([0.01] * 30), ramp(1.0, 9.0))
    columns = {name: value for name, value in report.flat(found).items() if name.startswith("ramp")}
    assert len(columns) == 12
    assert columns["ramp_3_arrivals_per_s"] == found.ramp[2].arrivals_per_s
    assert not [name for name in report.flat(replace(found, ramp=[])) if name.startswith("ramp")]
