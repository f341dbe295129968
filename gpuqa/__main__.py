"""The list of commands.

python -m gpuqa             # one line for each command
python -m gpuqa --version
"""

from __future__ import annotations

import argparse
import ast
import sys

from gpuqa import __version__
from gpuqa.config.commands import COMMANDS
from gpuqa.config.paths import PACKAGE


def main() -> int:
    """Print the list -> exit code."""
    parser = argparse.ArgumentParser("python -m gpuqa", description="Print the list of commands.")
    parser.add_argument("--version", action="version", version=__version__)
    _, words = parser.parse_known_args()
    if words:
        allowed = ", ".join(f"gpuqa.{name}" for name in COMMANDS)
        print(f"error: got {words[0]!r} after `python -m gpuqa`, allowed is `python -m` and one of {allowed}", file=sys.stderr)
        return 2
    for name in COMMANDS:
        print(f"python -m gpuqa.{name:<10} {purpose_of(name)}")
    print("\nEach shows its configuration with --help.")
    return 0


def purpose_of(command: str) -> str:
    """The first line of a command's docstring, read without importing the command, which may take seconds."""
    tree = ast.parse((PACKAGE / f"{command}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
