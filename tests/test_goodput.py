"""Answers that keep the limits of `workload.slo`: how they are counted, and that limits measure nothing again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from generated_trials import measured
from small_study import prepared, run

from gpuqa import compose_cell
from gpuqa.config import UserError
from gpuqa.config.measurement import SloConfig
from gpuqa.measure.goodput import with_goodput
from gpuqa.measure.metric_table import shown
from gpuqa.records import Answer, Measurement, Timing
from gpuqa.study.journal import Journal

QUICK = Timing(1.0, 0.1, 10)  # 100 ms a token after the first
LATE = Timing(1.9, 1.0, 10)  # the same pace, but its first token came late
SLOW = Timing(2.8, 0.1, 10)  # 300 ms a token
ONE_TOKEN = Timing(0.1, 0.1, 1)
NO_TOKEN = Timing(0.1, None, 0)
FAILED = Timing(0.1, None, 0, failed=True)


def counted(rows: list[list[Timing]], seconds: list[float], **limits: float) -> Measurement:
    answers = [
        Answer(str(place), f"问 {place}", "", "答", None, None, "stop", 1, 1.0, timings=row) for place, row in enumerate(rows)
    ]
    before = measured([1.0, 1.0], seconds_repeats=seconds, slo_attainment=0.123, goodput_questions_per_s_repeats=[7.0])
    return with_goodput(before, answers, SloConfig(**limits))


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"ttft_ms": 100.0}, [QUICK, SLOW, ONE_TOKEN]),
        ({"tpot_ms": 101.0}, [QUICK, LATE, ONE_TOKEN, NO_TOKEN]),
        ({"e2e_ms": 1900.0}, [QUICK, LATE, ONE_TOKEN, NO_TOKEN]),
        ({"ttft_ms": 100.0, "tpot_ms": 101.0}, [QUICK, ONE_TOKEN]),
        ({"e2e_ms": 50.0}, []),
    ],
)
def test_an_answer_counts_if_it_keeps_every_limit(limits: dict[str, float], kept: list[Timing]) -> None:
    for timing in (QUICK, LATE, SLOW, ONE_TOKEN, NO_TOKEN, FAILED):
        assert counted([[timing]], [2.0], **limits).slo_attainment == (timing in kept)


def test_goodput_is_kept_answers_a_second_of_every_repeat_and_of_all() -> None:
    found = counted([[QUICK, SLOW], [QUICK, QUICK], [QUICK, FAILED]], [2.0, 4.0], e2e_ms=1500.0)
    assert found.goodput_questions_per_s_repeats == [3 / 2, 1 / 4]
    assert found.goodput_questions_per_s == pytest.approx((3 / 2 * 1 / 4) ** 0.5)
    none = counted([[QUICK, SLOW]], [2.0, 4.0], e2e_ms=1500.0)
    assert (none.goodput_questions_per_s, none.slo_attainment) == (0.0, 0.5)
    assert found.slo_attainment == pytest.approx(4 / 6)


def test_without_a_limit_or_without_the_timings_of_all_repeats_there_is_no_goodput() -> None:
    for found in (counted([[QUICK]], [2.0]), counted([[QUICK]], [2.0, 2.0], e2e_ms=1.0), counted([], [2.0], e2e_ms=1.0)):
        assert (found.goodput_questions_per_s, found.goodput_questions_per_s_repeats, found.slo_attainment) == (None, [], None)
    assert shown("goodput_questions_per_s", None) == "n/a"


def test_limits_are_given_together_or_one_by_one_and_a_wrong_key_is_named() -> None:
    together = compose_cell("experiment=none", "workload.slo={ttft_ms: 200, e2e_ms: 3000}").workload.slo
    assert together == compose_cell("experiment=none", "workload.slo.ttft_ms=200", "workload.slo.e2e_ms=3000").workload.slo
    assert together == SloConfig(ttft_ms=200.0, e2e_ms=3000.0)
    with pytest.raises(UserError, match=r"workload\.slo\.ttf_ms"):
        compose_cell("experiment=none", "workload.slo.ttf_ms=200")
    with pytest.raises(UserError, match=r"workload\.slo\.tpot_ms: got -5\.0, allowed is a number above 0, or null"):
        compose_cell("experiment=none", "workload.slo.tpot_ms=-5")


@pytest.mark.engine
@pytest.mark.usefixtures("one_thread")
def test_other_limits_count_the_same_answers_again_and_measure_nothing(tmp_path: Path, engines: list[str]) -> None:
    row: dict[str, Any] = {"workload__repeats": 2}
    plain, _ = run(prepared(row), tmp_path)
    assert plain.trials[0].measurement.slo_attainment is None
    assert engines == ["start", "close"]
    for limit, attainment in ((1e6, 1.0), (1e-3, 0.0)):
        again, recorder = run(prepared({**row, "workload__slo__e2e_ms": limit}), tmp_path)
        found = again.trials[0].measurement
        assert (found.slo_attainment, len(found.goodput_questions_per_s_repeats)) == (attainment, 2)
        assert found.chars_per_s_repeats == plain.trials[0].measurement.chars_per_s_repeats
        assert Journal(tmp_path).read()[again.trials[0].key].measurement == found, "freeze decides by what lies on the disk"
        assert recorder.passes == []
    assert engines == ["start", "close"]
    without, _ = run(prepared(row), tmp_path)
    assert without.trials[0].measurement == plain.trials[0].measurement
    with pytest.raises(UserError, match=r"workload\.slo, by which trials are counted and not measured"):
        prepared(row, {**row, "workload__slo__e2e_ms": 5.0})
