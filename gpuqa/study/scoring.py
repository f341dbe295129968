"""Passes -> trials, in another process, while engines measure in this one or elsewhere.

Scoring keeps a core busy for seconds, which would disturb a clock, so its process gives way to everything else.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Self

from gpuqa.machine.child_processes import end_with_parent
from gpuqa.measure.cell import Cell
from gpuqa.measure.trial import FinishedTrial, trial_of
from gpuqa.records import Pass


class Scoring:
    """A process that scores. Where it dies (out of memory, killed), a fresh one tries again."""

    def __init__(self, attempts: int = 3) -> None:
        """`attempts`: at one trial, before the trial fails."""
        self.attempts, self.pool = attempts, start_pool()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()

    async def trial(self, cell: Cell, passes: Sequence[Pass]) -> FinishedTrial:
        """The trial of a cell by its passes, with the answers of the first one; a failed trial if every attempt failed.

        The passes of a failed trial stay in the journal, so that the next run only scores them.
        """
        for _ in range(self.attempts):
            pool = self.pool
            try:
                return await asyncio.get_running_loop().run_in_executor(pool, trial_of, cell, list(passes))
            except BrokenProcessPool:  # all that waited for that process come here; the first of them replaces it
                if self.pool is pool:
                    self.pool = start_pool()
                    pool.shutdown(wait=False)
        reason = f"the scoring process died {self.attempts} times, perhaps for want of memory, or because the script that runs"
        reason += " the study has no `if __name__ == '__main__':`"
        return cell.trial(None, f"{reason}; all passes are kept, so the same command only has to score them"), []


def start_pool() -> ProcessPoolExecutor:
    """One process, which starts with the first score."""
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=give_way, initargs=(os.getpid(),))


def give_way(study: int) -> None:
    """In the scoring process: the engine comes first, Ctrl-C is the study's business, and without it there is no work."""
    os.nice(10)
    end_with_parent(study)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
