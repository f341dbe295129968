"""How long a plan may take before any of it was measured: what the roofline says of its passes.

Engines are slower than that, and answers end before `sampling.max_tokens`. Both are corrected by what a study has measured of
cells of the same kind (`gpuqa.study.durations`), so that only the ratio of two guesses of one kind counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gpuqa.config import UserError
from gpuqa.config.commands import CellConfig
from gpuqa.config.measurement import GpuConfig
from gpuqa.config.paths import find
from gpuqa.config.pipeline import PromptConfig
from gpuqa.engines import width_of_engine
from gpuqa.measure.cell import Cell
from gpuqa.records import Question, Trial
from gpuqa.roofline.checkpoint import read_shape
from gpuqa.roofline.load import Load, Setup, width_of
from gpuqa.roofline.roofline import BEYOND, bound_of, roof_of

USUAL_CARD = GpuConfig("a usual card", bandwidth_gb_per_s=1000.0, bf16_tflops=200.0)  # where none is named
USUAL_STEP_S = 0.01  # of a model that the roofline does not know
Kind = tuple[str, ...]
CHARS_A_TOKEN = 2.0  # between those of Chinese and of English


@dataclass(frozen=True, slots=True)
class CellWork:
    """What is left of one cell."""

    kind: Kind  # cells are the more alike in how far they are off their guesses, the more of its parts they share
    pass_s: float  # of one pass, guessed
    passes: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """What the questions of a pass are, in characters."""

    questions: int
    own: float  # of a question, the mean
    shared: int  # of what all prompts begin with


Work = Mapping[str, CellWork]  # of a plan, by the keys of its cells


def work_of(cell: Cell, passes: int) -> CellWork:
    """A cell that lacks so many passes."""
    return work_of_config(cell.config, cell.questions, passes)


def work_of_config(config: CellConfig, questions: Sequence[Question], passes: int) -> CellWork:
    """So many passes of a configuration over some questions."""
    setup, load = Setup.of_config(config), Lengths(len(questions), own_chars(questions), chars_of(config.prompt))
    width = str(width_of_engine(config.engine.backend, config.engine_args()))
    kind = kind_of(setup, config.quantization.name, width, config.sampling.max_tokens, config.prompt.name)
    return CellWork(kind, pass_s(setup, load, config.sampling.max_tokens, config.workload.rate_per_s), passes)


def work_of_trial(trial: Trial, own: float) -> CellWork:
    """A trial of an earlier study, of whose passes none is left.

    Args:
        own: characters of a question, which a trial does not tell.
    """
    assert trial.measurement is not None
    setup, prompt = Setup.of_trial(trial), trial.pipeline["prompt"]
    shared = len(prompt["system"] or "") + sum(len(text) for example in prompt["examples"] for text in example.values())
    max_tokens, load = trial.pipeline["sampling"]["max_tokens"], Lengths(trial.measurement.questions, own, shared)
    width = str(width_of_engine(setup.backend, dict(setup.args)))
    kind = kind_of(setup, trial.pipeline["quantization"]["name"], width, max_tokens, prompt["name"])
    return CellWork(kind, pass_s(setup, load, max_tokens, trial.setting["workload"].get("rate_per_s")), 0)


def kind_of(setup: Setup, quantization: str, width: str, max_tokens: int, prompt: str) -> Kind:
    """What decides how far a cell is off its guess, the most important first."""
    return f"{setup.model_path} {setup.backend.name} {quantization}", width, str(max_tokens), prompt


def own_chars(questions: Sequence[Question]) -> float:
    """Characters of a question, the mean."""
    return sum(len(question.text) for question in questions) / len(questions)


def chars_of(prompt: PromptConfig) -> int:
    """Characters of what all questions of a prompt begin with."""
    return len(prompt.system or "") + sum(len(example.question) + len(example.answer) for example in prompt.examples)


def pass_s(setup: Setup, lengths: Lengths, max_tokens: int, rate_per_s: float | None) -> float:
    """Least seconds of a pass in which every answer is as long as it may be."""
    args = {key: value for key, value in setup.args.items() if key not in BEYOND}
    setup = replace(setup, args=args, gpu=setup.gpu if setup.gpu.bandwidth_gb_per_s else USUAL_CARD)
    width = width_of(setup, lengths.questions)
    shared = lengths.shared / CHARS_A_TOKEN
    load = Load(lengths.questions, width, shared + lengths.own / CHARS_A_TOKEN, shared, max_tokens)
    try:
        bound = bound_of(roof_of(read_shape(find(setup.model_path, "model.path")), setup), load)
        least = bound.prefill_s + bound.decode_s
    except UserError:
        least = -(-lengths.questions // width) * max_tokens * USUAL_STEP_S
    return max(least, lengths.questions / rate_per_s if rate_per_s else 0.0)
