"""Another decision on the same trials: no engine, only the files of a study, and no winner is ever lost."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml
from written_study import ANSWERS, FAST, RULE, SLOW, measured, write_study

from gpuqa import frozen
from gpuqa.config.paths import find
from gpuqa.records import Answered, Pass
from gpuqa.study.journal import Journal
from gpuqa.study.record_lines import digest_of

pytestmark = pytest.mark.slow

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


@pytest.mark.engine
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


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A study that was decided with a floor of 0.15: `bare` is twice as fast, both have a judge's score of 0.4."""
    return write_study(tmp_path / "experiments" / "mine", rule=RULE).study_file.parent


@pytest.fixture
def freeze(command: Any, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`freeze("selection=knee")` decides that study again."""
    return lambda *words: command("freeze", "study.name=mine", *words, cwd=tmp_path)


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("frozen*")}


def test_a_floor_that_no_trial_reaches_leaves_the_old_winner_and_shows_the_new_decision(mine: Path, freeze: Any) -> None:
    assert freeze().returncode == 0
    before = files_of(mine)
    run = freeze("selection.min_rouge_l_f1_judge=0.9")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "the nearest is prompt=bare: rouge_l_f1_judge 0.4000 is below the floor 0.9" in run.stdout
    digest = frozen.read(mine / "frozen.yaml")["digest"][:16]
    stays = f"experiments/mine/frozen.yaml stays and holds the decision of before, prompt=bare (digest {digest})."
    assert f"Nothing was frozen. {stays}" in run.stdout
    assert files_of(mine) == before
    assert "leaderboard.csv and report.html stay with it: what is above is in this output only." in run.stdout
    assert "is below the floor 0.9" not in (mine / "report.html").read_text(encoding="utf-8")


def test_a_speed_whose_next_measurement_cannot_be_told_says_so_in_the_terminal_the_report_and_the_file(
    mine: Path, freeze: Any
) -> None:
    write_study(mine, measured(FAST, "bare", 2000.0, repeats=3), rule=RULE)
    run = freeze()
    sure = "Its next measurement lies within 1,849 to 2,163 chars/s (95% interval; 84% where passes are fast or slow by chance"
    assert sure in run.stdout, run.stdout + run.stderr
    write_study(mine, measured(FAST, "bare", 2000.0, repeats=3, chars_per_s_repeats=[500.0, 2000.0, 8000.0]), rule=RULE)
    run = freeze()
    noisy = "Where its next measurement lies is too noisy to say: the highest speed that fits is more than twice the lowest."
    assert noisy in run.stdout, run.stdout + run.stderr
    assert noisy in (mine / "report.html").read_text(encoding="utf-8")
    assert noisy in frozen.read(mine / "frozen.yaml")["reason"]


def test_a_study_that_another_command_decides_or_measures_is_refused_in_one_line(mine: Path, freeze: Any) -> None:
    with Journal(mine).locked():
        run = freeze()
    assert (run.returncode, run.stdout, files_of(mine)) == (2, "", {})
    told = "error: study: experiments/mine is being measured or decided by process {}; wait for it or end it\n"
    assert run.stderr == told.format(os.getpid())


def test_a_lock_that_cannot_be_written_is_one_line(mine: Path, freeze: Any) -> None:
    (mine / "trials" / "lock").mkdir()
    run = freeze()
    assert (run.returncode, files_of(mine)) == (2, {})
    assert run.stderr.startswith("error: experiments/mine/trials/lock cannot be written: Is a directory; all that was finished")
    assert run.stderr.count("\n") == 1


def test_without_an_older_winner_it_says_only_that_nothing_was_frozen(mine: Path, freeze: Any) -> None:
    run = freeze("selection.min_rouge_l_f1_judge=0.9")
    assert run.returncode == 1
    assert "Nothing was frozen.\n" in run.stdout
    assert files_of(mine) == {}


def test_the_same_decision_again_leaves_the_frozen_file_as_it_is(mine: Path, freeze: Any) -> None:
    freeze()
    before = files_of(mine)
    time.sleep(1.1)  # `frozen_at` is in seconds
    run = freeze()
    assert run.returncode == 0
    content = frozen.read(mine / "frozen.yaml")
    unchanged = f"Unchanged: experiments/mine/frozen.yaml (digest {content['digest'][:16]}) holds this decision since "
    assert unchanged + content["frozen_at"] in run.stdout
    assert "Frozen: " not in run.stdout
    assert files_of(mine) == before


def test_another_decision_says_that_it_replaces_the_old_one_which_is_kept_and_can_be_served(mine: Path, freeze: Any) -> None:
    freeze()
    [before] = files_of(mine).values()
    digest = frozen.read(mine / "frozen.yaml")["digest"]
    write_study(mine, measured(FAST, "bare", 2000.0, rouge_l_f1_judge=0.2), measured(SLOW, "structured", 1000.0), rule=RULE)
    run = freeze("selection.min_rouge_l_f1_judge=0.3")
    assert run.returncode == 0, run.stdout + run.stderr
    kept = f"frozen-{digest[:8]}.yaml"
    told = f"Replaced: the decision of before, prompt=bare (digest {digest[:16]}), is kept as experiments/mine/{kept}"
    assert told in run.stdout
    assert frozen_prompt(mine) == "structured"
    assert files_of(mine)[kept] == before
    content = frozen.read(mine / kept)
    assert content["digest"] == digest
    assert frozen.pipeline_config(content, mine / kept).prompt.name == "bare", "serve builds its pipeline from it"


def test_the_studys_own_rule_decides_and_only_what_is_said_changes(mine: Path, freeze: Any) -> None:
    own = "Decided by the study's own rule (selection=fastest_above_floor, floor 0.15)"
    run = freeze()
    assert f"{own}.\n" in run.stdout
    assert frozen.read(mine / "frozen.yaml")["selection"]["min_rouge_l_f1_judge"] == 0.15
    run = freeze("selection.min_chars_per_s=5")
    assert f"{own}, but with selection.min_chars_per_s=5.0 (the study has 0.0).\n" in run.stdout
    selection = frozen.read(mine / "frozen.yaml")["selection"]
    assert (selection["min_rouge_l_f1_judge"], selection["min_chars_per_s"]) == (0.15, 5.0)
    run = freeze("selection.min_rouge_l_f1_judge=0.35")
    assert "but with selection.min_rouge_l_f1_judge=0.35 (the study has 0.15)" in run.stdout, "a default that is said counts"


def test_another_option_keeps_the_limits_that_the_study_has_set_as_a_sweep_would(mine: Path, freeze: Any) -> None:
    run = freeze("selection=knee")
    option = "selection=knee (the study has fastest_above_floor), selection.rule=knee (the study has fastest)"
    assert f"but with {option}.\n" in run.stdout
    selection = frozen.read(mine / "frozen.yaml")["selection"]
    assert (selection["rule"], selection["min_rouge_l_f1_judge"]) == ("knee", 0.15)
    freeze("selection=knee", "selection.min_rouge_l_f1_judge=0.25")
    assert frozen.read(mine / "frozen.yaml")["selection"]["min_rouge_l_f1_judge"] == 0.25


def test_an_option_of_the_users_own_folder_is_found_there_and_named_where_it_is_not(
    mine: Path, freeze: Any, tmp_path: Path
) -> None:
    own = replace(RULE, name="mine", min_rouge_l_f1_judge=0.2, max_truncated_fraction=0.9)
    write_study(mine, rule=own)
    run = freeze("selection=knee")
    assert run.returncode == 2
    assert "error: selection: the study was decided by selection=mine, which is not here; add its folder with --config-dir" in (
        run.stderr
    )
    (tmp_path / "conf" / "selection").mkdir(parents=True)
    (tmp_path / "conf" / "selection" / "mine.yaml").write_text("name: mine\nmin_rouge_l_f1_judge: 0.2\n")
    assert freeze("selection=knee", f"hydra.searchpath=[file://{tmp_path}/conf]").returncode == 0
    assert freeze("selection=knee", "--config-dir", "conf").returncode == 0
    selection = frozen.read(mine / "frozen.yaml")["selection"]
    assert (selection["min_rouge_l_f1_judge"], selection["max_truncated_fraction"]) == (0.35, 0.9), "0.2 is the option's"
    assert freeze().returncode == 0, "and without another option nobody looks for it"


def test_a_study_whose_rule_is_not_noted_is_decided_by_the_commands_rule_and_that_is_said(mine: Path, freeze: Any) -> None:
    write_study(mine)
    run = freeze("selection.min_rouge_l_f1_judge=0.2")
    assert "Decided by selection=fastest_above_floor of this command: study.yaml does not name the rule of the sweep" in (
        run.stdout
    )
    assert frozen.read(mine / "frozen.yaml")["selection"]["min_rouge_l_f1_judge"] == 0.2


def interrupt(journal: Journal, *keys: str) -> None:
    """Leave a pass of these cells, as an interrupted sweep does."""
    for key in keys:
        journal.write_pass(key, Pass(Answered([], 1.0, []), 0, [], 1.0, 1.0, 1.0, 1.0))


def test_an_interrupted_study_is_told_as_one_with_what_is_kept_and_how_it_goes_on(tmp_path: Path, freeze: Any) -> None:
    journal, first, second = (
        Journal(tmp_path / "experiments" / "mine"),
        measured(FAST, "bare", 9.0),
        measured(SLOW, "expert", 8.0),
    )
    journal.write_study([(trial.key, trial.axes) for trial in (first, second)])
    interrupt(journal, FAST, SLOW)
    run = freeze()
    assert run.returncode == 2
    told = "error: study: experiments/mine was interrupted: {} no trial yet ({}); {} kept, and the same sweep command goes on "
    assert told.format("2 of 2 cells have", "prompt=bare, prompt=expert", "2 passes of them are") in run.stderr
    journal.write(first, ANSWERS)
    run = freeze()
    assert told.format("1 of 2 cells has", "prompt=expert", "1 pass of them is") in run.stderr
    assert run.stderr.count("\n") == 1


def test_trials_without_a_study_file_are_counted_and_the_sweep_writes_it_again(mine: Path, freeze: Any) -> None:
    (mine / "study.yaml").unlink()
    run = freeze()
    assert run.returncode == 2
    told = (
        "error: experiments/mine holds 2 trials but no study.yaml, which lists those of the study; the sweep's command writes"
    )
    assert run.stderr.startswith(told)
    assert run.stderr.count("\n") == 1


def test_a_folder_in_the_place_of_the_study_file_is_told_as_what_it_is(mine: Path, freeze: Any) -> None:
    (mine / "study.yaml").unlink()
    (mine / "study.yaml").mkdir()
    run = freeze()
    assert run.returncode == 2
    assert run.stderr.startswith("error: experiments/mine/study.yaml is a folder and should be a file; move it away, then the ")
    assert run.stderr.count("\n") == 1


@pytest.mark.engine
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
def test_a_wrong_value_is_refused_with_what_is_allowed(override: str, told: str, mine: Path, freeze: Any) -> None:
    (mine / "frozen.yaml").write_text("the winner of before")
    run = freeze(override)
    assert run.returncode == 2
    assert told in run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    assert files_of(mine) == {"frozen.yaml": b"the winner of before"}
