"""Engines in jobs: submitit's own processes of this machine stand for a cluster's, which a test machine has none of.

The transformers backend runs the embedded model in the jobs, because it starts in a moment.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import child_environment, end_session
from small_study import BARE, KEYWORDS, NARROW, Recorder, config, prepared

from gpuqa.config import UserError
from gpuqa.config.app import run_command
from gpuqa.machine import hardware
from gpuqa.machine.places import Part
from gpuqa.measure import fingerprint
from gpuqa.measure.cell import Cell
from gpuqa.measure.fingerprint import Stage
from gpuqa.records import Pass
from gpuqa.study import study
from gpuqa.study.executors import opened
from gpuqa.study.executors.mail import HEAD, Mail, Pulse, pause_s
from gpuqa.study.executors.outpost import Outpost, differences, part_of_this_process, refuse_other_overrides, wait_for_memory
from gpuqa.study.finals import schedule_of
from gpuqa.study.journal import Journal
from gpuqa.sweep import sweep

JOBS: dict[str, Any] = {"executor": "slurm", "executor__cluster": "local", "executor__workers": 2, "workload__repeats": 2}
ROWS = (BARE, KEYWORDS, NARROW)


def in_jobs(folder: Path, **settings: Any) -> list[dict[str, Any]]:
    own = {"study": {"name": "jobs", "root": str(folder)}}
    return [{**row, **JOBS, **own, **settings} for row in ROWS]


def job_processes() -> list[psutil.Process]:
    """Those of jobs, wherever they hang: submitit's processes live longer than who started them."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any("submitit" in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


SBATCH = """
grep -q nobody "$1" && {{ echo "sbatch: error: Invalid account or account/partition combination specified" >&2; exit 1; }}
cp "$1" {state}/$$.sh
SLURM_JOB_ID=$$ SLURM_JOB_NUM_NODES=1 SLURM_NTASKS=1 setsid bash "$1" > /dev/null 2>&1 &
echo $! > {state}/$$.pid
echo "Submitted batch job $$"
"""
SRUN = """
while [ "${{1#--}}" != "$1" ]; do
  case "$1" in --output) out="$2"; shift ;; --error) err="$2"; shift ;; esac
  shift
done
export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0
"$@" > "$(echo "$out" | sed "s/%j/$SLURM_JOB_ID/; s/%t/0/")" 2> "$(echo "$err" | sed "s/%j/$SLURM_JOB_ID/; s/%t/0/")"
"""
SACCT = """
echo "JobID|State|NodeList"
for id in $(echo "$@" | tr " " "\\n" | grep "^[0-9]*$"); do
  kill -0 "$(cat {state}/$id.pid)" 2> /dev/null && echo "$id|RUNNING|here" || echo "$id|NODE_FAIL|here"
done
"""
SCANCEL = """
echo "$1" >> {state}/cancelled
kill -TERM -"$(cat {state}/$1.pid)"
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four scripts stand for SLURM's commands, because a test machine is no cluster; the folder has what was submitted."""
    state, commands = tmp_path / "state", tmp_path / "bin"
    state.mkdir()
    commands.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "scancel": SCANCEL}.items():
        script(commands / name, text.format(state=state))
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    return state


