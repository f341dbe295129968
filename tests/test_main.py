"""`python -m gpuqa`: the list of commands, in a fresh process, as a new user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import child_environment

import gpuqa
from gpuqa.config.commands import COMMANDS


@pytest.fixture
def run(tmp_path: Path):
    def run_main(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gpuqa", *words]
        return subprocess.run(command, cwd=tmp_path, env=child_environment(), capture_output=True, text=True, timeout=60)

    return run_main


def test_every_command_is_listed_in_one_line_that_says_what_it_does(run):
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    listed = [line.split(maxsplit=3) for line in done.stdout.splitlines() if line.startswith("python -m gpuqa.")]
    assert [words[2] for words in listed] == [f"gpuqa.{name}" for name in COMMANDS]
    assert all(len(words) == 4 and words[3].endswith((".", "?")) for words in listed), done.stdout


def test_the_version_is_told(run):
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"{gpuqa.__version__}\n")


def test_a_command_as_an_argument_is_refused_with_how_it_is_written(run):
    done = run("sweep", "prompt=bare")
    assert (done.returncode, done.stdout) == (2, "")
    assert "got 'sweep'" in done.stderr
    assert "gpuqa.sweep, " in done.stderr
    assert len(done.stderr.splitlines()) == 1
