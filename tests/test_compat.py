"""The names of vLLM that are used, against the sources of every supported version.

The version that is installed is read itself. Of the others there is a file in `vllm_names/`, which `write_vllm_names.py`
wrote from the unpacked wheel; its docstring has the command.
"""

from __future__ import annotations

import ast
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from write_vllm_names import modules

from gpuqa.engines.vllm import compat
from gpuqa.engines.vllm.compat import SUPPORTED_VERSIONS, TABLES, installed_names, knows_vllm, missing_names, names_below
from gpuqa.engines.vllm.defined_names import ENTRY, defined_names, satisfies

WRITTEN = {file.stem: json.loads(file.read_text()) for file in (Path(__file__).parent / "vllm_names").glob("*.json")}
CODE = Path(compat.__file__).parent


def test_every_supported_version_was_written_down() -> None:
    assert sorted(version.rsplit(".", 1)[0] for version in WRITTEN) == list(SUPPORTED_VERSIONS)
    assert [written["version"] for written in WRITTEN.values()] == list(WRITTEN)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("version", WRITTEN)
def test_every_supported_version_has_every_name(version: str, table: str) -> None:
    assert missing_names(TABLES[table], lambda module: WRITTEN[version]["modules"][module]["names"]) == []


@pytest.mark.slow  # reads vLLM's sources
@pytest.mark.parametrize("table", TABLES)
def test_the_installed_vllm_has_every_name(table: str) -> None:
    pytest.importorskip("vllm")
    assert missing_names(TABLES[table], installed_names) == []
    assert compat.unsupported_vllm(table) is None


@pytest.mark.slow
def test_what_was_written_down_of_the_installed_version_is_what_its_sources_say() -> None:
    """If this fails for a version that is the same, the file is stale: a name was added to a table since."""
    vllm = pytest.importorskip("vllm")
    if compat.version() not in WRITTEN:
        pytest.skip(f"vLLM {compat.version()} was not written down")
    assert modules(Path(vllm.__file__).parent) == WRITTEN[compat.version()]["modules"]


def test_every_version_holds_all_modules_and_their_digests() -> None:
    wanted = {module for table in TABLES.values() for module in table}
    for written in WRITTEN.values():
        assert written["modules"].keys() == wanted
        assert all(len(module["sha256"]) == 64 for module in written["modules"].values())
    digests = [written["modules"]["vllm.v1.core.sched.scheduler"]["sha256"] for written in WRITTEN.values()]
    assert len(set(digests)) == len(WRITTEN), "two versions with one scheduler: one file is a copy of the other"


# ---------------------------------------------------------------- a renamed name is noticed

DOCTORED = [  # module, text, what stands there in the doctored source, what is missing then
    ("vllm.v1.core.sched.scheduler", "max_num_active_reqs", "max_active_reqs", "Scheduler.max_num_active_reqs"),
    ("vllm.v1.core.sched.scheduler", "def _free_request(", "def _release_request(", "Scheduler._free_request(request)"),
    ("vllm.v1.core.sched.scheduler", "throttle_prefills: bool", "hold_prefills: bool", "Scheduler.schedule(throttle_prefills)"),
    ("vllm.v1.request", "num_stale_output_tokens", "num_old_output_tokens", "Request.num_stale_output_tokens"),
    ("vllm.v1.core.sched.utils", "max_model_len: int", "max_model_len: int, now: float", "check_stop(request, max_model_len)"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("module", "text", "doctored", "entry"), DOCTORED, ids=[case[3].split("(")[0] for case in DOCTORED])
def test_a_renamed_attribute_method_or_parameter_is_missing(
    tmp_path: Path, module: str, text: str, doctored: str, entry: str
) -> None:
    vllm = pytest.importorskip("vllm")
    file = Path(*module.split(".")).with_suffix(".py")
    source = (Path(vllm.__file__).parent.parent / file).read_text(encoding="utf-8")
    assert text in source
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(source.replace(text, doctored), encoding="utf-8")
    missing = missing_names({module: TABLES["scheduler"][module]}, lambda name: names_below(tmp_path / "vllm", name))
    assert f"{module}: {entry}" in missing
    assert all(text.split(":")[0].removeprefix("def ").rstrip("(") in line or "check_stop" in line for line in missing)


def test_a_module_that_is_gone_lacks_all_its_names(tmp_path: Path) -> None:
    assert missing_names({"vllm.v1.request": ("Request", "Request.num_tokens")}, lambda name: names_below(tmp_path, name)) == [
        "vllm.v1.request: Request",
        "vllm.v1.request: Request.num_tokens",
    ]


def test_an_override_is_off_with_a_version_that_is_known_and_lacks_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "version", lambda: "0.33.9")
    monkeypatch.setattr(compat, "installed_names", lambda _: {})
    reason = compat.unsupported_vllm("attention")
    assert reason is not None
    assert reason.startswith("vLLM 0.33.9 lacks vllm.v1.attention.backend: ")


