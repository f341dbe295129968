"""Tests of gpuqa.config.wrong_overrides and wrong_values: what is said about a mistake in a command line or a YAML file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import run_command as run_in_a_process

from gpuqa.config.app import run_command
from gpuqa.config.cells import Cells
from gpuqa.config.commands import COMMANDS, resolve

Enter = Callable[..., tuple[int, str, str]]


@pytest.fixture
def enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Enter:
    """`enter("sweep", "prompt=nope")`: the command up to its typed config, in this process -> exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(name, "1")

    def enter_command(command: str, *words: str) -> tuple[int, str, str]:
        def only_resolve(composed: Any) -> int:
            cells = composed if isinstance(composed, Cells) else None
            cells.each(check) if cells else check(composed)
            return 0

        def check(config: Any) -> None:
            resolve(config, COMMANDS[command])

        monkeypatch.setattr(sys, "argv", [f"gpuqa.{command}", *words])
        with pytest.raises(SystemExit) as ended:
            run_command(only_resolve, command)
        return (ended.value.code, *capsys.readouterr())  # type: ignore[return-value]

    return enter_command


GROUPS = "model, prompt, quantization, engine, sampling, dataset, workload, selection, gpu, executor, study, plan"
PROMPTS = "bare, expert, few_shot, keywords, structured, structured_short"
MISTAKES = [  # command, its words, the whole message or its beginning (with ...)
    ("sweep prompt=nope", f"prompt: got 'nope', allowed is {PROMPTS}"),
    ("sweep prompt=structred", f"prompt: got 'structred', allowed is {PROMPTS}; did you mean 'structured'?"),
    ("sweep prompt=bare,nope", f"prompt: got 'nope', allowed is {PROMPTS}"),
    ("sweep prompt=", f"prompt: got '', allowed is {PROMPTS}"),
    ("sweep prompt=null", f"prompt: got 'null', allowed is {PROMPTS}"),
    ("sweep prompt=???", f"prompt: got '???', allowed is {PROMPTS}"),
    ("sweep model=./my/model", "model: got './my/model', ...; a path is given as model.path=./my/model"),
    ("sweep prompt={a:1}", "prompt: this value does not fit; allowed is a mapping with name, system, ..."),
    ("predict gpu=5090", "gpu: got '5090', allowed is a100, h100, h200, l4, none, rtx4090, rtx5090; did you mean 'rtx5090'?"),
    ("predict gpu=h100,5090", "gpu: got '5090', ...; did you mean 'rtx5090'?"),
    ("sweep promt=bare", f"promt: there is no such key; did you mean 'prompt'?; allowed is {GROUPS}, experiment"),
    ("sweep experiment=none +promt=bare", f"promt: there is no such key; did you mean 'prompt'?; allowed is {GROUPS}"),
    ("sweep ~promt", f"promt: there is no such key; did you mean 'prompt'?; allowed is {GROUPS}, experiment"),
    ("sweep max_num_seqs=3", "max_num_seqs: there is no such key; did you mean 'engine.args.max_num_seqs'?; ..."),
    ("serve port=9000", "port: there is no such key; did you mean 'http.port'?; ..."),
    ("serve http.prot=1", "http.prot: there is no such key; did you mean 'http.port'?; allowed is host, port, ..."),
    ("serve htp.port=1", "htp.port: there is no such key; did you mean 'http.port'?; allowed is frozen, http, ..."),
    ("sweep sampling.max_token=1", "sampling.max_token: there is no such key; did you mean 'sampling.max_tokens'?; ..."),
    (
        "sweep experiment=none +sampling.max_token=1",
        "sampling.max_token: there is no such key; did you mean 'sampling.max_tokens'?; ...",
    ),
    (
        "freeze prompt=bare",
        "prompt: gpuqa.freeze has no such key, it belongs to gpuqa.sweep, gpuqa.search, gpuqa.predict, gpuqa.check, ...",
    ),
    (
        "evaluate http.port=1",
        "http.port: gpuqa.evaluate has no such key, it belongs to gpuqa.check, gpuqa.serve; allowed is url, ...",
    ),
    (
        "sweep experiment=embedded_search",
        "search: gpuqa.sweep has no such key, it belongs to gpuqa.search; ... (in experiment/embedded_search.yaml)",
    ),
    ("serve http.port=hello", "http.port: got 'hello', allowed is an integer"),
    ("serve http.port=1.5", "http.port: got 1.5, allowed is an integer"),
    ("serve http.port=null", "http.port: got None, allowed is an integer"),
    ("serve http.status=maybe", "http.status: got 'maybe', allowed is one of batch, ok"),
    ("serve http.keys_file=[1]", "http.keys_file: got [1], allowed is a text, or null"),
    ("sweep sampling.enable_thinking=perhaps", "sampling.enable_thinking: got 'perhaps', allowed is true or false"),
    ("sweep study=mine", "study: got 'mine', allowed is a mapping with name, root, ..."),
    ("sweep engine.args=null", "engine.args: got None, allowed is a mapping"),
    ("compare", "a, b: no value is given; a=VALUE b=VALUE is needed"),
    ("compare a=experiments/x", "b: no value is given; b=VALUE is needed"),
    ("freeze ~selection", "selection: no value is given; selection=VALUE is needed"),
    ("sweep prompt.cleanup.one_line=true", "prompt.cleanup: is called prompt.postprocess now"),
    ("sweep experiment=none +prompt.cleanup.one_line=true", "prompt.cleanup: is called prompt.postprocess now"),
    ("sweep workload.warmup_questions=4", "workload.warmup_questions: is gone, since study and server warm up ..."),
    ("sweep +prompt=bare", "prompt: it is set already; write prompt=VALUE, without a +"),
    ("sweep +sampling.seed=1", "sampling.seed: it is set already; write sampling.seed=VALUE, without a +"),
    ("sweep sampling.seed=1,2,1", "sampling.seed: the axis has 1 twice; list every value once"),
    ("predict gpu=h100 prompt=bare,bare", "prompt: the axis has 'bare' twice; list every value once"),
    ("sweep dataset.limit=choice(1,null)", "dataset.limit: choice() does not take null; ...: dataset.limit=1,null"),
    ("freeze study.name=a,b", "study.name: gpuqa.freeze has no axes; if a text is meant, quote it: 'study.name=\"a,b\"'"),
    ("freeze study.name=choice(a,b)", "study.name: gpuqa.freeze has no axes; ..."),
    ("sweep hydra/sweeper=basic", "hydra/sweeper: gpuqa sets up Hydra itself; an axis of a study is written KEY=A,B, ..."),
    ("sweep hydra.mode=RUN", "hydra.mode: gpuqa sets up Hydra itself; ..."),
    ("sweep --multirun", "flags: got '--multirun', allowed is --help, --version, --cfg job, --resolve, --config-dir FOLDER"),
    ("sweep --cfg all", "argument --cfg/-c: invalid choice: 'all' (choose from ..."),
    ("freeze selection", "'selection': an override is written KEY=VALUE"),
    ("compare experiments/a experiments/b", "'experiments/a': an override is written KEY=VALUE, here a=VALUE b=VALUE"),
    ("serve frozen.yaml", "'frozen.yaml': an override is written KEY=VALUE, here frozen=VALUE"),
    (
        "sweep prompt=bare, structured",
        "prompt: 'bare,' ends with a comma; the values of an axis are written without blanks: prompt=A,B",
    ),
    ("sweep prompt = bare", "overrides: got '=', allowed is KEY=VALUE, without blanks"),
    ("sweep --dataset.limit=6", "flags: got '--dataset.limit'; an override is written without dashes: dataset.limit=6"),
    ("freeze =3", "overrides: got '=3', allowed is KEY=VALUE, without blanks"),
    ("freeze study.[=1", "'study.[=1': Hydra's grammar cannot read the key 'study.['"),
    ("freeze --config-dir=absent", "--config-dir: Additional config directory ..."),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=lambda text: text if " " not in text[-20:] else None)
