"""How a study was configured and where it ran, for the report: what its cells share, and in what they differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpuqa.records import Trial
from gpuqa.study.differences import ENVIRONMENT, SECRET
from gpuqa.study.page.result import Result

APART = ("prompt.", "model.note")  # shown elsewhere on the page


def setup_of(result: Result) -> dict[str, Any]:
    """Configuration, digests, versions and devices, prompts and commands."""
    trials = [standing.trial for standing in result.verdict.standings]
    return {
        "configuration": shared(trials, lambda trial: {**trial.pipeline, **trial.setting}),
        "digests": shared(
            trials, lambda trial: {**trial.fingerprint.get("digests", {}), "code": trial.fingerprint.get("code")}
        ),
        "versions": shared(trials, lambda trial: trial.fingerprint.get("versions", {})),
        "machine": shared(
            trials, lambda trial: {key: trial.fingerprint.get(key) or None for key in ("device", "driver", "revision")}
        ),
        "commit": result.run.commit,
        "prompts": prompts_of(trials, result),
        "questions": result.questions.lines() if result.questions else [],
        "commands": {**({"sweep": result.run.command} if result.run.command else {}), **result.commands},
    }


def shared(trials: Sequence[Trial], values_of: Callable[[Trial], dict[str, Any]]) -> dict[str, list[Any]]:
    """Dotted keys -> the different values that the trials have, in their order: one value where they all agree."""
    rows: dict[str, list[Any]] = {}
    for trial in trials:
        for key, value in flat(values_of(trial)).items():
            if value not in rows.setdefault(key, []):
                rows[key].append(value)
    return {key: values for key, values in rows.items() if values != [None] and not key.startswith(APART)}


def flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested values by dotted keys; of the engine's environment, which may hold a secret, only the names."""
    rows: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{before}{key}"
        if isinstance(value, dict) and value:
            rows |= flat(value, f"{name}.")
        elif value not in ({}, []):
            rows[name] = SECRET if name.startswith(f"{ENVIRONMENT}.") else value
    return rows


def prompts_of(trials: Sequence[Trial], result: Result) -> list[dict[str, Any]]:
    """Every prompt variant as the model read it, where the study has kept that; else as it was configured."""
    rows: dict[str, dict[str, Any]] = {}
    for trial in trials:
        prompt, digest = trial.pipeline["prompt"], trial.fingerprint.get("digests", {}).get("prompt_tokens", "")
        sent = result.run.prompts.get(digest)
        row = rows.setdefault(
            digest or prompt["name"],
            {
                "name": prompt["name"],
                "digest": digest[:16],
                "text": sent.text if sent else None,
                "tokens": sent.tokens if sent else None,
                "configured": {key: prompt.get(key) for key in ("system", "user", "examples") if prompt.get(key)},
                "mean_tokens": None,
            },
        )
        if (seen := trial.measurement) and seen.questions * seen.repeats:
            row["mean_tokens"] = seen.prompt_tokens / (seen.questions * seen.repeats)
    return list(rows.values())
