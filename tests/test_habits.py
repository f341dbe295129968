"""What contributors run and read: make's targets, the hooks, the CI script, and the form of the findings."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
FINDINGS = sorted((ROOT / "findings").glob("*"))
PARTS = ["Finding", "Packages", "Tried with", "Expected", "Behaviour", "Here", "Output"]  # of a finding's header, in this order
OUR_PYTHON = ".venv/bin/python"


def recipe(target: str) -> list[str]:
    """The commands of a target, as make would run them with the Python that it takes by default."""
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    environment = {"PATH": os.environ["PATH"]}  # neither PYTHON nor the variables of a make that runs this test
    run = subprocess.run(["make", "--dry-run", target], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def hooks() -> list[dict[str, object]]:
    """All hooks of the pre-commit configuration."""
    configuration = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert {repository["repo"] for repository in configuration["repos"]} == {"local"}, "nothing is fetched from a code host"
    return [hook for repository in configuration["repos"] for hook in repository["hooks"]]


def header(finding: Path) -> dict[str, str]:
    """The parts of a finding's header: name -> text."""
    comment = re.match(r"#!/usr/bin/env bash\n((?:#.*\n)+)", finding.read_text(encoding="utf-8"))
    assert comment, f"{finding.name} has no header"
    lines = re.sub(r"(?m)^# ?", "", comment[1])
    return {part[1]: part[2].strip() for part in re.finditer(r"(?ms)^([A-Z][a-z ]+): ?(.*?)(?=^\S|\Z)", lines)}


def test_every_make_target_that_the_contributing_guide_names_exists() -> None:
    named = set(re.findall(r"(?m)(?:^|`)make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert {"check", "test-fast", "test", "gpu-smoke", "simulations"} <= named
    assert named == set(re.findall(r"(?m)^([a-z-]+):", MAKEFILE))
    for target in named:
        assert recipe(target), f"{target} has no commands"


def test_make_chooses_tests_by_markers_that_are_registered() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    registered = {marker.partition(":")[0] for marker in options["markers"]}
    chosen = {
        name
        for words in re.findall(r'-m (?:"([^"]+)"|(?!pytest|ruff|mypy|venv)(\w+))', MAKEFILE)
        for name in " ".join(words).split()
    }
    assert {"engine", "gpu"} <= chosen - {"not", "and"} <= registered


def test_make_the_hooks_and_the_ci_script_check_by_the_same_commands() -> None:
    check = recipe("check")
    assert all(command.startswith(f"{OUR_PYTHON} -m ") for command in check)
    assert [hook["entry"] for hook in hooks()] == check
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in script if line.startswith(OUR_PYTHON)] == check


@pytest.mark.parametrize("hook", hooks(), ids=lambda hook: hook["id"])
def test_a_hook_runs_a_program_of_the_projects_own_environment(hook: dict[str, object]) -> None:
    assert (hook["language"], hook["pass_filenames"]) == ("system", False)
    python, *words = shlex.split(str(hook["entry"]))
    assert python == OUR_PYTHON
    module = words[words.index("-m") + 1]
    run = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_ci_script_can_split_the_readmes_test_line() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assignments = "\n".join(line for line in script.splitlines() if line.startswith(("line=", "install=", "tests=")))
    command = f'set -eu\n{assignments}\necho "$install"\necho "$tests"'
    run = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    install, tests = run.stdout.splitlines()
    assert install.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert tests.startswith(f"{OUR_PYTHON} -m pytest ")


@pytest.mark.slow
def test_files_with_slow_tests_come_first_so_that_both_processes_end_together() -> None:
    words = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-p",
        "no:cacheprovider",
        "tests/test_auth.py",
        "tests/test_event_log.py",
    ]
    collected = subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    files = list(dict.fromkeys(line.partition("::")[0] for line in collected if "::" in line))
    assert files == ["tests/test_event_log.py", "tests/test_auth.py"]
    keeps = "-n 2 --dist loadgroup --no-loadscope-reorder"
    assert keeps in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert keeps in recipe("test")[0]


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda finding: finding.name)
def test_a_finding_is_a_script_with_the_header_that_the_contributing_guide_asks_for(finding: Path) -> None:
    assert finding.suffix == ".sh"
    checked = subprocess.run(["bash", "-n", str(finding)], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    parts = header(finding)
    assert [name for name in parts if name in PARTS] == PARTS
    assert all(parts[name] for name in PARTS)
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", package) for package in parts["Packages"].split()), "each package is pinned"
    assert re.search(r"\b20\d\d-\d\d-\d\d\b", parts["Tried with"]), "the day on which the output was seen"
    assert "gpuqa" not in finding.read_text(encoding="utf-8").split("\nset -", 1)[1], "it runs none of our code"


def test_the_contributing_guide_names_every_part_of_a_findings_header() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n## Findings\n")[2]
    assert re.findall(r"`([A-Z][a-z ]+)`", text) == PARTS


def test_the_package_says_that_it_has_types_where_the_wheel_takes_its_files() -> None:
    """`test_wheel.py` compares the wheel's files with those of the package's folder; this one only has to be among them."""
    from hatchling.builders.wheel import WheelBuilder

    shipped = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert "gpuqa/py.typed" in shipped
    assert (ROOT / "gpuqa" / "py.typed").read_bytes() == b"", "the marker of a package whose types are complete is empty"
