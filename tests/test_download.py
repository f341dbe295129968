"""Fetching weights: the real clients of both hubs against a hub on the loopback that can be told to fail."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import child_environment
from stub_hub import FILES, REPOSITORY, StubHub, serving, sha256
from warm_python import WarmPython

pytestmark = pytest.mark.slow

Run = subprocess.CompletedProcess[str]
BRANCH = {"huggingface": "main", "modelscope": "master"}
TOKEN = {"huggingface": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}
QUICK = {  # the clients' own settings: no second tries, and seconds of patience
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DOWNLOAD_TIMEOUT": "1",
    "HF_HUB_ETAG_TIMEOUT": "1",
    "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "0",
    "MODELSCOPE_DOWNLOAD_TIMEOUT": "1",
    "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
    "MODELSCOPE_REPO_TREE_PAGE_TIMEOUT_SECONDS": "1",
}
ONE_HUB = pytest.mark.parametrize("kind", ["modelscope"], indirect=True)  # where the hubs do not differ, or the other cannot
NEW = {"config.json": FILES["config.json"], "model.safetensors": FILES["model.safetensors"][::-1], "merges.txt": b"a b\n"}


@pytest.fixture
def hub() -> Iterator[StubHub]:
    with serving() as hub:
        yield hub


@pytest.fixture(params=["huggingface", "modelscope"])
def kind(request: pytest.FixtureRequest) -> str:
    """Whose protocol is spoken."""
    return str(request.param)


@pytest.fixture(scope="module")
def warm() -> WarmPython:
    """Forks of it have imported no client yet, so that each takes its settings from its own environment."""
    return WarmPython(child_environment(), engines=False)


@pytest.fixture
def fetch(hub: StubHub, kind: str, warm: WarmPython, tmp_path: Path) -> Callable[..., Run]:
    """`fetch("model.path=...")` runs the command for a model of this hub, with a home folder of its own."""
    options = tmp_path / "options" / "model"
    options.mkdir(parents=True)
    (tmp_path / "home").mkdir()

    def run(*overrides: str, pinned: dict[str, str] | None = None, **env: str) -> Run:
        source = {"hub": kind, "repository": REPOSITORY, "sha256": pinned or {}}
        model = {"name": "tiny", "path": "local-model/tiny", "download": source}
        (options / "tiny.yaml").write_text(json.dumps(model), encoding="utf-8")
        words = ["-m", "gpuqa.download", "--config-dir", str(options.parent), "model=tiny", *overrides]
        hub_settings = {"HF_ENDPOINT": hub.url, "MODELSCOPE_ENDPOINT": hub.url, "HOME": str(tmp_path / "home")}
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            environment = child_environment({**hub_settings, **QUICK, **env})
            code = warm.start(words, tmp_path, environment, out.fileno(), err.fileno()).wait(60)
            said = [(file.seek(0), file.read().decode())[1] for file in (out, err)]
        assert "Traceback" not in said[0] + said[1], said[1]
        return Run(words, code, *said)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the weights are to be."""
    return tmp_path / "local-model" / "tiny"


