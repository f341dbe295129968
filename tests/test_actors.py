"""Engines in actors of Ray: on a cluster of this machine for the study alone, and on one that runs and asks for a token.

Ray starts twice in this file, because that takes seconds and seven processes. The transformers backend runs the embedded model.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import child_environment
from small_study import BARE, KEYWORDS, NARROW, Recorder, config, prepared

from gpuqa.config import UserError
from gpuqa.config.app import run_command
from gpuqa.measure.cell import Cell
from gpuqa.records import Pass
from gpuqa.study import study
from gpuqa.study.executors import opened
from gpuqa.study.executors.actors import places_on, resources
from gpuqa.study.executors.places import Wanted
from gpuqa.study.executors.ray_cluster import MODE, TOKENS, ask
from gpuqa.study.journal import Journal
from gpuqa.sweep import sweep

ROWS = (BARE, KEYWORDS, NARROW)


def in_actors(folder: Path, **settings: Any) -> list[dict[str, Any]]:
    own = {"executor": "ray", "executor__workers": 2, "workload__repeats": 2, "study": {"name": "ray", "root": str(folder)}}
    return [{**row, **own, **settings} for row in ROWS]


def actors() -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["cmdline"]) if any("RemoteOutpost" in w for w in one.info["cmdline"] or ())]


class KillsAnActor(Recorder):
    """Kills the actor that measured the first pass."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal)
        self.killed: list[psutil.Process] = []

    def pass_done(self, cell: Cell, measured: Pass) -> None:
        super().pass_done(cell, measured)
        if not self.killed:
            self.killed = [one for one in actors() if one.children()][:1]
            self.killed[0].kill()


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_actors_make_the_same_trials_as_one_process_although_one_of_them_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    recorder, rows = KillsAnActor(Journal(tmp_path / "ray")), in_actors(tmp_path)
    with opened([config(**row) for row in rows]) as places:
        assert not any(place.is_a_device for place in places), "they share the processor"
        cells = study.prepare([(config(**row), {}) for row in rows], environment=places[0].environment)
        outcome = asyncio.run(study.run(cells, recorder.journal, recorder, places))
        below = psutil.Process().children(recursive=True)
    assert recorder.killed
    assert [trial.error for trial in outcome.trials] == [None] * 3
    assert outcome.engine_starts == 3, "two engines, and one again after its actor was killed"
    assert len(recorder.passes) == len(set(recorder.passes)) == 6, "no pass was lost or measured twice"
    ray_is = [one for one in below if "ray" in name_of(one)]
    assert not psutil.wait_procs(ray_is, timeout=20)[1], "the cluster ends with the study"
    alone = Recorder(Journal(tmp_path / "one"))
    there = prepared(*({**row, "workload__repeats": 2} for row in ROWS))
    assert [cell.key for cell in there] == [cell.key for cell in cells], "where an engine runs is no part of a trial's key"
    asyncio.run(study.run(there, alone.journal, alone))
    for cell in cells:
        texts = [[answer.answer for answer in journal.answers(cell.key)] for journal in (recorder.journal, alone.journal)]
        assert texts[0] == texts[1]
        assert texts[0]


