"""Studies that are killed, interrupted or started twice; real processes, real signals, the real engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT, end_session, run_python, start_python
from small_study import Recorder, prepared, run

from gpuqa.config import UserError
from gpuqa.machine.captured_output import root_cause
from gpuqa.measure.cell import Cell
from gpuqa.measure.failures import Failure, explained, kind_of
from gpuqa.records import Pass
from gpuqa.study import study
from gpuqa.study.journal import Journal

KILLS = int(os.environ.get("GPUQA_KILLS", "2"))  # `make simulations` takes 20
WORKER_KILLS = int(os.environ.get("GPUQA_WORKER_KILLS", "1"))  # `make simulations` takes 5, and also kills jobs and actors
RACE_KILLS = 1
BETWEEN_PASSES = "more than half of the kills come after a pass more than the one before"
SWEEP = ["prompt=bare,structured", "quantization=none", "engine.args.max_num_seqs=16,64",
         "dataset.limit=4", "sampling.max_tokens=24", "workload.repeats=2", "selection.min_rouge_l_f1_judge=0",
         "selection.max_truncated_fraction=1", "study.finalists=0"]  # fmt: skip


def environment(folder: Path) -> dict[str, str]:
    """A short cache folder, because the path of a Unix socket is limited."""
    return {
        **os.environ,
        "COLUMNS": "200",
        "PYTHONPATH": f"{ROOT}",
        "VLLM_CACHE_ROOT": str(folder / "c"),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `kill_study.py` found, of its grid and of its race."""
    folder = tmp_path_factory.mktemp("k")
    done = run_python(str(ROOT / "tests" / "kill_study.py"), str(folder), "1", str(KILLS), cwd=folder, timeout_s=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    grid, race = map(json.loads, done.stdout.splitlines()[-2:])
    return grid, race


@pytest.mark.engine
def test_kills_lose_no_finished_pass_and_measure_none_twice(killed: Any) -> None:
    found, _ = killed
    assert found["exit"] == 0
    assert found["measured"] == found["distinct"] == found["cells"], "every cell once"
    assert found["passes"] == found["expected_passes"] == 2 * found["cells"], "every pass once"
    assert found["kept_to_the_end"] == found["kept_after_each_kill"][-1], "and none again after the last kill"
    assert found["left_over"] == [], "passes go when their trial is there"
    assert found["names"] == found["expected_names"], "the table of an undisturbed run"
    assert found["kept_after_each_kill"] == sorted(found["kept_after_each_kill"])
    assert len(set(found["kept_after_each_kill"])) > KILLS // 2, BETWEEN_PASSES


@pytest.mark.engine
def test_a_race_that_is_killed_ends_as_one_that_nobody_disturbed(killed: Any) -> None:
    _, found = killed
    assert found["exit"] == 0
    assert found["end"] == found["undisturbed_end"], "the same cells dropped for the same reasons, the same scores"
    assert len(found["end"]) == found["cells"] == 4
    assert sum("answers are truncated" in (reason or "") for reason, *_ in found["end"]) == 2
    assert found["undisturbed_passes"] == 4 + 2 * 2, "a slice of every cell, two repeats of those that stay"
    lost = found["undisturbed_passes"] - found["passes_told"]
    assert 0 <= lost <= RACE_KILLS, "no pass is measured twice; a kill may come after it is kept and before it is told"
    assert len(found["kept_after_each_kill"]) == RACE_KILLS
    assert found["kept_after_each_kill"][0] > 0, "the kill came after a pass"
    assert found["left_over"] == []


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
@pytest.mark.parametrize("kind", ["workers", "jobs", "actors"])
def test_a_study_with_two_workers_that_is_killed_ends_as_one_without_workers(kind: str, tmp_path: Path) -> None:
    """That no engine outlives the study, `kill_study.py` asserts after each kill."""
    if kind != "workers" and "GPUQA_WORKER_KILLS" not in os.environ:
        pytest.skip("make simulations runs it")
    script = [sys.executable, str(ROOT / "tests" / "kill_study.py"), str(tmp_path), "1", str(WORKER_KILLS), kind]
    done = subprocess.run(script, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["exit"] == 0
    assert found["end"] == found["undisturbed_end"], "the same scores"
    assert found["names"] == found["expected_names"], "the same table"
    assert found["measured"] == found["distinct"] == found["cells"] == 8, "every cell once"
    assert found["passes"] == found["expected_passes"], "every pass once"
    assert found["kept_to_the_end"] == found["kept_after_each_kill"][-1] > 0, "and none again after the last kill"
    assert found["left_over"] == []


class KillsTheEngine(Recorder):
    """An observer that kills the engine's process after each of the first passes."""

    def __init__(self, journal: Journal, kills: int) -> None:
        super().__init__(journal)
        self.kills = kills

    def pass_done(self, cell: Cell, measured: Pass) -> None:
        super().pass_done(cell, measured)
        if self.kills:
            self.kills -= 1
            [engine] = engines_of_this_process()
            engine.kill()


RACE = {"study__racing": True, "study__racing_first_slice": 2, "dataset__limit": 8, "workload__repeats": 2}


@pytest.mark.engine
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("kills", "settings", "failure"),
    [(1, {"workload__repeats": 3}, None), (2, {"workload__repeats": 3}, "engine_died"), (1, RACE, None)],
    ids=["once", "twice", "once, in a race"],
)
def test_a_cell_whose_engine_is_killed_is_tried_once_more_in_the_same_run(
    kills: int, settings: dict[str, Any], failure: str | None, tmp_path: Path
) -> None:
    cells = prepared({"engine": "vllm_cpu", "prompt": "bare", **settings})
    watched = KillsTheEngine(Journal(tmp_path), kills)
    outcome = asyncio.run(study.run(cells, watched.journal, watched))
    assert outcome.engine_starts == 2
    [trial] = outcome.trials
    assert (trial.error and trial.error.partition(":")[0]) == failure
    if failure is None:
        assert trial.measurement is not None
        assert trial.measurement.repeats == cells[0].config.workload.repeats
    assert len(watched.passes) == len(set(watched.passes)) or settings is RACE, "no pass was measured twice"


def engine_is_done(journal: Journal, passes: int) -> bool:
    """Whether all passes of an engine are on the disk, or in trials by now."""
    lines = sum(file.read_bytes().count(b"\n") for file in journal.folder.glob("*.passes.jsonl"))
    return lines >= passes or journal.file.exists()


@pytest.mark.engine
def test_ctrl_c_keeps_what_is_finished_shows_it_and_ends_with_130(tmp_path: Path, command: Any) -> None:
    log = tmp_path / "sweep.log"
    with log.open("wb") as stream:
        study = start_python("-m", "gpuqa.sweep", *SWEEP, cwd=tmp_path, env=None, stdout=stream, stderr=stream)
    try:
        while not engine_is_done(Journal(tmp_path / "experiments" / "embedded"), passes=4):  # the first of two
            assert study.poll() is None, log.read_text(encoding="utf-8")
            time.sleep(0.01)
        below = psutil.Process(study.pid).children(recursive=True)
        os.killpg(study.pid, signal.SIGINT)  # as a terminal does: to the engine and the scorer too
        assert study.wait(120) == 130
    finally:
        end_session(study.pid)
    said = log.read_text(encoding="utf-8")
    trials = Journal(tmp_path / "experiments" / "embedded").read()
    told = rf"\nInterrupted: {len(trials)} of 4 trials and \d+ pass(es)? of others are kept; nothing was frozen\. "
    assert re.search(told + r"The same command goes on from here\.\n", said), "a sentence, not the title of a table"
    assert 1 <= len(trials) < 4
    assert all(trial.error is None for trial in trials.values()), "an interrupted trial is not a failed one"
    assert not (tmp_path / "experiments" / "embedded" / "frozen.yaml").exists()
    gone_by = time.monotonic() + 10
    while any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in below) and time.monotonic() < gone_by:
        time.sleep(0.1)
    assert not [one for one in below if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    again = command("sweep", *SWEEP, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    rest = 4 - len(trials)
    told = f"{rest} trial{'s' * (rest > 1)} measured, {len(trials)} kept from an earlier run"
    assert told in " ".join(again.stdout.split()), again.stdout


@pytest.mark.slow
def test_a_second_process_on_the_same_study_is_refused(tmp_path: Path, command: Any) -> None:
    with Journal(tmp_path / "experiments" / "embedded").locked():
        second = command("sweep", *SWEEP, cwd=tmp_path)
    assert second.returncode == 2
    assert f"is being measured or decided by process {os.getpid()}; wait for it or end it" in second.stderr


def test_a_lock_is_refused_to_others_and_gone_with_its_process(tmp_path: Path) -> None:
    hold = f"import time; from gpuqa.study.journal import Journal; from pathlib import Path\nwith Journal(Path({str(tmp_path)!r})).locked(): print('locked', flush=True); time.sleep(60)"  # noqa: E501
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"process {holder.pid}"), Journal(tmp_path).locked():
            pass
        holder.kill()
    with Journal(tmp_path).locked():
        pass


CONSEQUENCE = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}"
CAUSES = {
    "an error with a message": (
        "(EngineCore pid=7) ERROR 11-30 08:41:16 [core.py:1510] Traceback (most recent call last):\n"
        "(EngineCore pid=7) ERROR 11-30 08:41:16 [core.py:1510]     raise ValueError('no fp8 here')\n"
        "(EngineCore pid=7) ERROR 11-30 08:41:16 [core.py:1510] ValueError: no fp8 here\n"
        f"{CONSEQUENCE}\n",
        "ValueError: no fp8 here",
    ),
    "an error without one": (
        "(EngineCore pid=7)     assert heads % size == 0\n(EngineCore pid=7)            ^^^^^^^^^^^^^^^^\n"
        "(EngineCore pid=7) AssertionError\n",
        "AssertionError at: assert heads % size == 0",
    ),
    "an exception that is not called an error": (
        "(EngineCore pid=7) ERROR 11-30 08:41:16 [core.py:1510]     raise Refused(text)\n"
        "(EngineCore pid=7) ERROR 11-30 08:41:16 [core.py:1510] compiler.exc.Refused: an assertion failed\n"
        "(EngineCore pid=7) ERROR 11-30 08:41:16 [core.py:1510]   Hint: remove the assertion\n",
        "compiler.exc.Refused: an assertion failed",
    ),
    "no error": (
        "loading weights\nterminate called after throwing an instance of 'c10::Error'\n\n",
        "instance of 'c10::Error'",
    ),
}


