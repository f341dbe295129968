"""What happens to a model's text before it is scored or served; the prompt variant says which steps apply.

Every step works on text that comes in pieces, so that an answer can be streamed: a step returns a piece as soon as nothing
that follows can change it, and however the text was cut, the pieces add up to what `postprocess` makes of the whole text. This
decides one case: `</think>` without `<think>` removes the text before it only where the prompt had opened the thought, which
is known beforehand; anywhere else the mark is removed and the text stays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from gpuqa.config.pipeline import PostprocessConfig

MARK = re.compile(r"(</?think>)")
UNFINISHED_MARK = re.compile(r"(?:</?(?:t(?:h(?:i(?:nk?)?)?)?)?)?\Z")  # what may become a mark; "" where nothing may
LONGEST_MARK = len("</think>")
HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]+", re.M)
UNFINISHED_HEADING = re.compile(r"[ \t]*#{0,6}[ \t]*")
LINE_BREAKS = re.compile(r"\s*[\r\n\u2028\u2029\x0b\x0c\x85]+\s*")


def postprocess(text: str, config: PostprocessConfig, in_thought: bool = False, stop_strings: Sequence[str] = ()) -> str:
    """The answer up to the first stop string, without thinking, heading marks and line breaks where the config asks for it.

    `in_thought`: the prompt ended within a thought, so the text begins in one.
    """
    cleaner = Postprocessor(config, in_thought, stop_strings)
    return cleaner.feed(text) + cleaner.finish()


class Step(Protocol):
    """One step of the postprocessing of one answer."""

    def feed(self, text: str) -> str:
        """The text that this piece makes certain."""

    def finish(self) -> str:
        """The text that was held back, when no piece follows."""


class Postprocessor:
    """All steps that the config asks for, one after the other."""

    def __init__(self, config: PostprocessConfig, in_thought: bool = False, stop_strings: Sequence[str] = ()) -> None:
        self.steps: list[Step] = [StopStrings(stop_strings)] if stop_strings else []
        self.steps += [Thoughts(in_thought)] if config.strip_thinking else []
        self.steps += [Headings()] if config.strip_headings else []
        self.steps.append(Blanks(config.one_line))

    def feed(self, text: str) -> str:
        for step in self.steps:
            text = step.feed(text)
        return text

    def finish(self) -> str:
        text = ""
        for step in self.steps:
            text = step.feed(text) + step.finish()
        return text


class StopStrings:
    """Ends the text before a stop string: the one whose last character comes first, as in vLLM."""

    def __init__(self, strings: Sequence[str]) -> None:
        self.strings = strings
        self.held = ""  # what a stop string may begin with
        self.ended = False

    def feed(self, text: str) -> str:
        text, self.held = self.held + text, ""
        if self.ended:
            return ""
        places = [(begin + len(string), begin) for string in self.strings if (begin := text.find(string)) >= 0]
        if places:
            self.ended = True
            return text[: min(places)[1]]
        sizes = [size for string in self.strings for size in range(1, len(string)) if text.endswith(string[:size])]
        kept = len(text) - max(sizes, default=0)
        self.held = text[kept:]
        return text[:kept]

    def finish(self) -> str:
        return self.held


class Thoughts:
    """Removes the text between `<think>` and the next `</think>`, or the end.

    A thought may speak of `<think>`, which looks like a second thought within the first. `</think>` ends both. The text after
    it is kept back: if another `</think>` follows, that text was still thought and is removed; if none does, it is the answer.
    """

    def __init__(self, in_thought: bool) -> None:
        self.in_thought = in_thought
        self.open = int(in_thought)  # begin marks that had no end mark of their own yet
        self.held = ""
        self.doubtful = ""  # "" unless some mark is open

    def feed(self, text: str) -> str:
        text = self.held + text
        unfinished = UNFINISHED_MARK.search(text, max(0, len(text) - LONGEST_MARK))
        assert unfinished, "it matches the empty end"
        self.held = unfinished[0]
        return "".join(map(self._part, MARK.split(text[: unfinished.start()])))

    def finish(self) -> str:
        rest = self._part(self.held)
        return self.doubtful + rest

    def _part(self, part: str) -> str:
        if part == "<think>":
            self.in_thought, self.open = True, self.open + 1
        elif part == "</think>":
            self.doubtful = self.doubtful if self.in_thought else ""
            self.in_thought, self.open = False, max(0, self.open - 1)
        elif not self.in_thought and not self.open:
            return part
        elif not self.in_thought:
            self.doubtful += part
        return ""


class Headings:
    """Takes the marks off Markdown headings."""

    def __init__(self) -> None:
        self.held = ""
        self.in_line = False  # the last piece ended behind the place where a heading could begin

    def feed(self, text: str) -> str:
        begun = ""
        if self.in_line:
            line, line_end, text = text.partition("\n")
            begun, self.in_line = line + line_end, not line_end
        if self.in_line:
            return begun
        lines, line_end, last = (self.held + text).rpartition("\n")
        self.held = last if UNFINISHED_HEADING.fullmatch(last) else ""
        self.in_line = not self.held and last != ""
        return begun + without_heading_marks(lines + line_end + (last if self.in_line else ""))

    def finish(self) -> str:
        return without_heading_marks(self.held)


class Blanks:
    """Takes off the blanks at both ends; in one line, makes every line break with its blanks one space."""

    def __init__(self, one_line: bool) -> None:
        self.one_line = one_line
        self.held = ""
        self.begun = False

    def feed(self, text: str) -> str:
        text = self.held + text
        words = text.rstrip()
        self.held = text[len(words) :]
        if not self.begun:
            words = words.lstrip()
            self.begun = bool(words)
        return in_one_line(words) if self.one_line else words

    def finish(self) -> str:
        return ""


def without_heading_marks(text: str) -> str:
    """Most answers have no mark, and to find that out takes no search of every place."""
    return HEADING.sub("", text) if "#" in text else text


def in_one_line(words: str) -> str:
    """`words` end with none of the line breaks, all of which `splitlines` knows, too."""
    return LINE_BREAKS.sub(" ", words) if len(words.splitlines()) > 1 else words
