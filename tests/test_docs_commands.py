"""Every command of the README and docs/: it is run, here or by another test, or a mark beside it says why not.

    make docs-commands                       # runs them: real studies on few questions, a service, a browserless client

In CI only the first tests run, which look whether each command has its way. `tests/test_docs.py` composes and resolves all
commands of gpuqa.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT, child_environment, ready_service, run_command
from test_docs import COPY_OF_THE_EXAMPLES, PAGES, commands_of, text_of

from gpuqa.config.commands import COMMANDS

RUNS = bool(os.environ.get("GPUQA_DOCS_COMMANDS"))
run_them = [pytest.mark.slow, pytest.mark.engine, pytest.mark.skipif(not RUNS, reason="`make docs-commands` runs these")]
BLOCK = re.compile(r"(?ms)(?:^ *<!-- not run: ([^`]+?) -->\n)?^ *```sh\n(.*?)^ *```$")
MARK_OF_A_LINE = re.compile(r"<!-- not run: `([^`]+)`: (.+?) -->")
IN_A_LINE = re.compile(r"`((?:[A-Z_]+=\S+ )*(?:python3?|pip|make|bash|docker|pytest) [^`]+)`")
NAMES = {"pip install"}  # of a program, in a sentence
FORM = re.compile(r"(^|[ =/])[A-Z]{2,}(?![\w=])|\.\.\.")  # of a command, in words such as FOLDER; not a command
MADE_FIRST = {f"cp -r docs/examples {COPY_OF_THE_EXAMPLES}"}  # by the fixture
TYPED = ("curl", "PYTHONPATH=.")  # begin commands that run as they are typed, beside a service
QUICK = {
    "dataset.limit": "4",
    "workload.repeats": "1",
    "study.finalists": "0",
    "sampling.max_tokens": "16",
    "selection.max_truncated_fraction": "1",
    "selection.min_rouge_l_f1_judge": "0",
}


@dataclass(frozen=True)
class Line:
    """A command of a page, as it is typed."""

    page: Path
    text: str
    why_not: str = ""  # the reason of the mark that stands before its block

    @property
    def words(self) -> tuple[str, ...]:
        """Without the comment behind it."""
        return tuple(shlex.split(self.text, comments=True))

    @property
    def name(self) -> str:
        """Of a command of gpuqa that stands alone; "" of any other."""
        alone = re.fullmatch(r"python -m gpuqa\.(\w+)", " ".join(self.words[:3]))
        return alone[1] if alone and "&&" not in self.words else ""

    def __str__(self) -> str:
        return " ".join(self.words)


def lines_of(page: Path) -> list[Line]:
    """The commands in the blocks of a page, and those of its sentences."""
    text = text_of(page)
    lines = [
        Line(page, line.strip(), why or "")
        for why, block in BLOCK.findall(text)
        for line in block.splitlines()
        if line.strip() and not line.strip().startswith("#")
    ]
    lines += [
        Line(page, found) for found in IN_A_LINE.findall(re.sub(r"(?ms)^ *```.*?^ *```$", "", text)) if found not in NAMES
    ]
    lines += [
        Line(page, shlex.join(["python", "-m", f"gpuqa.{command.name}", *command.words])) for command in commands_of(page)
    ]
    return [line for line in lines if line.words and not FORM.search(str(line))]


LINES = [line for page in PAGES for line in lines_of(page)]
MARKED = {line.words for line in LINES if line.why_not} | {
    tuple(shlex.split(text)) for page in PAGES for text, _ in MARK_OF_A_LINE.findall(text_of(page))
}
DISTINCT = list({line.words: line for line in LINES}.values())
TO_RUN = [line for line in DISTINCT if line.words not in MARKED and (line.name in COMMANDS or line.words[0] in TYPED)]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(PYTHON)", "python")
MADE = [" ".join(line.replace('"', "").split()) for line in MAKEFILE.splitlines() if line.startswith("\t")]


def way_of(line: Line) -> str:
    """Where a command is run, or that it is marked; "" where neither."""
    test = next((word for word in line.words if word.startswith("tests/")), None)
    ways = {
        "is marked": line.words in MARKED,
        "runs here": line in TO_RUN or str(line) in MADE_FIRST,
        "is the line of .ci/run": line.text.startswith("python3 -m venv .venv") and line.text.endswith("-m pytest"),
        "is a target of make": re.fullmatch(r"make [a-z-]+", str(line)) is not None and f"\n{line.words[1]}:" in MAKEFILE,
        "runs in one, with these settings or others": any(str(line).startswith(made) for made in MADE),
        "is a test": "pytest" in line.words and test is not None and (ROOT / test).exists(),
        "is held by tests/test_site.py": str(line) == "python docs/site/pictures.py",
        "prints the list of commands": str(line) == "python -m gpuqa",  # tests/test_main.py
    }
    return next((way for way, holds in ways.items() if holds), "")


def test_every_command_is_run_or_marked_with_the_reason():
    lost = [f"{line.page.name}: {line}" for line in DISTINCT if not way_of(line)]
    assert not lost, "mark them: <!-- not run: why -->, or <!-- not run: `command`: why -->"


def test_every_mark_gives_a_reason_and_stands_beside_a_command():
    for page in PAGES:
        marks = [why or text for why, text in re.findall(r"<!-- not run: (?:([^`]+?)|(`.+?)) -->", text_of(page))]
        blocks = [why for why, _ in BLOCK.findall(text_of(page)) if why]
        assert len(marks) == len(blocks) + len(MARK_OF_A_LINE.findall(text_of(page))), page.name
        assert not [mark for mark in marks if len(mark.split()) < 3], page.name
    known = {line.words for line in LINES}
    assert not {words for words in MARKED if words not in known}


def test_what_make_docs_commands_runs_is_of_every_command_that_can_run_without_a_hub():
    assert {line.name for line in TO_RUN} == {*COMMANDS, ""} - {"download"}


# ---------------------------------------------------------------------------------------------- make docs-commands


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is a checkout to a command, with the study of the README, its copies, and an `old` one."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "experiments").mkdir()
    for entry in (*ROOT.iterdir(), *(ROOT / "experiments").iterdir()):
        target = folder / entry.relative_to(ROOT)
        if not target.exists() and not entry.name.startswith("."):
            target.symlink_to(entry)
    for command in MADE_FIRST:
        subprocess.run(shlex.split(command), check=True, cwd=folder)
    for words in ([], ["experiment=none", "prompt=expert", "study.name=old"]):
        study = run_command("sweep", *quick(words), cwd=folder)
        assert study.returncode == 0, study.stdout + study.stderr
    for copy in ("new", "mine", "my_study"):
        shutil.copytree(folder / "experiments" / "embedded", folder / "experiments" / copy)
    return folder


def quick(words: list[str]) -> list[str]:
    """The words of a sweep with the settings of `QUICK` that they do not have themselves."""
    said = {word.lstrip("+").partition("=")[0] for word in words}
    searches = {"workload.search.max_passes": "4"} if "workload=load_search" in words else {}
    return [*words, *(f"{key}={value}" for key, value in {**QUICK, **searches}.items() if key not in said)]


def swept(line: Line, checkout: Path, root: Path) -> None:
    """A study of its own folder, so that none is taken for the next part of another."""
    done = run_command("sweep", *quick(list(line.words[3:])), f"study.root={root}", cwd=checkout)
    assert done.returncode in (0, 1), done.stdout + done.stderr


def searched(line: Line, checkout: Path, root: Path) -> None:
    """A minute of a search, on all questions: a few are refused."""
    words = [word for word in line.words[3:] if not word.startswith("search.minutes=")]
    done = run_command("search", *quick([*words, "dataset.limit=null", "search.minutes=1"]), f"study.root={root}", cwd=checkout)
    assert done.returncode in (0, 1), done.stdout + done.stderr


def served(line: Line, checkout: Path, _: Path) -> None:
    """Until it answers, on a port that is free."""
    frozen, *overrides = [word for word in line.words[3:] if not word.startswith("http.port=")]
    with ready_service(Path(frozen.removeprefix("frozen=")), *overrides, cwd=checkout) as service:
        assert service.predict(["什么是 warp？"])


def asked(line: Line, checkout: Path, folder: Path) -> None:
    """As it is typed, beside a service whose address takes the place of the written one."""
    with ready_service(Path("experiments/embedded/frozen.yaml"), cwd=checkout) as service:
        text = " ".join([line.text.partition("  #")[0], *(["once=true"] if line.name == "watch" else [])])
        done = in_a_shell(text.replace("http://127.0.0.1:8000", service.url), checkout)
    busy = line.words[0] == "PYTHONPATH=." and done.returncode == 1  # a script's judgement of a machine that others use
    assert done.returncode == 0 or busy, done.stdout + done.stderr
    assert '{"response":' in done.stdout or line.words[0] != "curl"


def decided(line: Line, checkout: Path, _: Path) -> None:
    """What reads studies, cards and frozen winners: any answer but wrong input."""
    done = run_command(line.name, *line.words[3:], cwd=checkout)
    assert done.returncode in (0, 1, 3), done.stdout + done.stderr


def in_a_shell(text: str, checkout: Path) -> subprocess.CompletedProcess[str]:
    """As a reader types it, in the environment of these tests."""
    environment = child_environment()
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, cwd=checkout, env=environment, timeout=900)


HOW: dict[str, Callable[[Line, Path, Path], None]] = {"sweep": swept, "search": searched, "serve": served}


@pytest.fixture
def untouched(checkout: Path) -> Iterator[Path]:
    """The checkout, whose study is the same afterwards."""
    before = (checkout / "experiments/embedded/study.yaml").read_bytes()
    yield checkout
    assert (checkout / "experiments/embedded/study.yaml").read_bytes() == before


@pytest.mark.parametrize("line", [pytest.param(line, marks=run_them, id=str(line)) for line in TO_RUN])
def test_a_written_command_does_what_it_is_written_for(line, untouched, tmp_path):
    asks = line.words[0] in TYPED or any(word.startswith("url=") for word in line.words)
    HOW.get(line.name, asked if asks else decided)(line, untouched, tmp_path)
