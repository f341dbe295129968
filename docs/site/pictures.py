"""Draw the pictures of docs/verdict_pictures.md in both languages, from generated studies that gpuqa itself judges.

    python docs/site/pictures.py             # writes docs/pictures/*.svg; a test compares them with what this draws

Every number is drawn with a seed. What is plotted comes out of the functions that judge a study, not out of this file.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from statistics import fmean

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "experiments" / "verdict")]

from generated_trials import RULE, cell
from simulate import normal, quiet, slow_stretches

from gpuqa.measure.paired import moderated_mean
from gpuqa.measure.statistics import geometric_mean
from gpuqa.selection.decision import decide
from gpuqa.selection.pairing import ScorePair
from gpuqa.selection.ratios import USUAL_SD, beside, score_ratio
from gpuqa.selection.verdict import Verdict

FOLDER = ROOT / "docs" / "pictures"
WIDTH, LEFT, RIGHT = 480, 60, 20
GREY, GREEN, ORANGE, BLUE = "#8a939c", "#4d8000", "#c25700", "#1f6fb4"
TRUE = 10_000.0  # characters a second
SEED_WITH_STRETCHES = 3  # of 20 rounds many have none


def main() -> None:
    """Draw all pictures in both languages."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pictures().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"docs/pictures/{name}")


def pictures() -> dict[str, str]:
    """Every picture: name of its file -> SVG."""
    drawn: dict[str, Callable[[Words], str]] = {"luck": luck, "rounds": rounds, "words": words_of_verdicts, "kept": kept}
    return {
        f"{name}{suffix}.svg": draw(words)
        for name, draw in drawn.items()
        for suffix, words in (("", english), ("_zh", chinese))
    }


# ---------------------------------------------------------------------------------------------------------- languages

Words = Callable[[str], str]
CHINESE = {
    "16 cells that are equally fast, measured 3 times each": "16 个 cell 其实一样快，各测 3 次",
    "characters a second": "每秒字符数",
    "what all of them truly have": "它们真正的速度",
    "the best of the first round": "第一轮里最好的",
    "the same cell, measured again 12 times": "同一个 cell，再测 12 次",
    "cells, by their number": "cell，按编号",
    "Two cells take turns on a machine with slow stretches": "两个 cell 轮流测量，机器时快时慢",
    "round": "轮次",
    "A": "A",
    "B, truly 5 % faster": "B，实际快 5 %",
    "B over A, round by round": "每一轮里 B 与 A 之比",
    "Lead of the first over the second, with its interval": "第一名领先第二名多少，及其区间",
    "12 rounds": "12 轮",
    "20 rounds": "20 轮",
    "7 rounds": "7 轮",
    "Share of the baseline's score, with its lower bound": "保留了基线得分的多少，及其下界",
    "equal cell": "同样好的 cell",
    "8 % worse": "差 8 %",
    "questions": "道题",
    "wanted": "要求",
    "shown to keep": "证明保留",
    "not shown": "未能证明",
    "shown to be worse": "证明更差",
}


def english(words: str) -> str:
    """The words as they are."""
    return words


def chinese(words: str) -> str:
    """The words in Chinese; a word that the table lacks is a KeyError."""
    return CHINESE[words]


# ----------------------------------------------------------------------------------------------------------- drawings


