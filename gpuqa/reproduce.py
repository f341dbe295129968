"""Measure a frozen winner again on this machine: which of its numbers come out inside their intervals?

    python -m gpuqa.reproduce frozen=experiments/embedded/frozen.yaml

Exit codes: 0 every number that has an interval is inside it, 1 one is outside or the measuring failed, 2 the input is wrong.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gpuqa import frozen
from gpuqa.config import UserError
from gpuqa.config.app import run_command
from gpuqa.config.commands import CellConfig, ReproduceConfig, from_plain, resolve
from gpuqa.config.paths import find, find_model
from gpuqa.measure.cell import Cell
from gpuqa.measure.metrics import METRICS, shown
from gpuqa.records import Interval, Measurement, Pass, Trial
from gpuqa.study import study
from gpuqa.study.journal import Journal

OUTSIDE = 1
NUMBERS = ("chars_per_s", "rouge_l_f1_judge", "rouge_l_f1")  # what has an interval
ELSEWHERE = {"selection": {"name": "none"}, "executor": {"name": "local", "kind": "local"}, "study": {"name": "reproduce"}}


def main() -> None:
    """Enter with conf/reproduce.yaml."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    run_command(reproduce, "reproduce")


def reproduce(composed: Any) -> int:
    """The composed config -> exit code."""
    config = resolve(composed, ReproduceConfig)
    console = Console(file=os.fdopen(os.dup(1), "w"))  # an engine that starts takes file descriptor 1 for its own log
    content = frozen.read(Path(config.frozen))
    cell = cell_of(content, config)
    console.print(f"measured on {content['device']}, now on {cell.fingerprint['device']}", markup=False, highlight=False)
    trial = measure(cell)
    if trial.measurement is None:
        console.print(trial.error, markup=False, highlight=False)
        return OUTSIDE
    then, now = ran(content["overrides"]), ran([asdict(override) for override in trial.overrides])
    if then != now:
        console.print(f"frozen with {then}, measured here with {now}", style="yellow", markup=False, highlight=False)
    outside = show(content["measurement"], trial.measurement, console)
    console.print("outside its interval: " + ", ".join(outside) if outside else "reproduced", style="bold")
    return OUTSIDE if outside else 0


def cell_of(content: dict[str, Any], config: ReproduceConfig) -> Cell:
    """The frozen cell, ready to be measured here.

    Raises:
        UserError: the file does not say how it was measured, or weights, prompt or questions are not those of then.
    """
    if not content.get("setting") or not isinstance(content["setting"], dict):
        raise UserError(f"frozen: {config.frozen} does not say how it was measured (setting is empty); measure its study again")
    plain = {**content["pipeline"], **content["setting"], **ELSEWHERE}
    cell_config = from_plain(plain, CellConfig, config.frozen)
    if config.model_path is not None:
        cell_config = replace(cell_config, model=replace(cell_config.model, path=config.model_path))
    pipeline = frozen.pipeline_config(content, Path(config.frozen))
    folder = find(config.model_path, "model_path") if config.model_path else find_model(cell_config.model)
    [cell] = study.prepare([(cell_config, content["axes"])])
    digests: Any = cell.fingerprint["digests"]
    also = {key: digests[key] for key in ("dataset", "prompt_tokens") if key in digests}
    differences = frozen.mismatches(content, pipeline, folder, **also)
    frozen.refuse(config.frozen, differences, "Put it back, or measure its study again")
    return cell


def measure(cell: Cell) -> Trial:
    """One trial, as a study measures it, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = asyncio.run(study.run([cell], Journal(Path(folder)), Silent()))
        return outcome.trials[0]


def ran(overrides: Sequence[Mapping[str, Any]]) -> str:
    """Which parts of the engine ran, in words."""
    return ", ".join(f"{part['part']}={part['ran']}" for part in overrides) or "the engine's own parts"


class Silent:
    """An observer with nothing to say."""

    def engine_starts(self, cell: Cell) -> None:
        """Nothing to say."""

    def pass_done(self, cell: Cell, measured: Pass) -> None:
        """Nothing to say."""

    def trial_done(self, trial: Trial, kept: bool) -> None:
        """The caller has the trial."""


def show(then: dict[str, Any], now: Measurement, console: Console) -> list[str]:
    """Print number by number; the names of those outside their interval."""
    table = Table(box=SIMPLE_HEAD, header_style="bold")
    for heading in ("number", "frozen", "interval", "here", ""):
        table.add_column(heading, justify="left" if heading in ("number", "") else "right")
    outside = []
    for name in NUMBERS:
        measured, promised, ends = getattr(now, name), then.get(name), then.get(f"{name}_interval")
        if measured is None or promised is None:
            continue
        interval = Interval(**ends) if ends else None
        inside = interval is None or interval.low <= measured <= interval.high
        text = "n/a (needs two repeats)" if interval is None else f"{interval:{METRICS[name].form}}"
        place = "" if interval is None else "inside" if inside else "OUTSIDE"
        table.add_row(name, shown(name, promised), text, shown(name, measured), place)
        outside += [] if inside else [name]
    console.print(table)
    return outside


if __name__ == "__main__":
    main()
