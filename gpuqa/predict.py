"""Say what a study could reach at best on a card that is not here. No engine starts, and vLLM need not be installed.

    python -m gpuqa.predict gpu=rtx5090 prompt=bare,structured quantization=none,fp8 engine.args.max_num_seqs=256,512
    python -m gpuqa.predict gpu=h100,h200 experiment=gpu_pro answer_tokens=120
    python -m gpuqa.predict experiment=rtx5090                         # the study of a course participant

Of the model it reads config.json, the tokenizer and the headers of the weight files; without weight files their size is
estimated. A model that is not here yet is taken as its `model.assumed` says.

Exit codes: 0 the bounds are printed, 2 the input is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpuqa.config import UserError, check
from gpuqa.config.app import run_command
from gpuqa.config.command_line import command_line, override, terminal
from gpuqa.config.commands import PredictConfig, axes_of, resolve
from gpuqa.config.engine_arguments import argument_names
from gpuqa.config.measurement import DatasetConfig
from gpuqa.config.paths import conf_folder, find_model
from gpuqa.config.pipeline import AssumedConfig, Backend, ModelConfig
from gpuqa.engines import BACKENDS, refuse_unknown
from gpuqa.pipeline import dataset
from gpuqa.pipeline.pipeline import encoder_for
from gpuqa.pipeline.prompts import load_tokenizer
from gpuqa.roofline.checkpoint import Shape, read_shape, shape_of
from gpuqa.roofline.load import L2_BYTES, Setup, load, slots_of
from gpuqa.roofline.roofline import Bound, Roof, bound_of, roof_of, sequences_that_fit

TITLE = "Bounds, not promises"
HEADINGS = (
    "prompt\nshared+own",
    "output\ntokens/s",
    "questions\n/s",
    "step ms\nonce|each",
    "weights\n+KV",
    "prefill\ns",
    "sequences\nhere|full",
    "fits",
)
LEGEND = (
    "step: memory alone, half-way through the answers; once: the shared prompt is read once, each: by every sequence",
    "sequences: what fits beside the weights; here: each as long as the longest prompt + max_tokens, full: max_model_len",
    "fits: max_num_seqs against these two; what an engine needs beside weights and KV is not counted",
)


@dataclass(frozen=True, slots=True)
class Source:
    """What is known of a model: from its folder, or assumed."""

    tokenizer: Any
    shape: Shape
    assumed: AssumedConfig | None = None  # None: all of it is from the folder

    def dataset(self, config: PredictConfig) -> DatasetConfig:
        """The questions to count: those of the cell, unless they would have come with weights that are not here."""
        if self.assumed is None or not Path(config.dataset.path).is_relative_to(config.model.path):
            return config.dataset
        return DatasetConfig(config.dataset.name, self.assumed.questions, config.dataset.limit)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One cell and its bounds."""

    config: PredictConfig
    axes: dict[str, str]
    source: Source
    roof: Roof
    bound: Bound
    fit_here: int | None  # sequences that fit if each is as long as the longest prompt and max_tokens
    fit_full: int | None  # if each is max_model_len long


def main() -> None:
    """Enter with conf/predict.yaml."""
    run_command(predict, "predict")


def predict(composed: Any) -> int:
    """All composed cells (the study sweeper hands them over at once) -> exit code."""
    configs = [resolve(config, PredictConfig) for config in composed]
    cards = ", ".join(sorted(file.stem for file in (conf_folder() / "gpu").glob("*.yaml") if file.stem != "none"))
    for config in configs:
        check(config.gpu.bandwidth_gb_per_s is not None, "gpu", config.gpu.name, f"a card: {cards}")
    refuse_unknown_arguments(configs)
    sources: dict[str, Source] = {}
    for config in configs:
        if config.model.path not in sources:
            sources[config.model.path] = source_of(config.model)
    predictions = [
        predicted(config, axes, sources[config.model.path]) for config, axes in zip(configs, axes_of(composed), strict=True)
    ]
    console = terminal()
    print_table(predictions, console)
    for line in assumptions(predictions):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def refuse_unknown_arguments(configs: Sequence[PredictConfig]) -> None:
    """Refuse engine arguments as a sweep does, but by the names in vLLM's source, which is not imported.

    Raises:
        UserError: names the argument and the nearest known ones.
    """
    names = argument_names()
    for config in configs:
        if config.engine.backend is not Backend.vllm:
            BACKENDS[config.engine.backend].load().check_args(config.engine_args())
        elif names:
            refuse_unknown(config.engine_args(), names, "the installed vLLM")


def source_of(model: ModelConfig) -> Source:
    """What the model's folder says, or else what its configuration assumes.

    Raises:
        UserError: there is no such folder and nothing is assumed, or what is there cannot be read.
    """
    try:
        folder = find_model(model)
    except UserError:
        if model.assumed is None:
            raise
        instead = replace(model, path=model.assumed.tokenizer, trust_remote_code=False)
        return Source(load_tokenizer(instead), shape_of(asdict(model.assumed.shape)), model.assumed)
    return Source(load_tokenizer(model), read_shape(folder))


