"""Sweeps of arrival rates: the lowest rate first, and none above a saturated one. Real engines where one is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from generated_trials import measured
from small_study import config, prepared, run

from gpuqa.measure.cell import Cell
from gpuqa.records import Answered, Completion, Pass
from gpuqa.study import rate_sweep
from gpuqa.study.journal import Journal

OPEN = {"workload": "open", "dataset__limit": 8, "sampling__max_tokens": 2}


def at_rate(rate: float | None, tokens: int = 8, ramp: float | None = None) -> Cell:
    """A cell with nothing read from the disk."""
    paced = {} if rate is None else {"workload": "open", "workload__rate_per_s": rate, "workload__ramp_to_per_s": ramp}
    return Cell(config(**paced, sampling__max_tokens=tokens), {"rate": str(rate)}, [], [], {})


def rates(cells: list[Cell]) -> list[float]:
    return [rate_sweep.rate_of(cell) for cell in cells]


def test_the_cells_of_a_rate_sweep_follow_each_other_by_rate_and_all_others_keep_their_places() -> None:
    batch, other = at_rate(None), [at_rate(rate, tokens=9) for rate in (8, 2)]
    mixed = [at_rate(4), other[0], batch, at_rate(1), other[1], at_rate(2)]
    assert rates(rate_sweep.lowest_first(mixed)) == [1, 2, 0, 2, 8, 4]
    assert [cell.config.sampling.max_tokens for cell in rate_sweep.lowest_first(mixed)] == [8, 9, 8, 8, 9, 8]
    assert rates(rate_sweep.above(at_rate(2), mixed)) == [4]
    assert rate_sweep.above(batch, mixed) == []
    clients = [Cell(config(workload="closed", workload__concurrency=count), {}, [], [], {}) for count in (1, 8)]
    assert rate_sweep.lowest_first(clients[::-1]) == clients[::-1]
    assert rate_sweep.above(clients[0], clients) == [], "clients bound the queue themselves"
    ramps = [at_rate(rate, ramp=rate + 5) for rate in (1, 2)]
    assert rate_sweep.above(ramps[0], [*ramps, at_rate(8)]) == [], "a ramp is meant to saturate"


@pytest.mark.parametrize(("saturated", "skipped"), [(None, []), (1, [2, 4]), (2, [4]), (4, [])])
def test_a_rate_is_skipped_as_long_as_a_lower_one_is_saturated(saturated: float | None, skipped: list[float]) -> None:
    cells = [at_rate(4), at_rate(1), at_rate(2)]
    low = at_rate(saturated or 1)
    done = {low.key: low.trial(measured([1.0, 2.0], saturated=saturated is not None))}
    found = rate_sweep.skipped_by(cells, done)
    assert [trial.axes["rate"] for trial in sorted(found, key=lambda one: one.axes["rate"])] == [str(one) for one in skipped]
    assert all(trial.error is None and trial.measurement is None for trial in found)
    assert all(f"workload.rate_per_s={saturated} saturates" in str(trial.skipped) for trial in found)


@pytest.mark.engine
@pytest.mark.usefixtures("one_thread")
def test_a_saturated_rate_ends_its_sweep_for_this_run_and_the_next(tmp_path: Path, engines: list[str]) -> None:
    rows = [{**OPEN, "workload__rate_per_s": rate} for rate in (4000, 2, 2000)]
    outcome, recorder = run(prepared(*rows), tmp_path)
    high, low, middle = outcome.trials
    assert not low.measurement.saturated, "eight questions in four seconds; two tokens each"
    assert middle.measurement.saturated
    assert (high.measurement, high.error) == (None, None)
    assert "workload.rate_per_s=2000 saturates" in high.skipped
    assert high.key not in {key for key, _ in recorder.passes}
    again, recorder = run(prepared(*rows), tmp_path)
    assert engines == ["start", "close"]
    assert again.trials == outcome.trials
    assert again.kept == 2
    known = Journal(tmp_path).read()
    relieved = replace(middle, measurement=replace(middle.measurement, saturated=False))
    Journal(tmp_path).write(relieved, [])
    assert known[high.key].skipped
    third, recorder = run(prepared(*rows), tmp_path)
    assert {key for key, _ in recorder.passes} == {high.key}, "the rate below is no longer saturated"
    assert third.trials[0].measurement.saturated


@pytest.mark.engine
@pytest.mark.usefixtures("one_thread")
def test_a_sweep_that_was_ended_stays_so_when_a_kill_came_before_its_trial(tmp_path: Path, engines: list[str]) -> None:
    cells = prepared(*({**OPEN, "workload__rate_per_s": rate} for rate in (2000, 4000)))
    said = Completion("答", "stop", 9, 2, 0, False, 0.1, 0.2)
    answered = Answered([said] * 8, 2.0, [2.0] * 8, saturated=True)
    kept = Pass(answered, 0, [question.id for question in cells[0].questions], 1.7e9, 1.0, 0.1, 0.5)
    Journal(tmp_path).write_pass(cells[0].key, kept)  # the only pass of the lower rate; its trial was never written
    outcome, recorder = run(cells, tmp_path)
    assert recorder.passes == engines == []
    assert [bool(trial.skipped) for trial in outcome.trials] == [False, True]
    assert outcome.trials[0].measurement.chars_per_s == 4.0
