"""What a hub lists is checked before it is fetched, and a folder's record is checked before its weights are used."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from any_measurement import any_measurement

from gpuqa import frozen
from gpuqa.config import UserError
from gpuqa.config.app import compose_cell
from gpuqa.config.measurement import SelectionConfig
from gpuqa.config.paths import PACKAGE
from gpuqa.config.pipeline import DownloadConfig, Hub, ModelConfig
from gpuqa.hubs import HubFailed, ListedFile, Listing, checked
from gpuqa.hubs.record import NAME, FileRecord, Record, read
from gpuqa.measure import fingerprint
from gpuqa.study.study import prepare

SOURCE = DownloadConfig(repository="somebody/a-model")


def listing(*paths: str) -> Listing:
    return Listing("main", None, tuple(ListedFile(path, 0) for path in paths))


@pytest.mark.parametrize("path", ["", "..", "../beside.txt", "a/../../beside.txt", "/etc/beside.txt", "a\\beside.txt"])
def test_a_path_outside_the_models_folder_is_refused_before_anything_is_fetched(path: str) -> None:
    with pytest.raises(HubFailed, match="a path outside the model's folder; nothing was fetched"):
        checked(listing("config.json", path), SOURCE)


def test_paths_inside_the_models_folder_are_taken(tmp_path: Path) -> None:
    paths = ("config.json", "deep/er/vocab.json", "..odd", ".gitattributes")
    assert checked(listing(*paths), SOURCE) == listing(*paths)


def test_a_file_is_compared_by_its_size_and_by_the_digest_that_its_hub_lists(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    git = subprocess.run(["git", "hash-object", str(file)], capture_output=True, text=True, check=True).stdout.strip()
    for whole in (ListedFile("file", 7), ListedFile("file", 7, sha256=digest), ListedFile("file", 7, git_sha1=git)):
        assert whole.difference(file) is None
    assert ListedFile("file", 8).difference(file) == "it has 7 bytes, the hub lists 8"
    assert f"its digest is {digest}" in str(ListedFile("file", 7, sha256="0" * 64).difference(file))
    assert f"its digest is {git}" in str(ListedFile("file", 7, git_sha1="0" * 40).difference(file))
    assert ListedFile("file", 7).difference(tmp_path / "absent") == "it is absent"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the demonstration model, as if it had been downloaded."""
    folder = Path(shutil.copytree(PACKAGE / "embedded" / "model", tmp_path / "model"))
    files = {
        file.name: FileRecord(file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()) for file in folder.iterdir()
    }
    Record("modelscope", "somebody/a-model", "master", "c0ffee", files).write(folder)
    return folder