def content_of(folder: Path) -> dict[str, bytes]:
    """What lies in a model's folder, without the record."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "gpuqa-download.json"]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def record_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "gpuqa-download.json").read_text(encoding="utf-8"))
    return record


def fetched(run: Run) -> str:
    """What a download that worked says."""
    assert run.returncode == 0, run.stdout + run.stderr
    assert "tiny is in local-model/tiny; measure it with: python -m gpuqa.sweep model=tiny" in run.stdout
    return run.stdout


def reason(run: Run, kind: str) -> str:
    """The one line that a failed download says, behind what was asked for."""
    assert run.returncode == 1, run.stdout + run.stderr
    assert run.stdout == "", "it did not arrive"
    [line] = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    begin = f"error: {REPOSITORY} at revision {BRANCH[kind]} on {kind}: "
    assert line.startswith(begin)
    return line.removeprefix(begin)


# What comes


def test_a_model_is_fetched_whole_with_a_record_of_what_came(
    fetch: Callable[..., Run], hub: StubHub, kind: str, folder: Path
) -> None:
    said = fetched(fetch(pinned={"model.safetensors": sha256(FILES["model.safetensors"])}))
    assert f"3 files, 1.0 MB, of revision {BRANCH[kind]} (commit {hub.commit}) are as the hub lists them" in said
    assert content_of(folder) == FILES
    digests = {path: {"size": len(content), "sha256": sha256(content)} for path, content in FILES.items()}
    record = {"hub": kind, "repository": REPOSITORY, "revision": BRANCH[kind], "commit": hub.commit, "files": digests}
    assert record_of(folder) == record
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"], "nothing is left beside it"


def test_what_is_there_already_is_compared_and_not_fetched_again(fetch: Callable[..., Run], hub: StubHub, folder: Path) -> None:
    fetched(fetch())
    hub.asked.clear()
    (folder / "notes.txt").write_text("mine")
    assert "not of this revision: notes.txt" in fetched(fetch())
    assert not [asked for asked in hub.asked if asked.is_for_a_file]
    assert content_of(folder) == {**FILES, "notes.txt": b"mine"}


def test_a_branch_that_moved_brings_a_new_folder_and_the_old_one_is_kept(
    fetch: Callable[..., Run], hub: StubHub, folder: Path
) -> None:
    fetched(fetch())
    (folder / "notes.txt").write_text("mine")
    hub.files = dict(NEW)
    hub.asked.clear()
    said = fetched(fetch())
    assert content_of(folder) == NEW
    assert record_of(folder)["commit"] == hub.commit
    kept = folder.with_name("tiny.previous")
    assert content_of(kept) == {**FILES, "notes.txt": b"mine"}
    assert "not of this revision: notes.txt, tokenizer/vocab.json" in said
    assert f"the folder that was there before is now {kept}" in said
    assert not [asked for asked in hub.asked if asked.is_for_a_file and "config.json" in asked.path], "it was there"
    hub.files = dict(FILES)
    fetched(fetch())
    assert content_of(folder.with_name("tiny.previous1")) == NEW, "nothing that was kept is ever replaced"


def test_a_file_that_was_damaged_is_fetched_again_even_if_its_size_and_time_are_those_of_before(
    fetch: Callable[..., Run], folder: Path
) -> None:
    fetched(fetch())
    damaged = folder / "config.json"
    times = damaged.stat().st_atime_ns, damaged.stat().st_mtime_ns
    damaged.write_bytes(FILES["config.json"].swapcase())
    os.utime(damaged, ns=times)
    fetched(fetch())
    assert content_of(folder) == FILES


def test_a_download_that_was_cut_leaves_the_old_folder_and_goes_on_where_it_stopped(
    fetch: Callable[..., Run], hub: StubHub, kind: str, folder: Path
) -> None:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("weights of before")
    hub.cut = "model.safetensors"
    why = reason(fetch(), kind)
    assert {"huggingface": "peer closed connection", "modelscope": "did not deliver model.safetensors: "}[kind] in why
    print(why)
    assert content_of(folder) == {"model.safetensors": b"weights of before"}
    hub.cut = ""
    hub.asked.clear()
    fetched(fetch())
    assert content_of(folder) == FILES
    assert all("model.safetensors" in asked.path for asked in hub.asked if asked.is_for_a_file), "the others had come"
    if kind == "modelscope":  # huggingface_hub 2 begins a file anew
        assert [asked.range for asked in hub.asked if asked.is_for_a_file] == [f"bytes={len(FILES['model.safetensors']) // 2}-"]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["tiny", "tiny.previous"]


@ONE_HUB
def test_a_second_download_of_the_same_folder_is_refused_and_leaves_the_first_alone(
    fetch: Callable[..., Run], hub: StubHub, kind: str, folder: Path
) -> None:
    hub.silent = "model.safetensors"
    runs: list[Run] = []
    first = threading.Thread(target=lambda: runs.append(fetch(MODELSCOPE_DOWNLOAD_TIMEOUT="60")))
    first.start()
    deadline = time.monotonic() + 30
    while not any(asked.is_for_a_file for asked in hub.asked) and time.monotonic() < deadline:
        time.sleep(0.01)
    where = f"another download is bringing {folder}; wait for it or end it, then run this again"
    assert refused(fetch()) == f"error: model.path: {where}"
    hub.over.set()  # the connection ends without the file
    first.join()
    assert "did not deliver model.safetensors: " in reason(runs[0], kind)
    hub.silent = ""
    fetched(fetch())
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"], "no lock is left"


@ONE_HUB
def test_a_kill_between_the_two_renames_loses_no_weights(fetch: Callable[..., Run], hub: StubHub, folder: Path) -> None:
    """The state is made by hand: no signal would come just then."""
    fetched(fetch())
    (folder.with_name("tiny.previous")).mkdir()
    folder.rename(folder.with_name("tiny.previous1"))
    (folder.with_name("tiny.incoming")).mkdir()
    hub.status = 503
    run = fetch()
    assert run.returncode == 1
    assert run.stdout == f"{folder}.previous1 is {folder} again: a download was ended while it replaced that folder\n"
    assert content_of(folder) == FILES
    hub.status, hub.files = 200, dict(NEW)
    fetched(fetch())
    assert (content_of(folder), content_of(folder.with_name("tiny.previous1"))) == (NEW, FILES)


def test_a_token_of_the_environment_is_sent_and_never_shown(fetch: Callable[..., Run], hub: StubHub, kind: str) -> None:
    run = fetch(**{TOKEN[kind]: "secretsecretsecret"})
    fetched(run)
    assert {asked.token for asked in hub.asked if REPOSITORY in asked.path} == {"Bearer secretsecretsecret"}
    assert "secretsecret" not in run.stdout + run.stderr


def test_no_token_is_taken_from_a_login_that_left_one_in_the_home(
    fetch: Callable[..., Run], hub: StubHub, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    for file in (".cache/huggingface/token", ".modelscope/credentials/token", ".modelscope/credentials/git_token"):
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).write_text("somebodyelses")
    (home / ".netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    fetched(fetch())
    assert {asked.token for asked in hub.asked} == {None}


def test_a_home_that_cannot_be_written_stops_nothing(fetch: Callable[..., Run], folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fetched(fetch(HOME=str(tmp_path / "file" / "home")))
    assert content_of(folder) == FILES


# What fails: one line with the reason, and the old folder as it was


def swapped(hub: StubHub) -> None:
    hub.swapped = "model.safetensors"


def silent(hub: StubHub) -> None:
    hub.silent = "*"


def empty(hub: StubHub) -> None:
    hub.empty_listing = True


def outside(hub: StubHub) -> None:
    hub.files["../beside.txt"] = b"harmless"


def unreachable(hub: StubHub) -> None:
    hub.url = "http://127.0.0.1:9"  # the discard service: nothing listens there


def status(number: int) -> Callable[[StubHub], None]:
    def of_all(hub: StubHub) -> None:
        hub.status = number

    of_all.__name__ = f"status_{number}"
    return of_all


def file_status(hub: StubHub) -> None:
    hub.file_status = 404


FAULTS: dict[Callable[[StubHub], None], dict[str, str]] = {  # what the reason says, by whose client
    swapped: {"huggingface": "model.safetensors is not what the hub lists", "modelscope": "model.safetensors"},
    silent: {"huggingface": "timed out", "modelscope": "time"},
    empty: {"huggingface": "the hub lists no file", "modelscope": "the hub lists no file"},
    outside: {"huggingface": "'../beside.txt', a path outside", "modelscope": "'../beside.txt', a path outside"},
    unreachable: {"huggingface": "refused", "modelscope": "refused"},
    status(401): {"huggingface": "401", "modelscope": "401"},
    status(404): {"huggingface": "404", "modelscope": "404"},
    status(429): {"huggingface": "429", "modelscope": "429"},
    status(500): {"huggingface": "500", "modelscope": "500"},
    file_status: {"huggingface": "404", "modelscope": "404"},
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_hub_that_fails_is_quoted_in_one_line_and_the_old_folder_stays(
    fault: Callable[[StubHub], None], fetch: Callable[..., Run], hub: StubHub, kind: str, folder: Path
) -> None:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("weights of before")
    hub.files = dict(NEW)
    fault(hub)
    run = fetch()
    print(run.stderr)
    assert FAULTS[fault][kind] in reason(run, kind)
    assert content_of(folder) == {"model.safetensors": b"weights of before"}
    assert not (folder.parent / "beside.txt").exists()


@ONE_HUB
def test_a_file_that_never_comes_is_given_up(fetch: Callable[..., Run], hub: StubHub, kind: str, folder: Path) -> None:
    """By ModelScope's client: the other one tries five times more, with sleeps that no setting of its own makes shorter."""
    hub.silent = "model.safetensors"
    assert "did not deliver model.safetensors: " in reason(fetch(), kind)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "absent.safetensors"])
