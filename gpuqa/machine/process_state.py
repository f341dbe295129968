"""What an engine changes in the process that starts it, kept to be put back: engines that follow each other in one process
must not see each other's settings."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable


class ProcessState:
    """Environment variables, thresholds of the garbage collector and PyTorch's number of threads, when this object was made.

    It is made after the engine's libraries were imported. What they set in the environment as they are imported is set once
    for all engines of the process, whichever comes first. Engines follow each other; where two overlap, the one that started
    last must be closed first.
    """

    def __init__(self) -> None:
        self.environment = dict(os.environ)
        self.threshold = gc.get_threshold()
        self.threads = torch_threads()
        self.changed: set[str] | None = None  # environment variables that the start changed; None while it lasts

    def engine_started(self) -> None:
        """From now on, other changes of the environment are not the engine's and stay."""
        self.changed = self._different()

    def restore(self) -> None:
        """Put back what the engine changed."""
        for name in self._different() if self.changed is None else self.changed:
            if name in self.environment:
                os.environ[name] = self.environment[name]
            else:
                os.environ.pop(name, None)
        gc.set_threshold(*self.threshold)
        if self.threads is not None and torch_threads() != self.threads:
            in_other_thread(set_torch_threads, self.threads)

    def _different(self) -> set[str]:
        names = self.environment.keys() | os.environ.keys()
        return {name for name in names if self.environment.get(name) != os.environ.get(name)}


def torch_threads() -> int | None:
    """With how many threads PyTorch computes in a thread that has not computed yet; None before PyTorch is imported."""
    if "torch" not in sys.modules:
        return None
    counts: list[int] = []
    in_other_thread(lambda: counts.append(sys.modules["torch"].get_num_threads()))
    return counts[0]


def set_torch_threads(threads: int) -> None:
    """Compute with so many threads: in this thread, and in every one that has not computed yet."""
    sys.modules["torch"].set_num_threads(threads)


def in_other_thread(function: Callable[..., object], *args: object) -> None:
    """Call it in a new thread, to its end. PyTorch keeps the number beside a default for new threads also for each thread."""
    thread = threading.Thread(target=function, args=args, name="torch-threads")
    thread.start()
    thread.join()
