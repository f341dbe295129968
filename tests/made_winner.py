"""A frozen winner that no study measured, for tests of a server: its numbers are made up, its digests are real."""

from __future__ import annotations

from pathlib import Path

from any_measurement import any_measurement

from gpuqa import frozen
from gpuqa.config.app import compose_cell
from gpuqa.config.measurement import SelectionConfig
from gpuqa.study.study import prepare


def made_winner(folder: Path, *overrides: str) -> Path:
    """The frozen file of one cell of the embedded model, in float32: there an answer does not depend on its batch."""
    chosen = ("experiment=none", "prompt=bare", "engine.args.dtype=float32", "dataset.limit=2", *overrides)
    [cell] = prepare([(compose_cell(*chosen), {})])
    file = folder / "frozen.yaml"
    frozen.freeze(frozen.Winner(cell.trial(any_measurement()), []), SelectionConfig(name="any"), "a test", file)
    return file
