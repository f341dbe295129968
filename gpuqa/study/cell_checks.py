"""What is wrong with a cell, as far as its configuration and its files tell without a library that takes seconds to import."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from gpuqa.config.commands import CellConfig
from gpuqa.config.engine_arguments import argument_names
from gpuqa.config.measurement import DatasetConfig
from gpuqa.config.paths import find_model
from gpuqa.config.pipeline import Backend, ModelConfig, PipelineConfig
from gpuqa.engines import BACKENDS, refuse_unknown, width_of_engine
from gpuqa.measure import fingerprint
from gpuqa.pipeline import dataset
from gpuqa.pipeline.chat_template import with_template_text
from gpuqa.pipeline.dataset import QuestionFile
from gpuqa.pipeline.dataset.summary import Summary, summary_of
from gpuqa.pipeline.model_folder import check_length, check_tokenizer, check_weights
from gpuqa.pipeline.pipeline import warmup_questions
from gpuqa.study.run_file import SentPrompt

Checked = TypeVar("Checked", bound=CellConfig)


class CellChecks:
    """Checks the cells of a study one by one. What several of them name is read once."""

    def __init__(self) -> None:
        self._files: dict[str, QuestionFile] = {}
        self._checked: set[str] = set()
        self.sent_prompts: dict[str, SentPrompt] = {}  # by the digest of their tokens; `gpuqa.study.study.prepare` knows them

    def checked(self, config: Checked) -> Checked:
        """The configuration with the text of its prompt's template, after milliseconds.

        Raises:
            UserError: a file is absent or damaged, or an engine could not do what is asked.
        """
        config = replace(config, prompt=with_template_text(config.prompt))
        find_model(config.model)  # is it there at all? Questions are read before its files, which take longer
        self.questions(config.dataset)
        folder = self.model(config.model)
        check_length(folder, config.engine)
        self.check_engine(config)
        return config

    def model(self, config: ModelConfig) -> Path:
        """The folder of a model whose files are all there.

        Raises:
            UserError: a file is absent, damaged or not the one that was downloaded.
        """
        folder = find_model(config)
        if repr(config) not in self._checked:
            check_weights(folder)
            check_tokenizer(folder)
            fingerprint.model_revision(config, folder)
            warmup_questions(config)
            self._checked.add(repr(config))
        return folder

    @cached_property
    def argument_names(self) -> tuple[str, ...]:
        """Of vLLM's engines, by its source; none where it is not installed."""
        return argument_names()

    def questions(self, config: DatasetConfig) -> QuestionFile:
        """What the question file of a dataset holds.

        Raises:
            UserError: as `gpuqa.pipeline.dataset.load_file`.
        """
        if (key := repr(config)) not in self._files:
            self._files[key] = dataset.load_file(config)
        return self._files[key]

    def summary(self, config: CellConfig) -> Summary:
        """What the question file of a cell holds, beside the warm-up file of its model."""
        warmup = warmup_questions(config.model) if config.model.warmup else None
        return summary_of(config.dataset, warmup, self.questions(config.dataset))

    def check_engine(self, config: PipelineConfig) -> None:
        """Refuse what the backend cannot do, by the names in vLLM's source, which is not imported.

        Raises:
            UserError: names the argument and the nearest known ones, or the way of drawing tokens.
        """
        backend, args = BACKENDS[config.engine.backend].load(), config.engine_args()
        if config.engine.backend is not Backend.vllm:
            backend.check_args(args)
        elif self.argument_names:
            refuse_unknown(args, self.argument_names, "the installed vLLM")
        width_of_engine(config.engine.backend, args)
        backend.check_sampling(config.sampling)
