"""`search.html`: what a search has found. It needs neither a network nor a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuqa.config.prompt_search import Against
from gpuqa.prompt_search.outcome import Ancestor, Row

LEFT, RIGHT, TOP, BOTTOM = 60.0, 700.0, 20.0, 340.0  # of the plot, in its own units
SHOWN = {  # what the plot has on its horizontal axis, by what the search weighs
    Against.chars_per_s: lambda row: row.speed,
    Against.output_tokens: lambda row: 1 / row.speed,
    Against.ttft_ms: lambda row: 1000 / row.speed,
}
NAMES = {
    Against.chars_per_s: "characters a second",
    Against.output_tokens: "output tokens of an answer",
    Against.ttft_ms: "mean time to the first token, ms",
}


@dataclass(frozen=True, slots=True)
class FoundPrompt:
    """A prompt that went to the end."""

    name: str
    text: str  # its file
    family: Sequence[Ancestor]


def page_of(
    title: str, sentences: Sequence[str], rows: Sequence[Row], found: Mapping[str, FoundPrompt], against: Against
) -> str:
    """The page.

    Args:
        found: by the name that each had in the search.
    """
    from jinja2 import Environment

    template = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    told = [row for row in rows if row.on_front or row.origin == "shipped" or row.prompt in found]
    content: dict[str, Any] = {
        "title": title,
        "sentences": sentences,
        "prompts": list(found.values()),
        "rows": told,
        "against": NAMES[against],
        "plot": plot_of(rows, {name: prompt.name for name, prompt in found.items()}, against),
    }
    return Environment(autoescape=True, trim_blocks=True).from_string(template).render(content) + "\n"


def plot_of(rows: Sequence[Row], found: Mapping[str, str], against: Against) -> dict[str, Any]:
    """The points, the line of the front and the ticks, in the plot's own units."""
    values = [(SHOWN[against](row), row.quality) for row in rows]
    x_of, y_of = scale([x for x, _ in values], LEFT, RIGHT), scale([y for _, y in values], BOTTOM, TOP)
    points = [
        {
            "x": round(x_of(x), 1),
            "y": round(y_of(y), 1),
            "front": row.on_front,
            "shipped": row.origin == "shipped",
            "name": f"{found.get(row.prompt, row.prompt)}: quality {row.quality:.4f}, {x:,.4g} {NAMES[against]}",
            "label": found.get(row.prompt, row.prompt if row.origin == "shipped" else ""),
        }
        for row, (x, y) in zip(rows, values, strict=True)
    ]
    front = sorted((point["x"], point["y"]) for point in points if point["front"])
    return {
        "points": points,
        "front": " ".join(f"{x},{y}" for x, y in front),
        "x": ticks([x for x, _ in values], x_of, ",.4g"),
        "y": ticks([y for _, y in values], y_of, ".3f"),
    }


def scale(values: Sequence[float], begin: float, end: float) -> Any:
    """Values to places from begin to end, with a margin."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    spread = (high - low) or abs(high) or 1.0
    low, spread = low - 0.05 * spread, spread * 1.1
    return lambda value: begin + (value - low) / spread * (end - begin)


def ticks(values: Sequence[float], place: Any, form: str) -> list[dict[str, Any]]:
    """Five marks from the least to the most."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    marks = [low + (high - low) * step / 4 for step in range(5)] if high > low else [low]
    return [{"at": round(place(mark), 1), "text": f"{mark:{form}}"} for mark in marks]