class KillsAJob(Recorder):
    """Kills the job that measured the first pass."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal)
        self.killed = 0

    def pass_done(self, cell: Cell, measured: Pass) -> None:
        super().pass_done(cell, measured)
        if not self.killed:
            jobs = [one for one in job_processes() if one.cmdline()[0] == sys.executable and one.children()]
            jobs = [one for one in jobs if "submitit.core._submit" in one.cmdline()]
            self.killed = len(jobs)
            jobs[0].kill()


def measured_in_jobs(rows: list[dict[str, Any]], recorder: Recorder) -> tuple[list[Cell], study.Outcome]:
    """What the command does: open the places, prepare, run."""
    with opened([config(**row) for row in rows]) as places:
        cells = study.prepare([(config(**row), {}) for row in rows], environment=places[0].environment)
        return cells, asyncio.run(study.run(cells, recorder.journal, recorder, places))


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_jobs_make_the_same_trials_as_one_process_although_one_of_them_is_killed(slurm: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    settings = {"executor__cluster": "slurm", "executor__parameters__partition": "gpu"}
    recorder = KillsAJob(Journal(tmp_path / "jobs"))
    cells, outcome = measured_in_jobs(in_jobs(tmp_path, **settings), recorder)
    asked = {"#SBATCH --partition=gpu", "#SBATCH --time=240", "#SBATCH --gpus-per-node=1"}
    assert all(asked <= set(file.read_text().splitlines()) for file in slurm.glob("*.sh"))
    assert len(list(slurm.glob("*.sh"))) == 3, "a job for each engine, and one more for the one that was killed"
    assert not (slurm / "cancelled").exists(), "jobs end by themselves when they are told to"
    assert recorder.killed
    assert [trial.error for trial in outcome.trials] == [None] * 3
    assert outcome.engine_starts == 3, "two engines, and one again after its job was killed"
    assert len(recorder.passes) == len(set(recorder.passes)) == 6, "no pass was lost or measured twice"
    assert not psutil.wait_procs(job_processes(), timeout=10)[1]
    assert sorted(file.name for file in (tmp_path / "jobs").iterdir()) == ["engine.log", "events.jsonl", "trials"]
    alone = Recorder(Journal(tmp_path / "one"))
    there = prepared(*({**row, "workload__repeats": 2} for row in ROWS))
    assert [cell.key for cell in there] == [cell.key for cell in cells], "where an engine runs is no part of a trial's key"
    asyncio.run(study.run(there, alone.journal, alone))
    for cell in cells:
        texts = [[answer.answer for answer in journal.answers(cell.key)] for journal in (recorder.journal, alone.journal)]
        assert texts[0] == texts[1]
        assert texts[0]


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_finalists_keep_the_job_of_their_place_and_take_turns_on_one_processor(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    rows = in_jobs(tmp_path, study__max_repeats=4)[::2]
    recorder = Recorder(Journal(tmp_path / "jobs"))
    with opened([config(**row) for row in rows]) as places:
        found = study.prepare([(config(**row), {}) for row in rows], environment=places[0].environment)
        cells = [replace(cell, stage=Stage.finals) for cell in found]
        schedule = schedule_of(cells, (), places)
        outcome = asyncio.run(study.run_finals(cells, recorder.journal, recorder, list, schedule))
        jobs = len(list((tmp_path / "jobs" / "jobs").glob("*/*/pulse")))
    assert outcome.engine_starts == 4, "two engines at two places"
    assert jobs == 2
    passes = [measured for cell in cells for measured in recorder.journal.read_passes(cell.key)]
    spans = sorted((measured.began_at, measured.began_at + measured.answered.seconds) for measured in passes)
    assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(spans))


@pytest.mark.engine
@pytest.mark.usefixtures("one_thread")
def test_a_job_may_be_a_thread_of_this_process(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    recorder = Recorder(Journal(tmp_path / "jobs"))
    _, outcome = measured_in_jobs(in_jobs(tmp_path, executor__cluster="debug", executor__workers=1)[:1], recorder)
    assert [trial.error for trial in outcome.trials] == [None]


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told to end"])
def test_jobs_end_with_a_study_that_is(how: signal.Signals, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    words = ["executor=slurm", "executor.cluster=local", "executor.lost_after_s=3", "experiment=none", "engine=transformers"]
    words += ["prompt=bare", "quantization=none", "engine.args.batch_size=1,2", "dataset.limit=40", f"study.root={tmp_path}"]
    command, own = [sys.executable, "-m", "gpuqa.sweep", *words], child_environment()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=own, start_new_session=True) as running:
        below = engines_of_jobs(running)
        running.send_signal(how)
    gone, alive = psutil.wait_procs([*below, *job_processes()], timeout=30)
    end_session(running.pid)
    assert (len(gone) >= len(below), alive) == (True, [])
    assert running.returncode == (130 if how == signal.SIGTERM else -how)


def engines_of_jobs(running: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The engine processes below jobs, as soon as there is one."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and running.poll() is None:
        found = [child for child in psutil.Process(running.pid).children(recursive=True) if is_engine(child)]
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("no job started an engine")


def is_engine(process: psutil.Process) -> bool:
    try:
        return "gpuqa.study.executors.worker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def script(file: Path, line: str) -> str:
    file.write_text(f"#!/bin/sh\n{line}\n")
    file.chmod(0o755)
    return str(file)


BAD_INPUT = [
    (
        ["+executor.parameters.partitoin=gpu"],
        "executor.parameters.partitoin: submitit has no such parameter for sbatch; nearest: partition",
    ),
    (
        ["executor.parameters.wckey=a"],
        "executor.parameters.wckey: the file of this option does not have it; a + adds it: +exec",
    ),
    (["executor.parameters.cpus_per_task=two"], 'executor.parameters: submitit refuses them: Parameter "cpus_per_task"'),
    (["executor.cluster=slurm"], 'executor.cluster=slurm: Could not detect "srun"'),
    (["executor.cluster=lsf"], "executor.cluster"),
    (["executor.cluster=null"], "executor.cluster: got None, allowed is slurm, local or debug"),
    (["executor.workers=null"], "executor.workers: got None, allowed is an integer of at least 1"),
    (["executor.gpus=all"], "executor.gpus: got 'all', allowed is null here; it belongs to executor=local"),
    (["executor.address=auto"], "executor.address: got 'auto', allowed is null here; it belongs to executor=ray"),
    (["executor.start_timeout_s=0"], "executor.start_timeout_s: got 0.0, allowed is a number of seconds above 0"),
    (["executor.lost_after_s=null"], "executor.lost_after_s: got None, allowed is a number of seconds above 0"),
]


def refused(words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """What the real command says in this process, in its one line."""
    chosen = ["experiment=none", "engine=transformers", "quantization=none", "executor=slurm", "executor.cluster=local", *words]
    last = {word.partition("=")[0]: word for word in chosen}
    monkeypatch.setattr(sys, "argv", ["gpuqa.sweep", *last.values()])
    with pytest.raises(SystemExit) as ended:
        run_command(sweep, "sweep")
    said = capfd.readouterr()
    assert ended.value.code == 2, said
    *others, last_line = said.err.splitlines()
    assert not [line for line in others if line.startswith(("error", "gpuqa"))], said.err
    assert not others or "submitit/local/_local.py" in said.err, (
        "submitit's local cluster shows a traceback where it is cancelled"
    )
    return last_line


@pytest.mark.parametrize(("words", "told"), BAD_INPUT, ids=[words[0] for words, _ in BAD_INPUT])
def test_wrong_settings_of_jobs_end_a_sweep_with_one_line_and_exit_code_2(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if "submitit" in told or "srun" in told:
        pytest.importorskip("submitit")
    if "srun" in told and shutil.which("srun"):
        pytest.skip("this is a cluster")
    monkeypatch.chdir(tmp_path)
    assert told in refused(words, monkeypatch, capfd)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_what_sbatch_says_to_a_job_that_it_refuses_is_told(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    told = refused(["executor.cluster=slurm", "executor.parameters.account=nobody"], monkeypatch, capfd)
    assert "executor=slurm: the cluster refuses the job: sbatch: error: Invalid account or account/partition" in told


def test_without_submitit_the_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert "executor=slurm: submitit is not installed; pip install 'gpuqa[slurm]'" in refused([], monkeypatch, capfd)


HANDLER = """
import logging
import os
from pathlib import Path
from gpuqa.config.app import compose_cell
from gpuqa.study.executors.places import Wanted
from gpuqa.study.executors.slurm import submitter

