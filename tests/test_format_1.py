"""A study that gpuqa 0.1.0 wrote in format 1 (tests/format_1): every command refuses it in one line and leaves it as it is."""

from __future__ import annotations

import hashlib
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow

FORMAT_1 = Path(__file__).parent / "format_1"
FIXED = "experiment=none model=embedded quantization=none engine=vllm_cpu sampling=greedy dataset=embedded workload=batch"
SIZES = "dataset.limit=4 workload.repeats=2"
STUDY = f"{FIXED} {SIZES} study.finalists=0 engine.args.max_num_seqs=16,64 prompt=bare,structured"
CELL = f"{FIXED} {SIZES} engine.args.max_num_seqs=64 prompt=structured"
RENAMED = ["prompt.cleanup is prompt.postprocess now", "workload.warm_repeats is workload.prefix_cached_repeats now"]


@pytest.fixture
def old_study(tmp_path: Path) -> Path:
    """The folder where the commands look for it."""
    return Path(shutil.copytree(FORMAT_1, tmp_path / "experiments" / "format_1"))


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with its digest."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


COMMANDS = {
    "freeze": (["freeze", "study.name=format_1"], STUDY),
    "sweep": (["sweep", "experiment=none", "study.name=format_1"], STUDY),
    "compare a trial": (["compare", "a=experiments/format_1:0b99", "b=experiments/format_1:e03a"], STUDY),
    "compare winners": (["compare", "a=experiments/format_1", "b=experiments/format_1"], CELL),
    "serve": (["serve", "frozen=experiments/format_1/frozen.yaml"], CELL),
    "reproduce": (["reproduce", "frozen=experiments/format_1/frozen.yaml"], CELL),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_study_of_format_1_is_refused_in_one_line_with_the_command_that_measures_it_again(
    name: str, old_study: Path, command: Any, tmp_path: Path
) -> None:
    words, again = COMMANDS[name]
    run = command(*words, cwd=tmp_path)
    assert run.returncode == 2, run.stdout + run.stderr
    [told] = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert run.stderr.rstrip().endswith(told), "nothing comes after it"
    assert "format 1, written by gpuqa 0.1.0; this version reads 2" in told
    assert f"measure again with `python -m gpuqa.sweep {again} study.name=format_1_2`" in told
    values = "frozen.yaml" if again is CELL else "trials/trials.jsonl"
    assert f"; experiments/format_1/{values} has all its other values, under pipeline and setting" in told
    assert all(renamed in told for renamed in RENAMED), told
    assert "measurement." not in told, "names that nobody writes"
    assert len(told) < 800
    assert contents(old_study) == contents(FORMAT_1), "the old files stay as they are, and nothing new lies beside them"
    assert "Traceback" not in run.stdout + run.stderr


def test_the_frozen_file_also_names_the_renamed_key_of_its_rule(old_study: Path, command: Any, tmp_path: Path) -> None:
    run = command("serve", "frozen=experiments/format_1/frozen.yaml", cwd=tmp_path)
    assert "selection.guard is selection.constraint_test now" in run.stderr


def test_a_folder_of_which_only_the_study_file_is_left_is_refused_too(old_study: Path, command: Any, tmp_path: Path) -> None:
    shutil.rmtree(old_study / "trials")
    run = command("freeze", "study.name=format_1", cwd=tmp_path)
    assert run.returncode == 2
    assert "format 1, written by gpuqa of another version; this version reads 2: measure again with" in run.stderr
    assert yaml.safe_load((old_study / "study.yaml").read_text(encoding="utf-8")).get("format") is None


def test_the_command_that_measures_a_study_again_composes_its_cells(old_study: Path, command: Any, tmp_path: Path) -> None:
    (tmp_path / "结果 {1}").mkdir()
    old_study = old_study.rename(tmp_path / "结果 {1}" / "my study")
    root = 'study.root="结果 {1}"'
    told = command("freeze", root, "study.name=my study", cwd=tmp_path).stderr
    python, flag, module, *words = shlex.split(told.partition("measure again with `")[2].partition("`")[0])
    assert [python, flag, module] == ["python", "-m", "gpuqa.sweep"]
    shown = command("sweep", *words, "--cfg", "job", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("# cell 1 of 4: engine.args.max_num_seqs=16 prompt=bare\n")
    cell = yaml.safe_load(shown.stdout)
    assert (cell["study"]["root"], cell["study"]["name"], cell["study"]["finalists"]) == ("结果 {1}", "my study_2", 0)
    assert (cell["dataset"]["limit"], cell["workload"]["repeats"]) == (4, 2)
    assert contents(old_study) == contents(FORMAT_1)


@pytest.mark.parametrize(
    ("override", "new"),
    [
        ("prompt.cleanup.one_line=false", "prompt.cleanup: is called prompt.postprocess now"),
        ("+prompt.cleanup.one_line=false", "prompt.cleanup: is called prompt.postprocess now"),
        ("selection.guard=point", "selection.guard: is called selection.constraint_test now"),
        ("workload.warm_repeats=1", "workload.warm_repeats: is called workload.prefix_cached_repeats now"),
        ("workload.warmup_questions=4", "study and server warm up in the same way, see gpuqa.pipeline.pipeline.warm_up"),
    ],
)
def test_an_override_with_a_keys_old_name_is_refused_with_the_new_name(
    override: str, new: str, command: Any, tmp_path: Path
) -> None:
    run = command("sweep", override, cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.startswith("error: ")
    assert run.stderr.rstrip().endswith(new)
    assert "Traceback" not in run.stderr


def test_a_prompt_file_with_a_keys_old_name_is_refused_with_the_new_name(command: Any, tmp_path: Path) -> None:
    (tmp_path / "mine" / "prompt").mkdir(parents=True)
    (tmp_path / "mine" / "prompt" / "old.yaml").write_text("name: old\ncleanup:\n  one_line: true\n")
    run = command("sweep", "prompt=old", "--config-dir", "mine", cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr == "error: prompt.cleanup: is called prompt.postprocess now (in prompt/old.yaml)\n"
