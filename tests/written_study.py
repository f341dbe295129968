"""A study that no engine measured, written as a sweep writes it: two trials of the embedded model, the fast one first."""

from __future__ import annotations

import functools
from dataclasses import asdict
from pathlib import Path
from typing import Any

from any_measurement import any_measurement

from gpuqa.config import plain
from gpuqa.config.app import compose_cell
from gpuqa.config.commands import CellConfig
from gpuqa.config.measurement import SelectionConfig
from gpuqa.records import Answer, Trial
from gpuqa.study.journal import Journal

ANSWERS = [Answer(f"q{number}", f"问题 {number}", "参考", "答", 0.4, 0.5, "stop", 9, 0.1) for number in range(4)]
KNOWN = {
    "digests": {"weights": "a" * 64, "tokenizer": "b" * 64, "dataset": "c" * 64},
    "versions": {"gpuqa": "0.2.0"},
    "device": "a GPU",
    "driver": "",
    "code": "d" * 64,
}
FAST, SLOW = "f" * 64, "5" * 64
RULE = SelectionConfig(name="fastest_above_floor", min_rouge_l_f1_judge=0.15)


@functools.cache
def composed(prompt: str) -> CellConfig:
    """One cell; composing it takes half a second."""
    return compose_cell(f"prompt={prompt}")


def measured(key: str, prompt: str, speed: float, **numbers: Any) -> Trial:
    """A trial of the embedded model that may win."""
    repeats = [speed - 1, speed, speed + 1]
    same = {"rouge_l_f1_judge": 0.4, "rouge_l_f1": 0.5, "answers_empty": 0, "truncated_fraction": 0.0, "questions": 4}
    same |= {"answers_failed": 0, "chars_per_s": speed, "chars_per_s_repeats": repeats, **numbers}
    config = composed(prompt)
    setting = plain({group: asdict(getattr(config, group)) for group in ("dataset", "workload", "gpu")})
    return Trial(key, {"prompt": prompt}, config.as_dict(), KNOWN, any_measurement(**same), setting=setting)


def write_study(folder: Path, *trials: Trial, rule: SelectionConfig | None = None) -> Journal:
    """A study of these trials, or of `FAST` and `SLOW`."""
    journal = Journal(folder)
    trials = trials or (measured(FAST, "bare", 2000.0), measured(SLOW, "structured", 1000.0))
    journal.write_study([(trial.key, trial.axes) for trial in trials], rule=rule)
    for trial in trials:
        journal.write(trial, ANSWERS if trial.measurement else [])
    return journal
