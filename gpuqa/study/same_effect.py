"""Cells that are the same in effect: they differ in what has no influence here, so one of them is measured for all.

An override of the engine that was asked for may be off: another version of vLLM, a number format of the KV cache, no GPU. A
cell that asks for it then measures what a cell that does not ask for it measures. So does one whose number format vLLM makes of
experts only, where the model has none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from gpuqa.config.paths import find_model
from gpuqa.config.pipeline import Attention, Backend, PipelineConfig, QuantizationConfig, Scheduler
from gpuqa.engines.vllm.overrides import choose_attention, choose_scheduler
from gpuqa.measure.cell import Cell
from gpuqa.records import Trial
from gpuqa.roofline.checkpoint import is_dense
from gpuqa.roofline.formats import EXPERTS_ONLY, WEIGHT_FORMATS
from gpuqa.selection.wording import counted


def asked_for(config: PipelineConfig) -> list[str]:
    """The overrides that a pipeline asks for, such as "engine.scheduler=burst"."""
    asked = {"scheduler": config.engine.scheduler.value, "attention": config.engine.attention.value}
    return [f"engine.{part}={value}" for part, value in asked.items() if value != "default"]


def switched_off(config: PipelineConfig) -> dict[str, str]:
    """The overrides that a pipeline asks for and would not get on this machine: "engine.attention=shared_prefix" -> why."""
    if config.engine.backend is not Backend.vllm:
        return {}
    choices = [choose_scheduler(config.engine), choose_attention(config.engine, config.engine_args())]
    off = {f"engine.{choice.part}={choice.asked}": choice.reason for choice in choices if choice.reason is not None}
    if WEIGHT_FORMATS.get(config.quantization.args.get("quantization")) is EXPERTS_ONLY and is_dense(find_model(config.model)):
        off[f"quantization={config.quantization.name}"] = "vLLM changes the weights of experts only, and this model has none"
    return off


def effective(config: PipelineConfig, off: Iterable[str]) -> PipelineConfig:
    """The pipeline that would run: overrides that are off as if nobody had asked for them, and at temperature 0 nothing of what
    draws among likely tokens. The names of the options of engine and quantization are left out, because two options may hold
    the same settings."""
    parts = {override.partition("=")[0] for override in off}
    engine = replace(config.engine, name="")
    if "engine.scheduler" in parts:
        engine = replace(engine, scheduler=Scheduler.default)
    if "engine.attention" in parts:
        engine = replace(engine, attention=Attention.default)
    args = {key: value for key, value in config.quantization.args.items() if key not in parts}
    sampling = config.sampling
    if sampling.temperature == 0:
        sampling = replace(sampling, top_p=1.0, top_k=0, min_p=0.0, seed=0)
    return replace(config, engine=engine, quantization=QuantizationConfig("", args), sampling=sampling)


class Effects:
    """What the cells of a study would really measure on this machine."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = {cell.key: cell for cell in cells}
        self.off = {key: switched_off(cell.config) for key, cell in self.cells.items()}
        self.keys = {  # by the key of a cell, the one that it would have if it asked for what it gets
            key: replace(cell, config=effective(cell.config, self.off[key])).key  # type: ignore[arg-type]
            for key, cell in self.cells.items()
        }

    def copies(self) -> list[Trial]:
        """A skipped trial for each cell that is the same in effect as another one, which is measured: the one that asks for
        the fewest overrides that are off, or the first."""
        by_effect: dict[str, list[Cell]] = {}
        for key, cell in self.cells.items():
            by_effect.setdefault(self.keys[key], []).append(cell)
        trials = []
        for same in by_effect.values():
            original = min(same, key=lambda cell: len(self.off[cell.key]))
            name = original.trial(None).name
            for cell in [cell for cell in same if cell is not original]:
                reasons = "; ".join(f"{override} is off ({why})" for override, why in self.off[cell.key].items())
                trials.append(cell.skipped(f"the same as {name}, whose numbers count for both: {reasons or 'equal settings'}"))
        return trials

    def axes_without_effect(self) -> list[str]:
        """The axes whose values make no difference, whatever the values of the other axes are."""
        return [axis for axis in next(iter(self.cells.values())).axes if self.is_without_effect(axis)]

    def is_without_effect(self, axis: str) -> bool:
        """Whether cells that differ in this axis alone are the same in effect."""
        effects: dict[tuple[tuple[str, str], ...], list[str]] = {}
        for key, cell in self.cells.items():
            others = tuple((name, value) for name, value in cell.axes.items() if name != axis)
            effects.setdefault(others, []).append(self.keys[key])
        return all(len(keys) > 1 and len(set(keys)) == 1 for keys in effects.values())

    def notes(self) -> list[str]:
        """What a user should know before the study starts, a sentence a line: overrides that are off, axes without effect."""
        off = Counter(item for reasons in self.off.values() for item in reasons.items())
        cells = counted(len(self.cells), "cell")
        lines = [f"{override} is off in {count} of {cells}: {why}" for (override, why), count in off.items()]
        for axis in self.axes_without_effect():
            values = ", ".join(dict.fromkeys(cell.axes[axis] for cell in self.cells.values()))
            lines.append(f"The axis {axis} has no effect in this study: {values} measure the same; each cell is measured once.")
        return lines
