"""The README, docs/ and the examples: links lead somewhere, commands compose, examples resolve and run."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import pytest
from conftest import ROOT, run_python
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig
from written_study import write_study

from gpuqa.config import app
from gpuqa.config.commands import COMMANDS, CellConfig, resolve
from gpuqa.config.paths import conf_folder, find
from gpuqa.config.pipeline import PLACEHOLDER
from gpuqa.pipeline.dataset import load, read_questions

EXAMPLES = ROOT / "docs" / "examples"
COPY_OF_THE_EXAMPLES = "mine"  # that docs/your_own.md has its reader make
READMES = [ROOT / "README.md", ROOT / "README.zh.md"]
PAGES = [*READMES, *sorted((ROOT / "docs").rglob("*.md"))]
MOST_LINES = 200
TEST_COMMAND = r"^python3 -m venv \.venv .*pytest$"  # .ci/run takes its line from the README
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"python3? -m gpuqa\.(\w+)([^`\n#]*)")
NAMED_FILE = re.compile(r"`((?:gpuqa|tests|hydra_plugins|conf|experiments/speed)/[\w./]+\.(?:py|yaml|md))`")
PLACE_OF_A_NAME = re.compile(r"[A-Z]{3,}")  # conf/prompt/NAME.yaml


def text_of(page: Path) -> str:
    """A page, with lines that a backslash continues joined."""
    return page.read_text(encoding="utf-8").replace("\\\n", " ")


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@dataclass(frozen=True)
class WrittenCommand:
    """A command as a page tells its reader to type it."""

    page: Path
    name: str
    words: tuple[str, ...]

    @property
    def overrides(self) -> list[str]:
        """Its `key=value` words; a folder of options becomes the search path that `--config-dir` makes of it."""
        overrides = [word for word in self.words if "=" in word]
        if "--config-dir" in self.words:
            folder = self.words[self.words.index("--config-dir") + 1]
            folder = EXAMPLES if folder == COPY_OF_THE_EXAMPLES else ROOT / folder
            overrides.append(f"hydra.searchpath=[file://{folder}]")
        return overrides

    def __str__(self) -> str:
        return f"{self.page.name}: {self.name} {' '.join(self.words)}"


def commands_of(page: Path) -> list[WrittenCommand]:
    """Every `python -m gpuqa.NAME ...` of a page, in text, tables and code."""
    return [WrittenCommand(page, name, tuple(shlex.split(rest))) for name, rest in COMMAND.findall(text_of(page))]


WRITTEN = list({(command.name, command.words): command for page in PAGES for command in commands_of(page)}.values())


def rows_of(overrides: list[str]) -> list[list[str]]:
    """Overrides without axes, enough of them that every value of every axis is in one."""
    parsed = [OverridesParser.create().parse_override(override) for override in overrides]
    values = [
        [f"{override.key_or_group}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [text]
        for override, text in zip(parsed, overrides, strict=True)
    ]
    rows = max(map(len, values), default=1)
    return [list(row) for row in zip(*(islice(cycle(column), rows) for column in values), strict=True)] or [[]]


@pytest.fixture(scope="module", autouse=True)
def registered():
    """What gpuqa.config.app registers before Hydra composes."""
    app.introduce_to_hydra()


def composed(command: str, overrides: list[str]) -> DictConfig:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose(command, overrides)


@pytest.fixture(scope="module")
def example() -> CellConfig:
    """One cell of the example study, with the example's prompt. Read only."""
    overrides = [f"hydra.searchpath=[file://{EXAMPLES}]", "experiment=my_study", "prompt=name_the_api"]
    config: CellConfig = resolve(composed("sweep", overrides), CellConfig)
    return config


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page):
    broken = []
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page):
    named = {name for name in NAMED_FILE.findall(page.read_text(encoding="utf-8")) if not PLACE_OF_A_NAME.search(name)}
    assert not {name for name in named if not (ROOT / name).exists()}


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_a_readme_is_short_and_holds_the_test_command_once(page):
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    assert len(re.findall(TEST_COMMAND, text, re.M)) == 1


def test_both_readmes_give_the_same_commands_and_numbers():
    commands = [{(command.name, command.words) for command in commands_of(page)} for page in READMES]
    assert commands[0] == commands[1]
    numbers = [set(re.findall(r"\d+[.,]\d+", page.read_text(encoding="utf-8"))) for page in READMES]
    assert numbers[0] == numbers[1]


