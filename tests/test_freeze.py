"""Another rule for the same trials: no engine, only the files of a study."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml

from gpuqa import frozen
from gpuqa.config.paths import find
from gpuqa.study.record_lines import digest_of

pytestmark = pytest.mark.engine

ENGINES = ("torch", "transformers", "vllm")


def frozen_prompt(folder: Path) -> str:
    content = yaml.safe_load((folder / "frozen.yaml").read_text(encoding="utf-8"))
    return str(content["pipeline"]["prompt"]["name"])


def set_measurements(folder: Path, **by_prompt: dict[str, float]) -> None:
    """Give measured trials other numbers, with digests that fit them, so that two rules have two winners."""
    file = folder / "trials" / "trials.jsonl"
    changed = []
    for line in file.read_text(encoding="utf-8").splitlines():
        trial = json.loads(line)
        del trial["digest"]
        if trial["measurement"]:
            trial["measurement"] |= by_prompt[trial["pipeline"]["prompt"]["name"]]
        changed.append(json.dumps({**trial, "digest": digest_of(trial)}, ensure_ascii=False) + "\n")
    file.write_text("".join(changed), encoding="utf-8")


@pytest.fixture
def two_winners(study_copy: Path) -> Path:
    """A study in which `bare` is twice as fast and `structured` scores twice as much."""
    fast, good = {"chars_per_s": 2000.0, "rouge_l_f1_judge": 0.2}, {"chars_per_s": 1000.0, "rouge_l_f1_judge": 0.4}
    set_measurements(study_copy, bare=fast, structured=good)
    return study_copy


@pytest.fixture
def no_engines(tmp_path: Path) -> dict[str, str]:
    """An environment in which importing any engine ends the process. Fakes, because the real ones would not complain."""
    folder = tmp_path / "no_engines"
    folder.mkdir()
    for name in ENGINES:
        (folder / f"{name}.py").write_text(f"raise SystemExit('imported {name}')\n")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{Path(frozen.__file__).parents[1]}"}


@pytest.mark.parametrize(("floor", "winner"), [(0.1, "bare"), (0.3, "structured")])
def test_another_rule_freezes_another_winner_of_the_same_trials_without_an_engine(
    floor: float, winner: str, two_winners: Path, no_engines: dict[str, str], command: Any, tmp_path: Path
) -> None:
    before = (two_winners / "trials" / "trials.jsonl").read_bytes()
    began = time.monotonic()
    run = command("freeze", f"selection.min_rouge_l_f1_judge={floor}", cwd=tmp_path, env=no_engines)
    assert time.monotonic() - began < 30
    assert run.returncode == 0, run.stdout + run.stderr
    assert frozen_prompt(two_winners) == winner
    content = frozen.read(two_winners / "frozen.yaml")
    assert content["selection"]["min_rouge_l_f1_judge"] == floor
    assert f"(floor {floor:g})" in content["reason"]
    assert content["reason"] in run.stdout
    pipeline = frozen.pipeline_config(content, two_winners)
    assert frozen.mismatches(content, pipeline, find(pipeline.model.path, "model.path")) == [], "and it can be served"
    table = pandas.read_csv(two_winners / "leaderboard.csv")
    assert table["prompt"][0] == winner
    assert content["reason"] in (two_winners / "report.html").read_text(encoding="utf-8")
    assert (two_winners / "trials" / "trials.jsonl").read_bytes() == before, "deciding measures nothing"


def test_a_floor_that_no_trial_reaches_takes_the_old_winner_away(two_winners: Path, command: Any, tmp_path: Path) -> None:
    run = command("freeze", "selection.min_rouge_l_f1_judge=0.9", cwd=tmp_path)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "the nearest is prompt=structured quantization=none: rouge_l_f1_judge 0.4000 is below the floor 0.9" in run.stdout
    assert not (two_winners / "frozen.yaml").exists()


def test_the_study_is_found_by_name_and_root(two_winners: Path, command: Any, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "mine"
    moved.parent.mkdir()
    two_winners.rename(moved)
    run = command("freeze", "study.root=elsewhere", "study.name=mine", "selection.min_rouge_l_f1_judge=0.3", cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert frozen_prompt(moved) == "structured"
    assert not two_winners.exists()


def test_a_study_without_trials_is_the_users_mistake(command: Any, tmp_path: Path) -> None:
    run = command("freeze", "study.name=never_run", cwd=tmp_path)
    assert run.returncode == 2
    assert "experiments/never_run holds no trials" in run.stderr
    assert "gpuqa.sweep" in run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("selection.min_rouge_l_f1_judge=1.5", "selection.min_rouge_l_f1_judge: got 1.5, allowed is a number from 0 to 1"),
        ("study.name=../elsewhere", "study.name: got '../elsewhere', allowed is a plain folder name"),
        ("selection=slowest", "fastest_above_floor"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(override: str, told: str, study_copy: Path, command: Any) -> None:
    before = (study_copy / "frozen.yaml").read_bytes()
    run = command("freeze", override, cwd=study_copy.parent.parent)
    assert run.returncode == 2
    assert told in run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    assert (study_copy / "frozen.yaml").read_bytes() == before
