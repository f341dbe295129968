"""Room on the disks: for the study, for weights that are still to be fetched, and for what engines write."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from gpuqa.config.commands import CellConfig
from gpuqa.config.pipeline import Backend, ModelConfig
from gpuqa.machine.hardware import GIB
from gpuqa.readiness import Finding, State
from gpuqa.readiness.files import fetch_command, weights
from gpuqa.roofline.checkpoint import shape_of
from gpuqa.study.cell_checks import CellChecks

LEAST_FREE_GIB = 0.5


def disks(cells: Sequence[CellConfig], checks: CellChecks) -> list[Finding]:
    """Each folder that is written to: whether it can be, and how much is free there."""
    root = Path(cells[0].study.root).absolute()
    found = [disk("study.root", root, LEAST_FREE_GIB, "name another folder: study.root=FOLDER")]
    models = {repr(cell.model): cell.model for cell in cells}.values()
    for model in models:
        if weights(model, checks).state is State.missing and fetch_command(model):
            folder, remedy = Path(model.path).absolute(), "name another folder: model.path=FOLDER"
            found.append(disk("model.path", folder, max(LEAST_FREE_GIB, expected_gib(model)), remedy))
    found.append(disk("TMPDIR", Path(tempfile.gettempdir()), LEAST_FREE_GIB, "set TMPDIR to another folder"))
    if any(cell.engine.backend is Backend.vllm for cell in cells):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vllm"
        cache = Path(os.environ.get("VLLM_CACHE_ROOT") or cache)
        found.append(disk("VLLM_CACHE_ROOT", cache, LEAST_FREE_GIB, "set VLLM_CACHE_ROOT to another folder"))
    return found


def disk(name: str, folder: Path, least_gib: float, remedy: str) -> Finding:
    """A folder that has to be there, or to be made."""
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(place).free / GIB
    text = f"{folder}: {free:.1f} GiB free"
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        text = f"{place} is no folder that can be written to"
    elif free >= least_gib:
        return Finding(name, text)
    return Finding(name, f"{text}; free {least_gib:.1f} GiB or {remedy}", State.missing)


def expected_gib(model: ModelConfig) -> float:
    """The size of weights of 16 bits that are not here, by the shape that is assumed; 0 where none is."""
    if model.assumed is None:
        return 0.0
    shape = shape_of(asdict(model.assumed.shape))
    return 2 * (shape.parameters + shape.embedding * (1 if shape.tied else 2)) / GIB
