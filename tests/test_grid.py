"""The passes of a full grid: in which order, which are kept, and what a breakdown costs.

The transformers backend runs the embedded model here, because it starts in a moment; the fixtures are test_study's.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from small_study import BARE, KEYWORDS, Recorder, die, prepared, run

from gpuqa.engines import EngineFailed
from gpuqa.engines.transformers_engine import TransformersEngine
from gpuqa.measure.cell import Cell
from gpuqa.records import Pass, Trial
from gpuqa.study import grid, study
from gpuqa.study.journal import Journal

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("one_thread")]

FOUR = [{"sampling__max_tokens": 4 + number, "workload__repeats": 3} for number in range(4)]


class Stops:
    """An observer that stops the study, as Ctrl-C would, after so many passes."""

    def __init__(self, after: int) -> None:
        self.left, self.passes = after, []  # type: ignore[var-annotated]

    def engine_starts(self, cell: Cell) -> None: ...

    def pass_done(self, cell: Cell, measured: Pass) -> None:
        self.passes.append((cell.key, measured.repeat))
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def trial_done(self, trial: Trial, kept: bool) -> None: ...


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Cell], Path, list[tuple[str, int]], study.Outcome]:
    """Four cells of one engine, three repeats each: cells, folder, the passes as they were measured, the outcome."""
    folder = tmp_path_factory.mktemp("undisturbed")
    cells = prepared(*FOUR)
    outcome, recorder = run(cells, folder)
    return cells, folder, recorder.passes, outcome


def test_every_repeat_goes_round_all_cells_before_the_next_one_begins(undisturbed: Any) -> None:
    cells, _, passes, outcome = undisturbed
    assert [repeat for _, repeat in passes] == [0] * 4 + [1] * 4 + [2] * 4
    for repeat in range(3):
        assert {key for key, number in passes if number == repeat} == {cell.key for cell in cells}
    assert outcome.engine_starts == 1
    began = {trial.key: trial.measurement.repeats_began_at for trial in outcome.trials}
    moments = [began[key][repeat] for key, repeat in passes]
    assert moments == sorted(moments)
    assert moments[-1] - moments[0] < 600, "seconds since the epoch, not since the start of the machine"


def test_the_order_is_another_one_in_every_repeat_and_the_same_in_every_run(undisturbed: Any) -> None:
    cells, _, passes, _ = undisturbed
    for repeat in range(3):
        ordered = [cell.key for cell in grid.in_order(list(reversed(cells)), repeat)]
        assert ordered == [key for key, number in passes if number == repeat]
    many = [Cell(cells[0].config, {}, [], [], {"number": number}) for number in range(20)]
    orders = {tuple(cell.key for cell in grid.in_order(many, repeat)) for repeat in range(50)}
    assert len(orders) == 50
    places = [grid.in_order(many, repeat).index(many[0]) for repeat in range(400)]
    assert sum(places) / len(places) == pytest.approx(9.5, abs=1.0), "nobody is favoured: sd of the mean is 0.29"
    few = many[3:9]
    assert grid.in_order(few, 0) == [cell for cell in grid.in_order(many, 0) if cell in few], "also for those left over"


def test_a_study_that_was_stopped_measures_only_the_passes_that_are_missing(
    undisturbed: Any,
    tmp_path: Path,
    engines: list[str],
) -> None:
    cells, _, passes, whole = undisturbed
    first = Stops(after=6)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(study.run(prepared(*FOUR), Journal(tmp_path), first))
    assert sum(len(Journal(tmp_path).read_passes(cell.key)) for cell in cells) == 6
    outcome, second = run(prepared(*FOUR), tmp_path)
    assert [*first.passes, *second.passes] == passes
    assert engines == ["start", "close"] * 2
    assert not list((tmp_path / "trials").glob("*.passes.jsonl"))
    for ours, theirs in zip(outcome.trials, whole.trials, strict=True):
        assert ours.measurement.output_tokens == theirs.measurement.output_tokens
        assert ours.measurement.rouge_l_f1 == theirs.measurement.rouge_l_f1
        said = [[one.answer for one in Journal(folder).answers(ours.key)] for folder in (tmp_path, undisturbed[1])]
        assert said[0] == said[1]


def test_a_cell_whose_passes_are_all_kept_needs_no_engine_for_its_trial(
    undisturbed: Any,
    tmp_path: Path,
    engines: list[str],
) -> None:
    cells = prepared(BARE, KEYWORDS)
    last = Stops(after=2)  # both cells' only pass; the first trial may be there, the second is not
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(study.run(cells, Journal(tmp_path), last))
    engines.clear()
    outcome, recorder = run(cells, tmp_path)
    assert engines == recorder.starts == recorder.passes == []
    assert [trial.error for trial in outcome.trials] == [None, None]
    assert all(trial.measurement.peak_memory_gib > 0 for trial in outcome.trials)


def test_all_cells_are_warm_before_the_first_pass_and_on_a_new_engine_again(tmp_path: Path, monkeypatch: Any) -> None:
    """A fake: the real engine, but it notes its calls and breaks in the second pass of one cell, twice."""
    real, calls = TransformersEngine.generate, []

    async def generate(self: TransformersEngine, prompts: Any, sampling: Any, stop: Any, finished: Any) -> Any:
        calls.append((sampling.max_tokens, len(prompts)))
        if calls.count((5, 2)) in (2, 3) and calls[-1] == (5, 2):
            raise EngineFailed("the engine process died")
        return await real(self, prompts, sampling, stop, finished)

    monkeypatch.setattr(TransformersEngine, "generate", generate)  # two questions are measured; warm-ups have one, and many
    rows = [{"sampling__max_tokens": tokens, "workload__repeats": 3} for tokens in (4, 5, 6)]
    outcome, _ = run(prepared(*rows), tmp_path)
    assert [bool(trial.error) for trial in outcome.trials] == [False, True, False]
    width = calls[1][1]
    assert width > 2
    starts = [place for place, call in enumerate(calls) if call == (4, 1)]
    assert len(starts) == outcome.engine_starts == 3, "the cell is tried once more, and then no more"
    warm = [[(tokens, size) for tokens in cells for size in (1, width)] for cells in ((4, 5, 6), (4, 5, 6), (4, 6))]
    assert [calls[place : place + len(calls_of)] for place, calls_of in zip(starts, warm, strict=True)] == warm
    assert sorted(calls[6:9]) == [(4, 2), (5, 2), (6, 2)]
    assert [calls.count((tokens, 2)) for tokens in (4, 5, 6)] == [3, 3, 3], "no pass twice but the one that broke"
    kept = Journal(tmp_path).read_passes(outcome.trials[1].key)
    assert [one.repeat for one in kept] == [0], "the broken cell's first pass stays for the next try"


def test_cells_that_worked_are_measured_though_three_others_broke_the_engine_while_warming_up(tmp_path, monkeypatch) -> None:
    """A fake: the real engine, but it breaks on every cell with more than 4 tokens."""
    real = TransformersEngine.generate

    async def generate(self: TransformersEngine, prompts: Any, sampling: Any, stop: Any, finished: Any) -> Any:
        return die(0) if sampling.max_tokens > 4 else await real(self, prompts, sampling, stop, finished)

    monkeypatch.setattr(TransformersEngine, "generate", generate)
    outcome, _ = run(prepared(*({"sampling__max_tokens": 4 + number} for number in range(6))), tmp_path)
    assert [(trial.error or "").count("skipped after 3 failures in a row") for trial in outcome.trials] == [0, 0, 0, 0, 1, 1]
    assert outcome.trials[0].error is None
    assert outcome.engine_starts == 5, "only the first that broke is tried once more"


def test_three_cells_that_break_in_a_row_while_measuring_end_their_group(tmp_path: Path, monkeypatch: Any) -> None:
    """A fake: the real engine, but it answers warm-ups only (one question, then many; two are measured)."""
    real = TransformersEngine.generate

    async def generate(self: TransformersEngine, prompts: Any, sampling: Any, stop: Any, finished: Any) -> Any:
        return die(0) if len(prompts) == 2 else await real(self, prompts, sampling, stop, finished)

    monkeypatch.setattr(TransformersEngine, "generate", generate)
    outcome, _ = run(prepared(*({"sampling__max_tokens": 4 + number} for number in range(5))), tmp_path)
    assert outcome.engine_starts == 4, "only the first that broke is tried once more"
    assert sum("skipped after 3 failures in a row" in (trial.error or "") for trial in outcome.trials) == 2
    assert all(trial.error for trial in outcome.trials)


class Keeps(Recorder):
    """A recorder that keeps the passes themselves, which go with their trials."""

    def pass_done(self, cell: Cell, measured: Pass) -> None:
        super().pass_done(cell, measured)
        self.kept = [*getattr(self, "kept", []), (cell.key, measured)]


def test_a_warm_pass_finds_the_cache_filled_also_on_a_new_engine(tmp_path: Path) -> None:
    rows = [{"engine": "vllm_cpu", "prompt": name, "workload__prefix_cached_repeats": 1} for name in ("structured", "few_shot")]
    cells, journals = prepared(*rows), [Journal(tmp_path / name) for name in ("whole", "cut")]
    whole, cut = (Keeps(journal) for journal in journals)
    undisturbed = asyncio.run(study.run(cells, journals[0], whole))
    assert [one.prefix_cached for _, one in whole.kept] == [False, True] * 2, "at once after the cold one"
    for key, measured in whole.kept:
        if not measured.prefix_cached:  # as if a kill had come before the warm ones
            journals[1].write_pass(key, measured)
    resumed = asyncio.run(study.run(cells, journals[1], cut))
    assert [one.prefix_cached for _, one in cut.kept] == [True] * 2
    for before, after in zip(undisturbed.trials, resumed.trials, strict=True):
        assert before.measurement.prefix_cached_hit_rate == after.measurement.prefix_cached_hit_rate
        assert before.measurement.prefix_cached_hit_rate > before.measurement.prefix_cache_hit_rate
        assert after.measurement.chars_per_s_repeats == before.measurement.chars_per_s_repeats
        assert (after.measurement.repeats, after.measurement.prefix_cached_repeats) == (1, 1)
