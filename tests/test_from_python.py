"""The API for scripts and notebooks: compose a study, run it from a process whose event loop runs, load its tables."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import psutil
import pytest
from conftest import ROOT, child_environment
from hydra import compose as compose_with_hydra
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from written_study import FAST, RULE, SLOW, measured, write_study

import gpuqa
from gpuqa.config import UserError
from gpuqa.config.commands import CellConfig
from gpuqa.config.paths import conf_folder
from gpuqa.records import Dropped
from gpuqa.study.tables import TABLES

SMALL = (
    "experiment=none",
    "engine=transformers",
    "prompt=bare,structured",
    "dataset.limit=4",
    "workload.repeats=2",
    "sampling.max_tokens=16",
    "selection.max_truncated_fraction=1",
    "selection.min_rouge_l_f1_judge=0",
    "study.finalists=0",
    "study.name=small",
)


def tables_of(study: Any) -> dict[str, Any]:
    return {name: getattr(study, name) for name in TABLES}


# ------------------------------------------------------------------------------------------------------------ compose


@pytest.mark.slow
def test_all_cells_of_a_study_are_composed_in_its_order_as_the_command_composes_them():
    cells = gpuqa.compose("experiment=none", "prompt=bare,structured", "engine.args.max_num_seqs=8,16")
    seen = [(cell.prompt.name, cell.engine.args["max_num_seqs"]) for cell in cells]
    assert seen == [("bare", 8), ("bare", 16), ("structured", 8), ("structured", 16)]
    [cell] = gpuqa.compose(
        "experiment=my_study", "prompt=name_the_api", "sampling.max_tokens=48", config_dir=ROOT / "docs/examples"
    )
    assert cell.model.name == "my_model"


def test_composing_leaves_the_command_line_the_environment_and_an_open_hydra_as_they_were(monkeypatch):
    monkeypatch.setattr("sys.argv", ["notebook", "-f", "kernel.json"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        mine = GlobalHydra.instance().hydra
        gpuqa.compose("experiment=none")
        assert GlobalHydra.instance().hydra is mine
        assert compose_with_hydra("predict", ["experiment=none"]).prompt.name == "structured"
    assert (sys.argv, "HYDRA_FULL_ERROR" in os.environ) == (["notebook", "-f", "kernel.json"], False)


@pytest.mark.parametrize("function", [gpuqa.compose, gpuqa.run], ids=lambda function: function.__name__)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((["prompt=bare"],), r"^\w+: got \['prompt=bare'\], allowed is one text for each override: "),
        (("--config-dir=x",), r"^\w+: got '--config-dir=x', allowed is overrides, KEY=VALUE; .* config_dir=FOLDER$"),
        (("prompt=bar",), r"^prompt: got 'bar', allowed is .*; did you mean 'bare'\?$"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_starts(function, words, message, capfd):
    with pytest.raises(UserError, match=message):
        function(*words)
    assert capfd.readouterr() == ("", "")


def test_a_plan_is_no_study_that_could_be_loaded():
    with pytest.raises(UserError, match=r"^plan: got True, allowed is false here; `python -m gpuqa.sweep plan=true` says"):
        gpuqa.run("experiment=none", "plan=true")


# --------------------------------------------------------------------------------------------------------- load_study


def test_every_table_has_the_documented_columns_and_types_whatever_failed(tmp_path):
    failed = replace(measured("1" * 64, "keywords", 1.0), measurement=None, error="the engine died")
    skipped = replace(measured("2" * 64, "expert", 1.0), measurement=None, skipped="the same in effect")
    dropped = replace(measured("3" * 64, "few_shot", 1.0), measurement=None, dropped=Dropped("too slow", None))
    write_study(tmp_path / "bad", failed, skipped, dropped, rule=RULE)
    write_study(tmp_path / "mixed", measured(FAST, "bare", 2000.0), failed, measured(SLOW, "structured", 1000.0), rule=RULE)
    bad, mixed = tables_of(gpuqa.load_study(tmp_path / "bad")), tables_of(gpuqa.load_study(str(tmp_path / "mixed")))
    for name, columns in TABLES.items():
        assert list(bad[name].columns) == ["trial", "name", "prompt", *columns]
        assert bad[name].dtypes.equals(mixed[name].dtypes)
        cells = [value for table in (bad[name], mixed[name]) for column in table for value in table[column]]
        assert not [value for value in cells if isinstance(value, list | dict | tuple)]
        assert all(column.meaning for column in columns.values())
    states = bad["trials"].set_index("prompt")[["state", "why"]]
    assert dict(states.loc["keywords"]) == {"state": "failed", "why": "the engine died"}
    assert dict(states.loc["expert"]) == {"state": "skipped", "why": "the same in effect"}
    assert dict(states.loc["few_shot"]) == {"state": "dropped", "why": "too slow"}


def test_no_column_of_a_table_can_be_called_as_an_axis():
    groups = {field.name for field in fields(CellConfig)}
    assert not groups.intersection(name for columns in TABLES.values() for name in columns)


def test_a_loaded_study_tells_its_verdict_and_its_tables_are_joined_by_the_trial(tmp_path):
    write_study(tmp_path, rule=RULE)
    study = gpuqa.load_study(tmp_path)
    [winner] = study.trials[study.trials.winner].itertuples()
    assert (winner.prompt, winner.chars_per_s, winner.state) == ("bare", pytest.approx(2000.0), "measured")
    assert (study.rule, study.verdict.winner.key, study.frozen, study.missing, study.problems) == (RULE, FAST, None, [], [])
    assert repr(study).startswith(f"<study {str(tmp_path)!r}: 2 trials; {study.verdict.reason[:40]}")
    joined = study.answers.merge(study.trials, on="trial")
    assert len(joined) == len(study.answers) == 8
    assert list(study.passes.chars_per_s[:3]) == [1999.0, 2000.0, 2001.0]


def test_a_folder_that_holds_no_study_is_told_in_one_line_with_the_nearest_that_does(tmp_path):
    write_study(tmp_path / "embedded")
    with pytest.raises(UserError, match=r"^load_study: '.*/embeded' holds no study.yaml; .*; did you mean 'embedded'\?$"):
        gpuqa.load_study(tmp_path / "embeded")


def test_what_is_no_path_of_a_study_is_told_in_one_line():
    with pytest.raises(UserError, match=r"^load_study: got None, allowed is the folder of a study, such as "):
        gpuqa.load_study(None)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------------- run

CALLS = f"""
import gpuqa, signal
from gpuqa.study.child_study import StudyFailed

before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
try:
    gpuqa.run(*{SMALL})
except KeyboardInterrupt:
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    print("THE CALL WAS INTERRUPTED", flush=True)
try:
    gpuqa.run(*{SMALL})
except StudyFailed as error:
    print(error, flush=True)
gpuqa.run(*{SMALL})
"""


@pytest.mark.engine
def test_a_call_ends_with_its_study_when_it_is_interrupted_or_killed_and_a_killed_kernel_leaves_no_study_behind(tmp_path):
    """A whole run is that of the example notebook, in `test_notebook.py`."""
    words, said = [sys.executable, "-c", CALLS], list[str]()
    with subprocess.Popen(
        words, cwd=tmp_path, env=child_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        begun = 0
        while begun < 3 and (line := process.stdout.readline()):
            said.append(line)
            begun += line.startswith("checking 2 cells")
            if line.startswith("checking 2 cells") and begun == 1:
                process.send_signal(signal.SIGINT)
            elif line.startswith("checking 2 cells") and begun == 2:
                [study] = psutil.Process(process.pid).children()
                study.kill()
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert "THE CALL WAS INTERRUPTED\n" in said, "".join(said)
    assert any(line.startswith("the study's process ended with exit code -9; its last line was 'checking") for line in said)
    assert children
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
