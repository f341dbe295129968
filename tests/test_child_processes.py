"""The processes below this one: they end when they are ended, and when their parent is gone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest

from gpuqa.machine import child_processes

KILLS = """
import subprocess, sys, time
import psutil
from gpuqa.machine import child_processes
sleeper = "import time; print('up', flush=True); time.sleep(60)"
parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleeper!r}])"
child = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
child.stdout.readline()
below = psutil.Process().children(recursive=True)
child_processes.kill_children(set())
child.wait(5)
deadline = time.monotonic() + 5
def lives(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
while any(map(lives, below)) and time.monotonic() < deadline:
    time.sleep(0.01)
print(len(below), sum(map(lives, below)))
"""


def test_children_and_grandchildren_are_killed_and_their_parent_lives_on():
    done = subprocess.run([sys.executable, "-c", KILLS], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("2 0\n", "")


def test_a_child_that_ends_by_itself_in_between_does_not_save_the_others(monkeypatch):
    """The listing of children is a fake, because a process cannot be made to end between listing and killing."""
    with subprocess.Popen(["sleep", "60"]) as going, subprocess.Popen(["sleep", "60"]) as staying:
        listed = [psutil.Process(going.pid), psutil.Process(staying.pid)]
        try:
            going.kill()
            going.wait()
            monkeypatch.setattr(psutil.Process, "children", lambda self, recursive: listed)
            child_processes.kill_children(set())
            assert staying.wait(5) != 0
        finally:
            staying.kill()


def test_a_child_whose_parent_is_gone_before_it_looks_for_it_ends_too():
    with subprocess.Popen(["sleep", "0"]) as gone:
        gone.wait()
    watched = f"from gpuqa.machine.child_processes import end_with_parent; end_with_parent({gone.pid})"
    orphan = f"import time; {watched}; time.sleep(60)"
    assert subprocess.run([sys.executable, "-c", orphan], timeout=50).returncode == -signal.SIGKILL


TIES = """
import os, signal, subprocess, sys
import psutil
from gpuqa.machine import child_processes
sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.DEVNULL)
with child_processes.tied({psutil.Process(sleeper.pid)}):
    if sys.argv[1] != "leaves":
        print(sleeper.pid, flush=True)
        os._exit(0) if sys.argv[1] == "_exit" else os.kill(os.getpid(), signal.SIGKILL)
print(sleeper.pid, *(child.pid for child in child_processes.children() - {psutil.Process(sleeper.pid)}))
"""


@pytest.mark.parametrize("end", ["_exit", "SIGKILL"])
def test_a_spawned_child_that_runs_nothing_of_ours_ends_with_its_parent_however_that_ends(end):
    done = subprocess.run([sys.executable, "-c", TIES, end], stdout=subprocess.PIPE, text=True)
    sleeper = int(done.stdout)
    deadline = time.monotonic() + 20
    while psutil.pid_exists(sleeper) and psutil.Process(sleeper).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.05)


def test_a_child_lives_on_after_its_tie_and_nothing_else_does():
    done = subprocess.run([sys.executable, "-c", TIES, "leaves"], stdout=subprocess.PIPE, text=True)
    [sleeper] = map(int, done.stdout.split())
    psutil.Process(sleeper).kill()
