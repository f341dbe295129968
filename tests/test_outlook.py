"""What `plan=true` says a study would take, by earlier studies or by the roofline of a named card; nothing starts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from any_measurement import any_measurement
from conftest import run_command
from small_study import config

from gpuqa.measure.cell import Cell
from gpuqa.records import Answered, Pass, Question
from gpuqa.study.journal import Journal
from gpuqa.study.outlook import Outlook, lines_of, outlook_of

QUESTIONS = [Question(str(place), "什么是 warp？") for place in range(80)]


def cell(device: str = "a machine", **axes: Any) -> Cell:
    known: dict[str, object] = {"digests": {"weights": "w", "dataset": "d"}, "device": device}
    usual = {"engine": "vllm_cpu", "workload__repeats": 3, **axes}
    return Cell(config(**usual), {key: str(value) for key, value in axes.items()}, QUESTIONS, [], known)


def kept(folder: Path, *cells: Cell, seconds: float = 4.0) -> Journal:
    """A study of these cells whose passes took so long, on an engine that took 20 s to start and 1 s to warm each up."""
    journal = Journal(folder)
    journal.write_study([(one.key, one.axes) for one in cells])
    for one in cells:
        numbers = any_measurement(questions=80, seconds=seconds, engine_start_s=20.0, warmup_s=1.0, repeats=3)
        journal.write(one.trial(numbers), [])
    return journal


def test_what_earlier_studies_took_tells_what_this_one_takes_where_their_cells_are_of_its_kind(tmp_path: Path) -> None:
    kept(tmp_path / "earlier", cell(prompt="bare"))
    kept(tmp_path / "elsewhere", cell("another machine", prompt="bare"), seconds=99.0)
    same = cell(prompt="bare", workload__repeats=5)
    found = outlook_of([same], Journal(tmp_path / "mine"))
    assert (found.cells, found.kept, found.engines, found.passes, found.trials) == (1, 0, 1, 5, 1)
    assert found.seconds == pytest.approx(20 + 1 + 5 * 4.0)
    assert found.confirmation_s == pytest.approx(20 + 1 + 5 * 4.0)
    longer = cell(prompt="bare", sampling__max_tokens=16)
    guess = outlook_of([longer], Journal(tmp_path / "mine")).seconds
    assert guess is not None
    assert 20 + 1 + 3 * 4.0 < guess < 20 + 1 + 3 * 8.5, "answers of 16 tokens take up to twice the time of those of 8"


def test_what_an_earlier_run_has_measured_is_not_counted_again(tmp_path: Path) -> None:
    cells = [cell(prompt="bare"), cell(prompt="expert"), cell(prompt="bare", engine__args__max_num_seqs=4)]
    journal = kept(tmp_path / "mine", *cells[:2])
    found = outlook_of(cells, journal)
    assert (found.cells, found.kept, found.engines, found.passes) == (3, 2, 1, 3)
    assert lines_of(found, cells[0].config.study)[0] == (
        "3 cells: 1 to be measured, 2 kept from an earlier run; 1 engine start, 3 passes"
    )
    assert outlook_of(cells[:2], journal).seconds == 0.0


def test_engines_side_by_side_take_as_long_as_the_longest_of_them(tmp_path: Path) -> None:
    kept(tmp_path / "earlier", *(cell(prompt="bare", engine__args__max_num_seqs=width) for width in (4, 8)))
    both = [cell(prompt="bare", engine__args__max_num_seqs=width, workload__repeats=2) for width in (4, 8)]
    one, two = (outlook_of(both, Journal(tmp_path / "mine"), places).seconds for places in (1, 2))
    assert (one, two) == (pytest.approx(2 * 29.0), pytest.approx(29.0))


def test_cells_that_are_the_same_in_effect_are_counted_apart(tmp_path: Path) -> None:
    twins = [cell(engine__attention=name) for name in ("shared_prefix", "default")]
    found = outlook_of(twins, Journal(tmp_path / "mine"))
    assert (found.cells, found.copies, found.passes) == (2, 1, 3)
    assert "1 the same in effect as another" in lines_of(found, twins[0].config.study)[0]


def test_without_an_earlier_study_a_named_card_gives_a_bound_and_no_card_gives_no_time(tmp_path: Path) -> None:
    journal, study = Journal(tmp_path / "mine"), cell().config.study
    assert lines_of(outlook_of([cell()], journal), study)[1].startswith("time: not known, because no study on this device lies")
    named = outlook_of([cell(gpu="rtx5090")], journal)
    assert named.seconds is not None
    assert "at least " in lines_of(named, study)[1]
    assert lines_of(named, study)[1].endswith(" on the card that gpu names, by its roofline: engines take longer")


def test_a_study_that_cannot_be_read_tells_nothing_and_is_named(tmp_path: Path) -> None:
    journal = kept(tmp_path / "earlier", cell(prompt="bare"))
    journal.file.unlink()
    journal.file.mkdir()
    found = outlook_of([cell()], Journal(tmp_path / "mine"))
    assert (found.trials, found.unread) == (0, [str(tmp_path / "earlier")])
    assert lines_of(found, cell().config.study)[1].startswith(f"not read: {tmp_path / 'earlier'}; ")


def test_passes_that_an_interrupted_run_has_kept_are_not_counted_again(tmp_path: Path) -> None:
    one, journal = cell(prompt="bare"), Journal(tmp_path / "mine")
    journal.write_study([(one.key, one.axes)])
    journal.write_pass(one.key, Pass(Answered([], 1.0, []), 0, [], 0.0, 1.0, 1.0, 0.0))
    assert outlook_of([one], journal).passes == 2


def test_finalists_and_a_race_are_told_as_the_most_that_they_may_take() -> None:
    study = cell().config.study
    found = Outlook(cells=4, kept=0, copies=0, engines=2, passes=12, seconds=100.0, confirmation_s=30.0, trials=3, unread=[])
    assert lines_of(found, study) == [
        "4 cells: 4 to be measured; 2 engine starts, 12 passes",
        "first round: about 1 min 40 s, by 3 earlier measurements of cells on this device",
        "finalists: at most 600 s (study.seconds), or until their first comparison; then the winner once more: about 30 s",
    ]
    assert len(lines_of(found, replace(study, finalists=0))) == 2
    assert lines_of(found, replace(study, racing=True))[0].endswith("12 passes at most")


@pytest.mark.slow
def test_the_command_starts_nothing_and_writes_nothing(tmp_path: Path) -> None:
    one_cell = ("engine=transformers", "experiment=none", "study.name=a")
    ended = run_command("sweep", "plan=true", *one_cell, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    said = ended.stdout
    assert "1 cell: 1 to be measured; 1 engine start, 3 passes" in said
    assert "memory: engine=transformers quantization=none: " in said
    assert said.endswith("plan=true: nothing was started\n")
    assert list(tmp_path.iterdir()) == []
    told = run_command("sweep", "plan=true", "study.logs=json", *one_cell, cwd=tmp_path).stdout
    [plan] = [line for line in map(json.loads, told.splitlines()) if line.get("event") == "plan"]
    assert (plan["cells"], plan["engines"], plan["passes"]) == (1, 1, 3)
