"""Tests of hydra_plugins.gpuqa_study: axes become cells, and the task gets all of them at once or none."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import run_python
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from gpuqa.config.paths import conf_folder
from hydra_plugins.gpuqa_study import values_of

pytestmark = pytest.mark.slow

# Enters as gpuqa.sweep does, with a task that starts no engine: it notes each time it is called, and with which cells.
SCRIPT = """
import json, sys
from gpuqa.config.app import run_command
from omegaconf import OmegaConf

def task(composed):
    cells = []
    for one in composed.each(lambda config: config):
        groups = OmegaConf.masked_copy(one, [key for key in one if key != "hydra"])
        values = OmegaConf.to_container(groups, resolve=True, enum_to_str=True)
        cells.append({"overrides": list(one.hydra.overrides.task), **values})
    with open(sys.argv[0] + ".calls", "a", encoding="utf-8") as calls:
        calls.write(json.dumps(cells) + "\\n")
    return 0

run_command(task, "sweep")
"""
Cells = list[dict[str, Any]]


def entered(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[Cells]]:
    """The finished process, and the cells of each call of its task."""
    script, place = folder / "enter.py", folder / "here"
    script.write_text(SCRIPT, encoding="utf-8")
    place.mkdir()
    done = run_python(str(script), *arguments, cwd=place)
    assert not list(place.iterdir()), "composing wrote into the working folder"
    calls = folder / "enter.py.calls"
    return done, [json.loads(line) for line in calls.read_text(encoding="utf-8").splitlines()] if calls.exists() else []


def cells_of(folder: Path, *arguments: str) -> Cells:
    """The cells of a study, from a task that was called once."""
    done, calls = entered(folder, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(calls) == 1
    return calls[0]


def experiment(folder: Path, content: dict[str, Any]) -> list[str]:
    """Arguments for a study that runs an experiment of this content."""
    (folder / "conf" / "experiment").mkdir(parents=True)
    text = "# @package _global_\n" + yaml.safe_dump(content)
    (folder / "conf" / "experiment" / "mine.yaml").write_text(text, encoding="utf-8")
    return ["--config-dir", str(folder / "conf"), "experiment=mine"]


def with_params(folder: Path, params: dict[str, Any]) -> list[str]:
    return experiment(folder, {"study": {"name": "mine"}, "hydra": {"sweeper": {"params": params}}})


def refused(folder: Path, *arguments: str) -> str:
    """What is said about a study that must not begin."""
    done, calls = entered(folder, *arguments)
    assert done.returncode == 2, done.stderr
    assert not calls, "the task was called although the study is wrong"
    assert "Traceback" not in done.stderr
    return done.stderr


def test_all_cells_are_handed_over_at_once_in_the_order_of_the_axes_the_last_one_changing_fastest(tmp_path):
    cells = cells_of(tmp_path, "experiment=none", "prompt=expert,bare", "engine.args.max_num_seqs=8,4")
    assert [(cell["prompt"]["name"], cell["engine"]["args"]["max_num_seqs"]) for cell in cells] == [
        ("expert", 8),
        ("expert", 4),
        ("bare", 8),
        ("bare", 4),
    ]
    assert cells[1]["overrides"] == ["experiment=none", "prompt=expert", "engine.args.max_num_seqs=4"]


def test_without_an_axis_a_study_is_one_cell(tmp_path):
    (cell,) = cells_of(tmp_path, "experiment=none", "sampling.seed=7")
    assert (cell["sampling"]["seed"], cell["study"]["name"]) == (7, "adhoc")


WORKLOADS = sorted(file.stem for file in (conf_folder() / "workload").glob("*.yaml"))


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        pytest.param("sampling.seed=1,2,3", [1, 2, 3], id="commas"),
        pytest.param("sampling.seed=range(1,8,3)", [1, 4, 7], id="range"),
        pytest.param("sampling.temperature=range(0.1,0.4,0.1)", [0.1, 0.2, 0.3], id="range of fractions"),
        pytest.param("sampling.seed=choice(5,3)", [5, 3], id="choice"),
        pytest.param("workload=glob(*)", WORKLOADS, id="glob"),
        pytest.param("workload=glob([b*,z*])", [name for name in WORKLOADS if name[0] in "bz"], id="glob with a list"),
        pytest.param("workload=glob(*,exclude=b*)", [name for name in WORKLOADS if name[0] != "b"], id="glob without some"),
        pytest.param("prompt.system='a, b','c=d'", ["a, b", "c=d"], id="quoted commas belong to the value"),
        pytest.param("sampling.stop=[a,b],[]", [["a", "b"], []], id="lists"),
        pytest.param("+engine.args.new={x: 1},null", [{"x": 1}, None], id="an argument that no file names"),
    ],
)
def test_an_axis_may_be_written_in_each_of_hydras_ways(tmp_path, axis, values):
    def chosen(cell: dict[str, Any]) -> Any:
        key = axis.partition("=")[0].lstrip("+")
        for part in f"{key}.name".split(".") if key == "workload" else key.split("."):
            cell = cell[part]
        return cell

    assert [chosen(cell) for cell in cells_of(tmp_path, "experiment=none", axis)] == values


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("range(0.1,0.4,0.1)", ["0.1", "0.2", "0.3"]),
        ("range(0.7,1.0,0.1)", ["0.7", "0.8", "0.9"]),
        ("range(0,0.7,0.1)", ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6"]),
        ("range(0.9,0.5,-0.1)", ["0.9", "0.8", "0.7", "0.6"]),
        ("range(0.8,0.96,0.05)", ["0.8", "0.85", "0.9", "0.95"]),
        ("range(1e-5,4e-5,1e-5)", ["1e-05", "2e-05", "3e-05"]),
        ("range(1,2,0.25)", ["1.0", "1.25", "1.5", "1.75"]),
        ("float(range(1,4))", ["1.0", "2.0", "3.0"]),
    ],
)
def test_a_range_of_fractions_is_added_up_as_it_is_written_and_ends_before_its_stop(written, values):
    override = OverridesParser.create().parse_override(f"sampling.temperature={written}")
    assert values_of(override, "sampling.temperature") == [f"sampling.temperature={value}" for value in values]


@pytest.mark.parametrize("written", ["range(1,3,0)", "range(0.1,0.3,0)", "range(1,3,0.0)"])
def test_a_range_that_would_never_end_is_refused_by_its_key(written):
    override = OverridesParser.create().parse_override(f"sampling.seed={written}")
    with pytest.raises(
        HydraException, match=r"^sampling.seed=range\(.*: the step of a range .* e.g. sampling.seed=range\(1,9,2\)$"
    ):
        values_of(override, "sampling.seed")


def test_the_params_of_an_experiment_are_axes_whatever_type_yaml_gives_them(tmp_path):
    params = {"prompt": "bare,expert", "sampling.seed": 3, "sampling.ignore_eos": True, "dataset.limit": None}
    cells = cells_of(tmp_path, *with_params(tmp_path, params))
    assert [cell["prompt"]["name"] for cell in cells] == ["bare", "expert"]
    fixed = {(cell["sampling"]["seed"], cell["sampling"]["ignore_eos"], cell["dataset"].get("limit")) for cell in cells}
    assert fixed == {(3, True, None)}


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        pytest.param("sampling.seed=9", [("bare", 9), ("expert", 9)], id="a value"),
        pytest.param("sampling.seed=8,9", [("bare", 8), ("bare", 9), ("expert", 8), ("expert", 9)], id="an axis"),
        pytest.param("++sampling.seed=9", [("bare", 9), ("expert", 9)], id="a value that is forced"),
        pytest.param("prompt=structured", [("structured", 1), ("structured", 2)], id="an option"),
        pytest.param(
            "prompt=expert,bare", [("expert", 1), ("bare", 1), ("expert", 2), ("bare", 2)], id="an axis, which is now the last"
        ),
    ],
)
def test_the_command_line_takes_the_place_of_an_experiments_axis_with_the_same_key(tmp_path, argument, expected):
    arguments = with_params(tmp_path, {"prompt": "bare,expert", "sampling.seed": "1,2"})
    cells = cells_of(tmp_path, *arguments, argument)
    assert [(cell["prompt"]["name"], cell["sampling"]["seed"]) for cell in cells] == expected


def test_of_two_equal_keys_on_the_command_line_the_last_one_counts(tmp_path):
    cells = cells_of(tmp_path, "experiment=none", "sampling.seed=1,2", "sampling.seed=3")
    assert [cell["sampling"]["seed"] for cell in cells] == [3]


def test_a_value_can_be_taken_out_of_every_cell(tmp_path):
    cells = cells_of(tmp_path, "experiment=none", "engine=vllm_cpu", "prompt=bare,expert", "~engine.args.seed")
    assert ["seed" in cell["engine"]["args"] for cell in cells] == [False, False]


def test_one_wrong_cell_stops_the_study_before_the_task_sees_any(tmp_path):
    told = refused(tmp_path, "experiment=none", "prompt=bare,no_such_prompt")
    assert "prompt: got 'no_such_prompt'" in told
    assert "structured" in told, "the options that exist are not listed"


@pytest.mark.parametrize("axis", ["sampling.temperature=interval(0,1)", "sampling.seed=int(interval(1,9))"])
def test_an_axis_without_end_is_refused_with_one_that_would_work(tmp_path, axis):
    key = axis.partition("=")[0]
    told = refused(tmp_path, "experiment=none", axis)
    assert told.startswith(f"error: {axis}")
    assert f"{key}=1,2" in told


@pytest.mark.parametrize("axis", ["prompt=glob(zzz*)", "sampling.seed=range(9,1)"])
def test_an_axis_without_any_value_is_refused_by_its_key(tmp_path, axis):
    assert axis.partition("=")[0] in refused(tmp_path, "experiment=none", axis)
