"""The frozen winner of the shared study, measured again by the command: the real engine, the real file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import run_command

from gpuqa.measure import fingerprint

pytestmark = pytest.mark.engine


def changed(study_copy: Path, **changes: object) -> Path:
    """The frozen file with other content, signed again, so that only the content is wrong."""
    file = study_copy / "frozen.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8")) | changes
    content["digest"] = fingerprint.sha256_of({key: value for key, value in content.items() if key != "digest"})
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return file


def test_a_winner_measured_again_gives_the_same_scores(study_copy: Path) -> None:
    done = run_command("reproduce", cwd=study_copy.parent.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.split()[:1] and line.split()[0].startswith("rouge")]
    assert len(rows) == 2
    assert all(row[-1] == "inside" and row[1] == row[-2] for row in rows), rows
    assert "\ninside: rouge_l_f1_judge, rouge_l_f1; without an interval: chars_per_s\nreproduced\n" in done.stdout
    assert "measuring 6 questions 1 times, once an engine is up\n" in done.stdout


def test_numbers_that_do_not_come_out_are_named(study_copy: Path) -> None:
    content = yaml.safe_load((study_copy / "frozen.yaml").read_text(encoding="utf-8"))
    content["measurement"] |= {"rouge_l_f1": 0.9, "rouge_l_f1_interval": {"low": 0.89, "high": 0.91}}
    content["setting"]["workload"]["repeats"] = 2
    changed(study_copy, measurement=content["measurement"], setting=content["setting"])
    done = run_command("reproduce", cwd=study_copy.parent.parent)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "measuring 6 questions 4 times" in done.stdout, "two passes and two more may all be alike by chance"
    assert "\ninside: rouge_l_f1_judge; outside: rouge_l_f1; without an interval: chars_per_s\n" in done.stdout
    assert done.stdout.endswith("NOT reproduced\n")


def other_questions(content: dict[str, Any]) -> None:
    content["setting"]["dataset"]["limit"] = 5


def no_questions(content: dict[str, Any]) -> None:
    content["setting"]["dataset"]["path"] = "no/such/questions.json"


def no_setting(content: dict[str, Any]) -> None:
    content["setting"] = {}


def wrong_setting(content: dict[str, Any]) -> None:
    content["setting"]["workload"]["repeats"] = 0


def no_intervals(content: dict[str, Any]) -> None:
    content["measurement"] |= {"chars_per_s_interval": None, "rouge_l_f1_interval": None, "rouge_l_f1_judge_interval": None}


def moved_weights(content: dict[str, Any]) -> None:
    content["pipeline"]["model"]["path"] = "no/such/model"


MISTAKES = {
    other_questions: "frozen.yaml: what is here is not what was measured: sha256 of the dataset differs",
    no_questions: "frozen.yaml: dataset.path: 'no/such/questions.json' does not exist; looked for ",
    no_setting: "does not say how it was measured (setting is empty); measure its study again",
    wrong_setting: "frozen.yaml: workload.repeats: got 0, allowed is an integer of at least 1",
    no_intervals: "none of its numbers has an interval, so nothing could come out inside or outside; measure its study again",
    moved_weights: "lie elsewhere now, say where with model_path=FOLDER",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_cannot_be_reproduced_is_one_line_before_an_engine_starts(
    mistake: Callable[[dict[str, Any]], None], study_copy: Path
) -> None:
    content = yaml.safe_load((study_copy / "frozen.yaml").read_text(encoding="utf-8"))
    mistake(content)
    changed(study_copy, **content)
    done = run_command("reproduce", cwd=study_copy.parent.parent)
    assert (done.returncode, done.stdout) == (2, "")
    *before, told = done.stderr.splitlines()
    assert told.startswith("error: ")
    assert MISTAKES[mistake] in told
    assert not [line for line in before if not line.startswith("Triton ")], "a library may say something when it is imported"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("frozen=no/such/frozen.yaml", "frozen: 'no/such/frozen.yaml' does not exist"),
        ("frozen=experiments", "frozen: 'experiments' is a folder, allowed is a file"),
        ("model_path=no/such/model", "model_path: 'no/such/model' does not exist"),
    ],
)
def test_a_path_that_leads_nowhere_is_named_by_its_key(override: str, told: str, study_copy: Path) -> None:
    done = run_command("reproduce", override, cwd=study_copy.parent.parent)
    assert (done.returncode, told in done.stderr, len(done.stderr.splitlines())) == (2, True, 1)


def test_a_winner_that_cannot_be_measured_here_ends_with_1_and_the_engines_reason(study_copy: Path) -> None:
    content = yaml.safe_load((study_copy / "frozen.yaml").read_text(encoding="utf-8"))
    content["pipeline"]["quantization"] = {"name": "fp8", "args": {"quantization": "fp8"}}  # which a CPU refuses
    changed(study_copy, pipeline=content["pipeline"])
    done = run_command("reproduce", cwd=study_copy.parent.parent)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "error: experiments/embedded/frozen.yaml could not be measured here: " in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
