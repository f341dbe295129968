"""A file that repeats its questions, from the command line to the files of a study and what `evaluate` writes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from question_files import course_file
from reported import data_of
from rich.console import Console

from gpuqa.config.commands import StudyConfig
from gpuqa.config.measurement import DatasetConfig, SelectionConfig
from gpuqa.measure.statistics import bootstrap_interval
from gpuqa.pipeline.dataset.summary import summary_of
from gpuqa.study.conclusion import conclude
from gpuqa.study.journal import Journal
from gpuqa.study.output import TextOutput

COUNT = "358 rows, 92 different questions"
Command = Callable[..., Any]


def test_study_yaml_and_the_report_say_how_many_questions_are_different(tmp_path: Path) -> None:
    study, journal = StudyConfig(name="mine", root=str(tmp_path)), Journal(tmp_path / "mine")
    summary = summary_of(DatasetConfig(name="course", path=str(course_file(tmp_path / "course.json"))), None)
    journal.write_study([], questions=summary)
    assert yaml.safe_load(journal.study_file.read_text("utf-8"))["questions"]["different_questions"] == 92
    assert journal.questions() == summary
    conclude([], study, SelectionConfig(name="rule"), journal, TextOutput(Console(file=StringIO())))
    told = " ".join(data_of(study.folder)["setup"]["questions"])
    assert f"course: {COUNT}" in told
    assert "266 rows repeat a question" in told


def test_a_study_that_does_not_say_what_it_asked_has_a_report_without_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "mine")
    journal.write_study([])
    assert journal.questions() is None
    study = StudyConfig(name="mine", root=str(tmp_path))
    conclude([], study, SelectionConfig(name="rule"), journal, TextOutput(Console(file=StringIO())))
    assert data_of(study.folder)["setup"]["questions"] == []


@pytest.mark.engine
def test_a_study_says_first_what_it_asks_and_its_intervals_count_repeats_once(command: Command, tmp_path: Path) -> None:
    rows = [{"question": f"什么是 {name}？", "answer": f"{name} 是 32 个线程"} for name in ("warp", "block", "grid", "SM")]
    (tmp_path / "rows.json").write_text(json.dumps(rows * 3, ensure_ascii=False), encoding="utf-8")
    overrides = ["experiment=none", "engine=transformers", "dataset.name=mine", "dataset.path=rows.json", "workload.repeats=1"]
    run = command("sweep", *overrides, "sampling.max_tokens=16", "selection=fastest", cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "mine: 12 rows, 4 different questions (rows.json, UTF-8, sha256 " in run.stdout
    assert "8 rows repeat a question" in run.stdout
    folder = tmp_path / "experiments" / "adhoc"
    assert yaml.safe_load((folder / "study.yaml").read_text("utf-8"))["questions"]["rows"] == 12
    assert "12 rows, 4 different questions" in (folder / "report.html").read_text("utf-8")
    [row] = csv.DictReader(StringIO((folder / "leaderboard.csv").read_text("utf-8")))
    [answers] = [Journal(folder).answers(trial.key) for trial in Journal(folder).read_study()]
    by_question = [
        fmean(answer.rouge_l_f1 or 0.0 for answer in answers if answer.question == question["question"]) for question in rows
    ]
    low, high = (float(row[f"rouge_l_f1_interval_{end}"]) for end in ("low", "high"))
    expected = bootstrap_interval(by_question)
    assert (low, high) == pytest.approx((expected.low, expected.high))
