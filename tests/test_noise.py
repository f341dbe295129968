"""The noise of a winner's speed, by what a study has on the disk of its finalists."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from generated_trials import cell

from gpuqa.measure.fingerprint import Stage, at_stage
from gpuqa.measure.speed_tests import StartNoise, speed_noise
from gpuqa.records import Trial
from gpuqa.study.journal import Journal
from gpuqa.study.start_noise import noise_of

STARTS = {  # of each of two finalists in each stage: the starts of engines that answered, and the speeds
    (64, Stage.first_round): (["a", "a"], [1000.0, 1010.0]),
    (64, Stage.finals): (["b", "b", "c", "c"], [980.0, 990.0, 1020.0, 1030.0]),
    (64, Stage.confirmation): (["d", "d"], [1005.0, 1006.0]),
    (32, Stage.first_round): (["e", "e"], [900.0, 905.0]),
    (32, Stage.finals): (["f", "f", "g", "g"], [880.0, 890.0, 920.0, 930.0]),
}


def written(journal: Journal) -> dict[tuple[int, Stage], Trial]:
    """All of these in a journal, and a trial that was no finalist."""
    trials = {}
    for (number, stage), (engines, speeds) in STARTS.items():
        trial = cell(number, speeds, engine_ids=engines)
        trials[number, stage] = replace(trial, key=at_stage(trial.key, stage))
        journal.write(trials[number, stage], [])
    journal.write(cell(16, [1.0, 100.0], engine_ids=["h", "h"]), [])
    return trials


def logs(number: int, *stages: Stage) -> dict[str, list[float]]:
    """The log speeds of a finalist by start."""
    starts: dict[str, list[float]] = {}
    for stage in stages:
        for engine, speed in zip(*STARTS[number, stage], strict=True):
            starts.setdefault(engine, []).append(math.log(speed))
    return starts


def test_the_noise_is_that_of_all_starts_of_all_finalists(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    trials = written(journal)
    first_round = [trials[64, Stage.first_round], trials[32, Stage.first_round]]
    found = noise_of(trials[64, Stage.confirmation], first_round, journal)
    cells = [logs(64, *Stage), logs(32, Stage.first_round, Stage.finals)]
    assert [len(starts) for starts in cells] == [4, 3]
    assert found == speed_noise(cells, StartNoise(), passes=2)


def test_without_finalists_the_prior_and_the_winners_own_repeats_are_all_there_is(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    winner = written(journal)[64, Stage.first_round]
    found = noise_of(winner, [], journal)
    assert found == speed_noise([logs(64, Stage.first_round)], StartNoise(), passes=2)
    assert found is not None
    assert found.freedom == pytest.approx(4, abs=0.5)
    assert noise_of(cell(8, [5.0]), [], journal) is None