def test_a_mistake_is_told_in_one_line_with_what_is_allowed(enter: Enter, tmp_path: Path, words: str, message: str) -> None:
    code, output, errors = enter(*words.split())
    assert (code, output) == (2, "")
    assert is_like(errors, f"error: {message}"), errors
    assert not list(tmp_path.iterdir())


def is_like(text: str, pattern: str) -> bool:
    """Whether a text is one line and fits a pattern in which "..." stands for anything."""
    parts = pattern.split("...")
    places = [text.find(part) for part in parts]
    return text.count("\n") == 1 and places == sorted(places) and places[0] == 0 and text.rstrip("\n").endswith(parts[-1])


@pytest.mark.parametrize(
    ("argument", "written"),
    [
        ("prompt.system=你好", "'prompt.system=\"你好\"'"),
        ("dataset.path=/data/问 题.json", "'dataset.path=\"/data/问 题.json\"'"),
        ("prompt.user=问：{question}", "'prompt.user=\"问：{question}\"'"),
        ("prompt.system=it's, you know", "'prompt.system=\"it'\"'\"'s, you know\"'"),
        ("sampling.stop=[你好]", "put each text in it into double quotes"),
        ("prompt.system=你好,再见", 'an axis of texts: \'prompt.system="...","..."\''),
    ],
)
def test_a_text_that_hydras_grammar_refuses_is_answered_with_how_to_write_it(enter: Enter, argument: str, written: str) -> None:
    code, _, errors = enter("sweep", argument)
    assert code == 2
    assert errors.startswith(f"error: {argument.partition('=')[0]}: Hydra's grammar cannot read ")
    assert written in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("engine.args.max_num_seq=3", "did you mean 'engine.args.max_num_seqs'?; the file of this option has dtype, "),
        ("engine.args.block_sizes=3", "did you mean 'engine.args.block_size'?; the file of this option has dtype, "),
        ("engine.args.max_num_active_seqs=3", "a + adds it: +engine.args.max_num_active_seqs=3"),
        ("engine.args.swap='a b'", "the file of this option has dtype, "),
        ("engine.env.NAME='a b'", "a + adds it: '+engine.env.NAME='\"'\"'a b'\"'\"''"),
    ],
)
def test_an_engine_argument_that_the_file_lacks_is_told_with_the_nearest_that_vllm_has(
    enter: Enter, argument: str, message: str
) -> None:
    code, _, errors = enter("sweep", "engine=vllm_cpu", argument)
    assert code == 2
    assert errors.startswith(f"error: {argument.partition('=')[0]}: ")
    assert message in errors
    assert errors.count("\n") == 1


