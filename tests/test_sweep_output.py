"""What the command of a study says: before it starts, while it runs, and when it is interrupted. Nothing is measured."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from any_measurement import any_measurement
from rich.console import Console
from small_study import config

from gpuqa.config.command_line import terminal
from gpuqa.engines.vllm import compat
from gpuqa.measure.cell import Cell
from gpuqa.pipeline.dataset.summary import summary_of
from gpuqa.records import Answered, Pass, Question
from gpuqa.study.journal import Journal
from gpuqa.study.output import TextOutput
from gpuqa.study.same_effect import Effects
from gpuqa.study.study import Outcome
from gpuqa.sweep import announce, interrupted, setting, summary

PASS = Pass(Answered([], 1.0, []), 0, [], 1.0, 1.0, 1.0, 1.0)


def cell(**axes: Any) -> Cell:
    known = {"digests": {"weights": "w", "dataset": "d"}, "device": "a machine"}
    named = {key.replace("__", "."): str(value) for key, value in axes.items()}
    return Cell(config(**{"engine": "vllm_cpu", **axes}), named, [Question("1", "什么是 warp？")], [], known)


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO(), width=200, color_system=None)


def said(console: Console) -> str:
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_a_study_says_how_many_of_its_trials_are_measured_where_some_are_the_same_in_effect(console: Console) -> None:
    twins = [cell(engine__attention=name) for name in ("shared_prefix", "default")]
    questions = summary_of(twins[0].config.dataset, None)
    announce(twins, questions, [], TextOutput(console))
    assert said(console).startswith("mine: 2 trials, 1 of them measured, on 1 engine; engine=vllm_cpu on ")
    vllm = f", {compat.described()}, scheduler=burst runs, "
    assert f"{vllm}attention=shared_prefix is off\n" in said(console)
    assert "\nembedded: 2 questions (gpuqa/embedded/questions/test.json, UTF-8, sha256 " in said(console)
    announce([cell(prompt="bare")], questions, [], TextOutput(console))
    assert "mine: 1 trial on 1 engine; " in said(console)


def test_the_first_line_of_a_study_says_which_vllm_it_is_and_of_an_override_that_only_some_cells_get_just_that() -> None:
    cells = [cell(engine__attention="shared_prefix", engine__args__max_num_seqs=count) for count in (8, 16)]
    effects = Effects(cells)
    effects.off[cells[0].key] = {}  # a fake, because one machine gives no override to only some of these cells
    assert setting(cells, effects).endswith(
        f", {compat.described()}, scheduler=burst runs, attention=shared_prefix runs in some cells"
    )
    plain = [cell(engine="vllm_defaults"), cell(engine="transformers")]
    assert setting(plain, Effects(plain)).endswith(f" on a machine, {compat.described()}"), "where none asks for an override"
    assert "vLLM" not in setting(plain[1:], Effects(plain[1:]))


def test_a_study_is_called_by_its_name_whatever_that_means_elsewhere() -> None:
    output = TextOutput(console := terminal(StringIO()))
    announce([cell(study__name="[red]a:new:b")], summary_of(cell().config.dataset, None), [], output)
    assert said(console).startswith("[red]a:new:b: 1 trial on 1 engine; ")


def test_one_is_one_and_more_are_several() -> None:
    ended = cell().trial(any_measurement())
    assert summary(Outcome([ended], engine_starts=1, kept=0), 2.0) == (
        "1 trial measured; 1 engine start, 0 saved by sharing; 2 s"
    )
    assert summary(Outcome([ended] * 2, engine_starts=0, kept=0), 2.0) == "2 trials measured; 0 engine starts; 2 s"
    assert summary(Outcome([ended] * 3, engine_starts=2, kept=1), 2.0) == (
        "2 trials measured, 1 kept from an earlier run; 2 engine starts, 0 saved by sharing; 2 s"
    )


def test_an_interruption_before_the_first_trial_is_a_sentence_without_a_table(tmp_path: Path, console: Console) -> None:
    cells, journal = [cell(prompt="bare"), cell(prompt="expert")], Journal(tmp_path / "mine")
    journal.write_study([(cell.key, cell.axes) for cell in cells])
    journal.write_pass(cells[0].key, PASS)
    assert interrupted(cells, journal, TextOutput(console)) == 130
    assert said(console) == (
        "Interrupted: 0 of 2 trials and 1 pass of others are kept; nothing was frozen. The same command goes on from here.\n"
    )


def test_an_interruption_after_it_shows_the_trials_and_then_the_sentence(tmp_path: Path, console: Console) -> None:
    cells, journal = [cell(prompt="bare"), cell(prompt="expert")], Journal(tmp_path / "mine")
    journal.write_study([(cell.key, cell.axes) for cell in cells])
    journal.write(cells[0].trial(any_measurement(chars_per_s=1234.0, questions=3)), [])
    for repeat in range(2):
        journal.write_pass(cells[1].key, replace(PASS, repeat=repeat))
    interrupted(cells, journal, TextOutput(console))
    table, _, sentence = said(console).rpartition("Interrupted: ")
    assert "Study mine so far" in table
    assert "1,234" in table
    assert sentence.startswith("1 of 2 trials and 2 passes of others are kept; nothing was frozen.")
