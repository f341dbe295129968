"""Races on a real engine: what is asked, what stays on the disk, and that an interrupted one goes on where it was.

The transformers backend runs the embedded model here, because it starts in a moment; the fixtures are test_study's.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_study import prepared, run

from gpuqa.config import UserError
from gpuqa.measure.cell import Cell
from gpuqa.records import Pass, Trial
from gpuqa.study import study
from gpuqa.study.journal import Journal
from gpuqa.study.racing import bounds
from gpuqa.study.racing.elimination import Snapshot
from gpuqa.study.racing.evidence import Candidate

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("one_thread")]

RACING = {"study__racing": True, "study__racing_first_slice": 2, "dataset__limit": 8, "workload__repeats": 2}
RACING |= {"selection__min_rouge_l_f1_judge": 0.0, "selection__min_rouge_l_f1_of_best": 0.0}
RACING |= {"selection__max_interval_ratio": 1e9}  # no speed, which differs from run to run, is far enough behind
ENDS, CUT = {**RACING, "sampling__max_tokens": 128}, {**RACING, "sampling__max_tokens": 4}  # the second never ends an answer


class Stops:
    """An observer that notes passes, and stops the study after so many of them, as Ctrl-C would."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.passes: list[tuple[str, int | None, int]] = []

    def engine_starts(self, cell: Cell) -> None: ...

    def pass_done(self, cell: Cell, measured: Pass) -> None:
        self.passes.append((cell.key, measured.slice, measured.repeat))
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def trial_done(self, trial: Trial, kept: bool) -> None: ...


def raced(folder: Path, after: int = -1) -> tuple[list[Cell], Any, Stops]:
    """Two cells of one engine; the outcome is None where it was stopped."""
    cells, stops = prepared(ENDS, CUT), Stops(after)
    try:
        return cells, asyncio.run(study.run(cells, Journal(folder), stops)), stops
    except KeyboardInterrupt:
        return cells, None, stops


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Cell], Any, Stops]:
    """A race to its end."""
    folder = tmp_path_factory.mktemp("race")
    return (folder, *raced(folder))


def test_a_race_asks_a_slice_first_and_gives_the_rest_to_those_that_stay(ended: Any) -> None:
    _, cells, outcome, watched = ended
    good, cut = outcome.trials
    assert {(key, part) for key, part, _ in watched.passes[:2]} == {(cell.key, 0) for cell in cells}
    assert outcome.engine_starts == 1
    assert good.dropped is None
    assert (good.measurement.questions, good.measurement.repeats) == (8, 2)
    assert cut.measurement is None
    assert "truncated" in cut.dropped.reason
    assert cut.dropped.seen.repeats == 1
    assert len(watched.passes) == 5, "two slices, one pass of the dropped, two of the other"


def test_a_race_that_has_ended_leaves_trials_and_measures_nothing_again(ended: Any, engines: list[str]) -> None:
    folder, _, outcome, _ = ended
    assert not list((folder / "trials").glob("*.passes.jsonl"))
    again, recorder = run(prepared(ENDS, CUT), folder)
    assert engines == recorder.passes == []
    assert again.trials == outcome.trials


@pytest.mark.parametrize("after", [1, 3, 4])
def test_an_interrupted_race_goes_on_without_a_pass_measured_twice(after: int, tmp_path: Path, ended: Any) -> None:
    _, nothing, first = raced(tmp_path, after)
    assert nothing is None
    cells, outcome, second = raced(tmp_path)
    passes = [*first.passes, *second.passes]
    assert len(passes) == len(set(passes)) == 5
    assert [one.dropped is None for one in outcome.trials] == [True, False]
    assert outcome.trials[1].dropped.reason == ended[2].trials[1].dropped.reason
    assert [one.key for one in Journal(tmp_path).read().values() if one.measurement] == [cells[0].key]


