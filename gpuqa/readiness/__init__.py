"""What `gpuqa.check` looks at, a file a subject; each function gives findings and starts nothing.

It is a room of its own because it looks at all the others: at engines, files, the study and the server's port.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

INSTALL = "in an environment of its own, install gpuqa[gpu] for a GPU, or requirements/cpu.txt for a CPU"


class State(Enum):
    """What a finding means for the study."""

    ok = "ok"
    note = "note"  # what a user may not expect
    missing = "missing"  # it does not run


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer."""

    name: str
    text: str
    state: State = State.ok


def not_needed(finding: Finding) -> Finding:
    """What is missing stops nothing where the study does not ask for it."""
    state = State.note if finding.state is State.missing else finding.state
    return replace(finding, text=f"{finding.text} (this study does not ask for it)", state=state)