def name_of(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return process.name()
    return ""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """The address of a cluster with a token that the test's user does not have."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {**os.environ, MODE: "token", TOKENS[0]: "a" * 40, "RAY_USAGE_STATS_ENABLED": "0"}
    words = ["--head", "--block", "--include-dashboard=false", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=1"]
    words += ["--object-store-memory=80000000"]
    script = [sys.executable, "-m", "ray.scripts.scripts", "start", *words]
    with subprocess.Popen(script, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as head:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and head.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
        below = psutil.Process(head.pid).children(recursive=True)
        head.terminate()
        head.wait(30)
        for one in psutil.wait_procs(below, timeout=20)[1]:
            one.kill()


@pytest.mark.engine
@pytest.mark.slow
def test_a_cluster_that_runs_is_joined_by_whoever_has_its_token_and_others_are_told(cluster: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    words = ["executor=ray", f"executor.address={cluster}", "experiment=none", "engine=transformers", "quantization=none"]
    words += ["dataset.limit=2", "sampling.max_tokens=4", "workload.repeats=1", "study.finalists=0", f"study.root={tmp_path}"]
    words += ["selection.min_rouge_l_f1_judge=0", "selection.min_rouge_l_f1_of_best=0", "selection.max_truncated_fraction=1"]
    bare = {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    nothing, other = "there is none here (~/.ray/auth_token, or RAY_AUTH_TOKEN)", "the token here is another one"
    for token, told in ((None, nothing), ("b", other)):
        own = {**child_environment(), **bare, **({TOKENS[0]: token * 40} if token else {})}
        began = time.monotonic()
        done = run_sweep(words, own)
        took_s = time.monotonic() - began
        print(f"refused after {took_s:.1f} s")
        assert done.returncode == 2
        whole = f"error: executor.address: the cluster at {cluster} asks for a token, and {told}: copy the cluster's\n"
        assert done.stderr == whole
        assert took_s < 15, "Ray itself gives up after 20 s"
    done = run_sweep(words, {**child_environment(), **bare, TOKENS[0]: "a" * 40})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "side by side on actor 1" in done.stdout


def run_sweep(words: list[str], own: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpuqa.sweep", *words]
    return subprocess.run(command, env=own, capture_output=True, text=True, timeout=200, check=False)


BAD_INPUT = [
    (
        "executor.address=head",
        "executor.address: got 'head', allowed is auto, HOST:PORT, or null for a cluster on this machine",
    ),
    ("executor.address=ray://head:10001", "executor.address: got 'ray://head:10001', allowed is auto, HOST:PORT, or null"),
    ("executor.workers=0", "executor.workers: got 0, allowed is an integer of at least 1, or null"),
    (
        "executor.cluster=local",
        "executor.cluster: got 'local', allowed is null here; it belongs to executor=slurm",
    ),
    ("executor.start_timeout_s=null", "executor.start_timeout_s: got None, allowed is a number of seconds above 0"),
]


def refused(words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """What the real command says in this process, in its one line."""
    monkeypatch.setattr(sys, "argv", ["gpuqa.sweep", "experiment=none", "engine=transformers", "executor=ray", *words])
    with pytest.raises(SystemExit) as ended:
        run_command(sweep, "sweep")
    said = capfd.readouterr()
    assert ended.value.code == 2, said
    assert said.err.count("\n") == 1, said.err
    return said.err


@pytest.mark.parametrize(("word", "told"), BAD_INPUT, ids=[word for word, _ in BAD_INPUT])
def test_wrong_settings_of_actors_end_a_sweep_with_one_line_and_exit_code_2(
    word: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in refused([word], monkeypatch, capfd)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_without_ray_the_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "executor=ray: Ray is not installed; pip install 'gpuqa[ray]'" in refused([], monkeypatch, capfd)


@pytest.mark.slow
def test_an_address_at_which_nobody_listens_is_told_within_two_seconds_after_ray_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address, began = f"127.0.0.1:{taken.getsockname()[1]}", time.monotonic()
        told = refused([f"executor.address={address}"], monkeypatch, capfd)
    assert f"executor.address: nobody listens at {address} (Connection refused); `ray start --head` starts a cluster" in told
    assert time.monotonic() - began < 4, "one second is Hydra's"


@pytest.mark.slow
def test_an_address_at_which_something_else_listens_is_told() -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(UserError) as told:
            ask(address, join_s=2.0)
    assert f"executor.address: no Ray cluster lets this machine join at {address}: " in str(told.value)


def wanted(gpus: int, workers: int | None) -> Wanted:
    return Wanted([config(executor="ray", executor__workers=workers)], gpus)


def test_places_are_counted_node_by_node_because_an_engine_runs_on_one() -> None:
    nodes: list[dict[str, float]] = [{"CPU": 8, "GPU": 3}, {"CPU": 8, "GPU": 4}, {"CPU": 2}]
    assert [places_on(nodes, wanted(gpus, None)) for gpus in (1, 2, 4)] == [7, 3, 1]
    assert places_on(nodes, wanted(2, 2)) == 2
    assert resources(nodes, wanted(2, None)) == {"num_gpus": 2, "num_cpus": 1}
    with pytest.raises(
        UserError, match=r"executor\.workers: got 4, allowed is at most 3: the cluster has 3 nodes with 3, 4, 0 GPUs"
    ):
        places_on(nodes, wanted(2, 4))
    with pytest.raises(
        UserError, match=r"for a cluster that has an engine's 8 GPUs on one node; this one has 3 nodes with 3, 4, 0"
    ):
        places_on(nodes, wanted(8, None))
    on_cpus: list[dict[str, float]] = [{"CPU": 8}, {"CPU": 4}]
    assert places_on(on_cpus, wanted(1, None)) == 1
    assert resources(on_cpus, wanted(1, 3)) == {"num_gpus": 0, "num_cpus": 4}
