"""The report as one HTML file: template, styles, scripts and texts of this folder around a study's data."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

SCRIPTS = (  # in the order in which they need each other
    "core.js",
    "verdict.js",
    "chart.js",
    "dots.js",
    "labels.js",
    "effects.js",
    "leaderboard.js",
    "answers.js",
    "history.js",
    "timeline.js",
    "setup.js",
    "main.js",
)


def to_html(content: dict[str, Any]) -> str:
    """One self-contained page. What models and users wrote is data in it, and nothing can run it: the page's policy lets a
    browser run the one script that has this digest, and load nothing. `content`: of `content_of`."""
    import jinja2
    import yaml

    script = "\n".join(text_of(name) for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode()
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    return environment.from_string(text_of("report.html.j2")).render(
        style=text_of("report.css"),
        script=script,
        digest=digest,
        data=content,
        texts=yaml.safe_load(text_of("texts.yaml")),
    )


def text_of(name: str) -> str:
    """A file of this folder."""
    return (files(__package__) / name).read_text(encoding="utf-8")
