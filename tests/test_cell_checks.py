"""Tests of gpuqa.study.cell_checks: what cells share is read once. What is refused is in test_refusals.py."""

from __future__ import annotations

from pathlib import Path

from question_files import as_list, written
from small_study import config

from gpuqa.study.cell_checks import CellChecks


def test_a_question_file_is_read_once_however_many_cells_and_summaries_name_it(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.json", as_list({"question": "q", "answer": "a"}, {"question": "r", "answer": "b"}))
    first, second, fewer = (
        config(dataset__path=str(path), **axes) for axes in ({}, {"prompt": "keywords"}, {"dataset__limit": 1})
    )
    checks = CellChecks()
    assert checks.checked(first) == first
    assert len(checks.questions(fewer.dataset).questions) == 1, "another limit is another dataset"
    path.unlink()
    assert checks.checked(second) == second
    assert checks.questions(second.dataset) is checks.questions(first.dataset)
    assert checks.summary(second).rows == 2