def test_a_dropped_cell_is_measured_in_full_where_nobody_races(ended: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ended[0], tmp_path / "race"))
    outcome, recorder = run(prepared({**ENDS, "study__racing": False}, {**CUT, "study__racing": False}), folder)
    assert [one.measurement.repeats for one in outcome.trials] == [2, 2]
    assert {key for key, _ in recorder.passes} == {outcome.trials[1].key}


def test_cells_that_are_not_scored_are_raced_by_speed_alone(tmp_path: Path) -> None:
    speed_only = {**RACING, "sampling__ignore_eos": True, "selection__max_truncated_fraction": 1.0}
    cells = prepared({**speed_only, "sampling__max_tokens": 16}, {**speed_only, "sampling__max_tokens": 17})
    outcome, _ = run(cells, tmp_path)
    assert [one.measurement.repeats for one in outcome.trials] == [2, 2]
    assert {one.measurement.rouge_l_f1 for one in outcome.trials} == {None}
    assert {one.rouge_l_f1_judge for cell in cells for one in Journal(tmp_path).answers(cell.key)} == {None}


@pytest.mark.parametrize(("bandwidth_gb_per_s", "skipped"), [(1e-3, True), (1e6, False)])
def test_an_engine_whose_cells_cannot_win_even_at_the_bound_of_their_card_is_not_started(
    bandwidth_gb_per_s: float,
    skipped: bool,
    tmp_path: Path,
    engines: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounds, "L2_BYTES", 0.0)  # the embedded model would fit a card's cache, and then there is no bound
    short = {"sampling__max_tokens": 16, "selection__max_truncated_fraction": 1.0, "selection__max_interval_ratio": 1.1}
    card = {"gpu__bandwidth_gb_per_s": bandwidth_gb_per_s}
    rows = [{**RACING, **short, **card, "engine__args__batch_size": size} for size in (4, 8)]
    narrow, wide = prepared(*rows)
    outcome, _ = run([narrow, wide], tmp_path)
    assert engines == ["start", "close"] * (1 if skipped else 2)
    by_key = {one.key: one for one in outcome.trials}
    if skipped:
        assert by_key[wide.key].measurement.repeats == 2, "the engine with the higher bound is raced first"
        dropped = by_key[narrow.key].dropped
        assert dropped.reason.startswith("not even the bound of its card, ")
        assert dropped.seen is None
        assert run([narrow, wide], tmp_path)[0].trials == outcome.trials, "the next run knows it"
        assert engines == ["start", "close"]


@pytest.mark.parametrize("after", [-1, 3, 5])
def test_a_cell_that_later_passes_bring_back_is_measured_on_another_start_of_its_engine(
    after: int, tmp_path: Path, engines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {**RACING, "sampling__max_tokens": 16, "selection__max_truncated_fraction": 1.0}
    wide, narrow = prepared({**short, "engine__args__batch_size": 8}, {**short, "engine__args__batch_size": 4})

    def why_out(now: Snapshot, candidate: Candidate, _: list[Candidate]) -> str | None:
        behind = candidate.key == wide.key and candidate.slice_passes and not now.candidates[narrow.key].repeats
        return "slow" if behind else None

    monkeypatch.setattr(Snapshot, "why_out", why_out)  # stands for one slow pass: no real engine has it at a given place
    first = Stops(after)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(study.run([wide, narrow], Journal(tmp_path), first))
    second = Stops(-1)
    outcome = asyncio.run(study.run([wide, narrow], Journal(tmp_path), second))
    assert [trial.measurement.repeats for trial in outcome.trials if trial.measurement] == [2, 2]
    passes = [*first.passes, *second.passes]
    order = [(wide.key, 0, 0), (narrow.key, 0, 0), *((narrow.key, None, repeat) for repeat in range(2))]
    assert passes == [*order, *((wide.key, None, repeat) for repeat in range(2))]
    if after == -1:
        assert engines == ["start", "close"] * 3
        assert second.passes == []


def test_a_race_of_cells_with_different_repeats_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"workload\.repeats: got"):
        run(prepared(ENDS, {**CUT, "workload__repeats": 3}), tmp_path)
