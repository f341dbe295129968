"""What a search has done, in `search/` of the study's folder: appended line by line, so that a killed one goes on.

`search.yaml` says what is searched, `passes.jsonl` has every pass, `prompts.jsonl` every prompt with its parents,
`proposals.jsonl` what a proposer wrote and `found.jsonl` what went to the end. A search that goes on makes the same decisions
from the same passes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from gpuqa.config import UserError
from gpuqa.config.command_line import override
from gpuqa.config.commands import StudyConfig
from gpuqa.machine.files import append_line, make_folder, write_atomically
from gpuqa.records import Pass
from gpuqa.study.differences import differences, value_of
from gpuqa.study.record_lines import read_lines, to_line
from gpuqa.study.study_file import read_yaml

FOUND = "found_"  # begins the names of the prompts that go to the end


@dataclass(frozen=True, slots=True)
class SearchPass:
    """A pass of a prompt over a slice."""

    cell: str  # key of the prompt's cell: of its text, the questions, the code and the machine
    slice: int
    measured: Pass
    spent_s: float  # of the search's time, when the pass was over


@dataclass(frozen=True, slots=True)
class BornPrompt:
    """A prompt of a search, for readers."""

    key: str
    name: str
    generation: int
    origin: str
    parents: list[str]
    changes: list[str]  # against the first parent
    system: str | None
    user: str
    examples: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a proposer wrote, or why it did not."""

    generation: int  # that took it
    parent: str
    text: str
    refused: str  # why it was not used; "" where it was
    seconds: float


@dataclass(frozen=True, slots=True)
class FoundName:
    """The name that a prompt has in the study of the end, for good: a search that goes on may find others beside it."""

    key: str
    name: str


class SearchJournal:
    """The files of one search."""

    def __init__(self, study: StudyConfig) -> None:
        self.study, self.folder = study, study.folder / "search"
        self.passes_file, self.prompts_file = self.folder / "passes.jsonl", self.folder / "prompts.jsonl"
        self.proposals_file, self.found_file = self.folder / "proposals.jsonl", self.folder / "found.jsonl"
        self.passes: dict[tuple[str, int], SearchPass] = {}
        self.proposals: list[Proposal] = []
        self.found: dict[str, str] = {}  # the names of the prompts that went to the end, by their keys
        self.born: set[str] = set()
        self.last_generation = 0  # of the prompts that are known
        self.problems: list[str] = []

    def open(self, content: Mapping[str, Any]) -> None:
        """Read what an earlier run has left, after this search has proved to be the same.

        Raises:
            UserError: the folder holds another search; nothing in it is touched.
        """
        file = self.folder / "search.yaml"
        if file.exists():
            before = read_yaml(file)
            changes = differences(before if isinstance(before, dict) else {}, dict(content))
            if changes:
                key, (old, new) = next(iter(changes.items()))
                other = override("study.name", f"{self.study.name}_2")
                what = f"{key} is {value_of(old)} there and {value_of(new)} here"
                raise UserError(
                    f"study.name: {self.study.folder} holds another search: {what}; "
                    f"take another name, such as {other} (nothing was changed)"
                )
        make_folder(self.folder)
        write_atomically(file, yaml.safe_dump(dict(content), allow_unicode=True, sort_keys=False))
        passes, prompts = read_lines(self.passes_file, SearchPass), read_lines(self.prompts_file, BornPrompt)
        proposals, found = read_lines(self.proposals_file, Proposal), read_lines(self.found_file, FoundName)
        self.problems = [text for lines in (passes, prompts, proposals, found) if (text := lines.explained())]
        self.found = {one.key: one.name for one in found.records}
        self.passes = {(one.cell, one.slice): one for one in passes.records}
        self.proposals, self.born = proposals.records, {prompt.key for prompt in prompts.records}
        self.last_generation = max((prompt.generation for prompt in prompts.records), default=0)

    @property
    def spent_s(self) -> float:
        """The search's time so far, over all its runs."""
        return max((one.spent_s for one in self.passes.values()), default=0.0)

    def write_pass(self, done: SearchPass) -> None:
        """Keep a pass; on the disk on return.

        Raises:
            FileNotWritten: the disk is full, for example.
        """
        append_line(self.passes_file, to_line(done))
        self.passes[done.cell, done.slice] = done

    def write_prompt(self, prompt: BornPrompt) -> None:
        """Keep a prompt, once."""
        if prompt.key not in self.born:
            append_line(self.prompts_file, to_line(prompt))
            self.born.add(prompt.key)

    def write_proposal(self, proposal: Proposal) -> None:
        """Keep a proposal."""
        append_line(self.proposals_file, to_line(proposal))
        self.proposals.append(proposal)

    def name_found(self, key: str, taken: Collection[str]) -> str:
        """The name of a prompt that goes to the end: the one that it has, or a new one."""
        if key not in self.found:
            names = (f"{FOUND}{number}" for number in count(1))
            self.found[key] = next(name for name in names if name not in {*taken, *self.found.values()})
            append_line(self.found_file, to_line(FoundName(key, self.found[key])))
        return self.found[key]

    @property
    def final_questions(self) -> Path:
        """The questions of the end, as a file that later commands read, too."""
        return self.folder / "final_questions.json"
