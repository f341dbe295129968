"""The page of findings: from the heads of findings/*.sh."""

from __future__ import annotations

import re
from pathlib import Path

from comments import text_of

FOLDER = Path(__file__).resolve().parent.parent.parent / "findings"
HEAD = """# Findings

What surprised us about software of other people. Each is a script that installs public packages in a temporary folder, shows
the behaviour on harmless input and says whether it is still as it was. This page is generated from their heads.
"""


def page() -> str:
    """The page."""
    lines = [HEAD]
    for file in sorted(FOLDER.glob("*.sh")):
        parts = header(file)
        lines += [
            f"## {text_of(parts['Finding'])}",
            "",
            f"`bash findings/{file.name}`; tried with {text_of(parts['Tried with'])}",
            "",
        ]
        lines += [f"- {name}: {text_of(parts[name])}" for name in ("Expected", "Behaviour", "Here")]
        lines.append("")
    return "\n".join(lines)


def header(file: Path) -> dict[str, str]:
    """The parts of a finding's head: name -> text in one line."""
    comment = re.match(r"#!/usr/bin/env bash\n((?:#.*\n)+)", file.read_text(encoding="utf-8"))
    assert comment, f"{file.name} has no head"
    lines = re.sub(r"(?m)^# ?", "", comment[1])
    parts = re.finditer(r"(?ms)^([A-Z][a-z ]+): ?(.*?)(?=^\S|\Z)", lines)
    return {part[1]: " ".join(part[2].split()) for part in parts}
