"""The frozen winner of the shared study, measured again by the command: the real engine, the real file."""

from __future__ import annotations

from pathlib import Path

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
    assert "reproduced" in done.stdout


def test_numbers_that_do_not_come_out_are_named(study_copy: Path) -> None:
    content = yaml.safe_load((study_copy / "frozen.yaml").read_text(encoding="utf-8"))
    content["measurement"] |= {"rouge_l_f1": 0.9, "rouge_l_f1_interval": {"low": 0.89, "high": 0.91}}
    changed(study_copy, measurement=content["measurement"])
    done = run_command("reproduce", cwd=study_copy.parent.parent)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "outside its interval: rouge_l_f1\n" in done.stdout


def test_other_questions_than_then_are_refused_before_an_engine_starts(study_copy: Path) -> None:
    content = yaml.safe_load((study_copy / "frozen.yaml").read_text(encoding="utf-8"))
    content["setting"]["dataset"]["limit"] = 5
    changed(study_copy, setting=content["setting"])
    done = run_command("reproduce", cwd=study_copy.parent.parent)
    assert done.returncode == 2
    assert "sha256 of the dataset differs" in done.stderr


def test_a_file_from_before_settings_were_kept_says_what_to_do(study_copy: Path) -> None:
    changed(study_copy, setting={})
    done = run_command("reproduce", cwd=study_copy.parent.parent)
    assert done.returncode == 2
    assert "measure its study again" in done.stderr
