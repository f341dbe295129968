"""Tests of the house itself: who imports whom, where a main is, how long a module is and what it may be called."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from gpuqa.places import PACKAGE

ROOMS = [  # from the ground up; a room is a module of gpuqa or one of its folders, and imports only rooms above it in this list
    "config",
    "criteria",
    "http_config",
    "records",
    "places",
    "roots",
    "cleanup",
    "prompts",
    "dataset",
    "rouge",
    "statistics",
    "checkpoint",
    "roofline",
    "guards",
    "comparison",
    "selection",
    "journal",
    "hardware",
    "identity",
    "engine_log",
    "engines",
    "failures",
    "pipeline",
    "workload",
    "metrics",
    "trial",
    "ladder",
    "bounds",
    "group",
    "racing",
    "executors",
    "study",
    "finals",
    "frozen",
    "report",
    "conclusion",
    "admission",
    "access",
    "telemetry",
    "connection",
    "service",
    "openai_request",
    "routes",
    "server",
    "door",
]
STEPS = {  # folders whose modules build on those before them
    "gpuqa.engines": ["parts", "burst", "shared_prefix", "transformers_engine", "vllm_engine"],
    "gpuqa.racing": ["evidence", "elimination", "race", "heat"],
}
DOORS = ["sweep", "predict", "freeze", "compare", "serve", "evaluate", "reproduce", "download", "embedded.train"]
HEAVY = {"vllm", "torch", "transformers", "tokenizers", "safetensors", "pandas", "huggingface_hub", "modelscope", "pynvml"}
INSIDE_VLLM = {  # vLLM itself imports these
    f"gpuqa.engines.{name}"
    for name in ("burst.scheduler", "burst.requests", "burst.runner", "shared_prefix.backend", "shared_prefix.kernels")
}
NAMELESS = {"util", "utils", "common", "helper", "helpers", "base", "manager", "misc"}
MOST_LINES = 290
TOP = len(ROOMS)
ORDER = {**{name: height for height, name in enumerate(ROOMS)}, **dict.fromkeys(DOORS, TOP)}  # no door imports another


def name_of(file: Path) -> str:
    """The dotted name of a module's file; a package goes by the name of its folder."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PLUGINS = PACKAGE.parent / "hydra_plugins"
FILES = {name_of(file): file for folder in (PACKAGE, PLUGINS) for file in sorted(folder.rglob("*.py"))}
TREES = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in FILES.items()}
MODULES = sorted(name for name in FILES if name != "gpuqa")


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


def room(name: str) -> str:
    """The room of a module of gpuqa; every door is a room of its own."""
    inside = name.removeprefix("gpuqa.")
    return inside if inside in DOORS else inside.partition(".")[0]


def has_main(name: str) -> bool:
    """Whether a module defines `main` or does something when it is run."""
    body = TREES[name].body
    functions = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return "main" in functions or any("__main__" in ast.unparse(node.test) for node in body if isinstance(node, ast.If))


def test_the_parser_of_these_tests_sees_all_kinds_of_imports():
    assert {"gpuqa.dataset", "gpuqa.journal"} <= imports_at_import("gpuqa.study")
    assert "gpuqa.engines.vllm_engine" in imports_anywhere("gpuqa.engines") - imports_at_import("gpuqa.engines")


def test_every_module_of_gpuqa_has_its_place_in_the_order():
    empty = {name for name, tree in TREES.items() if len(tree.body) == 1 and ast.get_docstring(tree)}
    rooms = {room(name) for name in MODULES if name.startswith("gpuqa.") and name not in empty}
    assert rooms == {*ROOMS, *DOORS}


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) in ORDER])
def test_a_module_imports_only_rooms_below_its_own(name):
    height = ORDER[room(name)]
    project = {other for other in imports_anywhere(name) if other in FILES and other != "gpuqa"}
    wrong = {other for other in project if room(other) != room(name) and ORDER.get(room(other), TOP) >= height}
    assert not wrong, f"{name} may not import {', '.join(sorted(wrong))}: not below it"


@pytest.mark.parametrize("name", [name for name in MODULES if name.count(".") == 2 and name.startswith("gpuqa.")])
def test_modules_of_one_folder_do_not_know_each_other_unless_they_are_steps(name):
    folder, _, own = name.rpartition(".")
    steps = STEPS.get(folder, [own])
    below = {f"{folder}.{other}" for other in steps[: steps.index(own)]}
    assert not {other for other in imports_anywhere(name) if other.startswith(f"{folder}.")} - below


def test_nothing_that_is_imported_at_import_goes_round_in_a_circle():
    graph = {name: {other for other in imports_at_import(name) if other in FILES} - {"gpuqa"} for name in MODULES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_sweeper_plugin_knows_nothing_of_gpuqa():
    assert not {other for other in imports_anywhere("hydra_plugins.gpuqa_study") if other.startswith("gpuqa")}


@pytest.mark.parametrize("name", sorted(set(MODULES) - INSIDE_VLLM))
def test_no_module_imports_a_heavy_library_before_it_is_used(name):
    assert not {other.partition(".")[0] for other in imports_at_import(name)} & HEAVY


def test_only_doors_have_a_main():
    assert {name.removeprefix("gpuqa.") for name in FILES if has_main(name)} == set(DOORS)


@pytest.mark.parametrize("door", DOORS)
def test_a_door_shows_the_command_that_opens_it(door):
    assert f"python -m gpuqa.{door}" in (ast.get_docstring(TREES[f"gpuqa.{door}"]) or "")


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_name_that_says_what_it_is_about(name):
    assert not NAMELESS & set(name.replace("_", ".").split("."))


@pytest.mark.parametrize("name", MODULES)
def test_no_module_is_too_long_to_read(name):
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= MOST_LINES
