"""Command lines that messages print: pasted into a shell, they say to a command what they said in the message.

So the terminal on which they stand prints every text as it is.
"""

from __future__ import annotations

import shlex
from typing import IO, TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from gpuqa.config.commands import StudyConfig, escaped

if TYPE_CHECKING:
    from rich.console import Console


def terminal(file: IO[str] | None = None) -> Console:
    """The console of a command: `:new:` is no emoji and `[red]` no colour there, whoever called a study or a question so.

    Args:
        file: where it prints; None is standard output.
    """
    from rich.console import Console

    return Console(file=file, emoji=False, markup=False)


def command_line(command: str, *overrides: str) -> str:
    """`python -m gpuqa.COMMAND OVERRIDES`, quoted for a shell. Print it without wrapping (`soft_wrap=True` with rich)."""
    return shlex.join(["python", "-m", f"gpuqa.{command}", *overrides])


def override(key: str, value: object) -> str:
    """`KEY=VALUE` for Hydra: a text is quoted where its grammar would take it for something else, such as `a,b` or `{a}`."""
    if isinstance(value, int | float):
        return f"{key}={value}"
    text: str = escaped(str(value))
    return f"{key}={text}" if is_plain(text) else f"{key}={QuotedString(text, Quote.double).with_quotes()}"


def study_overrides(study: StudyConfig) -> list[str]:
    """The overrides that name a study."""
    root = [override("study.root", study.root)] if study.root != StudyConfig.root else []
    return [*root, override("study.name", study.name)]


def is_plain(value: str) -> bool:
    """Whether Hydra takes this text, without quotes, for this text."""
    try:
        parsed = OverridesParser.create().parse_override(f"key={value}")
        return not parsed.is_sweep_override() and parsed.value() == value
    except HydraException:
        return False
