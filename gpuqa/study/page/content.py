"""All that the report shows, as plain data that its scripts draw."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from gpuqa.config import plain
from gpuqa.config.measurement import SelectionConfig
from gpuqa.measure.metric_table import METRICS, Column
from gpuqa.measure.percentiles import questions_needed
from gpuqa.measure.speed_prediction import next_of
from gpuqa.selection.against_frozen import too_noisy
from gpuqa.selection.comparison import WIDEST_RATIO, Comparison, narrow
from gpuqa.selection.effects import effects_of
from gpuqa.selection.ranking import RANKINGS
from gpuqa.selection.ratios import FEWEST_QUESTIONS
from gpuqa.selection.verdict import Verdict, not_shown, started_once
from gpuqa.study.page.answers import answers_of
from gpuqa.study.page.result import Result
from gpuqa.study.page.setup import setup_of
from gpuqa.study.page.trials import QUANTILES, cells_of


def content_of(result: Result) -> dict[str, Any]:
    """Plain values for JSON; a number that is not finite is None."""
    cells = cells_of(result)
    notes = [standing.trial.pipeline["model"]["note"] for standing in result.verdict.standings]
    content = {
        "title": result.title,
        "notes": list(dict.fromkeys(filter(None, notes))),
        "axes": axes_of(result.verdict),
        "metrics": metrics_of(cells),
        "verdict": verdict_of(result),
        "cells": cells,
        "effects": effects(result),
        "answers": answers_of(result),
        "quantiles": QUANTILES,
        "drift": asdict(result.verdict.drift) if result.verdict.drift else None,
        "events": [asdict(moment) for moment in result.events],
        "setup": setup_of(result),
    }
    return plain(content)  # type: ignore[no-any-return]


def axes_of(verdict: Verdict) -> dict[str, list[str]]:
    """The axes of a study, each with its values in the order of the standings."""
    axes: dict[str, list[str]] = {}
    for key, value in (item for standing in verdict.standings for item in standing.trial.axes.items()):
        if value not in axes.setdefault(key, []):
            axes[key].append(value)
    return axes


def metrics_of(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How each number is shown that any cell has, and whether it is a column unless the reader chooses others."""
    numbers = [stage["numbers"] for cell in cells for stage in cell["stages"].values() if stage]
    usual = (Column.page, Column.page_if_measured)
    return [
        {
            "key": name,
            "heading": metric.heading,
            "meaning": metric.meaning,
            "unit": metric.unit,
            "form": metric.form,
            "usual": metric.column in usual and name != "first_round_chars_per_s",
            "needs": questions_needed(int(name[-2:])) if name[-4:-2] == "_p" else None,
        }
        for name, metric in METRICS.items()
        if any(row.get(name) is not None for row in numbers) or metric.column is Column.page
    ]


def verdict_of(result: Result) -> dict[str, Any]:
    """The verdict in parts, from which the page makes its sentences, and in the words of the terminal."""
    verdict, rule, winner = result.verdict, result.rule, result.verdict.winner
    told: dict[str, Any] = {"outcome": verdict.outcome.name if verdict.outcome else None, "reason": verdict.reason}
    told |= {"winner": winner.name if winner else None, "first": verdict.first.name if verdict.first else None}
    told |= {"leads": [lead_of(comparison, rule) for comparison in verdict.comparisons]}
    told |= {"counts": counts_of(verdict), "left_out": verdict.left_out, "questions": verdict.questions}
    told |= {"few_questions": verdict.questions < FEWEST_QUESTIONS, "fewest_questions": FEWEST_QUESTIONS}
    told |= {"started_once": started_once(verdict.comparisons)}
    if rule:
        told |= {"rule": rule.rule.name, "option": rule.name, "title": RANKINGS[rule.rule].title, "confidence": rule.confidence}
        told |= {"floor": rule.min_rouge_l_f1_judge, "tied": len(not_shown(verdict.comparisons, rule))}
    return told | frozen_numbers(result)


def frozen_numbers(result: Result) -> dict[str, Any]:
    """What is frozen of the winner: its speed, and where the next measurement lies, unless that is too noisy to say."""
    frozen = result.confirmed or result.verdict.winner
    if frozen is None or frozen.measurement is None:
        return {"frozen": None, "next": None}
    interval = next_of(frozen.measurement, result.noise)
    told = {"frozen": frozen.measurement.chars_per_s, "confirmed": result.confirmed is not None}
    if interval is not None and not too_noisy(interval):
        return {**told, "next": [interval.low, interval.high]}
    silent = not all(speed > 0 for speed in frozen.measurement.chars_per_s_repeats)
    return {**told, "next": None, "next_open": "noisy" if interval else "silent" if silent else "once"}


def lead_of(comparison: Comparison, rule: SelectionConfig | None) -> dict[str, Any]:
    """How far the first leads another trial."""
    interval, speed = comparison.interval, comparison.speed
    return {
        "other": comparison.other.name,
        "share": comparison.difference,
        "interval": [interval.low, interval.high] if interval and narrow(interval, WIDEST_RATIO) else None,
        "noisy": interval is not None and not narrow(interval, WIDEST_RATIO),
        "p": comparison.p_value,
        "shown": comparison.shown(rule) if rule else None,
        "over": [speed.count, speed.unit.name] if speed else None,
    }


def counts_of(verdict: Verdict) -> dict[str, int]:
    """How many trials there are, may win, failed and were dropped."""
    trials = [standing.trial for standing in verdict.standings]
    return {
        "all": len(trials),
        "eligible": sum(not standing.violations for standing in verdict.standings),
        "failed": sum(trial.error is not None for trial in trials),
        "skipped": sum(trial.skipped is not None for trial in trials),
        "dropped": sum(trial.dropped is not None for trial in trials),
    }


def effects(result: Result) -> list[dict[str, Any]]:
    """Main effects, then interactions."""
    if result.rule is None:
        return []
    first_round = result.first_round or [standing.trial for standing in result.verdict.standings]
    return [asdict(effect) for effect in effects_of(first_round, result.rule, result.answers, result.usual)]
