"""Draw the batch rows of a yardstick.json as an SVG for the README.

python experiments/speed/plot.py experiments/h200/yardstick_0.33.0_start2.json docs/speed.svg
"""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

WIDTH, LEFT, BAR, GAP = 760, 250, 18, 6


def main() -> None:
    """Read, draw, write."""
    source, target = map(Path, sys.argv[1:])
    found = json.loads(source.read_text(encoding="utf-8"))
    target.write_text(svg(found), encoding="utf-8")


def svg(found: dict[str, Any]) -> str:
    """One bar a row: output tokens a second, longest first."""
    rows = [row for row in found["rows"] if row["over_reference"] and row["row"]["how"] != "clients"]
    rows.sort(key=lambda row: (-row["prefix"], -row["output_tokens_per_s"]))
    most = max(row["output_tokens_per_s"] for row in rows)
    scale, y, parts = (WIDTH - LEFT - 70) / most, 28, [text(8, 16, f"output tokens/s on {found['machine']['device']}", "bold")]
    last = None
    for row in rows:
        if row["prefix"] != last:
            last, y = row["prefix"], y + 14
            parts.append(text(8, y, f"shared prefix of {last} tokens", "bold"))
            y += 8
        length = row["output_tokens_per_s"] * scale
        colour = "#76b900" if row["row"]["contestant"] == "ours" else "#9aa5b1"
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{length:.0f}" height="{BAR}" fill="{colour}"/>')
        parts.append(text(8, y + 13, row["row"]["what"]))
        parts.append(text(LEFT + length + 6, y + 13, f"{row['output_tokens_per_s']:,.0f}"))
        y += BAR + GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 8}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


def text(x: float, y: float, words: str, weight: str = "normal") -> str:
    """A line of text."""
    return f'<text x="{x:.0f}" y="{y:.0f}" font-weight="{weight}">{escape(words)}</text>'


if __name__ == "__main__":
    main()
