"""Trials that were never measured, made of the numbers that a test is about."""

from __future__ import annotations

from typing import Any

from gpuqa.config.measurement import SelectionConfig
from gpuqa.measure.statistics import geometric_mean, median_and_mad
from gpuqa.records import Measurement, Trial

RULE = SelectionConfig(name="fastest_above_floor", min_rouge_l_f1_judge=0.15)


def measured(repeats: list[float], **numbers: Any) -> Measurement:
    """A measurement that has nothing but these speeds and numbers to tell it from others."""
    middle, mad = geometric_mean(repeats), median_and_mad(repeats)[1]
    same: dict[str, Any] = {
        name: [] if "list" in str(field.type) else 1.0 for name, field in Measurement.__dataclass_fields__.items()
    }
    same |= {"questions": 100, "repeats": len(repeats), "chars_per_s": middle, "chars_per_s_mad": mad, "answers_empty": 0}
    same |= {"chars_per_s_repeats": repeats, "engine_ids": ["one engine"] * len(repeats)}
    same |= {"rouge_l_f1_judge": 0.4, "rouge_l_f1": 0.4, "seconds_repeats": []}
    same |= {"first_round_chars_per_s": None, "saturated": False, "conditions": [], "ramp": []}
    same |= {"repeats_began_at": [], "throttle_reasons": None, "sm_clock_mhz_min": None}
    same |= {"truncated_fraction": 0.0}
    return Measurement(**{**same, **numbers})


def cell(number: int, repeats: list[float], quantization: str = "none", **numbers: Any) -> Trial:
    """One trial of a generated study; the number is its engine setting."""
    pipeline = {
        "prompt": {"name": "p", "system": None, "user": "{question}", "examples": []},
        "quantization": {"name": quantization},
        "engine": {"args": {"max_num_seqs": number}},
        "sampling": {"max_tokens": 256},
    }
    return Trial(f"{number}{quantization}", {"seqs": str(number)}, pipeline, {}, measured(repeats, **numbers))
