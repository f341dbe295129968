"""How much starts of an engine differ: what a study has shown, and what its machine has shown before.

`start_noise.jsonl` beside the folders of studies has a line a study. A study begins with what all before it have shown on the
same device, drawn towards the usual 2 %, and keeps that in its study.yaml, so that it is judged in the same way later.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gpuqa.config.commands import StudyConfig
from gpuqa.machine.files import append_line, make_folder
from gpuqa.measure.devices import ONE_DEVICE, Devices, devices_of
from gpuqa.measure.fingerprint import Stage, at_stage
from gpuqa.measure.speed_prediction import passes_of_a_start
from gpuqa.measure.speed_tests import SpeedNoise, StartNoise, Starts, speed_noise, starts_of
from gpuqa.records import Trial
from gpuqa.study.journal import Journal

FILE = "start_noise.jsonl"
LEAST_SD = 0.005  # no number of studies makes starts look more alike than that
MOST_FREEDOM = 20.0  # and none makes a study's own starts count for nothing


@dataclass(frozen=True, slots=True)
class Shown:
    """What the finals of one study showed."""

    study: str
    device: str
    variance: float  # of log speed between starts, beyond what the passes of a start add; may be below 0 by chance
    freedom: int


def shown_by(cells: Sequence[Starts], devices: Devices = ONE_DEVICE) -> tuple[float, int] | None:
    """The variance between starts on one device beyond that of their passes, and its degrees of freedom; None where no cell has
    two starts.

    Args:
        cells: of each finalist all starts of its engine that did not choose it.
    """
    noise = speed_noise(cells, StartNoise(), devices=devices)
    if noise is None or noise.start_freedom == 0:
        return None
    return noise.start_squares / noise.start_freedom - noise.pass_variance / noise.passes, noise.start_freedom


def usual(root: Path, device: str, study: str) -> StartNoise:
    """How much starts usually differ on a device: the median of what all studies in a folder but this one have shown, and of
    the usual 2 %. A mean would be taken over by one study on a busy machine."""
    known = {shown.study: shown for shown in read(root / FILE) if shown.device == device and shown.study != study}
    prior = StartNoise()
    sd = statistics.median([prior.sd, *(math.sqrt(max(shown.variance, 0.0)) for shown in known.values())])
    freedom = prior.freedom + sum(shown.freedom for shown in known.values())
    return StartNoise(round(max(sd, LEAST_SD), 5), min(freedom, MOST_FREEDOM))


def note_finals(study: StudyConfig, device: str, finalists: Sequence[Trial], journal: Journal) -> None:
    """Keep what the finals of a study showed: the starts after the first round, which did not choose the finalists.

    Raises:
        FileNotWritten: as `note`.
    """
    known, later = journal.read(), (Stage.finals, Stage.confirmation)
    cells = [in_stages(trial.key, known, later) for trial in finalists]
    starts = [starts_of_all(cell) for cell in cells if cell]
    if (shown := shown_by(starts, devices_of_all(cells))) is not None:
        note(Path(study.root), Shown(study.name, device, *shown))


def note(root: Path, shown: Shown) -> None:
    """Keep what a study showed, for those after it.

    Raises:
        FileNotWritten: the disk is full, for example.
    """
    if shown not in read(root / FILE):
        make_folder(root)
        append_line(root / FILE, json.dumps(asdict(shown), ensure_ascii=False))


def read(file: Path) -> list[Shown]:
    """The lines of the file that are whole, as they were written; none where it does not exist."""
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []:
        try:
            row = json.loads(line)
            found.append(Shown(str(row["study"]), str(row["device"]), float(row["variance"]), int(row["freedom"])))
        except (ValueError, KeyError, TypeError):
            continue  # torn by a kill, or edited: it is only a prior
    return found


def noise_of(winner: Trial, finalists: Sequence[Trial], journal: Journal) -> SpeedNoise | None:
    """By the first round, the finals and the confirmation of every finalist; by the winner alone where there are none.

    None where no start has two passes.

    Args:
        finalists: of the first round.
    """
    known = journal.read()
    cells = [in_stages(trial.key, known) for trial in finalists] or [[winner]]
    assert winner.measurement is not None, "a trial without numbers does not win"
    return speed_noise(
        [starts for cell in cells if (starts := starts_of_all(cell))],
        journal.start_noise(),
        passes_of_a_start(winner.measurement),
        devices_of_all(cells),
    )


def in_stages(first: str, known: Mapping[str, Trial], stages: Iterable[Stage] = Stage) -> list[Trial]:
    """The trials of the cell whose first round has the key `first`, in those stages that measured it."""
    return [known[key] for stage in stages if (key := at_stage(first, stage)) in known]


def starts_of_cell(trial: Trial, known: Mapping[str, Trial]) -> Starts:
    """The starts of the cell that a trial is of, in all stages of its study.

    Args:
        known: the trials of the study, each by its key.
    """
    cells = [in_stages(first, known) for first in known]
    return starts_of_all(max((cell for cell in cells if trial.key in [other.key for other in cell]), key=len, default=[trial]))


def starts_of_all(trials: Sequence[Trial]) -> Starts:
    """The starts of a cell in all stages that measured it."""
    starts: dict[str, Sequence[float]] = {}
    for trial in trials:
        starts |= (starts_of(trial.measurement, trial.key) if trial.measurement else None) or {}
    return starts


def devices_of_all(cells: Sequence[Sequence[Trial]]) -> Devices:
    """What the starts of all these trials ran on."""
    return {start: device for cell in cells for trial in cell for start, device in devices_of(trial.measurement).items()}
