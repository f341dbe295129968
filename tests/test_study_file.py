"""Which commands go on with a study, and which would take its place and are refused. Nothing is measured."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from any_measurement import any_measurement
from small_study import config

from gpuqa.config import UserError
from gpuqa.config.commands import StudyConfig
from gpuqa.measure.cell import Cell
from gpuqa.records import Dropped, Question, Trial
from gpuqa.study.journal import Journal
from gpuqa.study.study_file import dataset_of, in_words, refuse_another_study

QUESTIONS = [Question("1", "什么是 warp？"), Question("2", "什么是 warp？"), Question("3", "什么是 SM？")]


def cell(code: str = "c", dataset: str = "d", **axes: Any) -> Cell:
    """A cell of three questions, measured by some code."""
    known = {"digests": {"weights": "w", "dataset": dataset}, "code": code}
    return Cell(config(**axes), {key: str(value) for key, value in axes.items()}, QUESTIONS, [], known)


def measured(one: Cell) -> Trial:
    return one.trial(any_measurement(questions=3))


BARE, EXPERT = cell(prompt="bare"), cell(prompt="expert")


@pytest.fixture
def study(tmp_path: Path) -> StudyConfig:
    return StudyConfig(name="mine", root=str(tmp_path))


GOES_ON = {
    "the same cells": [BARE, EXPERT],
    "the same cells in another order": [EXPERT, BARE],
    "more cells": [BARE, EXPERT, cell(prompt="keywords")],
    "another axis beside": [BARE, EXPERT, cell(prompt="bare", sampling__max_tokens=9)],
    "other code": [cell("other", prompt="bare"), cell("other", prompt="expert")],
    "more repeats": [cell(prompt=name, workload__repeats=9) for name in ("bare", "expert")],
    "another rule": [cell(prompt=name, selection__min_rouge_l_f1_judge=0.1) for name in ("bare", "expert")],
    "another card": [cell(prompt=name, gpu="h200") for name in ("bare", "expert")],
}


@pytest.mark.parametrize("name", GOES_ON)
def test_a_command_that_has_all_that_was_measured_goes_on_with_the_study(name: str, study: StudyConfig) -> None:
    refuse_another_study(GOES_ON[name], [measured(BARE), measured(EXPERT)], study)


def test_cells_without_a_number_may_be_left_out(study: StudyConfig) -> None:
    dropped_unseen = replace(EXPERT.trial(None), dropped=Dropped("too slow", None))
    for ended in (EXPERT.trial(None, "out of memory"), EXPERT.skipped("the same"), dropped_unseen):
        refuse_another_study([BARE], [measured(BARE), ended], study)
    refuse_another_study([cell(dataset="other", prompt="bare")], [BARE.trial(None, "out of memory")], study)


LACKS = "this command lacks 2 cells that were measured: prompt=bare, prompt=expert"
REFUSED = {
    "a cell is missing": ([BARE], "this command lacks 1 cell that was measured: prompt=expert; name those as well, or take "),
    "a cell that a race dropped": ([BARE], "this command lacks 1 cell that was measured: prompt=expert; name those as well"),
    "other settings for all": (
        [replace(cell(prompt=axes["prompt"], engine__args__batch_size=7), axes=axes) for axes in (BARE.axes, EXPERT.axes)],
        f"{LACKS} (engine.args.batch_size is 64 there and 7 here); name ",
    ),
    "another workload": (
        [replace(cell(prompt=axes["prompt"], workload="serial"), axes=axes) for axes in (BARE.axes, EXPERT.axes)],
        f"{LACKS} (workload.issue is 'batch' there and 'serial' here); name ",
    ),
    "other questions": (
        [cell(dataset="other", prompt=name, dataset__limit=2) for name in ("bare", "expert")],
        "its trials answered other questions: 3 questions of gpuqa/embedded/questions/test.json (dataset=embedded, ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_command_that_would_take_a_studys_place_is_refused_in_one_line_with_a_free_name(
    name: str, study: StudyConfig
) -> None:
    (study.folder.parent / "mine_2").mkdir()
    cells, told = REFUSED[name]
    expert = measured(EXPERT)
    if name == "a cell that a race dropped":
        expert = replace(expert, measurement=None, dropped=Dropped("slower", expert.measurement))
    with pytest.raises(UserError) as refused:
        refuse_another_study(cells, [measured(BARE), expert], study)
    message = str(refused.value)
    assert message.startswith(f"study.name: {study.folder} holds another study: {told}")
    assert message.endswith("take another name, such as study.name=mine_3 (nothing was changed)")
    assert "\n" not in message


def test_a_refusal_names_a_variable_of_the_engines_environment_and_not_its_value(study: StudyConfig) -> None:
    before, here = (
        replace(cell(prompt="bare", engine__env=env), axes=BARE.axes)
        for env in ({"MY_TOKEN": "sk-111", "OLD": "sk-222"}, {"MY_TOKEN": "sk-333"})
    )
    with pytest.raises(UserError) as refused:
        refuse_another_study([here], [measured(before)], study)
    hidden = "(a value that is not shown)"
    told = f"(engine.env.MY_TOKEN is {hidden} there and {hidden} here, engine.env.OLD is {hidden} there and (none) here)"
    assert told in str(refused.value)
    assert "sk-" not in str(refused.value)


def test_the_free_name_that_a_refusal_gives_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    for name, word in (("my study", "'study.name=my study_2'"), ("a,b", "'study.name=\"a,b_2\"'")):
        with pytest.raises(UserError, match=re.escape(f"take another name, such as {word} (nothing was changed)")):
            refuse_another_study([BARE], [measured(EXPERT)], StudyConfig(name=name, root=str(tmp_path)))


def test_the_questions_of_a_study_are_told_with_their_file_and_how_many_differ() -> None:
    asked = dataset_of([BARE, EXPERT])
    assert (asked["digest"], asked["questions"], asked["different_questions"]) == ("d", 3, 2)
    file = "gpuqa/embedded/questions/test.json (dataset=embedded, dataset.limit=2)"
    assert in_words(asked) == f"3 rows, 2 different questions of {file}"
    assert in_words({**asked, "questions": 1, "different_questions": 1, "limit": None}) == (
        "1 question of gpuqa/embedded/questions/test.json (dataset=embedded)"
    )


def test_where_the_study_file_is_lost_all_trials_of_the_folder_are_the_studys(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "mine")
    assert journal.earlier() == []
    for one in (BARE, EXPERT):
        journal.write(measured(one), [])
    journal.write_study([(BARE.key, BARE.axes)])
    assert [trial.key for trial in journal.earlier()] == [BARE.key]
    for lose in (lambda: journal.study_file.write_text("[1"), journal.study_file.unlink):
        lose()
        assert [trial.key for trial in journal.earlier()] == [BARE.key, EXPERT.key]