@pytest.mark.parametrize(("version", "known"), [("0.32.0", True), ("0.33.12", True), ("0.3.3", False), ("0.331.0", False)])
def test_a_version_is_known_by_its_first_two_numbers(version: str, known: bool) -> None:
    assert knows_vllm(version) is known


# ---------------------------------------------------------------- the tables hold all that is used


def used_attributes(file: Path) -> set[str]:
    """Every `x.NAME` in a source."""
    return {node.attr for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Attribute)}


@functools.cache
def known_elsewhere() -> frozenset[str]:
    """Attributes of Python, NumPy and PyTorch, and what the overrides define themselves."""
    import time
    from collections import deque
    from logging import Logger

    import numpy as np
    import torch

    from gpuqa.engines.vllm.override_reports import State

    kinds: list[Any] = [str, dict, list, set, deque, type, time, Logger, State]
    kinds += [np, np.ndarray, torch, torch.Tensor, torch.nn, torch.cuda, torch.cuda.CUDAGraph, torch.cuda.Stream]
    own = [file for folder in ("burst", "shared_prefix") for file in (CODE / folder).glob("*.py")]
    defined = {name.rpartition(".")[2] for file in own for name in defined_names(file.read_text(encoding="utf-8"))}
    return frozenset({name for kind in kinds for name in dir(kind)} | defined)


@pytest.mark.parametrize(
    ("table", "folder"), [(("scheduler", "runner"), "burst"), (("attention",), "shared_prefix")], ids=["burst", "attention"]
)
def test_the_tables_hold_every_name_of_vllm_that_the_overrides_use(table: tuple[str, ...], folder: str) -> None:
    entries = [entry for name in table for module in TABLES[name].values() for entry in module]
    named = {part for entry in entries for part in ENTRY.match(entry)["name"].split(".")}  # type: ignore[index]
    files = [
        file for file in (CODE / folder).glob("*.py") if file.name not in ("kernels.py", "programs.py")
    ]  # which know nothing of vLLM
    vllms_logger = {"warning_once"}
    assert set().union(*map(used_attributes, files)) - named - known_elsewhere() - vllms_logger == set()


# ---------------------------------------------------------------- how an entry is compared

SOURCE = """
if True:
    class Fields:
        a: int
        b: int = 1

class Thing:
    kind = 1
    def __init__(self, first, second=2): self.set_here, self.both = first, second
    @staticmethod
    def static(x): ...
    async def method(self, a, b, *, c, d=4, **rest): ...
    @property
    def shown(self): return 1

def function(a, b=2): ...
CONSTANT = 3
"""


@pytest.mark.parametrize(
    ("entry", "there"),
    [
        ("Thing", True),
        ("Thing(first)", True),
        ("Thing(first, second)", True),
        ("Thing(second)", False),
        ("Thing.kind", True),
        ("Thing.set_here", True),
        ("Thing.both", True),
        ("Thing.gone", False),
        ("Thing.static(x)", True),
        ("Thing.method(a, b, ..., c)", True),
        ("Thing.method(a, b)", False),  # c has no default
        ("Thing.method(b, a, ..., c)", False),
        ("Thing.shown", True),
        ("Fields(..., a, b)", True),
        ("Fields(..., b)", False),
        ("Fields.b", True),
        ("function(a)", True),
        ("function()", False),
        ("function(a, b, c)", False),
        ("CONSTANT", True),
        ("set_here", False),
    ],
)
def test_an_entry_is_there_if_it_can_be_used_as_it_says(entry: str, there: bool) -> None:
    assert satisfies(entry, defined_names(SOURCE)) is there


def test_an_entry_that_is_not_one_is_refused() -> None:
    with pytest.raises(ValueError, match="is not an entry"):
        satisfies("Thing.method(a", {})
