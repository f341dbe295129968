"""Trials on disk: one line a trial, written when it ends, read by the next run of the same study.

`trials/trials.jsonl` holds the trials, `trials/<key>.answers.jsonl` the answers of each, `trials/<key>.passes.jsonl` what
was measured so far of one that has not ended yet, `study.yaml` which of them the last command asked for. A line counts
once it is whole: what a killed process left half-written is ignored, and its trial or pass measured again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from gpuqa.config import UserError
from gpuqa.records import Answer, Answered, Completion, Conditions, Dropped, Measurement, Pass, Trial


class Journal:
    """The trials of one study folder."""

    def __init__(self, study_folder: Path) -> None:
        self.study_file = study_folder / "study.yaml"
        self.engine_log = study_folder / "engine.log"
        self.folder = study_folder / "trials"
        self.file = self.folder / "trials.jsonl"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from measuring the same study at the same time.

        A POSIX record lock belongs to this process alone: a crash leaves none behind, and engines do not inherit it.

        Raises:
            UserError: another process has it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a+", encoding="utf-8") as stream:
            try:
                fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                stream.seek(0)
                holder = stream.read().strip() or "another process"
                raise UserError(f"study: {self.folder.parent} is being measured by {holder}; wait for it or end it") from error
            stream.truncate(0)
            stream.write(f"process {os.getpid()}\n")
            stream.flush()
            yield

    def read(self) -> dict[str, Trial]:
        """Every trial by its key; of several with one key the last."""
        lines = self.file.read_bytes().split(b"\n") if self.file.exists() else []
        return {trial.key: trial for line in lines if (trial := to_trial(line)) is not None}

    def write(self, trial: Trial, answers: Sequence[Answer], keep_passes: bool = False) -> None:
        """Keep a trial for good: its answers first, then the line that makes it count, both on the disk on return.

        Args:
            keep_passes: a race decides by those of all cells, again when it goes on; `forget_passes` comes when it has ended.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if answers:
            lines = [json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers]
            unfinished = self.answers_file(trial.key).with_suffix(".tmp")
            with unfinished.open("w", encoding="utf-8") as stream:
                stream.writelines(lines)
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(self.answers_file(trial.key))
        append(self.file, asdict(trial))
        if trial.error is None and not keep_passes:  # else the passes stay: the next run goes on with those that are missing
            self.forget_passes(trial.key)

    def write_pass(self, key: str, measured: Pass) -> None:
        """Keep one pass of a trial that has not ended; on the disk on return."""
        self.folder.mkdir(parents=True, exist_ok=True)
        append(self.passes_file(key), asdict(measured))

    def read_passes(self, key: str) -> list[Pass]:
        """The passes that are kept of a trial that has not ended, in the order in which they were measured."""
        file = self.passes_file(key)
        lines = file.read_bytes().split(b"\n") if file.exists() else []
        return [measured for line in lines if (measured := to_pass(line)) is not None]

    def forget_passes(self, key: str) -> None:
        """A trial that has ended needs its passes no more."""
        self.passes_file(key).unlink(missing_ok=True)

    def write_study(self, cells: Sequence[tuple[str, dict[str, str]]], finalists: int = 0) -> None:
        """Note which trials the study is made of, by key and axes, and how many finalists it has, before the first runs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = [{"trial": key, "axes": axes} for key, axes in cells]
        content = {"finalists": finalists, "cells": rows}
        self.study_file.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")

    def finalists(self) -> int:
        """How many finalists the study has; none where nobody noted a study."""
        if not self.study_file.exists():
            return 0
        return int(yaml.safe_load(self.study_file.read_text(encoding="utf-8")).get("finalists", 0))

    def read_study(self) -> list[Trial]:
        """The trials of the study that are on the disk, in the study's order."""
        if not self.study_file.exists():
            return []
        cells = yaml.safe_load(self.study_file.read_text(encoding="utf-8"))["cells"]
        known = self.read()
        return [replace(known[cell["trial"]], axes=cell["axes"]) for cell in cells if cell["trial"] in known]

    def answers_file(self, key: str) -> Path:
        """Where the answers of a trial are."""
        return self.folder / f"{key[:16]}.answers.jsonl"

    def passes_file(self, key: str) -> Path:
        """Where the passes of a trial are until it ends."""
        return self.folder / f"{key[:16]}.passes.jsonl"

    def answers(self, key: str) -> list[Answer]:
        """The answers of a trial in the order of the questions; none if they are absent or half-written."""
        try:
            lines = self.answers_file(key).read_bytes().split(b"\n")
            return [Answer(**json.loads(line)) for line in lines if line]
        except (OSError, ValueError, TypeError):
            return []


def append(file: Path, row: dict[str, Any]) -> None:
    """Add one line of JSON, on the disk on return; behind a line that was torn off it begins a new one."""
    torn = file.exists() and not file.read_bytes().endswith(b"\n")
    with file.open("a", encoding="utf-8") as stream:
        stream.write(("\n" if torn else "") + json.dumps(row, ensure_ascii=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def to_pass(line: bytes) -> Pass | None:
    """A pass from its line; None if the line was never finished or is another version's, so that it is measured again."""
    try:
        row = json.loads(line)
        answered = row["answered"]
        completions = [Completion(**one) for one in answered["completions"]]
        conditions = [Conditions(**one) for one in row["conditions"]]
        return Pass(**{**row, "answered": Answered(**{**answered, "completions": completions}), "conditions": conditions})
    except (ValueError, TypeError, KeyError):
        return None


def to_trial(line: bytes) -> Trial | None:
    """A trial from its line; None if the line was never finished or is another version's, so that it is measured again."""
    try:
        row = json.loads(line)
        if (dropped := row.pop("dropped", None)) is not None:
            row["dropped"] = Dropped(**{**dropped, "seen": to_measurement(dropped["seen"])})
        return Trial(**{**row, "measurement": to_measurement(row["measurement"])})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def to_measurement(row: dict[str, Any] | None) -> Measurement | None:
    """A measurement from its plain values, None from None."""
    if row is None:
        return None
    conditions = [Conditions(**one) for one in row["conditions"]]
    return Measurement(**{**row, "conditions": conditions})
