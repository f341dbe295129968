"""What the processes of an engine find out about the overrides, on its way to the process that started it.

Only the engine's own processes know whether an override runs: the scheduler lives in one, the model runner and the attention
in others, forked or spawned. Each of them appends lines of JSON to one file in the engine's private folder; the file's name
is in the environment that they inherit.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

REPORTS_FILE = "GPUQA_OVERRIDE_REPORTS"  # environment variable with the path of the file


class State(StrEnum):
    """What is reported."""

    on = "on"  # the override runs
    off = "off"  # the engine's own part runs in its place; with the reason
    partly = "partly"  # the override runs, but not for everything; with the reason


@dataclass(frozen=True, slots=True)
class Report:
    """One line of the file."""

    part: str  # "scheduler" or "attention"
    state: State
    reason: str = ""


def report(part: str, state: State, reason: str = "") -> None:
    """Append a line, in an engine's process. Without a file (vLLM runs without this project's engine) it does nothing."""
    line = json.dumps(asdict(Report(part, state, reason)), ensure_ascii=False) + "\n"
    file = os.environ.get(REPORTS_FILE)
    if file:
        with contextlib.suppress(OSError), open(file, "a", encoding="utf-8") as stream:  # a full disk must not end the engine:
            stream.write(line)  # what was not reported as on counts as off


def read_reports(file: Path) -> list[Report]:
    """What was reported so far, each thing once and in its order: every layer and every worker says the same."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    values = [json.loads(line) for line in dict.fromkeys(lines) if line.endswith("}")]  # the last one may be half written
    return [Report(value["part"], State(value["state"]), value["reason"]) for value in values]
