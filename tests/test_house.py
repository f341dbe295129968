"""Tests of the house itself: the order of the folders, where a main is, what is imported late, and names."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import gpuqa
from gpuqa.config.paths import PACKAGE

ORDER = [  # a folder (or module) of gpuqa imports only those before it in this list; commands and `embedded` import all
    "records",
    "machine",
    "config",
    "hubs",
    "engines",
    "roofline",
    "pipeline",
    "measure",
    "selection",
    "frozen",
    "study",
    "prompt_search",
]
BESIDE = {
    "serving": {"records", "machine", "config", "engines", "pipeline", "frozen"},  # never `measure`
    "readiness": {*ORDER, "serving"},  # looks at all of them
    "ray_app": {*ORDER, "serving", "serve"},  # the command `serve` on Ray Serve, whose own command starts it
}
COMMANDS = [
    "sweep",
    "search",
    "predict",
    "check",
    "freeze",
    "compare",
    "report",
    "serve",
    "ask",
    "watch",
    "evaluate",
    "reproduce",
    "download",
    "embedded.train",
]
HEAVY = {
    "vllm",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "pandas",
    "huggingface_hub",
    "modelscope_hub",
    "pynvml",
    "pyarrow",
    "ray",
    "submitit",
}
INSIDE_VLLM = {  # vLLM itself imports these
    f"gpuqa.engines.vllm.{name}"
    for name in (
        "burst.handed_out",
        "burst.requests",
        "burst.runner",
        "burst.scheduler",
        "shared_prefix.backend",
        "shared_prefix.kernels",
        "shared_prefix.programs",
    )
}
INSIDE_RAY = {"gpuqa.serving.ray_routing"}  # Ray itself imports it
NAMELESS = {"util", "utils", "common", "helper", "helpers", "base", "manager", "misc"}


def name_of(file: Path) -> str:
    """The dotted name of a module's file; a package goes by the name of its folder."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PLUGINS = PACKAGE.parent / "hydra_plugins"
FILES = {name_of(file): file for folder in (PACKAGE, PLUGINS) for file in sorted(folder.rglob("*.py"))}
TREES = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in FILES.items()}
MODULES = sorted(name for name in FILES if name not in ("gpuqa", "gpuqa.__main__"))  # the list of commands is no command


def imports_of(name: str, nodes: Iterator[ast.AST] | list[ast.stmt]) -> set[str]:
    """Modules that these nodes of a module import; of this project's packages the module, not what is taken from it."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}, line {node.lineno}: write imports in full"
            origin = node.module or ""
            found.update(deeper if (deeper := f"{origin}.{alias.name}") in FILES else origin for alias in node.names)
    return found


def imports_anywhere(name: str) -> set[str]:
    """All imports of a module, those inside functions and those for type checkers too."""
    return imports_of(name, ast.walk(TREES[name]))


def imports_at_import(name: str) -> set[str]:
    """What importing a module imports: its own statements, not those inside functions."""
    return imports_of(name, TREES[name].body)


def folder_of(name: str) -> str:
    """The folder of a module of gpuqa, or the module itself where it lies on top."""
    return name.removeprefix("gpuqa.").partition(".")[0]


def has_main(name: str) -> bool:
    """Whether a module defines `main` or does something when it is run."""
    body = TREES[name].body
    functions = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return "main" in functions or any("__main__" in ast.unparse(node.test) for node in body if isinstance(node, ast.If))


def test_the_parser_of_these_tests_sees_all_kinds_of_imports():
    assert {"gpuqa.pipeline.dataset", "gpuqa.study.journal"} <= imports_at_import("gpuqa.study.study")
    assert "gpuqa.config.app" in imports_anywhere("gpuqa") - imports_at_import("gpuqa")


def test_every_folder_of_gpuqa_has_its_place_in_the_order():
    folders = {folder_of(name) for name in MODULES if name.startswith("gpuqa.")}
    assert folders == {*ORDER, *BESIDE, *map(folder_of, COMMANDS)}


@pytest.mark.parametrize("folder", [*ORDER, *BESIDE])
def test_a_folder_imports_only_those_before_it(folder):
    allowed = {folder, *BESIDE.get(folder, ORDER[: ORDER.index(folder)] if folder in ORDER else ())}
    imported = {(name, other) for name in MODULES if folder_of(name) == folder for other in imports_anywhere(name)}
    assert not {pair for pair in imported if pair[1] in FILES and pair[1] != "gpuqa" and folder_of(pair[1]) not in allowed}


def test_nothing_that_is_imported_at_import_goes_round_in_a_circle():
    graph = {name: {other for other in imports_at_import(name) if other in FILES} - {"gpuqa"} for name in MODULES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_sweeper_plugin_knows_nothing_of_gpuqa():
    assert not {other for other in imports_anywhere("hydra_plugins.gpuqa_study") if other.startswith("gpuqa")}


@pytest.mark.parametrize("name", sorted(set(MODULES) - INSIDE_VLLM - INSIDE_RAY))
def test_no_module_imports_a_heavy_library_before_it_is_used(name):
    assert not {other.partition(".")[0] for other in imports_at_import(name)} & HEAVY


def test_only_commands_have_a_main():
    assert {name.removeprefix("gpuqa.") for name in MODULES if has_main(name)} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_shows_how_it_is_called(command):
    assert f"python -m gpuqa.{command}" in (ast.get_docstring(TREES[f"gpuqa.{command}"]) or "")


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_name_that_says_what_it_is_about(name):
    assert not NAMELESS & set(name.replace("_", ".").split("."))


def test_the_package_hands_out_its_api_when_it_is_asked_and_imports_nothing_before():
    asked = "import sys, gpuqa; before = len([name for name in sys.modules if name.startswith('gpuqa.')])"
    asked += (
        "; print(before, *(getattr(gpuqa, name).__name__ for name in gpuqa.__all__), set(gpuqa.__all__) <= set(dir(gpuqa)))"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout == "0 Pipeline Trial compose compose_cell load_study run True\n"
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'; it has compose, compose_cell, load_study"):
        getattr(gpuqa, "Pipelin")  # noqa: B009