class Handler(logging.Handler):
    def close(self):
        print("closed")

mine = Handler()
submitter(Wanted([compose_cell("experiment=none", "executor=slurm", "executor.cluster=local")], 0), Path("jobs"))
print("open", flush=True)
os._exit(0)  # the end of a process closes handlers, too
"""


@pytest.mark.slow
def test_submitit_leaves_the_log_handlers_of_other_modules_open(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    words = [sys.executable, "-c", HANDLER]
    done = subprocess.run(words, cwd=tmp_path, env=child_environment(), capture_output=True, text=True)
    assert done.stdout.split() == ["open"], done.stderr


@pytest.mark.slow
def test_a_job_that_does_not_start_in_time_is_cancelled_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    waits = script(tmp_path / "python", "exec sleep 60")
    told = refused([f"executor.python={waits}", "executor.start_timeout_s=0.5"], monkeypatch, capfd)
    assert re.search(r"executor\.start_timeout_s=0\.5: job \d+ did not start in that time; ask the cluster why it waits", told)
    assert not psutil.wait_procs(job_processes(), timeout=10)[1]


@pytest.mark.slow
def test_a_job_that_ends_before_its_first_word_is_told_with_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A Python that ends at once stands for a machine without it, and for one that does not see the study's disk."""
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    told = refused([f"executor.python={script(tmp_path / 'python', 'echo no such file >&2; exit 127')}"], monkeypatch, capfd)
    assert re.search(r"executor=slurm: job \d+ has ended \(FINISHED\): no such file; before it could say a word; do its", told)
    assert f"see the study's folder, and this Python? ({tmp_path}" in told
    assert sys.executable in told


