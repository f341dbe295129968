"""freeze and compare on a study whose files were edited or damaged, or whose disk is full: one line, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from written_study import ANSWERS, FAST, SLOW, measured, write_study

from gpuqa.study.journal import Journal

pytestmark = pytest.mark.slow


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """The study, where freeze looks for it."""
    return write_study(tmp_path / "experiments" / "mine")


def edit(file: Path, before: str, after: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(before) == 1, text
    file.write_text(text.replace(before, after), encoding="utf-8")


def frozen_trial(journal: Journal) -> str:
    return str(yaml.safe_load((journal.study_file.parent / "frozen.yaml").read_text(encoding="utf-8"))["trial"])


def test_an_edited_number_is_named_and_not_frozen(journal: Journal, command: Any, tmp_path: Path) -> None:
    run = command("freeze", "study.name=mine", cwd=tmp_path)
    assert (run.returncode, frozen_trial(journal)) == (0, FAST), run.stdout + run.stderr
    edit(journal.file, '"chars_per_s": 1000.0', '"chars_per_s": 9000.0')
    edit(journal.file, '"chars_per_s": 2000.0', '"chars_per_s": 8000.0')
    journal.write(measured(SLOW, "structured", 1000.0), ANSWERS)
    run = command("freeze", "study.name=mine", cwd=tmp_path)
    assert run.returncode == 2, run.stdout + run.stderr
    assert "error: study: 1 of 2 cells has no trial that can be read: prompt=bare; " in run.stderr
    assert "trials.jsonl: 2 of 3 lines cannot be read: lines 1, 2: each was edited (its digest differs)" in run.stderr
    assert frozen_trial(journal) == FAST, "the winner of before stays"


def test_answers_that_cannot_be_read_are_named_when_a_winner_is_frozen(journal: Journal, command: Any, tmp_path: Path) -> None:
    journal.answers_file(FAST).unlink()
    run = command("freeze", "study.name=mine", cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"prompt=bare: {FAST[:16]}.answers.jsonl is absent or damaged, so means decide" in run.stdout
    assert "prompt=structured: " not in run.stdout.partition("Study mine")[0]


def test_compare_names_the_lines_that_it_could_not_read(journal: Journal, command: Any, tmp_path: Path) -> None:
    with journal.file.open("a") as stream:
        stream.write('{"key": "torn')
    run = command("compare", "a=experiments/mine:f", "b=experiments/mine:5", cwd=tmp_path)
    assert run.returncode == 3, run.stdout + run.stderr
    assert "trials.jsonl: the last line was never finished, as a kill leaves it; a sweep measures it again" in run.stdout
    edit(journal.answers_file(FAST), '"id": "q2"', '"id": "q9"')
    run = command("compare", "a=experiments/mine:f", "b=experiments/mine:5", cwd=tmp_path)
    assert run.returncode == 2
    assert f"{FAST[:16]}.answers.jsonl: 1 of 4 lines cannot be read: line 3 was edited" in run.stderr
    assert "Traceback" not in run.stdout + run.stderr


DAMAGED = {
    "a journal of another shape": ("trials/trials.jsonl", b"[1]\n", "1 of 1 line cannot be read: line 1 is not a JSON object"),
    "a journal with wrong types": ("trials/trials.jsonl", b'{"format": 2, "key": 3}\n', "line 1 lacks its digest"),
    "a deep journal": ("trials/trials.jsonl", b"[" * 100_000 + b"\n", "line 1 is nested too deeply"),
    "a journal that is no text": ("trials/trials.jsonl", b"\xff\xfe}\n", "line 1 is not JSON"),
    "a study that is no YAML": ("study.yaml", b"a: [1", "study.yaml cannot be read"),
    "a deep study": ("study.yaml", b"[" * 1000, "it is nested too deeply"),
    "a study of another shape": ("study.yaml", b"[]", "study.yaml is not what a sweep writes"),
    "a rule of another shape": ("study.yaml", b"format: 2\nfinalists: 0\nselection: 3\ncells: []\n", "not what a sweep writes"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_line_and_exit_code_2_and_the_winner_stays(
    name: str, journal: Journal, command: Any, tmp_path: Path
) -> None:
    file, content, told = DAMAGED[name]
    (journal.study_file.parent / "frozen.yaml").write_text("the winner of before")
    (journal.study_file.parent / file).write_bytes(content)
    run = command("freeze", "study.name=mine", cwd=tmp_path)
    assert run.returncode == 2, run.stdout + run.stderr
    assert run.stderr.startswith("error: ")
    assert run.stderr.count("\n") == 1, run.stderr
    assert told in run.stderr
    assert (journal.study_file.parent / "frozen.yaml").read_text() == "the winner of before"
    assert (journal.study_file.parent / file).read_bytes() == content


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A real file system of that size at a new folder."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root, and a container that may")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Journal]:
    """The study on a real file system of its own without a free byte."""
    root = tmp_path / "experiments"
    with small_disk(root, "256k"):
        journal = write_study(root / "mine")
        with journal.locked():
            pass  # as a sweep leaves it
        for name in ("frozen.yaml", "leaderboard.csv", "report.html"):
            (root / "mine" / name).write_text("of before")
        with (root / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(b"0" * 4096):
                pass
        yield journal


def test_freezing_on_a_full_disk_is_one_line_and_leaves_every_file_as_it_was(
    full_disk: Journal, command: Any, tmp_path: Path
) -> None:
    folder = full_disk.study_file.parent
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != "lock"}
    run = command("freeze", "study.name=mine", cwd=tmp_path)
    assert run.returncode == 2, run.stdout + run.stderr
    assert "experiments/mine/leaderboard.csv cannot be written: No space left on device" in run.stderr
    assert run.stderr.count("\n") == 1, run.stderr
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != "lock"} == before
    (folder.parent / "filler").unlink()
    run = command("freeze", "study.name=mine", cwd=tmp_path)
    assert (run.returncode, frozen_trial(full_disk)) == (0, FAST), run.stdout + run.stderr


def passes_on_disk(journal: Journal) -> dict[str, list[dict[str, Any]]]:
    """The lines of every file of passes, by the start of its trial's key."""
    files = journal.folder.glob("*.passes.jsonl")
    return {file.name.split(".")[0]: [json.loads(line) for line in file.read_text("utf-8").splitlines()] for file in files}


