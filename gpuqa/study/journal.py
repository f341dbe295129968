"""Trials on disk: one line a trial, written when it ends, read by the next run of the same study.

`trials/trials.jsonl` holds the trials, `trials/<key>.answers.jsonl` the answers of each, `trials/<key>.passes.jsonl` what
was measured so far of one that has not ended yet, `study.yaml` which of them make the study (`gpuqa.study.study_file`). A
line counts once it is whole and as it was written (`gpuqa.study.record_lines`). What a killed process left half-written is
measured again; `problems` explains every line that cannot be read. A folder of another format is refused and left as it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from gpuqa.config import UserError, plain
from gpuqa.config.commands import from_plain
from gpuqa.config.measurement import SelectionConfig
from gpuqa.frozen import FORMAT, other_format
from gpuqa.machine.files import append_line, make_folder, write_atomically, writing
from gpuqa.measure.speed_tests import StartNoise
from gpuqa.pipeline.dataset.summary import Summary
from gpuqa.records import Answer, Pass, Trial
from gpuqa.selection.wording import counted
from gpuqa.study.event_log import EventLog
from gpuqa.study.record_lines import Lines, read_lines, to_line, written_by
from gpuqa.study.study_file import Damaged, is_study, read_yaml


class Journal:
    """The trials of one study folder."""

    def __init__(self, study_folder: Path) -> None:
        self.study_file = study_folder / "study.yaml"
        self.engine_log = study_folder / "engine.log"
        self.folder = study_folder / "trials"
        self.file = self.folder / "trials.jsonl"
        self.events = EventLog(study_folder)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from measuring or deciding the same study at the same time.

        A POSIX record lock belongs to this process alone: a crash leaves none behind, and engines do not inherit it.

        Raises:
            UserError: another process has it, or the folder was written in another format; then nothing in it is touched.
            FileNotWritten: the folder is read only, for example.
        """
        self.refuse_other_format()
        make_folder(self.folder)
        lock = self.folder / "lock"
        with contextlib.ExitStack() as opened:
            with writing(lock):
                stream = opened.enter_context(lock.open("a+b", buffering=0))
            try:
                fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                stream.seek(0)
                holder = stream.read().decode(errors="replace").strip() or "another process"
                message = f"study: {self.folder.parent} is being measured or decided by {holder}; wait for it or end it"
                raise UserError(message) from error
            with writing(lock):
                stream.truncate(0)
                stream.write(f"process {os.getpid()}\n".encode())
            yield

    def read(self) -> dict[str, Trial]:
        """Every trial that can be read, by its key; of several with one key the last.

        Raises:
            UserError: the folder was written in another format, or the operating system does not let it be read.
        """
        lines = read_lines(self.file, Trial)
        self._refuse(lines)
        return {trial.key: trial for trial in lines.records}

    def problems(self) -> list[str]:
        """One sentence for each file of trials, answers or passes in which lines cannot be read.

        Raises:
            UserError: the operating system does not let a file be read.
        """
        kinds: dict[str, type[Any]] = {"trials.jsonl": Trial, "*.answers.jsonl": Answer, "*.passes.jsonl": Pass}
        files = [(file, kind) for pattern, kind in kinds.items() for file in sorted(self.folder.glob(pattern))]
        explained = [read_lines(file, kind).explained() for file, kind in files]
        return [sentence for sentence in explained if sentence is not None]

    def write(self, trial: Trial, answers: Sequence[Answer], keep_passes: bool = False) -> None:
        """Keep a trial for good: its answers first, then the line that makes it count, both on the disk on return.

        Args:
            keep_passes: a race decides by those of all cells, again when it goes on; `forget_passes` comes when it has ended.

        Raises:
            FileNotWritten: the disk is full, for example; the trial does not count then, and those before it do.
        """
        make_folder(self.folder)
        if answers:
            write_atomically(self.answers_file(trial.key), "".join(to_line(answer) + "\n" for answer in answers))
        append_line(self.file, to_line(trial))
        if trial.error is None and not keep_passes:  # else the passes stay: the next run goes on with those that are missing
            self.forget_passes(trial.key)

    def write_pass(self, key: str, measured: Pass) -> None:
        """Keep one pass of a trial that has not ended; on the disk on return.

        Raises:
            FileNotWritten: as `write`.
        """
        make_folder(self.folder)
        append_line(self.passes_file(key), to_line(measured))

    def read_passes(self, key: str) -> list[Pass]:
        """The passes that are kept of a trial that has not ended, in the order in which they were measured."""
        return read_lines(self.passes_file(key), Pass).records

    def count_passes(self) -> int:
        """How many passes are kept of all trials that have not ended."""
        return sum(len(read_lines(file, Pass).records) for file in self.folder.glob("*.passes.jsonl"))

    def forget_passes(self, key: str) -> None:
        """A trial that has ended needs its passes no more.

        Raises:
            FileNotWritten: the folder is read only, for example.
        """
        with writing(self.passes_file(key)):
            self.passes_file(key).unlink(missing_ok=True)

    def write_study(
        self,
        cells: Sequence[tuple[str, dict[str, str]]],
        finalists: int = 0,
        questions: Summary | None = None,
        rule: SelectionConfig | None = None,
        noise: StartNoise | None = None,
    ) -> None:
        """Note what the study is made of, before the first cell runs.

        Args:
            cells: each by its trial's key and its axes.
            questions: that it asks.
            rule: that it is decided by; `gpuqa.freeze` starts from it.
            noise: how much starts of an engine usually differ; a study that has one keeps it.

        Raises:
            UserError: the folder was written in another format; then nothing in it is touched.
        """
        self.refuse_other_format()
        make_folder(self.folder)
        content: dict[str, Any] = {"format": FORMAT, "finalists": finalists}
        content |= {"questions": questions.as_dict()} if questions else {}
        content |= {"selection": plain(asdict(rule))} if rule else {}
        content |= {"start_noise": self.earlier_noise() or asdict(noise)} if noise else {}
        content["cells"] = [{"trial": key, "axes": axes} for key, axes in cells]
        write_atomically(self.study_file, yaml.safe_dump(content, allow_unicode=True, sort_keys=False))

    def rule(self) -> SelectionConfig | None:
        """The rule that the study's sweep decided by; None where `study.yaml` does not say.

        Raises:
            UserError: as `read_study`.
        """
        selection = self._study().get("selection")
        return from_plain(selection, SelectionConfig, f"{self.study_file}: selection") if selection else None

    def finalists(self) -> int:
        """How many finalists the study has; 0 where there is no `study.yaml`."""
        return int(self._study()["finalists"])

    def start_noise(self) -> StartNoise:
        """How much starts of an engine usually differ, as it was known when the study began."""
        return StartNoise(**(self.earlier_noise() or {}))

    def earlier_noise(self) -> dict[str, float] | None:
        """The same as `study.yaml` has it; None where it does not say, or was edited to what is no noise."""
        try:
            noise = self._study().get("start_noise")
        except Damaged:
            return None
        if not isinstance(noise, dict) or set(noise) != {"sd", "freedom"}:
            return None
        return noise if all(isinstance(value, float) and value > 0 for value in noise.values()) else None

    def questions(self) -> Summary | None:
        """What the study's question file holds; None where `study.yaml` does not say."""
        return Summary.of(self._study().get("questions"))

    def read_study(self) -> list[Trial]:
        """The trials of the study that can be read, in the study's order.

        Raises:
            UserError: as `read`, or `study.yaml` is damaged, or absent although there are trials.
        """
        cells, known = self._study()["cells"], self.read()
        if known and not self.study_file.exists():
            trials = f"{self.folder.parent} holds {counted(len(known), 'trial')}"
            raise Damaged(f"{trials} but no study.yaml, which lists those of the study; the sweep's command writes it again")
        return [replace(known[cell["trial"]], axes=cell["axes"]) for cell in cells if cell["trial"] in known]

    def earlier(self) -> list[Trial]:
        """The trials of the study so far; all of the folder's where `study.yaml` does not say which they are.

        Raises:
            UserError: as `read`.
        """
        try:
            return self.read_study()
        except Damaged:
            return list(self.read().values())

    def unread(self) -> list[str]:
        """The cells of the study, by their axes, of which no trial can be read: lost, damaged, or not measured yet.

        Raises:
            UserError: as `read_study`.
        """
        known = self.read()
        missing = [cell["axes"] for cell in self._study()["cells"] if cell["trial"] not in known]
        return [" ".join(f"{key}={value}" for key, value in axes.items()) or "the only cell" for axes in missing]

    def answers_file(self, key: str) -> Path:
        """Where the answers of a trial are."""
        return self.folder / f"{key[:16]}.answers.jsonl"

    def passes_file(self, key: str) -> Path:
        """Where the passes of a trial are until it ends."""
        return self.folder / f"{key[:16]}.passes.jsonl"

    def answers(self, key: str) -> list[Answer]:
        """The answers of a trial in the order of the questions; none if any of them is absent, half-written or edited.

        A part of the answers would give another score than the trial's.
        """
        lines = read_lines(self.answers_file(key), Answer)
        return [] if lines.problems else lines.records

    def refuse_other_format(self) -> None:
        """Leave a folder alone that another format was written to; what cannot be read at all is no other format.

        Raises:
            UserError: names the format, and the command that measures the study again.
        """
        if self.study_file.exists():
            with contextlib.suppress(Damaged):
                self._study()
        self._refuse(read_lines(self.file, Trial))

    def _refuse(self, lines: Lines[Trial]) -> None:
        """Raise a UserError if all whole lines of the trials are of another format."""
        if lines.other_formats and not lines.records:
            first = lines.other_formats[0]
            study = self._study_of_any_format()
            axes = [cell["axes"] for cell in study.get("cells", [])]
            raise other_format(self.folder.parent, first.get("format", 1), written_by(first), axes, {**study, **first})

    def _study(self) -> dict[str, Any]:
        """What `study.yaml` holds; no cells where it does not exist.

        Raises:
            UserError: it is of another format.
            Damaged: it cannot be read, or is no study's.
        """
        if not self.study_file.exists():
            return {"format": FORMAT, "finalists": 0, "cells": []}
        content = read_yaml(self.study_file)
        if not is_study(content):
            raise Damaged(f"{self.study_file} is not what a sweep writes; the sweep's command writes it again")
        if (number := content.get("format", 1)) != FORMAT:
            lines = read_lines(self.file, Trial)
            first = lines.other_formats[0] if lines.other_formats else {}
            axes = [cell["axes"] for cell in content["cells"]]
            raise other_format(self.folder.parent, number, written_by(first), axes, {**content, **first})
        return content

    def _study_of_any_format(self) -> dict[str, Any]:
        """What `study.yaml` holds, whatever its format; nothing where it is absent or damaged."""
        try:
            content = read_yaml(self.study_file)
        except Damaged:
            return {}
        return content if is_study(content) else {}