FILES = [  # a file of the user, its content, the words, the message
    (
        "prompt/mine.yaml",
        "name: mine\ncleanup: {one_line: true}",
        "prompt=mine",
        "prompt.cleanup: is called prompt.postprocess now",
    ),
    (
        "prompt/mine.yaml",
        "name: mine\nsytem: x",
        "prompt=mine",
        "prompt.sytem: there is no such key; did you mean 'prompt.system'?",
    ),
    ("prompt/mine.yaml", "name: mine\nexamples: none", "prompt=mine", "prompt.examples: got 'none', allowed is a list"),
    ("prompt/mine.yaml", "name: mine\nname: other", "prompt=mine", "found duplicate key name"),
    ("prompt/mine.yaml", "name: [", "prompt=mine", "mine.yaml"),
    (
        "experiment/mine.yaml",
        "defaults: [override /prompt: nope]",
        "experiment=mine",
        f"prompt: got 'nope', allowed is {PROMPTS}",
    ),
    (
        "experiment/mine.yaml",
        "samplin: {seed: 1}",
        "experiment=mine",
        "samplin: there is no such key; did you mean 'sampling'?",
    ),
    (
        "experiment/mine.yaml",
        "hydra: {sweeper: {params: {promt: 'a,b'}}}",
        "experiment=mine",
        "promt: there is no such key; did",
    ),
    ("experiment/mine.yaml", "hydra: {sweeper: {params: {gpu: 5090}}}", "experiment=mine", "gpu=5090"),
]


@pytest.mark.parametrize(("file", "content", "words", "message"), FILES, ids=[content for _, content, _, _ in FILES])
def test_a_mistake_in_a_yaml_file_of_the_user_is_told_in_one_line(
    enter: Enter, tmp_path: Path, file: str, content: str, words: str, message: str
) -> None:
    (tmp_path / "mine" / file).parent.mkdir(parents=True)
    (tmp_path / "mine" / file).write_text("# @package _global_\n" * file.startswith("experiment") + content)
    code, _, errors = enter("sweep", "study.name=x", words, "--config-dir", "mine")
    assert (code, errors.count("\n")) == (2, 1), errors
    assert message in errors
    assert errors.startswith("error: ")


def test_a_yaml_file_in_another_encoding_is_named(enter: Enter, tmp_path: Path) -> None:
    (tmp_path / "mine" / "prompt").mkdir(parents=True)
    (tmp_path / "mine" / "prompt" / "old.yaml").write_text("name: old\nsystem: 你好", encoding="gb18030")
    code, _, errors = enter("sweep", "prompt=old", "--config-dir", "mine")
    assert (code, errors) == (2, "error: a YAML file is not UTF-8, convert it: mine/prompt/old.yaml\n")


@pytest.mark.slow
def test_a_mistake_is_told_by_the_command_itself_too(tmp_path: Path) -> None:
    done = run_in_a_process("sweep", "promt=bare", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: promt: there is no such key; did you mean 'prompt'?")
    assert len(done.stderr.splitlines()) == 1
