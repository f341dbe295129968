"""What a study would take, before anything of it starts: cells, engines, passes and minutes.

The minutes come from trials of earlier studies on the same device: what their passes took, in units of the roofline's guess, is
what passes of the same kind will take. Without such trials the roofline of a named card gives the least that it can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpuqa.config import UserError
from gpuqa.config.commands import StudyConfig
from gpuqa.measure.cell import Cell
from gpuqa.records import Trial
from gpuqa.selection.wording import counted, duration
from gpuqa.study.durations import Durations
from gpuqa.study.grid import group_by_engine
from gpuqa.study.guesses import own_chars, work_of, work_of_trial
from gpuqa.study.journal import Journal
from gpuqa.study.same_effect import Effects
from gpuqa.study.study_file import studies_in
from gpuqa.study.watched import most_passes


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is left of a study."""

    cells: int
    kept: int  # of these measured by an earlier run
    copies: int  # the same in effect as another, and not measured
    engines: int
    passes: int  # at most, where a race or a search may end earlier
    seconds: float | None  # of all that; None where nothing tells
    confirmation_s: float | None  # of the winner's last measurement
    trials: int  # of earlier studies that tell it, those of finalists too; 0: the roofline of a named card alone
    unread: list[str]  # folders of studies that cannot be read, and tell nothing


def outlook_of(cells: Sequence[Cell], journal: Journal, at_once: int = 1) -> Outlook:
    """What is left of a study. `at_once`: engines that run side by side."""
    known = {key for key, trial in journal.read().items() if trial.measurement}
    copies = {trial.key for trial in Effects(cells).copies()}
    kept = [cell for cell in cells if cell.key in known]
    left = [cell for cell in cells if cell.key not in known | copies]
    durations = Durations()
    earlier, unread = earlier_trials(journal.study_file.parent.parent)
    trials = learn_earlier(durations, cells, earlier)
    tells = durations.known or cells[0].config.gpu.bandwidth_gb_per_s is not None
    whole = {cell.key: work_of(cell, most_passes(cell.config.workload)) for cell in cells}
    missing = {cell.key: whole[cell.key].passes - len(journal.read_passes(cell.key)) for cell in left}
    groups = group_by_engine([cell for cell in left if missing[cell.key] > 0])
    works = [{cell.key: replace(whole[cell.key], passes=missing[cell.key]) for cell in group} for group in groups]
    took = [durations.seconds(work) for work in works]
    again = [durations.seconds({key: work}) for key, work in whole.items()]
    return Outlook(
        cells=len(cells),
        kept=len(kept),
        copies=len(copies - known),
        engines=len(groups),
        passes=sum(cell.passes for work in works for cell in work.values()),
        seconds=max([sum(took) / at_once, *took]) if tells else None,
        confirmation_s=max(again) if tells else None,
        trials=trials,
        unread=unread,
    )


def learn_earlier(durations: Durations, cells: Sequence[Cell], trials: Sequence[Trial]) -> int:
    """Learn from the trials that ran on this device -> how many."""
    device, own, count = cells[0].fingerprint["device"], own_chars(cells[0].questions), 0
    for trial in trials:
        if trial.measurement is None or trial.fingerprint.get("device") != device:
            continue
        work = work_of_trial(trial, own)
        took = trial.measurement
        durations.learn_mean(work.kind, work.pass_s, took.seconds, took.engine_start_s, took.warmup_s)
        count += 1
    return count


def earlier_trials(root: Path) -> tuple[list[Trial], list[str]]:
    """The trials of all studies in a folder, and the folders that cannot be read."""
    trials, unread = list[Trial](), list[str]()
    for folder in studies_in(root):
        try:
            trials += Journal(folder).read().values()
        except UserError:
            unread.append(str(folder))
    return trials, unread


def lines_of(outlook: Outlook, study: StudyConfig) -> list[str]:
    """An outlook in sentences."""
    measured = outlook.cells - outlook.kept - outlook.copies
    kept = f", {outlook.kept} kept from an earlier run" if outlook.kept else ""
    copies = f", {outlook.copies} the same in effect as another" if outlook.copies else ""
    passes = counted(outlook.passes, "pass", "passes")
    sizes = f"{counted(outlook.cells, 'cell')}: {measured} to be measured{kept}{copies}"
    lines = [f"{sizes}; {counted(outlook.engines, 'engine start')}, {passes}" + (" at most" if study.racing else "")]
    if outlook.unread:
        lines.append(f"not read: {', '.join(outlook.unread)}; the sweep with the same study.name says why")
    if outlook.seconds is None or outlook.confirmation_s is None:
        reason = f"no study on this device lies in {study.root}, and gpu names no card"
        return [*lines, f"time: not known, because {reason}; gpu=rtx5090, for example, gives a bound"]
    took = duration(outlook.seconds)
    first_round = f"first round: at least {took} on the card that gpu names, by its roofline: engines take longer"
    if outlook.trials:
        measured_before = counted(outlook.trials, "earlier measurement")
        first_round = f"first round: about {took}, by {measured_before} of cells on this device"
    lines.append(first_round)
    if study.finalists and measured + outlook.kept > 1:
        finals = f"finalists: at most {study.seconds:g} s (study.seconds), or until their first comparison"
        lines.append(f"{finals}; then the winner once more: about {duration(outlook.confirmation_s)}")
    return lines