def test_another_digest_than_the_pinned_one_is_refused_before_anything_is_fetched(
    name: str, fetch: Callable[..., Run], hub: StubHub, kind: str
) -> None:
    expected = sha256(b"what was reviewed")
    why = reason(fetch(pinned={name: expected}), kind)
    listed = f"{name}: the hub lists sha256 {sha256(FILES['model.safetensors'])}, model.download.sha256 says {expected}"
    assert why == (listed if name in FILES else f"model.download.sha256 names {name!r}, which the hub does not list")
    assert not [asked for asked in hub.asked if asked.is_for_a_file]


def test_a_file_without_a_listed_digest_is_held_to_the_pinned_one(fetch: Callable[..., Run], hub: StubHub, kind: str) -> None:
    hub.unlisted = ("tokenizer/vocab.json",)  # by ModelScope; Hugging Face lists git's digest of it
    run = fetch(pinned={"tokenizer/vocab.json": sha256(b"{} ")})
    assert "tokenizer/vocab.json" in reason(run, kind)
    fetched(fetch(pinned={"tokenizer/vocab.json": sha256(b"{}").upper()}))


@ONE_HUB
def test_a_file_without_any_digest_is_named(fetch: Callable[..., Run], hub: StubHub, folder: Path) -> None:
    hub.unlisted = ("config.json",)
    assert "compared by size alone, because the hub lists no digest of them: config.json" in fetched(fetch())
    assert record_of(folder)["files"]["config.json"]["sha256"] == sha256(FILES["config.json"]), "recorded all the same"


