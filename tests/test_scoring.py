"""The process that scores: what it makes, and what its death costs. Real processes, real kills.

The transformers backend runs the embedded model here, because it starts in a moment; the fixtures are test_study's.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest
from small_study import BARE, KEYWORDS, Recorder, prepared

from gpuqa.measure.cell import Cell
from gpuqa.records import Answered, Completion, Pass
from gpuqa.study import study
from gpuqa.study.journal import Journal
from gpuqa.study.scoring import Scoring

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("one_thread")]


def answered(cell: Cell) -> Pass:
    """A pass that nobody measured."""
    said = Completion("答", "stop", 9, 2, 0, False, 0.1, 0.2)
    count = len(cell.questions)
    return Pass(Answered([said] * count, 2.0, [2.0] * count), 0, [one.id for one in cell.questions], 1.7e9, 1.0, 0.1, 0.5)


def kill_scorers(scoring: Scoring) -> int:
    """SIGKILL every process of the pool; how many there were."""
    processes = list((scoring.pool._processes or {}).values())
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
    return len(processes)


def test_a_trial_whose_scoring_process_is_killed_is_scored_in_a_fresh_one() -> None:
    [cell] = prepared(BARE)

    async def score() -> None:
        with Scoring() as scoring:
            first, _ = await scoring.trial(cell, [answered(cell)])
            again = [asyncio.create_task(scoring.trial(cell, [answered(cell)])) for _ in range(3)]
            await asyncio.sleep(0)  # all three are waiting in the pool
            assert kill_scorers(scoring) == 1
            assert [trial for trial, _ in await asyncio.gather(*again)] == [first] * 3

    asyncio.run(score())


def test_a_trial_that_kills_every_scoring_process_fails_and_names_what_is_kept() -> None:
    """A fake: a cell that ends the process that unpickles it, where a real one would run out of memory."""
    [cell] = prepared(BARE)

    async def score() -> None:
        with Scoring(attempts=2) as scoring:
            trial, answers = await scoring.trial(cell, [Deadly()])  # type: ignore[list-item]
            assert "the scoring process died 2 times" in str(trial.error)
            assert (trial.key, trial.measurement, answers) == (cell.key, None, [])
            sound, _ = await scoring.trial(cell, [answered(cell)])
            assert sound.measurement is not None

    asyncio.run(score())


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[object, tuple[int, int]]:
        return end_here, (os.getpid(), signal.SIGKILL)


def end_here(spared: int, number: int) -> None:
    if os.getpid() != spared:
        os.kill(os.getpid(), number)


def test_a_study_whose_scoring_process_is_killed_ends_as_if_nobody_had(tmp_path: Path, engines: list[str]) -> None:
    class Kills(Recorder):
        """Kills the scoring process when the first trial is there."""

        killed = 0

        def trial_done(self, trial: object, kept: bool) -> None:
            super().trial_done(trial, kept)  # type: ignore[arg-type]
            if self.killed == 0:
                below = psutil.Process().children(recursive=True)
                scorers = [process for process in below if "spawn_main" in " ".join(process.cmdline())]
                for process in scorers:
                    process.kill()
                self.killed = len(scorers)

    cells = prepared(BARE, KEYWORDS, {"prompt": "expert"})
    recorder = Kills(Journal(tmp_path))
    outcome = asyncio.run(study.run(cells, Journal(tmp_path), recorder))
    assert recorder.killed >= 1
    assert [trial.error for trial in outcome.trials] == [None] * 3
    assert all(trial.measurement.questions == 2 for trial in outcome.trials if trial.measurement)
    assert engines == ["start", "close"], "nothing was measured again"
    assert len(recorder.passes) == 3