@pytest.mark.engine
def test_a_disk_that_fills_up_during_a_sweep_ends_it_in_one_line_and_the_next_run_goes_on(command: Any, tmp_path: Path) -> None:
    root = tmp_path / "experiments"
    words = ("experiment=none", "dataset.limit=6", "workload.repeats=2", "study.finalists=0", "prompt=bare,structured")
    words = (*words, "selection.min_rouge_l_f1_judge=0", "study.name=small")
    with small_disk(root, "36k"):  # a few passes, which take 6 KiB each, and less than both trials
        run = command("sweep", *words, cwd=tmp_path)
        assert run.returncode == 2, run.stdout + run.stderr
        [told] = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
        assert "cannot be written: No space left on device; all that was finished before is kept" in told
        assert "Traceback" not in run.stdout + run.stderr
        subprocess.run(["mount", "-o", "remount,size=4m", root], check=True)
        journal = Journal(root / "small")
        assert journal.problems() == []
        kept = {key: [row["began_at"] for row in rows] for key, rows in passes_on_disk(journal).items()}
        assert any(kept.values()), "some passes were finished before"
        run = command("sweep", *words, cwd=tmp_path)
        assert run.returncode == 0, run.stdout + run.stderr
        began = {key[:16]: trial.measurement.repeats_began_at for key, trial in journal.read().items() if trial.measurement}
        assert len(began) == 2
        assert all(set(moments) <= set(began[key]) for key, moments in kept.items()), "they were not measured again"
