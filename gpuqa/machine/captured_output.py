"""What engines print. vLLM writes the reason of a failed start only to its own process's output, so it is kept.

An engine's processes inherit the file as their output, so it also holds what they say later on.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

PREFIX = r"^(?:\(.*?\)\s*)?(?:ERROR.*?\]\s*)?"  # vLLM's process name, log level and source line
ERROR = r"(?:[\w.]+\.)?\w*(?:Error|Exception)"
OTHER_ERROR = r"(?:\w+\.)+[A-Z]\w*(?=: )"  # the name of an exception need not say that it is one
CAUSE = re.compile(PREFIX + rf"({ERROR}|{OTHER_ERROR})(?:: *(.*))?$")
CONSEQUENCE = "See root cause above"  # what vLLM raises in our process; the cause was printed by the other
KILLED = re.compile(r"proc\(s\): \{(?:\}|[^}]*: -(\d+))")  # a process that a signal ended says nothing; {}: nobody knows which


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
    """Why an engine did not start: what its own process printed, where the raised exception is only its consequence.

    That is the first exception with a message, else the first one with the line of code before it, else the signal that
    killed the process, else the last line that it printed.
    """
    if CONSEQUENCE not in raised:
        return raised
    plain = (re.sub(PREFIX, "", line).strip() for line in printed.splitlines())
    lines = [line for line in plain if line.strip("^~ ")]  # which underline code in a traceback
    causes = [(place, match) for place, line in enumerate(lines) if (match := CAUSE.match(line))]
    causes_said = [f"{match[1]}: {match[2]}" for _, match in causes if match[2] and CONSEQUENCE not in match[2]]
    causes_said += [f"{match[1]} at: {lines[place - 1]}" for place, match in causes if not match[2] and place]
    if causes_said:
        return causes_said[0]
    if killed := KILLED.search(raised):
        name = signal.Signals(int(killed[1])).name if killed[1] else "killed, or for want of memory"
        return f"the engine process died while it started: {name}"
    return f"{raised}; the engine's last line was: {lines[-1]}" if lines else raised