def test_a_message_is_taken_when_it_is_whole_and_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "events"
    file.touch()
    sender, reader = Mail(file), Mail(file)
    assert reader.take() == []
    sender.send({"a": 1})
    sender.send(None)
    whole = file.read_bytes()
    for torn in (whole[:5], whole[: HEAD.size + 3], whole[: HEAD.size] + bytes(len(whole) - HEAD.size)):
        file.write_bytes(torn)
        assert reader.take() == [], "as a network's file system may show it"
    file.write_bytes(whole)
    assert [reader.take(), reader.take(), reader.take()] == [[{"a": 1}], [None], []]


def test_a_pulse_is_silent_for_as_long_as_its_file_does_not_change(tmp_path: Path) -> None:
    own, seen = Pulse(tmp_path / "pulse"), Pulse(tmp_path / "pulse")
    time.sleep(0.05)
    assert seen.silent_s() >= 0.05, "it is not there yet"
    own.beat()
    assert seen.silent_s() < 0.05
    assert [pause_s(waited) for waited in (0.0, 10.0, 1000.0)] == [0.02, 0.2, 1.0]


def test_another_machine_must_have_the_same_installation() -> None:
    ours = fingerprint.environment()
    assert differences(ours, {**ours, "device": "another card", "driver": "1.2"}) == "", "passes carry their device"
    assert differences(ours, {**ours, "code": "0"}) == "its code of gpuqa is another"
    theirs = {**ours, "versions": {**ours["versions"], "torch": "0.1"}, "code": "0"}
    assert differences(ours, theirs) == f"torch is {ours['versions']['torch']} here and 0.1 there"


def test_an_override_that_would_run_only_elsewhere_is_refused() -> None:
    [asking] = [config(engine="vllm_cpu", engine__attention="shared_prefix", engine__scheduler="default")]
    refuse_other_overrides([asking], [{"engine.attention=shared_prefix": "whatever the reason"}])
    with pytest.raises(
        UserError, match=r"engine\.attention=shared_prefix is off here \(.+\) and would run there, and this machine"
    ):
        refuse_other_overrides([asking], [{}])


def test_a_machine_with_other_weights_says_which(tmp_path: Path) -> None:
    [cell] = prepared(BARE)
    outpost = Outpost(str(tmp_path), str(tmp_path / "log"))
    known = cell.fingerprint["digests"]
    assert isinstance(known, dict)
    other = replace(cell, fingerprint={**cell.fingerprint, "digests": {**known, "weights": "0" * 64}})
    assert "the weights of model.path=" in outpost.other_model(other)
    assert f"({known['weights'][:12]}, and there 000000000000): give all machines the same files" in outpost.other_model(other)
    assert outpost.other_model(cell) == ""


def test_a_place_waits_until_an_engine_of_before_has_given_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's memory is made up, because a test machine has none."""
    readings = iter([90, 60, 30, 0])
    monkeypatch.setattr(hardware, "gpu_memory_bytes", lambda: next(readings) * hardware.GIB)
    wait_for_memory(steady_s=0.5)
    assert list(readings) == []
    monkeypatch.setattr(hardware, "gpu_memory_bytes", lambda: 40 * hardware.GIB)
    began = time.monotonic()
    wait_for_memory(steady_s=0.1)
    assert time.monotonic() - began < 5, "another user's memory is not waited for"


CARDS = ["0, GPU-11111111-aa, NVIDIA L4", "1, GPU-22222222-bb, NVIDIA H200", "2, GPU-33333333-cc, NVIDIA H200"]


@pytest.mark.parametrize(
    ("visible", "part"),
    [
        (None, Part("GPU 11111111, 22222222, 33333333", model="NVIDIA L4 + NVIDIA H200")),
        ("1,2", Part("GPU 22222222, 33333333", model="NVIDIA H200")),
        ("GPU-33333333", Part("GPU 33333333", model="NVIDIA H200")),
    ],
)
def test_a_place_on_cards_goes_by_their_ids_that_no_job_changes(
    visible: str | None, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nvidia-smi is made up, because a test machine has no cards; a number is another card's in another job."""
    monkeypatch.setattr(hardware, "nvidia_smi", lambda *_: CARDS)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert part_of_this_process() == part
    assert part.is_a_device
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not part_of_this_process().is_a_device, "it is to use none"


def test_places_name_no_device_of_their_own_where_they_share_a_processor(tmp_path: Path) -> None:
    part = Outpost(os.getcwd(), str(tmp_path / "log")).part
    assert part.is_a_device == bool(part.model), "a card is one"
