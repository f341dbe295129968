"""Engines side by side: worker processes on this machine's cores, one of which is killed; the places that a machine has.

The transformers backend runs the embedded model in the workers, because it starts in a moment.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_study import BARE, KEYWORDS, NARROW, Recorder, prepared, run

from gpuqa.config import UserError
from gpuqa.config.app import run_command
from gpuqa.config.executor import Executor, ExecutorConfig
from gpuqa.machine import hardware
from gpuqa.machine.places import sets_of_cores
from gpuqa.measure.cell import Cell
from gpuqa.measure.fingerprint import Stage
from gpuqa.records import Pass
from gpuqa.study import study
from gpuqa.study.executors.local import LocalPlace, places_for, places_of
from gpuqa.study.executors.places import unlike
from gpuqa.study.finals import schedule_of
from gpuqa.study.journal import Journal
from gpuqa.sweep import sweep

TWO = {"executor__workers": 2, "workload__repeats": 2}
needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")


def executor(**settings: Any) -> ExecutorConfig:
    return ExecutorConfig("local", Executor.local, **settings)


def env(visible: str) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def workers() -> list[psutil.Process]:
    """The worker processes below this one."""
    return [child for child in psutil.Process().children() if "gpuqa.study.executors.worker" in " ".join(child.cmdline())]


class Kills(Recorder):
    """Kills the process that measured the first pass, and keeps all passes."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal)
        self.all: list[Pass] = []
        self.killed = 0

    def pass_done(self, cell: Cell, measured: Pass) -> None:
        super().pass_done(cell, measured)
        self.all.append(measured)
        if not self.killed:
            [worker] = [one for one in workers() if measured.place in one.cmdline()]
            self.killed = worker.pid
            worker.kill()


@needs_two_cores
@pytest.mark.engine
@pytest.mark.usefixtures("one_thread")
def test_two_workers_make_the_same_trials_as_one_process_although_one_of_them_is_killed(tmp_path: Path) -> None:
    rows = ({**BARE, **TWO}, {**KEYWORDS, **TWO}, {**NARROW, **TWO})
    cells, journal = prepared(*rows), Journal(tmp_path / "two")
    recorder = Kills(journal)
    outcome = asyncio.run(study.run(cells, journal, recorder, places_for([cell.config for cell in cells])))
    assert [trial.error for trial in outcome.trials] == [None] * 3
    assert outcome.engine_starts == 3, "two engines, and one again after its process was killed"
    assert not workers()
    assert [file.name for file in (tmp_path / "two").glob("*.log")] == ["engine.log"], "those of both places are in it"
    assert len(recorder.passes) == len(set(recorder.passes)) == 6, "no pass was lost or measured twice"
    assert {measured.place for measured in recorder.all} == {place.name for place in sets_of_cores(2)}
    alone = prepared(*({key: value for key, value in row.items() if key != "executor__workers"} for row in rows))
    assert [cell.key for cell in alone] == [cell.key for cell in cells], "where an engine runs is no part of a trial's key"
    run(alone, tmp_path / "one")
    for cell in cells:
        texts = [[answer.answer for answer in Journal(tmp_path / name).answers(cell.key)] for name in ("one", "two")]
        assert texts[0] == texts[1]


@needs_two_cores
@pytest.mark.engine
@pytest.mark.usefixtures("one_thread")
def test_finalists_get_a_start_of_every_engine_at_every_place_and_one_place_measures_at_a_time(tmp_path: Path) -> None:
    rows = [{**row, **TWO, "study__max_repeats": 4} for row in (BARE, NARROW)]
    cells, journal = [replace(cell, stage=Stage.finals) for cell in prepared(*rows)], Journal(tmp_path)
    places = places_for([cell.config for cell in cells])
    outcome = asyncio.run(study.run_finals(cells, journal, Recorder(journal), list, schedule_of(cells, (), places)))
    assert outcome.engine_starts == 4, "two engines at two places"
    for trial in outcome.trials:
        assert trial.measurement is not None
        assert [device.place for device in trial.measurement.devices] == [place.name for place in places for _ in range(2)]
    passes = [measured for cell in cells for measured in journal.read_passes(cell.key)]
    spans = sorted((measured.began_at, measured.began_at + measured.answered.seconds) for measured in passes)
    assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(spans)), "the places share a processor"


