"""Folders in /tmp: that of a process that was killed is removed, and none of a living one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

from gpuqa.machine.private_folder import private_folder, remove_stale_folders

HOLD = """
import os, sys, time
from gpuqa.machine.private_folder import private_folder
with private_folder() as folder:
    (folder / "socket").touch()
    child = os.fork() if sys.argv[1] == "fork" else None
    if child != 0:
        print(folder, child, flush=True)
    time.sleep(60)
"""


def hold(place: Path, how: str = "alone") -> tuple[subprocess.Popen[str], Path, int]:
    """A process that has a folder; the id of its child, where it has forked one."""
    environment = {**os.environ, "TMPDIR": str(place), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", HOLD, how], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder, child = process.stdout.readline().split()
    return process, Path(folder), int(child) if how == "fork" else 0


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    (killed, stale, _), (living, kept, _) = hold(tmp_path), hold(tmp_path)
    killed.kill()
    killed.wait()
    try:
        assert remove_stale_folders(tmp_path) == [stale]
        assert (stale.exists(), (kept / "socket").exists()) == (False, True)
    finally:
        living.kill()
        living.wait()


def test_a_folder_stays_as_long_as_a_forked_engine_uses_it(tmp_path: Path) -> None:
    killed, folder, child = hold(tmp_path, "fork")
    killed.kill()
    killed.wait()
    assert remove_stale_folders(tmp_path) == []
    os.kill(child, signal.SIGKILL)
    while remove_stale_folders(tmp_path) != [folder]:  # until the kernel has ended it
        pass


def test_a_folder_goes_with_its_end_and_what_is_not_of_this_kind_stays(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "gpuqa-mine").mkdir()
    with private_folder() as folder:
        assert folder.parent == tmp_path
        assert remove_stale_folders(tmp_path) == []
    assert [left.name for left in tmp_path.iterdir()] == ["gpuqa-mine"]
