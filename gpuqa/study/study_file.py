"""`study.yaml`: which cells make a study, by which questions and which rule. And what may change of it.

The next command with the same `study.name` may add cells, ask for more repeats or decide by another rule. It is refused
where it would leave out cells that were measured, or ask other questions: the table and the winner would then be another
study's (docs/verdict.md).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from gpuqa.config import UserError, plain
from gpuqa.config.command_line import override
from gpuqa.config.commands import StudyConfig, from_plain
from gpuqa.config.measurement import WorkloadConfig
from gpuqa.config.pipeline import PipelineConfig
from gpuqa.measure.cell import Cell
from gpuqa.pipeline.dataset.summary import rows_text
from gpuqa.records import Trial
from gpuqa.selection.constraints import seen_of
from gpuqa.selection.wording import counted, listed
from gpuqa.study.differences import differences, value_of

MAY_CHANGE = ("name", "repeats", "prefix_cached_repeats", "answer_timeout_s", "slo")  # of a workload: not what is measured


class Damaged(UserError):
    """`study.yaml` is no longer what a sweep wrote; the trials are not harmed."""


def studies_in(root: Path) -> list[Path]:
    """The folders of all studies in a folder, by name."""
    return sorted(file.parent for file in root.glob("*/study.yaml"))


def read_yaml(file: Path) -> Any:
    """The content of a YAML file.

    Raises:
        Damaged: with the reason.
    """
    again = "the sweep's command writes it again"
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except IsADirectoryError as error:
        raise Damaged(f"{file} is a folder and should be a file; move it away, then {again}") from error
    except RecursionError as error:
        raise Damaged(f"{file} cannot be read: it is nested too deeply; {again}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Damaged(f"{file} cannot be read: {' '.join(str(error).split())}; {again}") from error


def is_study(content: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a file's content has the shape of a study's: the number of finalists, and cells with their key and axes."""
    if not isinstance(content, dict) or type(content.get("finalists")) is not int or not isinstance(content.get("cells"), list):
        return False
    if not all(isinstance(content.get(key, {}), dict) for key in ("questions", "selection")):
        return False
    return all(
        isinstance(cell, dict)
        and isinstance(cell.get("trial"), str)
        and isinstance(cell.get("axes"), dict)
        and all(isinstance(text, str) for axis in cell["axes"].items() for text in axis)
        for cell in content["cells"]
    )


def dataset_of(cells: Sequence[Cell]) -> dict[str, Any]:
    """The questions of a study, which all its cells share: the file, its digest, and how many there are."""
    cell = cells[0]
    digests = cell.fingerprint["digests"]
    assert isinstance(digests, dict), "prepare makes it"
    different = len({question.digest for question in cell.questions})
    counts = {"digest": digests["dataset"], "questions": len(cell.questions), "different_questions": different}
    return {**asdict(cell.config.dataset), **counts}


def in_words(dataset: Mapping[str, Any]) -> str:
    """A study's questions in a sentence, as far as they are known."""
    rows, different = dataset.get("questions"), dataset.get("different_questions")
    count = "the questions" if rows is None else rows_text(rows, different or rows)
    limit = f", dataset.limit={dataset['limit']}" if dataset.get("limit") is not None else ""
    return f"{count} of {dataset.get('path')} (dataset={dataset.get('name')}{limit})"


def refuse_another_study(cells: Sequence[Cell], before: Sequence[Trial], study: StudyConfig) -> None:
    """Do not let a command take the place of a study that has numbers.

    Args:
        before: the trials that lie in the folder.

    Raises:
        UserError: the command asks other questions, or lacks a cell that was measured.
    """
    measured = [trial for trial in before if seen_of(trial) is not None]
    here = dataset_of(cells)
    other = [trial for trial in measured if trial.fingerprint["digests"]["dataset"] != here["digest"]]
    if other:
        numbers = seen_of(other[0])
        assert numbers is not None
        there = {**other[0].setting.get("dataset", {}), "questions": numbers.questions}
        raise another(study, f"its trials answered other questions: {in_words(there)} there, {in_words(here)} here")
    keys = {cell.key for cell in cells}
    if not (unknown := [trial for trial in measured if trial.key not in keys]):
        return
    here_by_axes = [(cell.axes, configured(cell.trial(None))) for cell in cells]
    configurations = [configuration for _, configuration in here_by_axes]
    if gone := [trial for trial in unknown if configured(trial) not in configurations]:  # else other code, or another machine
        verb = "was" if len(gone) == 1 else "were"
        what = f"this command lacks {counted(len(gone), 'cell')} that {verb} measured: {listed([trial.name for trial in gone])}"
        twins = [configuration for axes, configuration in here_by_axes if axes == gone[0].axes]
        raise another(study, what + what_else_differs(gone[0], twins), "name those as well, or ")


def what_else_differs(trial: Trial, twins: Sequence[dict[str, Any]]) -> str:
    """What tells a trial from the cells that have the same axes; "" where there are none, since the axes tell it then."""
    changes = [differences(configured(trial), twin) for twin in twins]
    nearest = min(changes, key=len, default={})
    texts = [f"{key} is {value_of(old)} there and {value_of(new)} here" for key, (old, new) in nearest.items()]
    return f" ({listed(texts)})" if texts else ""


def another(study: StudyConfig, what: str, way_out: str = "") -> UserError:
    """The refusal of a command that would take a study's place."""
    number = 2
    while (study.folder.parent / f"{study.name}_{number}").exists():
        number += 1
    name = shlex.quote(override("study.name", f"{study.name}_{number}"))
    message = f"study.name: {study.folder} holds another study: {what}; {way_out}take another name, such as {name}"
    return UserError(f"{message} (nothing was changed)")


def configured(trial: Trial) -> dict[str, Any]:
    """What a cell is by its configuration, every key of this version filled in; {} where that cannot be told."""
    try:
        pipeline = from_plain(trial.pipeline, PipelineConfig, "trial").as_dict()
        workload = plain(asdict(from_plain(trial.setting["workload"], WorkloadConfig, "trial")))
    except (UserError, KeyError):
        return {}
    return {**pipeline, "workload": {key: value for key, value in workload.items() if key not in MAY_CHANGE}}
