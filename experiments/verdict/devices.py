"""How often a verdict is right whose finalists were measured on several devices that differ by 10 %. Every number is seeded.

    PYTHONPATH=tests python experiments/verdict/devices.py            # 1,000 studies a figure: a quarter of an hour
    PYTHONPATH=tests python experiments/verdict/devices.py studies=100

As in simulate.py, but each device has a level of its own, which all cells share on it, and noise of its own, since devices
measure side by side. Two cells on two engines get starts on every device; the looks are those of `gpuqa.study.finals`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from generated_trials import RULE, cell
from simulate import FEW, NOISES, SDS, Ended, draws, main

from gpuqa.measure.speed_tests import LOOKS, Unit
from gpuqa.records import Device
from gpuqa.selection.decision import decide, undecided

DEVICE_SD = 0.1  # of log speed between devices
LEADS = (0.0, 0.05, 0.1)

Noise = Callable[[np.random.Generator, int], Any]


def on_devices(generator: np.random.Generator, noise: Noise, lead: float, start_sd: float, devices: int) -> Ended:
    """The finals of two cells: a start of both engines on each device, the other way round every second time."""
    turns = math.ceil(LOOKS[Unit.starts][-1] / devices)
    level = generator.normal(0, DEVICE_SD, devices)
    speeds = np.empty((2, turns, devices, FEW))
    for device in range(devices):
        series = noise(generator, 2 * turns * FEW).reshape(turns, 2, FEW)
        series[(1 + device) % 2 :: 2] = series[(1 + device) % 2 :: 2, ::-1]
        own = level[device] + generator.normal(0, start_sd, (turns, 2, 1)) + np.array([0.0, math.log1p(lead)])[:, None]
        speeds[:, :, device] = (series + own).transpose(1, 0, 2)
    logs = speeds.reshape(2, -1)
    where = [Device("host", "card", f"GPU {device}") for _ in range(turns) for device in range(devices) for _ in range(FEW)]
    for starts in sorted({math.ceil(look / devices) * devices for look in LOOKS[Unit.starts]}):
        count = starts * FEW
        trials = []
        for number, row in enumerate(logs):
            numbers = {"engine_ids": [f"{number} {place // FEW}" for place in range(count)], "devices": where[:count]}
            speed = (10_000 * np.exp(row[:count])).tolist()
            trials.append(cell(number, speed, first_round_chars_per_s=10_000.0, **numbers))
        verdict = decide(trials, RULE)
        if not undecided(verdict, RULE):
            break
    return Ended(verdict, starts, trials[1])


def rows(studies: int) -> Iterator[str]:
    """The tables as Markdown, line by line."""
    for devices in (2, 8):
        yield from ["", f"Two cells on two engines, {devices} devices whose levels have an sd of {DEVICE_SD:.0%}: WIN", ""]
        header = "| noise | equal, start sd 0 % | 1 % | 2 % | 3 % | 5 % faster, 1 % | 10 % faster, 1 % | starts for 10 % |"
        yield from [header, "| --- " * 8 + "|"]
        for name, noise in NOISES.items():
            equal = [np.mean([on_devices(draw, noise, 0.0, sd, devices).won for draw in draws(studies)]) for sd in SDS]
            faster = [[on_devices(draw, noise, lead, 0.01, devices) for draw in draws(studies)] for lead in LEADS[1:]]
            shares = [*equal, *(np.mean([ended.right for ended in found]) for found in faster)]
            cost = np.mean([ended.cost for ended in faster[1]])
            yield f"| {name} | " + " | ".join([*(f"{share:.1%}" for share in shares), f"{cost:.1f}"]) + " |"


if __name__ == "__main__":
    main(rows)
