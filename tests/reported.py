"""Trials that a report is made of, and what its page holds, read back as a browser's parser finds it."""

from __future__ import annotations

import json
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from gpuqa.config.measurement import SelectionConfig
from gpuqa.records import Answer, Measurement, Trial

RULE = SelectionConfig(name="fastest_above_floor", min_rouge_l_f1_judge=0.35)
NASTY = "<script>alert('字')</script> & \"quoted\""


def measurement(**numbers: Any) -> Measurement:
    """A different number in every field, so that a swap shows."""
    base: dict[str, Any] = {field.name: 10.0 + place for place, field in enumerate(fields(Measurement))}
    base |= {"answers_empty": 0.0, "truncated_fraction": 0.125, "chars_per_s_repeats": [1.5, 2.5]}
    base |= {
        "repeats_began_at": [1763990000.25, 1763990042.5],
        "throttle_reasons": ["sw_power_cap"],
        "first_round_chars_per_s": None,
        "conditions": [],
        "engine_ids": ["one engine", "one engine"],
        "devices": [],
        "ramp": [],
        "seconds_repeats": [2.0, 3.0],
        "goodput_questions_per_s_repeats": [],
        "joules_per_output_token_repeats": [],
    }
    return Measurement(**{**base, "questions": 10, "rouge_l_f1_judge": 0.4, "rouge_l_f1": 0.5, **numbers})


def answer(key: str, score: float) -> Answer:
    return Answer(key, f"问题 {key}", "参考", "回答", 0.1, score, "stop", 5, 0.1)


def trial(axes: dict[str, str], error: str | None = None, note: str | None = None, **numbers: Any) -> Trial:
    prompt = {"name": axes.get("prompt", ""), "system": None, "user": "{question}", "examples": []}
    pipeline = {
        **axes,
        "prompt": prompt,
        "quantization": {"name": axes.get("quantization", "none")},
        "model": {"note": note},
        "engine": {"args": {}},
        "sampling": {"max_tokens": 256},
    }
    key = "-".join(axes.values()).ljust(64, "0")
    return Trial(key, axes, pipeline, {}, None if error else measurement(**numbers), error)


def prompts(**speeds: float) -> list[Trial]:
    return [trial({"prompt": name}, chars_per_s=speed, chars_per_s_repeats=[speed]) for name, speed in speeds.items()]


class Scripts(HTMLParser):
    """The script tags of a page by their id ("" for the one that runs), and all tags in their order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: dict[str, str] = {}
        self.open: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "script":
            self.open = dict(attrs).get("id") or ""
            assert self.open not in self.scripts, "no other script has come in"
            self.scripts[self.open] = ""

    def handle_endtag(self, tag: str) -> None:
        self.open = None if tag == "script" else self.open

    def handle_data(self, data: str) -> None:
        if self.open is not None:
            self.scripts[self.open] += data


def text_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def data_of(folder: Path) -> Any:
    """What the page of a study's folder draws."""
    return json.loads(Scripts(text_of(folder)).scripts["data"])


def cell_of(data: Any, **axes: str) -> Any:
    """The cell with these axes."""
    return next(cell for cell in data["cells"] if cell["axes"].items() >= axes.items())
