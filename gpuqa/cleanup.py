"""What happens to a model's text before anybody scores or serves it; the prompt variant says which steps apply."""

from __future__ import annotations

import re

from gpuqa.config import CleanupConfig

THINKING = re.compile(r"<think>.*?(?:</think>|\Z)", re.S)  # an unfinished thought runs to the end
HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]+", re.M)
LINE_BREAKS = re.compile(r"\s*[\r\n\u2028\u2029\x0b\x0c\x85]+\s*")


def clean(text: str, config: CleanupConfig) -> str:
    """The answer without thinking, heading marks and line breaks, as far as the config asks for it."""
    if config.strip_thinking:
        text = THINKING.sub("", text).rpartition("</think>")[2]
    if config.strip_headings:
        text = HEADING.sub("", text)
    text = text.strip()
    return LINE_BREAKS.sub(" ", text) if config.one_line else text