def test_the_readme_lists_every_command():
    assert {command.name for command in commands_of(ROOT / "README.md")} == set(COMMANDS)


@pytest.mark.no_cover
@pytest.mark.parametrize("command", WRITTEN, ids=str)
def test_every_command_of_the_docs_composes_and_resolves(command):
    schema = COMMANDS[command.name]
    required = ["a=new", "b=old"] if command.name == "compare" and not command.overrides else []
    for row in rows_of(command.overrides):
        assert isinstance(resolve(composed(command.name, row + required), schema), schema)


@pytest.mark.slow
def test_the_example_study_composes_all_its_cells_as_the_command_does(monkeypatch):
    monkeypatch.setattr("sys.argv", ["gpuqa.sweep"])
    composed = app.compose("sweep", ["experiment=my_study"], str(EXAMPLES))
    cells = composed.each(lambda config: resolve(config, CellConfig))
    assert [(cell.prompt.name, cell.sampling.max_tokens) for cell in cells] == [
        ("name_the_api", 48),
        ("name_the_api", 96),
        ("structured_short", 48),
        ("structured_short", 96),
    ]
    assert {cell.model.name for cell in cells} == {"my_model"}
    assert {cell.dataset.name for cell in cells} == {"my_questions"}


def test_the_example_prompt_and_model_hold_what_their_files_say(example):
    assert PLACEHOLDER in example.prompt.user
    assert example.prompt.system
    assert len(example.prompt.examples) == 1
    assert (find(example.model.path, "model.path") / "tokenizer.json").is_file()


def test_the_example_question_file_is_read_and_shares_no_question_with_the_warm_up(example):
    questions = load(example.dataset)
    assert [question.id for question in questions][:2] == ["warp", "occupancy"]
    assert all(question.reference for question in questions)
    warmup = read_questions(find(example.model.warmup, "model.warmup"))
    assert not {question.text for question in questions} & {question.text for question in warmup}


def test_every_example_is_called_as_its_file(example):
    names = {
        "prompt": example.prompt.name,
        "model": example.model.name,
        "dataset": example.dataset.name,
        "experiment": example.study.name,
    }
    assert names == {file.parent.name: file.stem for file in EXAMPLES.glob("*/*.yaml")}


@pytest.mark.engine
def test_the_example_study_runs_and_freezes_a_winner(command, tmp_path):
    fewer = ("sampling.max_tokens=48", "workload.repeats=1")
    run = command("sweep", "--config-dir", str(EXAMPLES), "experiment=my_study", *fewer, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "experiments" / "my_study" / "frozen.yaml").exists()


def python_examples() -> list[str]:
    """The Python of docs/python.md."""
    return re.findall(r"(?ms)^```python\n(.*?)^```$", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"))


def test_the_python_example_prints_a_verdict_and_tables(tmp_path, monkeypatch, capsys):
    write_study(tmp_path / "experiments" / "embedded")
    monkeypatch.chdir(tmp_path)
    exec(compile(python_examples()[0], "docs/python.md", "exec"), {})
    said = capsys.readouterr().out
    assert "INCONCLUSIVE: prompt=bare" in said
    assert {"violations", "prompt=structured"} <= set(said.split())


def test_the_chinese_pages_hold_the_commands_links_and_numbers_of_the_english_ones():
    for page in sorted((ROOT / "docs" / "zh").glob("*.md")):
        original = ROOT / "docs" / page.name
        commands = [[(command.name, command.words) for command in commands_of(file)] for file in (original, page)]
        assert commands[0] == commands[1], page.name
        shown = [re.findall(r"(?m)^<!-- show .*|^```sh\n[^`]*", file.read_text(encoding="utf-8")) for file in (original, page)]
        assert shown[0] == shown[1], page.name
        headings = [len(re.findall(r"(?m)^#", file.read_text(encoding="utf-8"))) for file in (original, page)]
        assert headings[0] == headings[1], page.name
        assert original.read_text(encoding="utf-8").count(f"[中文](zh/{page.name})") == 1
        assert page.read_text(encoding="utf-8").count(f"[English](../{page.name})") == 1


@pytest.mark.engine
def test_the_python_example_prints_an_answer_to_each_question(tmp_path):
    (tmp_path / "example.py").write_text(python_examples()[1], encoding="utf-8")
    done = run_python(str(tmp_path / "example.py"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) == 2
