"""`events.jsonl` of a study's folder: when engines began to start, cells were warm, passes ended, and answers were scored.

Only the report's timeline is drawn from it. No number rests on it, so that it may be absent, torn or edited.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

STARTS, WARM, PASS, SCORING, SCORED = "engine starts", "cell warm", "pass done", "scoring", "scored"


@dataclass(frozen=True, slots=True)
class Moment:
    """What happened to the cell of a trial, and when."""

    at: float  # seconds since the epoch
    what: str
    trial: str  # the start of its key


class EventLog:
    """The file of one study."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "events.jsonl"

    def note(self, what: str, key: str) -> None:
        """Add a moment. Where the file cannot be written, the study goes on without it."""
        with contextlib.suppress(OSError), self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(Moment(round(time.time(), 3), what, key[:16]))) + "\n")

    @contextlib.contextmanager
    def scoring(self, key: str) -> Iterator[None]:
        """Note when the answers of a trial are handed over to be scored, and when their scores are there."""
        self.note(SCORING, key)
        yield
        self.note(SCORED, key)

    def read(self) -> list[Moment]:
        """The moments that can be read, in their order."""
        moments = []
        for line in self.file.read_text(encoding="utf-8", errors="replace").splitlines() if self.file.is_file() else []:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                moments.append(Moment(float(row["at"]), str(row["what"]), str(row["trial"])))
        return moments
