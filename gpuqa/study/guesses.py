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
from gpuqa.records import Question
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


Work = Mapping[str, CellWork]  # of a plan, by the keys of its cells


def work_of(cell: Cell, passes: int) -> CellWork:
    """A cell that lacks so many passes."""
    config = cell.config
    least = questions_s(Setup.of_config(config), cell.questions, config.prompt, config.sampling.max_tokens)
    rate = config.workload.rate_per_s
    return CellWork(kind_of(config), max(least, len(cell.questions) / rate if rate else 0.0), passes)


def kind_of(config: CellConfig) -> Kind:
    """What decides how far a cell is off its guess, the most important first."""
    engine = f"{config.model.path} {config.engine.backend.name} {config.quantization.name}"
    width = str(width_of_engine(config.engine.backend, config.engine_args()))
    return engine, width, str(config.sampling.max_tokens), config.prompt.name


def questions_s(setup: Setup, questions: Sequence[Question], prompt: PromptConfig, max_tokens: int) -> float:
    """Least seconds for questions of which every answer is as long as it may be."""
    args = {key: value for key, value in setup.args.items() if key not in BEYOND}
    setup = replace(setup, args=args, gpu=setup.gpu if setup.gpu.bandwidth_gb_per_s else USUAL_CARD)
    shared = len(prompt.system or "") + sum(len(example.question) + len(example.answer) for example in prompt.examples)
    own = sum(len(question.text) for question in questions) / len(questions)
    width = width_of(setup, len(questions))
    load = Load(len(questions), width, (shared + own) / CHARS_A_TOKEN, shared / CHARS_A_TOKEN, max_tokens)
    try:
        bound = bound_of(roof_of(read_shape(find(setup.model_path, "model.path")), setup), load)
    except UserError:
        return -(-len(questions) // width) * max_tokens * USUAL_STEP_S
    return bound.prefill_s + bound.decode_s