def svg(height: int, parts: Sequence[str]) -> str:
    """A whole picture."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    style = 'font-family="sans-serif" font-size="13">'
    return "\n".join([f"{head} {style}", '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


def text(x: float, y: float, words: str, anchor: str = "start", colour: str = "black", weight: str = "normal") -> str:
    """A line of text."""
    kind = f'text-anchor="{anchor}" fill="{colour}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {kind}>{escape(words)}</text>'


def line(x: float, y: float, to_x: float, to_y: float, colour: str = "black", dash: str = "none", width: float = 1) -> str:
    """A line."""
    kind = f'stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dash}"'
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" {kind}/>'


def dot(x: float, y: float, colour: str, radius: float = 4) -> str:
    """A dot."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>'


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """From a value to its place."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


# ------------------------------------------------------------------------------------------------------------ pictures


def luck(words: Words) -> str:
    """The best of many equal cells looks faster than it is, and does not when it is measured again."""
    generator = np.random.default_rng(0)
    first = [geometric_mean((TRUE * np.exp(normal(generator, 3))).tolist()) for _ in range(16)]
    again = geometric_mean((TRUE * np.exp(normal(generator, 12))).tolist())
    best = max(range(16), key=first.__getitem__)
    x, y = scale(0, 15, LEFT + 10, WIDTH - RIGHT - 10), scale(8_000, 13_000, 250, 50)
    parts = [text(8, 20, words("16 cells that are equally fast, measured 3 times each"), weight="bold")]
    parts += [text(LEFT - 8, y(mark) + 4, f"{mark:,}", "end") for mark in range(8_000, 13_001, 1_000)]
    parts += [line(LEFT, y(TRUE), WIDTH - RIGHT, y(TRUE), GREY, "4 3")]
    parts += [dot(x(place), y(speed), ORANGE if place == best else GREY) for place, speed in enumerate(first)]
    parts += [line(x(best), y(first[best]) + 6, x(best), y(again) - 6, GREEN), dot(x(best), y(again), GREEN)]
    parts += [text(WIDTH / 2, 268, words("cells, by their number"), "middle")]
    legend = [(GREY, "what all of them truly have", TRUE), (ORANGE, "the best of the first round", first[best])]
    legend += [(GREEN, "the same cell, measured again 12 times", again)]
    for place, (colour, what, speed) in enumerate(legend):
        parts += [dot(LEFT, 290 + 20 * place, colour), text(LEFT + 12, 294 + 20 * place, f"{words(what)}: {speed:,.0f}")]
    return svg(345, parts)


def rounds(words: Words) -> str:
    """Slow stretches hit both cells of a round, so their ratio stays."""
    generator, count = np.random.default_rng(SEED_WITH_STRETCHES), 20
    series = slow_stretches(generator, 2 * count).reshape(count, 2) + np.array([0.0, math.log1p(0.05)])
    x, y = scale(0, count - 1, LEFT + 10, WIDTH - RIGHT - 10), scale(4_000, 12_000, 170, 45)
    parts = [text(8, 20, words("Two cells take turns on a machine with slow stretches"), weight="bold")]
    parts += [text(LEFT - 8, y(mark) + 4, f"{mark:,}", "end") for mark in range(4_000, 12_001, 2_000)]
    for place, row in enumerate(TRUE * np.exp(series)):
        parts += [dot(x(place), y(speed), colour) for speed, colour in zip(row, (BLUE, GREEN), strict=True)]
    parts += [dot(LEFT, 196, BLUE), text(LEFT + 12, 200, words("A"))]
    parts += [dot(LEFT + 60, 196, GREEN), text(LEFT + 72, 200, words("B, truly 5 % faster"))]
    ratio = scale(0.4, 2.2, 350, 240)
    parts += [text(8, 228, words("B over A, round by round"), weight="bold")]
    parts += [text(LEFT - 8, ratio(mark) + 4, f"{mark:.2f}", "end") for mark in (0.5, 1.0, 1.5, 2.0)]
    parts += [line(LEFT, ratio(1), WIDTH - RIGHT, ratio(1), GREY, "4 3")]
    parts += [dot(x(place), ratio(math.exp(row[1] - row[0])), ORANGE) for place, row in enumerate(series)]
    return svg(385, [*parts, text(WIDTH / 2, 375, words("round"), "middle")])


def duel(lead: float, noise: Callable[[np.random.Generator, int], np.ndarray], count: int) -> Verdict:
    """The verdict on two cells of one engine after so many rounds."""
    generator = np.random.default_rng(1)
    logs = noise(generator, 2 * count).reshape(count, 2) + np.array([0.0, math.log1p(lead)])
    speeds = (TRUE * np.exp(logs)).T.tolist()
    return decide([cell(number, row, first_round_chars_per_s=TRUE) for number, row in enumerate(speeds)], RULE)


def words_of_verdicts(words: Words) -> str:
    """Which interval leads to which word."""
    verdicts = [(12, duel(0.08, quiet, 12)), (20, duel(0.0, quiet, 20)), (7, duel(0.05, normal, 7))]
    x = scale(-0.2, 0.4, 150, WIDTH - RIGHT)
    parts = [text(8, 20, words("Lead of the first over the second, with its interval"), weight="bold")]
    parts += [f'<rect x="{x(-0.1):.1f}" y="36" width="{x(0.1) - x(-0.1):.1f}" height="150" fill="#eef3e6"/>']
    parts += [line(x(0), 36, x(0), 186, GREY, "4 3")]
    parts += [text(x(mark), 204, f"{mark:+.0%}", "middle") for mark in (-0.1, 0.0, 0.1, 0.2, 0.3)]
    for place, (count, verdict) in enumerate(verdicts):
        [comparison], y = verdict.comparisons, 64 + 50 * place
        assert comparison.interval is not None
        assert verdict.outcome is not None
        low, high = x(comparison.interval.low), x(comparison.interval.high)
        parts += [text(8, y - 2, verdict.outcome.value, weight="bold"), text(8, y + 14, words(f"{count} rounds"), colour=GREY)]
        parts += [line(low, y, high, y, BLUE, width=3), dot(x(comparison.difference), y, BLUE, 5)]
    return svg(216, parts)


def kept(words: Words) -> str:
    """What few and many questions show of a quantized cell, one that is equal and one that is worse."""
    x = scale(0.8, 1.1, 170, WIDTH - RIGHT)
    parts = [text(8, 20, words("Share of the baseline's score, with its lower bound"), weight="bold")]
    parts += [text(x(mark), 330, f"{mark:.0%}", "middle") for mark in (0.8, 0.9, 1.0, 1.1)]
    y = 30
    for questions in (24, 80, 358):
        ratio = score_ratio(RULE, questions)
        parts += [text(8, y + 20, f"{questions} {words('questions')}", weight="bold")]
        parts += [line(x(ratio.share), y + 10, x(ratio.share), y + 92, GREY, "4 3")]
        parts += [text(x(ratio.share) - 4, y + 20, f"{words('wanted')} {ratio.share:.0%}", "end", GREY)]
        for place, (what, worth) in enumerate((("equal cell", 1.0), ("8 % worse", 0.92))):
            share, bound, state = compared(questions, worth)
            at = y + 45 + 32 * place
            colour = {"shown to keep": GREEN, "not shown": ORANGE, "shown to be worse": GREY}[state]
            parts += [text(8, at - 2, words(what)), text(8, at + 12, words(state), colour=colour)]
            parts += [line(x(max(bound, 0.8)), at, x(share), at, colour, width=3), dot(x(share), at, colour, 5)]
        y += 97
    return svg(342, parts)


def compared(questions: int, worth: float) -> tuple[float, float, str]:
    """A cell beside its baseline -> the share that it has, the lower bound of it, and what that shows.

    Six of ten answers are the same; the others differ as those of quantized cells in tests/traces do, by 16.5 % of the mean.
    """
    generator = np.random.default_rng(questions)
    before = generator.beta(2, 4, questions)
    changes = generator.normal(0, USUAL_SD["rouge_l_f1"] * before.mean() / math.sqrt(0.4), questions)
    after = np.clip(worth * before + changes * (generator.random(questions) < 0.4), 0, 1)
    rows = zip(after.tolist(), before.tolist(), strict=True)
    pairs = [ScorePair(first, second, str(place)) for place, (first, second) in enumerate(rows)]
    ratio, scores = score_ratio(RULE, questions), (fmean(after), fmean(before))
    beyond = [pair.first - ratio.share * pair.second for pair in pairs]
    estimate = moderated_mean(beyond, [pair.question for pair in pairs], USUAL_SD["rouge_l_f1"] * scores[1])
    bound = ratio.share + estimate.interval(2 * RULE.confidence - 1).low / scores[1]
    return scores[0] / scores[1], bound, beside(scores, pairs, ratio, RULE).kept.value


if __name__ == "__main__":
    main()
