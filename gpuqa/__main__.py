"""The list of commands, and the console script `gpuqa`, which hands its rest on to one of them.

python -m gpuqa             # one line for each command
python -m gpuqa --version
gpuqa sweep prompt=bare     # the same as `python -m gpuqa.sweep prompt=bare`
"""

from __future__ import annotations

import importlib
import sys

from gpuqa import __version__
from gpuqa.config import did_you_mean
from gpuqa.config.commands import COMMANDS
from gpuqa.config.usage import listing


def main() -> int:
    """Print the list, or enter a command -> exit code."""
    first, *rest = sys.argv[1:] or ["--help"]
    if first in COMMANDS:
        sys.argv = [f"gpuqa {first}", *rest]
        importlib.import_module(f"gpuqa.{first}").main()  # ends the process
    if first in ("--help", "-h", "--version"):
        print(__version__ if first == "--version" else listing())
        return 0
    print(
        f"error: got {first!r}, allowed is {', '.join(COMMANDS)}, --help or --version{did_you_mean(first, COMMANDS)}",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    sys.exit(main())
