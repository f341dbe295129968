"""How the leaderboard, the page and the terminal show whether a quantized trial keeps its baseline's quality."""

from __future__ import annotations

from gpuqa.selection.ratios import Kept
from gpuqa.selection.verdict import Standing, Verdict

MARK_MEANINGS: dict[Kept | None, str] = {  # beside rouge_l_f1 in the terminal
    Kept.open: "? too few questions to show whether it keeps its unquantized baseline's ROUGE-L",
    Kept.no: "< shown to be worse than its unquantized baseline",
}
TERMINAL_STYLES = {"winner": "bold green", "open": "yellow", "out": "dim", "": None}


def kept_of(standing: Standing) -> Kept | None:
    """Whether a quantized trial keeps its baseline's quality; None where there is none to compare with."""
    return standing.beside_baseline.kept if standing.beside_baseline else None


def kept_columns(standing: Standing) -> dict[str, str]:
    """Whether a quantized trial is shown to keep its baseline's quality, and by what; empty of every other."""
    beside = standing.beside_baseline
    return {"quality_kept": beside.kept.value if beside else "", "quality_kept_by": beside.text if beside else ""}


def remarks(standing: Standing) -> list[str]:
    """The violations of a trial, and how it stands beside its baseline where no violation says so."""
    beside = standing.beside_baseline
    new = beside is not None and not any(beside.text in violation for violation in standing.violations)
    return [*standing.violations, *([beside.text] if beside and new else [])]


def look_of(standing: Standing, verdict: Verdict) -> str:
    """How a row is coloured: `winner`, `open` (too few questions), `out` (refused), else ""."""
    if standing.trial is verdict.winner:
        return "winner"
    return "open" if standing.not_shown else "out" if standing.violations else ""


def mark_of(standing: Standing) -> str:
    """What stands beside a trial's rouge_l_f1 in the terminal, one character wide."""
    return MARK_MEANINGS.get(kept_of(standing), " ")[0]


def marks_of(verdict: Verdict) -> list[str]:
    """What the marks in the terminal's table mean, those that are there."""
    states = {kept_of(standing) for standing in verdict.standings}
    return [meaning for kept, meaning in MARK_MEANINGS.items() if kept in states]
