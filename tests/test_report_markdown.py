"""report.md: a study in few lines, for a pull request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from reported import RULE, prompts, trial

from gpuqa.config.measurement import SelectionConfig
from gpuqa.records import Dropped, Trial
from gpuqa.selection.decision import decide
from gpuqa.study import report
from gpuqa.study.page.result import Result
from gpuqa.study.run_file import RunFile


def written(folder: Path, *trials: Trial, rule: SelectionConfig = RULE, title: str = "Study s") -> list[str]:
    commands = {"serve": "python -m gpuqa.serve frozen=f", "freeze": "python -m gpuqa.freeze"}
    result = Result(title, decide(trials, rule), rule=rule, run=RunFile("python -m gpuqa.sweep", "abc"), commands=commands)
    report.write(result, folder)
    return (folder / "report.md").read_text(encoding="utf-8").splitlines()


def test_it_has_the_verdict_the_cells_the_effects_and_the_commands(tmp_path: Path) -> None:
    good, slow = prompts(good=900.0, slow=450.0)
    dropped = replace(trial({"prompt": "late"}), measurement=None, dropped=Dropped("behind", slow.measurement))
    lines = written(tmp_path, good, slow, dropped, trial({"prompt": "dead"}, error="died"))
    assert lines[0] == "## Study s"
    assert any(line.startswith("INCONCLUSIVE: prompt=good is the fastest of 2 eligible trials") for line in lines)
    rows = [line for line in lines if line.startswith("| ")]
    assert rows == [
        "| prompt | chars/s | judge | ROUGE-L | state |",
        "| --- | --- | --- | --- | --- |",
        "| good | 900 | 0.4000 | 0.5000 | winner |",
        "| slow | 450 | 0.4000 | 0.5000 | eligible |",
        "| late | (450) | (0.4000) | (0.5000) | dropped |",
        "| dead |  |  |  | failed |",
    ]
    assert "- prompt=slow instead of good: speed -50.0%, not shown" in lines
    assert lines[-7:] == ["```sh", "python -m gpuqa.sweep", "```", "", "```sh", "python -m gpuqa.serve frozen=f", "```"]


def test_of_many_cells_the_first_ten_are_there_and_it_says_where_the_others_are(tmp_path: Path) -> None:
    lines = written(tmp_path, *(trial({"n": str(place)}, chars_per_s=1000.0 - place) for place in range(14)))
    assert sum(line.startswith("| ") for line in lines) == 12
    assert "4 more cells are in leaderboard.csv." in lines


@pytest.mark.parametrize("text", ["<b>@somebody</b>", "a|b", "`x`", "![a](http://127.0.0.1)", "#1 ~~gone~~", "two\nlines"])
def test_what_users_and_errors_wrote_is_text_in_it(tmp_path: Path, text: str) -> None:
    lines = written(tmp_path, trial({"prompt": text}, note=text), title=text)
    row = next(line for line in lines if line.endswith("| winner |"))
    assert row.replace("\\|", "").count("|") == 6
    plain = "\n".join(lines).replace("\\`", "").replace("\\[", "").replace("\\#", "").replace("\\~", "")
    assert not [mark for mark in ("<b>", "@", "`x", "![a]", "~~", " #1") if mark in plain]


def test_a_study_without_a_winner_or_without_cells_has_one_too(tmp_path: Path) -> None:
    assert any("no trial is eligible" in line for line in written(tmp_path, trial({"prompt": "a"}, rouge_l_f1_judge=0.1)))
    assert written(tmp_path)[2] == "no trial was measured, so there is no winner"