@pytest.mark.parametrize("name", CAUSES)
def test_a_start_that_failed_carries_the_line_of_its_root_cause(name: str) -> None:
    printed, cause = CAUSES[name]
    assert root_cause(printed, CONSEQUENCE).endswith(cause)
    frontend = "RuntimeError: Frontend process failed during engine core initialization. See root cause above. Failed frontend"
    assert root_cause(printed, frontend).endswith(cause)
    assert root_cause(printed, "ValueError: float99 is no dtype") == "ValueError: float99 is no dtype"


def kill_when_it_starts(kills: int) -> None:
    """Kill the engine's process of this one as soon as it is there."""
    deadline = time.monotonic() + 60
    while kills and time.monotonic() < deadline:
        for child in engines_of_this_process():
            with contextlib.suppress(psutil.Error):
                child.kill()
                kills -= 1
        time.sleep(0.005)


def engines_of_this_process() -> list[psutil.Process]:
    """vLLM forks its engine's process, which may then give itself a name; other children have another command line."""
    me, engines = psutil.Process(), []
    for child in me.children():
        with contextlib.suppress(psutil.Error):
            if child.status() != psutil.STATUS_ZOMBIE and (child.cmdline() == me.cmdline() or "VLLM" in child.cmdline()[0]):
                engines.append(child)
    return engines