@ONE_HUB
def test_the_record_of_another_download_that_was_uploaded_with_its_folder_is_not_taken(
    fetch: Callable[..., Run], hub: StubHub, kind: str, folder: Path
) -> None:
    hub.files["gpuqa-download.json"] = b"{}"
    fetched(fetch())
    assert record_of(folder)["commit"] == hub.commit
    assert content_of(folder) == FILES


def test_the_courses_model_is_asked_for_at_each_hubs_own_default_branch(fetch: Callable[..., Run], kind: str) -> None:
    run = fetch("model=qwen3_0_6b_gpu_pro", f"model.download.hub={kind}")
    assert run.returncode == 1
    assert f"error: Iammarcus/Qwen3-0.6B-GPU-Pro at revision {BRANCH[kind]} on {kind}: " in run.stderr


# Mistakes of the user


def refused(run: Run) -> str:
    """The one line of a mistake in the input."""
    assert (run.returncode, run.stdout) == (2, "")
    [line] = run.stderr.splitlines()
    return line


@ONE_HUB
def test_no_token_is_taken_from_the_configuration(fetch: Callable[..., Run], hub: StubHub) -> None:
    assert "token" in refused(fetch("+model.download.token=secret"))
    assert hub.asked == []


@ONE_HUB
def test_a_model_without_a_repository_cannot_be_fetched(fetch: Callable[..., Run], tmp_path: Path) -> None:
    line = refused(fetch("model=embedded"))
    assert line == "error: model=embedded has no model.download.repository: there is nothing to fetch"


@ONE_HUB
def test_a_file_where_the_folder_should_be_is_refused(fetch: Callable[..., Run], folder: Path) -> None:
    folder.parent.mkdir()
    folder.touch()
    assert refused(fetch()) == f"error: model.path: {folder} is a file, and the weights need a folder; name another one"


@ONE_HUB
def test_a_folder_that_cannot_be_made_is_refused(fetch: Callable[..., Run], folder: Path) -> None:
    folder.parent.touch()
    assert f"{folder.parent} cannot be written: File exists" in refused(fetch())


def test_a_hub_whose_package_is_absent_says_what_to_install(command: Any, tmp_path: Path) -> None:
    """The package is hidden behind one that cannot be imported, so that this holds wherever it is installed."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "modelscope_hub.py").write_text("raise ImportError('hidden')\n")
    path = os.pathsep.join([str(tmp_path / "hidden"), child_environment()["PYTHONPATH"]])
    line = refused(command("download", "model=qwen3_0_6b_gpu_pro", cwd=tmp_path, env={"PYTHONPATH": path}))
    assert line == "error: model.download.hub=modelscope needs a package: pip install 'modelscope-hub>=0.5'"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hidden"]
