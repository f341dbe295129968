"""Tests of gpuqa.config.paths: files are found from anywhere, in a checkout and beside an installed package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpuqa.config import UserError
from gpuqa.config.commands import COMMANDS
from gpuqa.config.paths import PACKAGE, conf_folder, find, find_model
from gpuqa.config.pipeline import DownloadConfig, ModelConfig

SHIPPED = "gpuqa/embedded/questions/test.json"


def test_a_relative_path_is_found_in_the_working_folder_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / SHIPPED
    mine.parent.mkdir(parents=True)
    mine.write_text("[]")
    assert find(SHIPPED, "dataset.path").resolve() == mine.resolve()


def test_a_relative_path_that_ships_with_the_package_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find(SHIPPED, "dataset.path").resolve() == PACKAGE.parent / SHIPPED


def test_a_folder_is_found_like_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find("gpuqa/embedded/model", "model.path").is_dir()


def test_an_absolute_path_is_taken_as_it_is(tmp_path):
    file = tmp_path / "questions.json"
    file.touch()
    assert find(str(file), "dataset.path") == file


def test_an_absolute_path_is_not_looked_for_beside_the_package(tmp_path):
    with pytest.raises(UserError, match=r"looked for \S+/absent\.json$"):
        find(str(tmp_path / "absent.json"), "dataset.path")


def test_a_path_that_is_nowhere_is_looked_for_once_if_both_places_are_one(monkeypatch):
    monkeypatch.chdir(PACKAGE.parent)
    with pytest.raises(UserError, match=r"looked for \S+/absent\.json$"):
        find("absent.json", "dataset.path")


def test_a_tilde_is_the_home_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    assert find("~/weights", "model.path") == tmp_path / "weights"


def test_a_path_that_is_nowhere_is_refused_with_its_key_and_both_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        find("local-model/none", "model.path")
    told = str(refused.value)
    assert told.startswith("model.path: 'local-model/none' does not exist")
    assert str(tmp_path / "local-model/none") in told
    assert str(PACKAGE.parent / "local-model/none") in told


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("~no-such-user-here/weights", id="the home of nobody"),
        pytest.param("a" * 5000, id="longer than any file name"),
        pytest.param("nul\0byte", id="a NUL"),
    ],
)
def test_a_path_that_cannot_exist_is_a_mistake_of_the_user_too(path):
    with pytest.raises(UserError, match=r"^model\.path: "):
        find(path, "model.path")


def test_the_conf_folder_of_this_package_holds_a_file_for_every_root():
    assert {file.stem for file in conf_folder().glob("*.yaml")} == set(COMMANDS)


def test_an_installed_package_finds_its_own_conf_and_what_lies_beside_it(tmp_path):
    """Lays files out as the wheel does (conf inside the package) and asks a fresh interpreter there."""
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (site / "gpuqa").mkdir(parents=True)
    shutil.copy(PACKAGE / "__init__.py", site / "gpuqa")
    for folder in ("config", "machine"):
        shutil.copytree(PACKAGE / folder, site / "gpuqa" / folder)
    shutil.copytree(conf_folder(), site / "gpuqa" / "conf")
    (site / SHIPPED).parent.mkdir(parents=True)
    (site / SHIPPED).touch()
    asked = f"from gpuqa.config.paths import conf_folder, find; print(conf_folder()); print(find({SHIPPED!r}, 'dataset.path'))"
    done = subprocess.run(
        [sys.executable, "-c", asked], cwd=elsewhere, env={"PYTHONPATH": str(site)}, capture_output=True, text=True, check=True
    )
    assert [Path(line).resolve() for line in done.stdout.splitlines()] == [
        (site / "gpuqa" / "conf").resolve(),
        (site / SHIPPED).resolve(),
    ]


def test_a_model_that_is_nowhere_names_the_command_that_fetches_it_if_it_has_a_repository():
    model = ModelConfig(name="my model", path="absent", download=DownloadConfig(repository="somebody/a-model"))
    with pytest.raises(UserError, match=r"'absent' does not exist; .*with: python -m gpuqa\.download 'model=my model'$"):
        find_model(model)
    with pytest.raises(UserError, match=r"absent$"):
        find_model(ModelConfig(name="mine", path="absent"))