def turn_a_digit(file: Path) -> None:
    """Other content of the same size."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_a_record_is_read_as_it_was_written_and_a_folder_without_one_has_none(model: Path, tmp_path: Path) -> None:
    record = read(model)
    assert record is not None
    assert (record.hub, record.repository, record.revision, record.commit) == (
        *("modelscope", "somebody/a-model", "master"),
        "c0ffee",
    )
    assert "config.json" in record.files
    assert read(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"files": {}}', '{"files": {"a": 1}}', '{"files": {"a": {"size": Infinity, "sha256": "0"}}}', "\udc80"],
)
def test_a_record_that_cannot_be_read_is_refused_by_name(content: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(
        UserError, match=rf"^model\.path: \S+{NAME} cannot be read: .*; run gpuqa\.download again, or remove it$"
    ):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.safetensors", turn_a_digit, "has sha256 "),
        ("tokenizer.json", lambda file: file.write_text("{}"), "has 2 bytes, not "),
        ("config.json", Path.unlink, "is gone"),
    ],
)
def test_a_file_that_was_changed_since_its_download_is_refused(name: str, change: Any, message: str, model: Path) -> None:
    before = fingerprint.sha256_of_model(model)
    change(model / name)
    with pytest.raises(UserError) as refusal:
        fingerprint.sha256_of_model(model)
    line = str(refusal.value)
    assert line.startswith(f"model.path: {model / name} {message}")
    assert line.endswith(
        f"as downloaded from somebody/a-model at c0ffee; run gpuqa.download again, or remove {NAME} from the model's folder "
        "if the change is meant"
    )
    (model / NAME).unlink()
    assert fingerprint.sha256_of_model(model) != before, "without a record it is another model"


def test_a_file_of_ones_own_beside_the_downloaded_ones_is_no_change(model: Path) -> None:
    (model / "added_tokens.json").write_text("{}")
    (model / "notes.txt").write_text("mine")
    assert fingerprint.sha256_of_model(model)


def test_the_revision_of_a_model_is_the_commit_that_was_downloaded(model: Path) -> None:
    configured = ModelConfig(name="m", path=str(model), download=SOURCE)
    assert fingerprint.model_revision(configured, model) == "c0ffee"
    content = json.loads((model / NAME).read_text())
    (model / NAME).write_text(json.dumps({**content, "commit": None, "revision": "v2"}))
    assert fingerprint.model_revision(configured, model) == "v2"
    (model / NAME).unlink()
    assert fingerprint.model_revision(configured, model) == "main"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (DownloadConfig(repository="somebody/other"), "model.download.repository: got 'somebody/other', allowed"),
        (DownloadConfig(repository="somebody/a-model", revision="v2"), "model.download.revision: got 'v2', allowed"),
    ],
)
def test_a_folder_of_another_repository_or_revision_than_the_configured_one_is_refused(
    source: DownloadConfig, message: str, model: Path
) -> None:
    with pytest.raises(UserError) as refusal:
        fingerprint.model_revision(ModelConfig(name="m", path=str(model), download=source), model)
    named = f"what {NAME} in {model} names, somebody/a-model at master; or run gpuqa.download again"
    assert str(refusal.value) == f"{message} is {named}"


@pytest.mark.parametrize("revision", [None, "master", "c0ffee"])
def test_a_folder_of_the_configured_revision_is_taken_from_whatever_hub(revision: str | None, model: Path) -> None:
    mirror = DownloadConfig(Hub.huggingface, "somebody/a-model", revision)
    assert fingerprint.model_revision(ModelConfig(name="m", path=str(model), download=mirror), model) == "c0ffee"


@pytest.fixture
def frozen_file(model: Path, tmp_path: Path) -> Path:
    """A frozen cell of that model; its numbers are made up, because no engine is needed to refuse it."""
    [cell] = prepare([(compose_cell(f"model.path={model}", "dataset.limit=2"), {})])
    file = tmp_path / "mine" / "frozen.yaml"
    frozen.freeze(cell.trial(any_measurement()), [], SelectionConfig(name="any"), "a test", file)
    return file


def test_trial_and_frozen_file_carry_the_commit(frozen_file: Path) -> None:
    assert frozen.read(frozen_file)["revision"] == "c0ffee"


@pytest.mark.slow
def test_sweep_and_serve_refuse_a_model_that_is_not_as_it_was_downloaded(
    model: Path, frozen_file: Path, command: Any, tmp_path: Path
) -> None:
    turn_a_digit(model / "model.safetensors")
    checking = "checking 16 cells before an engine starts\n"
    for words, said in (("sweep", f"model.path={model}"), checking), (("serve", f"frozen={frozen_file}"), ""):
        run = command(*words, cwd=tmp_path)
        assert (run.returncode, run.stdout) == (2, said)
        [line] = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
        assert line.startswith(f"error: model.path: {model / 'model.safetensors'} has sha256 ")
    assert not (tmp_path / "experiments").exists()


@pytest.mark.slow
def test_serve_names_the_download_of_weights_that_are_gone(
    frozen_file: Path, model: Path, command: Any, tmp_path: Path
) -> None:
    content = frozen.read(frozen_file)
    content["pipeline"]["model"]["download"]["repository"] = "somebody/a-model"
    frozen_file.write_text(json.dumps(content))
    shutil.rmtree(model)
    run = command("serve", f"frozen={frozen_file}", cwd=frozen_file.parent)
    assert run.returncode == 2
    assert "does not exist; looked for " in run.stderr
    assert "; fetch the weights with: python -m gpuqa.download model=embedded" in run.stderr
