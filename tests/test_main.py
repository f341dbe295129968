"""`python -m gpuqa`: the list of commands, in a fresh process, as a new user runs it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT, child_environment

import gpuqa
from gpuqa.__main__ import main
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


@pytest.mark.parametrize("words", [["sweep", "--version"], ["freeze", "--version"]])
def test_a_command_gets_the_rest_of_the_line(run, words):
    done = run(*words)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{gpuqa.__version__}\n", "")


def test_a_mistake_for_a_command_that_got_the_rest_of_the_line_is_its_own(run):
    done = run("freeze", "selection=fastst")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: selection: got 'fastst', ")
    assert "did you mean 'fastest'?" in done.stderr


def test_a_word_that_is_no_command_is_refused_with_the_nearest_one(run):
    done = run("swep", "prompt=bare")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: got 'swep', allowed is sweep, search, ")
    assert done.stderr.endswith("; did you mean 'sweep'?\n")


def test_the_console_script_is_this_module():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts == {"gpuqa": f"{main.__module__}:{main.__name__}"}
