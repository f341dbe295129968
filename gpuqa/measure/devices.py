"""Which device a start of an engine ran on, and what of a speed the device explains.

Speeds of two devices are not exchangeable: one card is faster than another of its model, by 8 % on average and up to 22 % in
five clusters (P. Sinha et al., "Not All GPUs Are Created Equal", SC 2022). So a device is a block: cells are compared with
each other on one device, and only those differences are put together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from gpuqa.records import Device, Measurement, Pass

Devices = Mapping[str, Device]  # by the id of the start of an engine; those that are not in it ran on one device
Cell = Mapping[str, Sequence[float]]  # log speeds of a cell by the starts of its engine
ONE_DEVICE: Devices = {}
DEVICE_SD = 0.1  # of log speed between cards of one model, for cells that no card measured both of


def device_of(measured: Pass) -> Device:
    """What a pass was measured on."""
    return Device(measured.host, measured.device, measured.place)


def devices_of(measurement: Measurement | None) -> dict[str, Device]:
    """What the starts of a measurement's engine ran on, where that is known."""
    known = zip(measurement.engine_ids, measurement.devices, strict=False) if measurement else ()
    return dict(known)


def repeats_by_device(measurement: Measurement) -> list[tuple[list[float], list[float]]]:
    """When the repeats on each device began, s since the epoch, and their speeds, chars/s."""
    moments, speeds, devices = measurement.repeats_began_at, measurement.chars_per_s_repeats, measurement.devices
    if not len(moments) == len(speeds) == len(devices):
        return [(moments, speeds)]
    rows = list(zip(devices, moments, speeds, strict=True))
    return [
        ([moment for on, moment, _ in rows if on == device], [speed for on, _, speed in rows if on == device])
        for device in dict.fromkeys(devices)
    ]


def by_device(cell: Cell, devices: Devices) -> dict[Device, dict[str, Sequence[float]]]:
    """The starts of a cell apart for each device."""
    parts: dict[Device, dict[str, Sequence[float]]] = {}
    for start, logs in cell.items():
        parts.setdefault(devices.get(start, Device()), {})[start] = logs
    return parts


def start_squares(cells: Sequence[Cell], devices: Devices) -> tuple[float, int]:
    """The squared distances of the means of starts from what their cell and their device explain, and their degrees of freedom.

    With one device that is the distance from the mean of the cell. Else it is a least-squares fit of a level for each cell and
    one for each device, as in a randomized block design.
    """
    means = [[fmean(logs) for logs in cell.values()] for cell in cells]
    where = [devices.get(start, Device()) for cell in cells for start in cell]
    others = sorted(set(where) - set(where[:1]), key=where.index)
    if not others:
        return sum(map(squares_of, means)), sum(len(cell) - 1 for cell in means)
    rows = [number for number, cell in enumerate(cells) for _ in cell]
    levels = [[row == number for number in range(len(cells))] for row in rows]
    design = np.array(
        [[*level, *(device == other for other in others)] for level, device in zip(levels, where, strict=True)], float
    )
    logs = np.concatenate(means)
    fit, _, rank, _ = np.linalg.lstsq(design, logs)
    return float(np.sum((logs - design @ fit) ** 2)), len(logs) - int(rank)


def squares_of(values: Sequence[float]) -> float:
    """The sum of the squared distances from the mean."""
    mean = fmean(values)
    return sum((value - mean) ** 2 for value in values)
