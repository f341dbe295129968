"""The overrides of vLLM: with which engines of the study each would run, said by the functions that an engine asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gpuqa.config import UserError, one_line
from gpuqa.config.commands import CellConfig
from gpuqa.config.pipeline import Attention, Backend, EngineConfig, Scheduler
from gpuqa.engines.vllm import compat
from gpuqa.engines.vllm.overrides import Choice, choose_attention, choose_scheduler
from gpuqa.readiness import INSTALL, Finding, State
from gpuqa.study.same_effect import asked_for


def overrides(cells: Sequence[CellConfig]) -> list[Finding]:
    """Each override of vLLM: with which of the study's engines it runs, and why not with the others."""
    engines = {repr((cell.engine, cell.engine_args())): cell for cell in cells if cell.engine.backend is Backend.vllm}
    if not compat.packages():
        return []
    asked = {name for cell in engines.values() for name in asked_for(cell)}
    try:
        tried = [(outcome, cell) for cell in engines.values() for outcome in outcomes(cell.engine, cell.engine_args())]
    except ImportError as error:
        return [Finding("vLLM", f"cannot be imported: {one_line(str(error))}; {INSTALL}", State.missing)]
    findings = []
    for name, runs, reason in dict.fromkeys(outcome for outcome, _ in tried):
        having = [cell for outcome, cell in tried if outcome == (name, runs, reason)]
        names = dict.fromkeys(f"engine={cell.engine.name} quantization={cell.quantization.name}" for cell in having)
        text = "runs" if runs else "is off"
        text += f" with {', '.join(names)}" if len(having) < len(engines) else ""
        text += f": {reason}" if reason else ""
        text += "" if name in asked else " (this study does not ask for it)"
        findings.append(Finding(name, text, State.note if reason else State.ok))
    return findings


def outcomes(engine: EngineConfig, args: dict[str, Any]) -> list[tuple[str, bool, str]]:
    """For each override, whether the engine asks for it or not: its name, whether it would run, why not or not fully."""
    choices = [choose_scheduler(replace(engine, scheduler=value)) for value in Scheduler if value is not Scheduler.default]
    choices += [attention(engine, args, value) for value in Attention if value is not Attention.default]
    return [
        (f"engine.{choice.part}={choice.asked}", choice.reason is None, choice.reason or "; ".join(choice.limits))
        for choice in choices
    ]


def attention(engine: EngineConfig, args: dict[str, Any], value: Attention) -> Choice:
    """What becomes of an attention in an engine; one whose arguments name another attention has its reason in that."""
    try:
        return choose_attention(replace(engine, attention=value), args)
    except UserError as error:
        return Choice("attention", value.value, reason=str(error))
