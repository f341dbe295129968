"""What engines print. vLLM writes the reason of a failed start only to its own process's output, so it is kept.

An engine's processes inherit the file as their output, so it also holds what they say later on.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PREFIX = r"^(?:\(.*?\)\s*)?(?:ERROR.*?\]\s*)?"  # vLLM's process name, log level and source line
CAUSE = re.compile(PREFIX + r"((?:[\w.]+\.)?\w*(?:Error|Exception)): *(.*)$")
CONSEQUENCE = "initialization failed"  # what vLLM raises in our process; the cause was printed by the other


@contextlib.contextmanager
def captured(file: Path) -> Iterator[None]:
    """Append what this process and those that it starts print to a file, as long as the block lasts."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as log:
        kept = [(target, os.dup(target)) for target in (1, 2)]
        flush()
        for target, _ in kept:
            os.dup2(log.fileno(), target)
        try:
            yield
        finally:
            flush()
            for target, saved in kept:
                os.dup2(saved, target)
                os.close(saved)


def flush() -> None:
    """Let what was printed reach the file descriptor that it was meant for."""
    sys.stdout.flush()
    sys.stderr.flush()


def root_cause(printed: str, raised: str) -> str:
    """The first exception that the engine's own process printed, where the raised one is only its consequence."""
    if CONSEQUENCE not in raised:
        return raised
    causes = [match for line in printed.splitlines() if (match := CAUSE.match(line)) and CONSEQUENCE not in match[2]]
    return f"{causes[0][1]}: {causes[0][2]}" if causes else raised
