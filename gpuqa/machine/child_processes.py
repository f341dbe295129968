"""The processes below this one: which they are, how they end, and what a forked one gets of this one."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil


def children() -> set[psutil.Process]:
    """The processes that this one started, and theirs."""
    return set(psutil.Process().children(recursive=True))


def kill_children(spared: set[psutil.Process]) -> None:
    """End every process that this one started since `spared` were its `children`, for an engine that hangs."""
    for child in children() - spared:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself
            child.kill()


def end_with_parent(parent: int | None = None) -> None:
    """In a child: end, GPU memory and all, soon after the process that started this one is gone, even by SIGKILL.

    A thread asks, because the kernel's own signal (PR_SET_PDEATHSIG) comes when the starting *thread* ends. `parent`: the
    id of that process, where this one needed seconds to get here and may be an orphan by now.
    """
    parent = os.getppid() if parent is None else parent

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


WATCH = """
import os, sys, time
from contextlib import suppress
import psutil
parent, *children = map(int, sys.argv[1:])
watched = []
for child in children:
    with suppress(psutil.NoSuchProcess):
        watched.append(psutil.Process(child))
while os.getppid() == parent:
    time.sleep(0.5)
for child in watched:
    with suppress(psutil.NoSuchProcess):  # also where another process has its id by now
        child.kill()
"""


@contextlib.contextmanager
def tied(spawned: set[psutil.Process]) -> Iterator[None]:
    """Within the context, children end soon after this process, even by SIGKILL. A small process watches it.

    For children that run nothing of ours, such as an engine that vLLM spawns: `end_with_parent` cannot reach them.
    """
    words = [sys.executable, "-c", WATCH, str(os.getpid()), *(str(child.pid) for child in spawned)]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True) as watching:  # Ctrl-C is not for it
        try:
            yield
        finally:
            watching.kill()


@functools.cache
def tie_forked_children() -> None:
    """Every process that is forked from now on ends with this one, which vLLM's engine does not do by itself: it would keep
    the GPU's memory. It also gets none of this one's connections, as a spawned one would not."""
    os.register_at_fork(after_in_child=end_with_parent)
    os.register_at_fork(after_in_child=let_go_of_connections)


def let_go_of_connections() -> None:
    """In a child: give up the TCP sockets that were open at the fork. A server's clients would not see the end of a
    connection, nor its port become free, as long as a copy of the socket lives here."""
    with contextlib.suppress(OSError), open(os.devnull) as nothing:
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError), socket.fromfd(int(name), socket.AF_INET, socket.SOCK_STREAM) as copy:
                if copy.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) in (socket.AF_INET, socket.AF_INET6):
                    os.dup2(nothing.fileno(), int(name))  # not closed: whoever owns the number will close it once
