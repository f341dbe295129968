"""Run a study from Python: the sweep's own command in a process of its own.

So a notebook measures what the command measures. An engine changes what is imported, the environment, signals and file
descriptors of its process; a kernel keeps all of that as it was, and its event loop may go on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from gpuqa.config import UserError, check
from gpuqa.config.app import INTERRUPTED, USER_ERROR
from gpuqa.config.commands import SweepConfig, resolve
from gpuqa.config.from_python import cells_of
from gpuqa.config.paths import PACKAGE
from gpuqa.study.loaded_study import LoadedStudy, load_study

WITH_OR_WITHOUT_WINNER = (0, 1)
FOR_A_TERMINAL = ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")  # a kernel sets some; a progress bar would fill the page
ERROR = "error: "  # begins the line with which a command refuses its input
START = """
import sys
from gpuqa.machine.child_processes import end_with_parent
end_with_parent(int(sys.argv.pop(1)))
from gpuqa.sweep import main
main()
"""


class StudyFailed(RuntimeError):
    """The process that measured a study ended before the study did; its passes are kept, and the same call goes on."""


def run(*overrides: str, config_dir: str | Path | None = None) -> LoadedStudy:
    """Run a study as `python -m gpuqa.sweep OVERRIDES` does, print what it says, and load it.

    An interrupt (the notebook's stop button) ends the study as Ctrl-C ends the command: what was measured is kept, and the same
    call goes on from there. If this process ends, the study's ends too.

    Args:
        config_dir: a folder with options of your own, as `--config-dir`.

    Raises:
        UserError: what the command would print.
        StudyFailed: with the exit code and the last line.
    """
    first = resolve(cells_of("run", overrides, config_dir).compose(0), SweepConfig)
    check(not first.plan, "plan", first.plan, "false here; `python -m gpuqa.sweep plan=true` says what a study would take")
    code, last = printed([*(["--config-dir", str(config_dir)] if config_dir else []), *overrides])
    if code in WITH_OR_WITHOUT_WINNER:
        return load_study(first.study.folder)
    if code == USER_ERROR:
        raise UserError(last.removeprefix(ERROR))
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    raise StudyFailed(f"the study's process ended with exit code {code}; its last line was {last!r}")


def printed(words: Sequence[str]) -> tuple[int, str]:
    """Run a sweep with these words and print its output as it comes -> exit code, last line.

    Raises:
        KeyboardInterrupt: when the sweep has ended; the first one is handed on to it, and another one kills it.
    """
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    kept = {name: value for name, value in os.environ.items() if name not in FOR_A_TERMINAL}
    with subprocess.Popen(
        [sys.executable, "-c", START, str(os.getpid()), *words],
        env={**kept, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # an interrupt reaches it once, from here
    ) as child:
        try:
            last = print_lines(child.stdout)
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
            try:
                print_lines(child.stdout)
                child.wait()
            except KeyboardInterrupt:
                child.kill()
            raise
    return child.returncode, last


def print_lines(output: IO[str] | None) -> str:
    """Print all lines but one that refuses the input, which the caller gets as an exception -> the last line."""
    last = ""
    for line in output or ():
        last = line.rstrip() or last
        if not line.startswith(ERROR):
            print(line, end="", flush=True)
    return last