@pytest.mark.engine
@pytest.mark.usefixtures("one_thread")
def test_an_engine_that_is_killed_while_it_starts_is_started_once_more(tmp_path: Path) -> None:
    cells = prepared({"engine": "vllm_cpu", "prompt": "bare"})
    killer = threading.Thread(target=kill_when_it_starts, args=(1,))
    killer.start()
    outcome, _ = run(cells, tmp_path)
    killer.join()
    assert [trial.error for trial in outcome.trials] == [None]
    assert outcome.engine_starts == 2


UNSUPPORTED = [  # what vLLM 0.32 on a CPU and 0.33 on an H200 say of number formats
    "RuntimeError: _C::static_scaled_fp8_quant() expected at most 0 argument(s) but received 4 argument(s).",
    "ValueError: Failed to find a kernel that can implement the ScaledMM linear layer. Reasons:",
    "ValueError: No valid attention backend found for cuda with AttentionSelectorConfig(kv_cache_dtype=nvfp4)",
    "AssertionError: FlashAttention version not detected.",
    'AssertionError at: assert self.kv_cache_dtype in {"fp8", "fp8_e4m3"} or (',
    "torch._dynamo.exc.Unsupported: Data-dependent assertion failed (cannot compile partial graph)",
    "kv_cache_dtype=nvfp4 is not supported by vLLM's attention on a CPU, which reads auto, bfloat16, float16, fp8",
]


@pytest.mark.parametrize(
    ("error", "kind", "hint"),
    [
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "out_of_memory", "max_num_seqs"),
        (
            "ValueError: 8.00 GiB KV cache is needed, which is larger than the available 2 GiB. Based on the available "
            "memory, the estimated maximum model length is 4096.",
            "out_of_memory",
            "engine.args.max_model_len=4096 would fit",
        ),
        ("vLLM did not start within engine.start_timeout_s=1 s", "start_timeout", "engine.start_timeout_s"),
        ("vLLM's engine process died: EngineDeadError", "engine_died", "engine.log"),
        (root_cause("", CONSEQUENCE.replace(": 1}", ": -9}")), "engine_died", "engine.log"),
        (root_cause("", CONSEQUENCE.replace("'EngineCore': 1", "")), "engine_died", "engine.log"),
        ("no answer within workload.answer_timeout_s=1 s", "no_answer", "workload.answer_timeout_s"),
        *[(error, "unsupported", "docs/formats.md") for error in UNSUPPORTED],
        ("ValueError: unknown quantization", "bad_config", "engine.log"),
    ],
)
def test_a_failure_says_its_kind_and_what_to_do(error: str, kind: str, hint: str) -> None:
    assert kind_of(error) is Failure[kind]
    told = explained(error)
    assert told.startswith(f"{kind}: {error}; ")
    assert hint in told
