"""report.md: what a study came to, for a pull request or an issue. Short enough to be read there; report.html has the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gpuqa.measure.metric_table import METRICS, shown

ROWS = 10  # of the leaderboard
COLUMNS = ("chars_per_s", "rouge_l_f1_judge", "rouge_l_f1")
QUANTITIES = {"chars_per_s": "speed", "rouge_l_f1": "ROUGE-L", "rouge_l_f1_judge": "judge"}


def to_markdown(content: dict[str, Any]) -> str:
    """The verdict, the first cells, the main effects, and where and how it was measured; `content`: of `content_of`."""
    verdict, setup = content["verdict"], content["setup"]
    parts = [
        f"## {escaped(content['title'])}",
        *(f"> {escaped(note)}" for note in content["notes"]),
        escaped(verdict["reason"]),
        leaderboard(content["cells"], list(content["axes"])),
        effects(content["effects"]),
        machine(setup),
        *(f"```sh\n{command}\n```" for name, command in setup["commands"].items() if name in ("sweep", "serve")),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def leaderboard(cells: Sequence[dict[str, Any]], axes: Sequence[str]) -> str:
    """The first cells by the verdict, and how many there are."""
    heads = [*(axis.removeprefix("engine.args.") for axis in axes), *(METRICS[name].heading for name in COLUMNS), "state"]
    rows = [[*(cell["axes"].get(axis, "") for axis in axes), *numbers_of(cell), cell["status"]] for cell in cells[:ROWS]]
    rest = f"\n\n{len(cells) - ROWS} more cells are in leaderboard.csv." if len(cells) > ROWS else ""
    return table(heads, rows) + rest if cells else ""


def numbers_of(cell: dict[str, Any]) -> list[str]:
    """The shown numbers of a cell, those that decided; of a dropped one in brackets."""
    stage = cell["stages"][cell["decisive"]]
    if stage is None:
        return [""] * len(COLUMNS)
    texts = [shown(name, stage["numbers"][name]) for name in COLUMNS]
    return [f"({text})" for text in texts] if cell["status"] == "dropped" else texts


def effects(found: Sequence[dict[str, Any]]) -> str:
    """A line for each main effect."""
    lines = [f"- {escaped(line)}" for line in map(effect_text, found) if line]
    return "\n".join(["What each setting does, with 95 % intervals:", "", *lines]) if lines else ""


def effect_text(effect: dict[str, Any]) -> str:
    """A main effect in words: "quantization=fp8 instead of none: speed +12.0 % (+8.1 to +16.0), ROUGE-L -0.4 %, not shown"."""
    if len(effect["changes"]) > 1:
        return ""
    [change] = effect["changes"]
    told = [f"{word} {tested_text(effect['on'][name])}" for name, word in QUANTITIES.items() if name in effect["on"]]
    return (
        f"{change['axis'].removeprefix('engine.args.')}={change['value']} instead of {change['reference']}: {', '.join(told)}"
    )


def tested_text(tested: dict[str, Any]) -> str:
    """An effect on one quantity with its interval, and whether it is shown."""
    interval = tested["interval"]
    ends = f" ({interval['low']:+.1%} to {interval['high']:+.1%})" if interval else ""
    return f"{tested['share']:+.1%}{ends}{'' if tested['shown'] else ', not shown'}"


def machine(setup: dict[str, Any]) -> str:
    """Device, versions, questions and commit in a line each."""
    versions = ", ".join(f"{name} {' | '.join(map(str, values))}" for name, values in setup["versions"].items())
    devices = " | ".join(map(str, setup["machine"].get("device", [])))
    lines = [devices, versions, *setup["questions"][:1], *([f"commit {setup['commit']}"] if setup["commit"] else [])]
    return "\n".join(f"- {escaped(line)}" for line in lines if line)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of GitHub's Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(escaped, line))} |" for line in lines)


def escaped(text: str) -> str:
    """A text as Markdown shows it as it is: no markup, no mention of anybody, and no end of a table's cell."""
    for mark in "\\`*_[]<>|#@~":
        text = text.replace(mark, f"\\{mark}" if mark not in "<>@" else f"&#{ord(mark)};")
    return " ".join(text.split())