def predicted(config: PredictConfig, axes: dict[str, str], source: Source) -> Prediction:
    """The bounds of one cell; its prompts are tokenised as the pipeline would."""
    encoder, setup = encoder_for(source.tokenizer, config), Setup.of_config(config)
    prompts = [encoder.encode(question.text).token_ids for question in dataset.load(source.dataset(config))]
    asked = load(prompts, setup, config.answer_tokens or config.sampling.max_tokens)
    roof = roof_of(source.shape, setup)
    longest = max(map(len, prompts)) + config.sampling.max_tokens
    return Prediction(
        config,
        axes,
        source,
        roof,
        bound_of(roof, asked),
        fit_here=sequences_that_fit(roof, setup, longest, int(asked.prefix)),
        fit_full=sequences_that_fit(roof, setup, config.engine.max_model_len, int(asked.prefix)),
    )


def print_table(predictions: Sequence[Prediction], console: Console) -> None:
    """One line a cell, in the order of the axes; wider than the terminal rather than with columns cut off."""
    table = Table(title=TITLE, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    axes = list(predictions[0].axes)
    for key in axes:
        table.add_column(key.removeprefix("engine.args."), no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for prediction in predictions:
        table.add_row(*(Text(prediction.axes[key]) for key in axes), *cells(prediction))
    wide = console.measure(table, options=console.options.update(width=1000))
    console.width = max(console.width, wide.maximum)
    console.print(table)


def cells(prediction: Prediction) -> list[str]:
    """A prediction's numbers as text; the step is the one half-way through the answers."""
    load, roof = prediction.bound.load, prediction.roof
    own = load.prompt - load.prefix + load.answer / 2
    once, each = roof.step_bytes(load.width, own, load.prefix), roof.step_bytes(load.width, load.prefix + own)
    weights = roof.weight_bytes / once
    return [
        f"{load.prefix:.0f}+{load.prompt - load.prefix:.0f}",
        f"{prediction.bound.output_tokens_per_s:,.0f}",
        f"{prediction.bound.questions_per_s:,.1f}",
        f"{once / roof.bytes_per_s * 1e3:.3g}|{each / roof.bytes_per_s * 1e3:.3g}",
        f"{weights:.0%}+{1 - weights:.0%}",
        f"{prediction.bound.prefill_s:.3g}",
        f"{shown(prediction.fit_here)}|{shown(prediction.fit_full)}",
        fits(prediction),
    ]


def shown(count: int | None) -> str:
    """A number of sequences as text."""
    return "n/a" if count is None else f"{count:,}"


def fits(prediction: Prediction) -> str:
    """Whether the sequences that the engine may run at once fit: at full length, only these questions', or not."""
    if prediction.fit_here is None or prediction.fit_full is None:
        return "n/a"
    slots = slots_of(Setup.of_config(prediction.config), prediction.bound.load.questions)
    return "yes" if slots <= prediction.fit_full else "here" if slots <= prediction.fit_here else "no"


def assumptions(predictions: Sequence[Prediction]) -> list[str]:
    """What went into the numbers, and how to read them."""
    lines = []
    for prediction in predictions:
        config, load, weights = prediction.config, prediction.bound.load, prediction.roof.weight_bytes
        counted, origin = prediction.source.dataset(config), origin_of(prediction.source)
        questions = counted.name if counted == config.dataset else f"{counted.path} in place of {counted.name}"
        length = "sampling.max_tokens" if config.answer_tokens is None else "answer_tokens"
        lines += [
            f"card: {config.gpu.name}; {config.gpu.source}",
            f"weights: {config.model.name}, {config.quantization.name}: {weights / 1e6:,.1f} MB a step {origin}",
            f"assumed: {load.questions} questions of {questions}, every answer {load.answer:.0f} tokens ({length})",
        ]
        if prediction.source.assumed is not None:
            lines.append(f"assumed: {what_stands_in(config.model, prediction.source.assumed)}")
        if config.model.note:
            lines.append(f"note: {config.model.note}")
        if config.engine.backend is Backend.vllm and not argument_names():
            lines.append("note: the names of engine arguments are not checked, because vLLM is not installed here")
        if weights < L2_BYTES:
            lines.append("note: weights this small fit the card's L2 cache; the engine's own overhead will be the limit")
    return [*sorted(set(lines), key=lambda line: (line.partition(":")[0], lines.index(line))), *LEGEND]


def origin_of(source: Source) -> str:
    """Where the size of the weights is known from."""
    if source.assumed is not None:
        return "ASSUMED, by model.assumed.shape"
    return "ESTIMATED from config.json: no weight files" if source.shape.estimated else "by its weight files"


def what_stands_in(model: ModelConfig, assumed: AssumedConfig) -> str:
    """What was taken of a model that is not here, and how to get it."""
    text = f"{model.name} is not in {model.path}: its shape is model.assumed.shape, tokens are counted by {assumed.tokenizer}"
    fetch = f"; fetch the weights with: {command_line('download', override('model', model.name))}"
    return text + (fetch if model.download.repository is not None else "")


if __name__ == "__main__":
    main()
