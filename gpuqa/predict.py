"""Say what a study could reach at best on a card that is not here. No engine starts, and vLLM need not be installed.

    python -m gpuqa.predict gpu=rtx5090 prompt=bare,structured quantization=none,fp8 engine.args.max_num_seqs=256,512
    python -m gpuqa.predict gpu=h100,h200 experiment=gpu_pro answer_tokens=120
    python -m gpuqa.predict experiment=rtx5090                         # the study of a course participant

Of the model it reads config.json, the tokenizer and the headers of the weight files; without weight files their size is
estimated. A model that is not here yet is taken as its `model.assumed` says.

Exit codes: 0 the bounds are printed, 2 the input is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpuqa.config import UserError
from gpuqa.config.app import run_command
from gpuqa.config.cells import Cells
from gpuqa.config.command_line import command_line, override, terminal
from gpuqa.config.commands import PredictConfig, resolve
from gpuqa.config.engine_arguments import argument_names
from gpuqa.config.measurement import DatasetConfig
from gpuqa.config.paths import conf_folder, find_model
from gpuqa.config.pipeline import AssumedConfig, Backend, ModelConfig
from gpuqa.pipeline.model_folder import check_tokenizer
from gpuqa.pipeline.pipeline import encoder_for
from gpuqa.pipeline.prompts import load_tokenizer
from gpuqa.roofline.checkpoint import Shape, read_shape, shape_of
from gpuqa.roofline.load import L2_BYTES, Setup, load, slots_of
from gpuqa.roofline.roofline import Bound, Roof, bound_of, roof_of, sequences_that_fit
from gpuqa.study.cell_checks import CellChecks

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

    shape: Shape
    assumed: AssumedConfig | None = None  # None: all of it is from the folder

    def dataset(self, config: PredictConfig) -> DatasetConfig:
        """The questions to count: those of the cell, unless they would have come with weights that are not here."""
        if self.assumed is None or not Path(config.dataset.path).is_relative_to(config.model.path):
            return config.dataset
        return DatasetConfig(config.dataset.name, self.assumed.questions, config.dataset.limit)


@dataclass(frozen=True, slots=True)
class Checked:
    """A cell whose tokens are not counted yet."""

    config: PredictConfig
    source: Source
    questions: list[str]
    roof: Roof


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


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: the values of each axis that it stands for, and what comes out for all of them."""

    axes: dict[str, tuple[str, ...]]
    numbers: list[str]


def main() -> None:
    """Enter with conf/predict.yaml."""
    run_command(predict, "predict")


def predict(composed: Cells) -> int:
    """All cells (the study sweeper hands them over at once) -> exit code."""
    checks, sources, tokenizers = CellChecks(), dict[str, Source](), dict[str, Any]()
    cells = composed.each(lambda config: checked(resolve(config, PredictConfig), checks, sources))
    predictions = []
    for cell, axes in zip(cells, composed.axes, strict=True):
        model = cell.config.model
        if model.path not in tokenizers:
            tokenizers[model.path] = tokenizer_of(model, cell.source)
        predictions.append(predicted(cell, axes, tokenizers[model.path]))
    console = terminal()
    print_table(predictions, console)
    for line in assumptions(predictions):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def checked(config: PredictConfig, checks: CellChecks, sources: dict[str, Source]) -> Checked:
    """A cell after everything was checked that needs no tokenizer, which takes seconds to import.

    Args:
        sources: by the path of a model, what is known of it; gets another if this cell's is new.

    Raises:
        UserError: no card is named, a file is absent that nothing is assumed for, or an engine could not do what is asked.
    """
    if config.gpu.bandwidth_gb_per_s is None:
        raise UserError(f"gpu: {no_card(config.gpu.name)}")
    checks.check_engine(config)
    source = sources.setdefault(config.model.path, sources.get(config.model.path) or source_of(config.model))
    questions = checks.questions(source.dataset(config)).questions
    return Checked(config, source, [question.text for question in questions], roof_of(source.shape, Setup.of_config(config)))


def no_card(name: str) -> str:
    """What to say where there is no card to predict for."""
    cards = ", ".join(sorted(file.stem for file in (conf_folder() / "gpu").glob("*.yaml") if file.stem != "none"))
    wanted = "no card is named" if name == "none" else f"the file of {name!r} has no bandwidth_gb_per_s"
    return f"{wanted}; say for which one: gpu=NAME, with one of {cards}, or a file of your own (docs/predict.md, at its end)"


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
        return Source(shape_of(asdict(model.assumed.shape)), model.assumed)
    check_tokenizer(folder)
    return Source(read_shape(folder))


def tokenizer_of(model: ModelConfig, source: Source) -> Any:
    """What counts the tokens of a model.

    Raises:
        UserError: as `load_tokenizer`.
    """
    if source.assumed is not None:
        model = replace(model, path=source.assumed.tokenizer, trust_remote_code=False)
    return load_tokenizer(model)


def predicted(cell: Checked, axes: dict[str, str], tokenizer: Any) -> Prediction:
    """The bounds of one cell; its prompts are tokenised as the pipeline would."""
    config, roof = cell.config, cell.roof
    encoder, setup = encoder_for(tokenizer, config), Setup.of_config(config)
    prompts = [encoder.encode(question).token_ids for question in cell.questions]
    asked = load(prompts, setup, config.answer_tokens or config.sampling.max_tokens)
    longest = max(map(len, prompts)) + config.sampling.max_tokens
    return Prediction(
        config,
        axes,
        cell.source,
        roof,
        bound_of(roof, asked),
        fit_here=sequences_that_fit(roof, setup, longest, int(asked.prefix)),
        fit_full=sequences_that_fit(roof, setup, config.engine.max_model_len, int(asked.prefix)),
    )


def print_table(predictions: Sequence[Prediction], console: Console) -> None:
    """One line for each that differs, in the order of the axes; wider than the terminal rather than with columns cut off."""
    table = Table(title=TITLE, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    rows = merged([Row({key: (value,) for key, value in one.axes.items()}, cells(one)) for one in predictions])
    shared = len(rows) < len(predictions)
    for key in predictions[0].axes:
        table.add_column(key.removeprefix("engine.args."), no_wrap=True)
    for heading in [*HEADINGS, *(["cells"] if shared else [])]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        count = [str(math.prod(map(len, row.axes.values())))] if shared else []
        table.add_row(*(Text(",".join(values)) for values in row.axes.values()), *row.numbers, *count)
    wide = console.measure(table, options=console.options.update(width=1000))
    console.width = max(console.width, wide.maximum)
    console.print(table)
    if shared:
        console.print(
            f"{len(rows)} rows for {len(predictions)} cells: a row stands for all combinations of the values it shows"
        )


def merged(rows: Sequence[Row]) -> list[Row]:
    """Rows with equal numbers as one, wherever their axes make up all combinations of the values that it shows."""
    for key in rows[0].axes:
        alike: dict[tuple[Any, ...], Row] = {}
        for row in rows:
            rest = (*(values for other, values in row.axes.items() if other != key), *row.numbers)
            before = alike[rest].axes[key] if rest in alike else ()
            alike[rest] = replace(row, axes={**row.axes, key: before + row.axes[key]})
        rows = list(alike.values())
    return list(rows)


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
