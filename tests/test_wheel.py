"""The wheel: built from the repository, installed into a folder, used where there is no repository."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, child_environment

import gpuqa

pytestmark = pytest.mark.engine


def pip(*arguments: str, cwd: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    run = subprocess.run(command, cwd=cwd, env=child_environment({"PIP_NO_INDEX": "1"}), capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's wheel. Needs hatchling, because nothing is fetched to build it."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT), cwd=folder)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path) -> Path:
    """A folder with the installed wheel and nothing else of the project."""
    folder = wheel.parent / "site"
    pip("install", "--no-deps", "--target", str(folder), str(wheel), cwd=wheel.parent)
    return folder


def shipped(*folders: str) -> set[str]:
    """Files of the repository below some folders, as paths from its root."""
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file()]
    return {file.relative_to(ROOT).as_posix() for file in files if "__pycache__" not in file.parts}


def test_the_wheel_holds_the_package_its_configuration_its_model_and_its_questions(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    configuration = {f"gpuqa/{name}" for name in shipped("conf")}
    assert {"gpuqa/conf/sweep.yaml", "gpuqa/conf/prompt/structured.yaml"} <= configuration
    assert {"gpuqa/embedded/model/model.safetensors", "gpuqa/embedded/questions/test.json"} <= shipped("gpuqa")
    assert {
        "gpuqa/study/page/report.html.j2",
        "gpuqa/study/page/chart.js",
        "gpuqa/study/page/texts.yaml",
        "hydra_plugins/gpuqa_study.py",
    } <= names
    assert names == configuration | shipped("gpuqa", "hydra_plugins")


def test_hydra_plugins_stays_a_namespace_that_other_plugins_can_share(wheel: Path) -> None:
    assert "hydra_plugins/__init__.py" not in zipfile.ZipFile(wheel).namelist()


def test_the_console_script_of_the_wheel_works_in_any_folder(site: Path, tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command, env = [sys.executable, str(site / "bin" / "gpuqa"), *words], child_environment({"PYTHONPATH": str(site)})
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    assert run("--version").stdout == f"{gpuqa.__version__}\n"
    assert f"Defaults: {site}/gpuqa/conf/sweep.yaml" in run("sweep", "--help").stdout
    shown = run("sweep", "prompt=bare,expert", "--cfg", "job")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert yaml.safe_load(shown.stdout)["prompt"]["name"] == "bare"
    mistaken = run("freeze", "study.name=nowhere")
    assert (mistaken.returncode, mistaken.stdout) == (2, "")
    assert "python -m gpuqa.sweep study.name=nowhere" in mistaken.stderr
    assert not list(tmp_path.iterdir())


def test_a_study_runs_from_the_installed_wheel_in_any_folder(site: Path, command: Any, tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(site)}
    where = subprocess.run(
        [sys.executable, "-c", "import gpuqa; print(gpuqa.__file__)"],
        cwd=tmp_path,
        env=child_environment(env),
        capture_output=True,
        text=True,
    )
    assert Path(where.stdout.strip()) == site / "gpuqa" / "__init__.py", where.stderr
    overrides = [
        "experiment=none",
        "engine=transformers",
        "dataset.limit=4",
        "workload.repeats=1",
        "sampling.max_tokens=64",
        "selection.max_truncated_fraction=1",
    ]
    run = command("sweep", *overrides, "selection.min_rouge_l_f1_judge=0", cwd=tmp_path, env=env)
    assert run.returncode == 0, run.stdout + run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["experiments"]
    frozen = yaml.safe_load((tmp_path / "experiments" / "adhoc" / "frozen.yaml").read_text(encoding="utf-8"))
    assert frozen["measurement"]["questions"] == 4
    assert frozen["pipeline"]["model"]["path"] == "gpuqa/embedded/model", "a path that holds on every machine"
    assert os.fspath(ROOT) not in (tmp_path / "experiments" / "adhoc" / "frozen.yaml").read_text(encoding="utf-8")
