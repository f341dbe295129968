"""Weights, question files and how long their questions are, and what would be fetched."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from gpuqa.config import UserError, one_line
from gpuqa.config.command_line import command_line, override
from gpuqa.config.commands import CellConfig, Config, from_plain
from gpuqa.config.measurement import DatasetConfig
from gpuqa.config.model_files import TENSOR_FILES
from gpuqa.config.paths import conf_folder
from gpuqa.config.pipeline import ModelConfig
from gpuqa.pipeline.chat_template import with_template_text
from gpuqa.pipeline.dataset.summary import summary_of
from gpuqa.pipeline.model_folder import matching
from gpuqa.pipeline.pipeline import encoder_for
from gpuqa.pipeline.prompts import load_tokenizer
from gpuqa.readiness import Finding, State, not_needed
from gpuqa.selection.wording import counted
from gpuqa.serving.address import has_route
from gpuqa.study.cell_checks import CellChecks

OFF = ("0", "false", "off", "no")  # values with which Hugging Face's libraries may fetch


def files(cells: Sequence[CellConfig], checks: CellChecks) -> list[Finding]:
    """The models and question files of the study, then those of the other options that come with gpuqa."""
    models = {repr(cell.model): cell.model for cell in cells}
    datasets = {repr(cell.dataset): cell.dataset for cell in cells}
    other_models = others("model", ModelConfig, {model.name for model in models.values()})
    other_datasets = others("dataset", DatasetConfig, {dataset.name for dataset in datasets.values()})
    known = [*models.values(), *other_models]
    needed = [weights(model, checks) for model in models.values()]
    needed += [questions(dataset, checks, known) for dataset in datasets.values()]
    rest = [weights(model, checks) for model in other_models]
    rest += [questions(dataset, checks, known) for dataset in other_datasets]
    return [*needed, *(not_needed(finding) for finding in rest)]


def others(group: str, schema: type[Config], names: set[str]) -> list[Config]:
    """The options of a group in conf/ that have none of these names."""
    found = [file for file in sorted((conf_folder() / group).glob("*.yaml")) if file.stem not in names]
    return [from_plain(OmegaConf.to_container(OmegaConf.load(file)), schema, str(file)) for file in found]  # type: ignore[arg-type]


def weights(model: ModelConfig, checks: CellChecks) -> Finding:
    """Whether a model's folder is whole, and what to do if it is not."""
    try:
        folder = checks.model(model)
    except UserError as error:
        text, fetch = one_line(str(error)), fetch_command(model)
        remedy = f"the command is: {fetch}" if fetch else "or name another folder: model.path=FOLDER"
        return Finding(f"model={model.name}", text if fetch and fetch in text else f"{text}; {remedy}", State.missing)
    tensors = matching(folder, TENSOR_FILES)
    size = sum(file.stat().st_size for file in tensors) / 1e6
    return Finding(f"model={model.name}", f"whole, {size:,.1f} MB of weights in {counted(len(tensors), 'file')} of {folder}")


def fetch_command(model: ModelConfig) -> str:
    """The command that fetches a model's folder; "" where no hub has it."""
    return command_line("download", override("model", model.name)) if model.download.repository is not None else ""


def questions(dataset: DatasetConfig, checks: CellChecks, models: Sequence[ModelConfig]) -> Finding:
    """Whether a question file can be read; one that is missing may come with the weights of one of the models."""
    try:
        known = summary_of(dataset, None, checks.questions(dataset))
    except UserError as error:
        commands = [fetch_command(model) for model in models if Path(dataset.path).is_relative_to(model.path)]
        remedies = [f"it comes with the weights: {command}" for command in commands if command]
        remedy = "; ".join(remedies) or "or name another file: dataset.path=FILE"
        return Finding(f"dataset={dataset.name}", f"{one_line(str(error))}; {remedy}", State.missing)
    text = f"{counted(known.rows, 'question')} in {dataset.path}, each with a reference"
    text += f", {unseen} of them without a word that the judge sees" if (unseen := known.references_unseen_by_judge) else ""
    surprises = known.warnings()
    return Finding(f"dataset={dataset.name}", "; ".join([text, *surprises]), State.note if surprises else State.ok)


def lengths(cells: Sequence[CellConfig], checks: CellChecks) -> list[Finding]:
    """Whether each prompt of the study, and all its questions within, fit into the engine's context beside an answer."""
    whole = [cell for cell in cells if weights(cell.model, checks).state is State.ok]
    whole = [cell for cell in whole if questions(cell.dataset, checks, []).state is not State.missing]
    tokenizers = dict[str, Any]()
    findings = []
    for cell in whole:
        try:
            if (key := repr(cell.model)) not in tokenizers:
                tokenizers[key] = load_tokenizer(cell.model)  # seconds
            findings.append(length(cell, checks, tokenizers[key]))
        except UserError as error:
            findings.append(Finding(f"prompt={cell.prompt.name}", one_line(str(error)), State.missing))
    return list(dict.fromkeys(findings))


def length(cell: CellConfig, checks: CellChecks, tokenizer: Any) -> Finding:
    """The longest prompt of a cell, counted as its pipeline would.

    Raises:
        UserError: the prompt takes all the room, or the chat template cannot express it.
    """
    encoder = encoder_for(tokenizer, replace(cell, prompt=with_template_text(cell.prompt)))
    encoded = [encoder.encode(question.text) for question in checks.questions(cell.dataset).questions]
    cut, longest = sum(prompt.question_was_cut for prompt in encoded), max(len(prompt.token_ids) for prompt in encoded)
    limits = f"engine.args.max_model_len={cell.engine.max_model_len} less sampling.max_tokens={cell.sampling.max_tokens}"
    name = f"prompt={cell.prompt.name}"
    if not cut:
        return Finding(name, f"at most {longest:,} tokens with a question, and {limits} leaves {encoder.room:,}")
    text = (
        f"{cut} of {counted(len(encoded), 'question')} are longer than the {encoder.room:,} tokens that {limits} leaves: their"
    )
    return Finding(name, f"{text} middle is cut; raise the first or lower the second", State.note)


def network(cells: Sequence[CellConfig], checks: CellChecks) -> Finding:
    """What would be fetched for this study, by whom, and whether there is a way out of this machine."""
    models = {repr(cell.model): cell.model for cell in cells}.values()
    absent = [model for model in models if weights(model, checks).state is State.missing and fetch_command(model)]
    route = "there is a route to it" if has_route() else "no route leads to it"
    if os.environ.get("HF_HUB_OFFLINE", "1").lower() in OFF:
        text = "HF_HUB_OFFLINE lets libraries fetch what is not here, so that two runs may differ: unset it, or set it to 1"
        return Finding("network", f"{route}; {text}", State.note)
    if not absent:
        return Finding("network", f"{route}; nothing has to be fetched, and nothing is (HF_HUB_OFFLINE)")
    names = ", ".join(f"{model.download.repository} from {model.download.hub.name}" for model in absent)
    elsewhere = "" if has_route() else "; without a network fetch it on another machine, and copy the folder"
    return Finding("network", f"{route}; gpuqa.download would fetch {names}, and nothing else does{elsewhere}", State.note)