@needs_two_cores
@pytest.mark.engine
@pytest.mark.slow
def test_workers_end_with_a_study_that_is_killed(tmp_path: Path) -> None:
    words = ["executor.workers=2", "experiment=none", "engine=transformers", "prompt=bare", "quantization=none"]
    words += ["engine.args.batch_size=1,2", "dataset.limit=40", f"study.root={tmp_path}"]
    with subprocess.Popen([sys.executable, "-m", "gpuqa.sweep", *words], stdout=subprocess.DEVNULL) as running:
        below = started_workers(psutil.Process(running.pid))
        running.kill()
    gone, alive = psutil.wait_procs(below, timeout=10)
    assert (len(gone), alive) == (2, [])


def started_workers(parent: psutil.Process) -> list[psutil.Process]:
    """Both workers, as soon as they are there."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        found = [child for child in parent.children() if "gpuqa.study.executors.worker" in " ".join(child.cmdline())]
        if len(found) == 2:
            return found
        time.sleep(0.05)
    raise AssertionError("no workers came up")


def test_cores_are_cut_into_sets_of_one_size_and_gpus_into_sets_for_one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4})
    monkeypatch.setattr(hardware, "visible_gpu_models", lambda: dict.fromkeys("0123", "a card"))
    assert places_of(executor(), 1) == [], "in the study's own process"
    assert [place.cores for place in places_of(executor(workers=2), 0)] == [(0, 1), (2, 3)]
    assert [place.name for place in places_of(executor(workers=5), 0)] == [f"cores {core}" for core in range(5)]
    visible = [place.env["CUDA_VISIBLE_DEVICES"] for place in places_of(executor(gpus="all"), 1)]
    assert visible == ["0", "1", "2", "3"]
    assert places_of(executor(gpus=[3, 1]), 2) == [LocalPlace("GPU 3, 1", env("3,1"), model="a card")]
    assert [place.name for place in places_of(executor(gpus=3), 2)] == ["GPU 0, 1"], "the third is half an engine's"


@pytest.mark.parametrize(
    ("settings", "engine_gpus", "told"),
    [
        ({"gpus": 7}, 1, "executor.gpus: got 7, allowed is at most 2: this machine shows 0, 1"),
        ({"gpus": [0, 5]}, 1, "ids of GPUs: this machine shows 0, 1, not 5"),
        ({"gpus": "all"}, 4, "executor.gpus: got 'all', 2 in all; an engine of this study takes 4"),
        ({"gpus": 2}, 0, "executor.gpus: got 2, allowed is null here: engines of this study compute on none"),
        ({"workers": 3}, 0, "executor.workers: got 3, allowed is at most 2"),
    ],
)
def test_places_that_a_machine_does_not_have_are_refused(
    settings: dict[str, Any], engine_gpus: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(hardware, "visible_gpu_models", lambda: dict.fromkeys("01", "a card"))
    with pytest.raises(UserError) as refused:
        places_of(executor(**settings), engine_gpus)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"gpus": [1, 1]}, "executor.gpus: got [1, 1], allowed is a list that has each id once"),
        ({"gpus": 0}, "executor.gpus: got 0, allowed is null, all, how many (at least 1), or a list of ids such as [0,1]"),
        ({"gpus": "both"}, "executor.gpus: got 'both'"),
        ({"workers": 0}, "executor.workers: got 0, allowed is an integer of at least 1, or null"),
        ({"workers": 2, "gpus": 1}, "executor.workers: got 2, allowed is null beside executor.gpus"),
    ],
)
def test_settings_that_name_no_places_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as refused:
        executor(**settings)
    assert told in str(refused.value)


def test_without_a_gpu_the_message_says_what_to_do_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "visible_gpu_models", dict)
    with pytest.raises(UserError, match=r"this machine shows no GPU; executor\.workers=2 runs engines side by side on cores"):
        places_of(executor(gpus="all"), 1)


def test_places_on_unlike_gpus_are_named_with_their_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "visible_gpu_models", lambda: {"0": "old card", "1": "new card", "2": "new card"})
    said = "the GPUs are not alike (GPU 0: old card; GPU 1: new card): speeds are compared on one GPU only, and the finalists"
    assert unlike(places_of(executor(gpus=[0, 1]), 1)) == f"{said} are measured on every one"
    assert unlike(places_of(executor(gpus=[1, 2]), 1)) == ""
    assert [place.model for place in places_of(executor(gpus=2), 2)] == ["old card + new card"]
    assert unlike(places_of(executor(), 1)) == ""


BAD_INPUT = [
    ("executor.gpus=7", "executor.gpus: got 7, allowed is at most 2: this machine shows 0, 1"),
    ("executor.gpus=-1", "executor.gpus: got -1, allowed is null, all, how many (at least 1), or a list of ids"),
    ("executor.gpus=1.5", "executor.gpus: got 1.5, allowed is null, all, how many"),
    ("executor.gpus=true", "executor.gpus: got True, allowed is null, all, how many"),
    ("executor.gpus=both", "executor.gpus: got 'both', allowed is null, all, how many"),
    ("executor.gpus={a: 1}", "executor.gpus: got {'a': 1}, allowed is null, all, how many"),
    ("executor.gpus=[]", "executor.gpus: got [], allowed is null, all, how many"),
    ("executor.gpus=[1,1]", "executor.gpus: got [1, 1], allowed is a list that has each id once"),
    ("executor.gpus=[0,'0']", "executor.gpus: got [0, '0'], allowed is a list that has each id once"),
    ("executor.gpus=[0,5]", "ids of GPUs: this machine shows 0, 1, not 5"),
    ("executor.gpus=[null]", "ids of GPUs: this machine shows 0, 1, not None"),
    ("executor.gpus=1,2", "executor: must be the same in all cells of a study; run one study for each; write several GPUs as"),
    (
        "executor.gpus=all +engine.args.device=cpu",
        "engines of this study compute on none; executor.workers=2 runs them side by side",
    ),
    ("executor.workers=0", "executor.workers: got 0, allowed is an integer of at least 1, or null"),
    ("executor.workers=3", "executor.workers: got 3, allowed is at most 2: this process may use so many cores"),
    ("executor.workers=2.5", "executor.workers"),
    ("executor.workers=2 executor.gpus=1", "executor.workers: got 2, allowed is null beside executor.gpus"),
    ("executor=everywhere", "executor"),
]


@pytest.mark.parametrize(("words", "told"), BAD_INPUT, ids=[words for words, _ in BAD_INPUT])
def test_a_sweep_with_places_that_there_are_not_ends_with_one_line_and_exit_code_2_before_an_engine_starts(
    words: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The real command in this process; two cards and two cores are made up, because a test machine has none or others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(hardware, "visible_gpu_models", lambda: dict.fromkeys("01", "a card"))
    chosen = ["experiment=none", "engine=transformers", *re.split(r" (?=[\w+]+\.)", words)]
    monkeypatch.setattr(sys, "argv", ["gpuqa.sweep", *chosen])
    with pytest.raises(SystemExit) as ended:
        run_command(sweep, "sweep")
    said = capfd.readouterr()
    assert ended.value.code == 2
    assert told in said.err
    assert said.err.count("\n") == 1, said.err
    assert not list(tmp_path.rglob("*.jsonl"))


UNLIKE = ["0, GPU-a, NVIDIA L4", "1, GPU-b, NVIDIA H200"]


@pytest.mark.engine
@pytest.mark.slow
def test_a_sweep_over_two_cards_asks_for_them_once_and_compares_its_finalists_on_each(tmp_path: Path, command: Any) -> None:
    """nvidia-smi is made up, and the engines on its cards run on the processor, because a test machine has no two cards."""
    smi, asked = tmp_path / "nvidia-smi", tmp_path / "asked"
    rows = "\\n".join(UNLIKE)
    smi.write_text(f'#!/bin/sh\necho "$1" >> {asked}\ncase "$1" in *uuid*) printf \'{rows}\\n\' ;; esac\n')
    smi.chmod(0o755)
    words = ["experiment=none", "engine=transformers", "engine.args.batch_size=1,2", "prompt=bare", "quantization=none"]
    words += ["dataset.limit=3", "sampling.max_tokens=8", "workload.repeats=2", "study.max_repeats=4", "study.name=two"]
    words += ["selection.min_rouge_l_f1_judge=0", "selection.min_rouge_l_f1_of_best=0", "selection.max_truncated_fraction=1"]
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = command("sweep", *words, "executor.gpus=all", cwd=tmp_path, late_env=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on 2 engines, side by side on GPU 0; GPU 1" in done.stdout
    assert "the GPUs are not alike (GPU 0: NVIDIA L4; GPU 1: NVIDIA H200): speeds are compared on one GPU only" in done.stdout
    assert asked.read_text().count("index,uuid,name") == 1
    told = "which are not alike; speeds were compared on each of them only."
    assert told in " ".join(done.stdout.split())
    again = [trial.measurement for trial in Journal(tmp_path / "experiments" / "two").read().values()]
    places = [[device.place for device in one.devices] for one in again if one is not None and one.repeats == 4]
    assert places == [["GPU 0", "GPU 0", "GPU 1", "GPU 1"]] * 2
