"""Measure a frozen winner again on this machine: do its numbers come out as they would if nothing changed?

A speed does inside the interval of the next measurement. The passes of both sides, six or more, show how wide that is, and it
may be too noisy to say. A score does where its answers are not shown to differ from the frozen ones, question by question.
Where the study's answers do not lie beside the file, scores are compared by their means, and the output says how large a change
that can tell.

    python -m gpuqa.reproduce frozen=experiments/embedded/frozen.yaml
    python -m gpuqa.reproduce frozen=experiments/mine/frozen.yaml
    python -m gpuqa.reproduce frozen=experiments/mine/frozen.yaml model_path=/mnt/weights    # they lie elsewhere here

Exit codes: 0 no number is outside of its interval, 1 one is outside or could not be measured, 2 the input is wrong.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO

from gpuqa import frozen
from gpuqa.config import UserError
from gpuqa.config.app import run_command
from gpuqa.config.commands import CellConfig, ReproduceConfig, from_plain, resolve
from gpuqa.config.paths import find, find_model
from gpuqa.measure.cell import Cell
from gpuqa.measure.speed_prediction import passes_again
from gpuqa.records import Answer, Pass, Trial
from gpuqa.selection.against_frozen import (
    NUMBERS,
    TOO_NOISY,
    FrozenNumber,
    against_frozen,
    interval_of,
    lines_of,
    paired_or_not,
)
from gpuqa.selection.pairing import paired
from gpuqa.study import study
from gpuqa.study.journal import Journal

OUTSIDE = 1
WAY_OUT = "Put it back, or measure its study again"
ELSEWHERE = {"selection": {"name": "none"}, "executor": {"name": "local", "kind": "local"}, "study": {"name": "reproduce"}}


def main() -> None:
    """Enter with conf/reproduce.yaml."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    run_command(reproduce, "reproduce")


def reproduce(composed: Any) -> int:
    """The composed config -> exit code."""
    config = resolve(composed, ReproduceConfig)
    content = frozen.read(Path(config.frozen))
    cell = cell_of(content, config)
    out = os.fdopen(os.dup(1), "w", buffering=1)  # an engine that starts takes file descriptor 1 for its own log
    print(f"measured on {content['device']}, now on {cell.fingerprint['device']}", file=out)
    print(f"measuring {len(cell.questions)} questions {cell.config.workload.repeats} times, once an engine is up", file=out)
    trial, answers = measure(cell)
    if trial.measurement is None:
        print(f"error: {config.frozen} could not be measured here: {trial.error}", file=sys.stderr)
        return OUTSIDE
    then, now = ran(content["overrides"]), ran([asdict(override) for override in trial.overrides])
    if then != now:
        print(f"frozen with {then}, measured here with {now}", file=out)
    pairs = paired(answers, frozen_answers(content, Path(config.frozen), out))
    numbers = against_frozen(content["measurement"], asdict(trial.measurement), pairs)
    return tell(content["measurement"], numbers, out)


def cell_of(content: dict[str, Any], config: ReproduceConfig) -> Cell:
    """The frozen cell, ready to be measured here. What is cheap to see is seen before a tokenizer is loaded.

    Raises:
        UserError: the file does not say how it was measured or nothing can be compared with it; or weights, prompt or
            questions are not those of then.
    """
    pipeline = frozen.pipeline_config(content, Path(config.frozen), config.trust_frozen)
    if not content.get("setting") or not isinstance(content["setting"], dict):
        raise UserError(f"frozen: {config.frozen} does not say how it was measured (setting is empty); measure its study again")
    if not any(interval_of(content["measurement"].get(f"{name}_interval")) for name in NUMBERS):
        reason = "none of its numbers has an interval, so nothing could come out inside or outside"
        raise UserError(f"frozen: {config.frozen}: {reason}; measure its study again with workload.repeats=3 or more")
    plain = {**content["pipeline"], **content["setting"], **ELSEWHERE}
    cell_config = from_plain(plain, CellConfig, config.frozen)
    workload = replace(cell_config.workload, repeats=passes_again(cell_config.workload.repeats))
    cell_config = replace(cell_config, workload=workload)
    if config.model_path is not None:
        cell_config = replace(cell_config, model=replace(cell_config.model, path=config.model_path))
    folder = folder_of(cell_config, config)
    frozen.refuse(config.frozen, frozen.mismatches(content, pipeline, folder), WAY_OUT)
    try:
        [cell] = study.prepare([(cell_config, content["axes"])])
    except UserError as error:
        raise UserError(f"{config.frozen}: {error}") from error
    here: Any = cell.fingerprint
    asked = frozen.digest_mismatches(content, {key: here["digests"][key] for key in ("dataset", "prompt_tokens")})
    frozen.refuse(config.frozen, asked + frozen.stop_mismatches(content, here["stop_token_ids"]), WAY_OUT)
    return cell


def folder_of(cell_config: CellConfig, config: ReproduceConfig) -> Path:
    """Where the weights lie.

    Raises:
        UserError: not there; where they were moved, `model_path` says so.
    """
    if config.model_path is not None:
        return find(config.model_path, "model_path")
    try:
        return find_model(cell_config.model)
    except UserError as error:
        moved = "if the weights that were measured lie elsewhere now, say where with model_path=FOLDER"
        raise UserError(f"{config.frozen}: {error}; {moved}") from error


def measure(cell: Cell) -> tuple[Trial, list[Answer]]:
    """One trial with its answers, as a study measures it, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        [trial] = asyncio.run(study.run([cell], journal, Silent())).trials
        return trial, journal.answers(trial.key)


def frozen_answers(content: dict[str, Any], path: Path, out: TextIO) -> list[Answer]:
    """The answers that the frozen scores are of; none where they do not lie beside the file, which is then said."""
    answers = Journal(path.parent).answers(str(content.get("trial", "")))
    if not answers:
        where = Journal(path.parent).answers_file(str(content.get("trial", "")))
        print(f"the frozen answers cannot be read beside the file ({where.relative_to(path.parent)})", file=out)
    return answers


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


def tell(then: dict[str, Any], numbers: Sequence[FrozenNumber], out: TextIO) -> int:
    """Print number by number, then the names of those inside and outside -> exit code."""
    print("\n".join(filter(None, [paired_or_not(numbers), *lines_of(numbers)])), file=out)
    known = [number.name for number in numbers]
    names = {
        "inside": [number.name for number in numbers if number.inside],
        "outside": [number.name for number in numbers if number.inside is False],
        TOO_NOISY: [number.name for number in numbers if number.inside is None and number.noisy],
        "without an interval": [number.name for number in numbers if number.inside is None and not number.noisy],
        "not measured here": [name for name in NUMBERS if then.get(name) is not None and name not in known],
    }
    print("; ".join(f"{where}: {', '.join(there)}" for where, there in names.items() if there), file=out)
    failed = names["outside"] or names["not measured here"]
    but = f", but for {', '.join(names[TOO_NOISY])}" if names[TOO_NOISY] else ""
    print("NOT reproduced" if failed else f"reproduced{but}", file=out)
    return OUTSIDE if failed else 0


if __name__ == "__main__":
    main()
