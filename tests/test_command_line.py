"""Tests of gpuqa.config.command_line: a printed command says to shell and Hydra what it said in the message."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest
from any_measurement import any_measurement
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from written_study import KNOWN

from gpuqa.config.app import compose_cell, introduce_to_hydra
from gpuqa.config.command_line import command_line, override, study_overrides, terminal
from gpuqa.config.commands import COMMANDS, FreezeConfig, ServeConfig, StudyConfig, resolve
from gpuqa.config.measurement import SelectionConfig
from gpuqa.config.paths import PACKAGE, conf_folder
from gpuqa.measure.cell import Cell
from gpuqa.records import Answer
from gpuqa.study.conclusion import conclude
from gpuqa.study.journal import Journal
from gpuqa.study.output import TextOutput

FOLDERS = [
    "plain",
    "a b",
    "第一次 实验",
    "{a}",
    "it's",
    'a "b"',
    "a,b",
    "[red]x",
    "${HOME}",
    "a\\",
    "null",
    "007",
    "~x",
    "#1",
    "a=b",
    "$(x)",
]


def parsed(line: str) -> object:
    """The typed config of a printed command, by way of the shell's words and Hydra's grammar."""
    python, flag, module, *words = shlex.split(line)
    assert (python, flag) == ("python", "-m")
    command = module.removeprefix("gpuqa.")
    introduce_to_hydra()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return resolve(compose(command, words), COMMANDS[command])


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_printed_command_names_the_same_folder_when_it_is_pasted(folder: str) -> None:
    serve = parsed(command_line("serve", override("frozen", Path(folder) / "frozen.yaml")))
    assert isinstance(serve, ServeConfig)
    assert serve.frozen == f"{folder}/frozen.yaml"
    freeze = parsed(command_line("freeze", *study_overrides(StudyConfig(folder.replace("\\", ""), root=folder))))
    assert isinstance(freeze, FreezeConfig)
    assert (freeze.study.root, freeze.study.name) == (folder, folder.replace("\\", ""))


@pytest.mark.slow
@pytest.mark.no_cover
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1) | st.text("a ,'\"\\{}[]()$=:~#null", min_size=1))
@settings(database=None, deadline=None, max_examples=25)
def test_any_text_survives_shell_and_grammar(text: str) -> None:
    if text != "???":  # OmegaConf's word for a value that is missing
        serve = parsed(command_line("serve", override("frozen", text)))
        assert isinstance(serve, ServeConfig)
        assert serve.frozen == text


def test_what_needs_no_quotes_has_none() -> None:
    words = [override("frozen", "experiments/mine/frozen.yaml"), override("http.port", 9000)]
    assert command_line("serve", *words) == "python -m gpuqa.serve frozen=experiments/mine/frozen.yaml http.port=9000"
    assert study_overrides(StudyConfig("mine")) == ["study.name=mine"]


@pytest.mark.parametrize("root", ["a b", "结果 {x}", "a:new:b", "[red]" + "long/" * 40])
def test_the_end_of_a_study_prints_a_command_for_its_folder_in_one_line(tmp_path: Path, monkeypatch, root: str) -> None:
    monkeypatch.chdir(tmp_path)
    study = StudyConfig("[red]:new:", root=root)
    line, printed = serve_line(study)
    serve = parsed(line)
    assert isinstance(serve, ServeConfig)
    assert Path(serve.frozen) == study.folder / "frozen.yaml"
    assert Path(serve.frozen).is_file()
    assert "Study [red]:new:" in printed
    assert not serve.trust_frozen


def test_the_printed_command_trusts_what_its_user_has_chosen(tmp_path: Path) -> None:
    line, _ = serve_line(StudyConfig("mine", root=str(tmp_path)), "+engine.env.SOME_LIBRARY=fast")
    serve = parsed(line)
    assert isinstance(serve, ServeConfig)
    assert serve.trust_frozen


def serve_line(study: StudyConfig, *overrides: str) -> tuple[str, str]:
    """The command that the end of a study of one trial prints, and all that is printed."""
    journal, numbers = (
        Journal(study.folder),
        {"questions": 4, "answers_failed": 0, "answers_empty": 0, "truncated_fraction": 0.0},
    )
    measurement = any_measurement(rouge_l_f1_judge=0.4, rouge_l_f1=0.4, **numbers)
    config = compose_cell("experiment=none", *overrides)
    trial = Cell(config, {}, [], [], KNOWN).trial(measurement)
    journal.write_study([(trial.key, {})])
    journal.write(trial, [Answer("q", "问题", "参考", "答", 0.4, 0.4, "stop", 9, 0.1)])
    console = terminal(io.StringIO())
    console.width = 40
    assert conclude([trial], study, SelectionConfig("mine", min_chars_per_s=0.0), journal, TextOutput(console)) == 0
    printed: str = console.file.getvalue()  # type: ignore[attr-defined]
    [line] = re.findall(r"(?m)^Serve it: (.*)$", printed)
    return line, printed


def test_every_command_prints_on_the_terminal_that_leaves_texts_as_they_are() -> None:
    own = {file.name for file in PACKAGE.rglob("*.py") if re.search(r"\bConsole\(|rich import print", file.read_text("utf-8"))}
    assert own == {"command_line.py"}


def test_sentences_in_a_file_are_not_broken(monkeypatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    file = io.StringIO()
    terminal(file).print("word " * 100)
    assert file.getvalue().count("\n") == 1
