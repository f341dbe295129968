"""Wrong command lines are refused early: after a few cells at most, and before anything is imported that takes seconds.

Counted, not timed, since machines differ: how many cells Hydra composes until the refusal. PyTorch and transformers cannot be
imported at all in these processes, and so neither can vLLM: a check that needs them would show in what is said.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, run_python
from question_files import as_list, written
from written_study import write_study

pytestmark = pytest.mark.slow

HEAVY = ["torch", "transformers"]  # vLLM needs both
SCRIPT = f"""
import runpy, sys
from hydra._internal.config_loader_impl import ConfigLoaderImpl
sys.modules.update(dict.fromkeys({HEAVY}))
cells, compose = [], ConfigLoaderImpl.load_sweep_config
def noted(self, *arguments):
    cells.append(arguments)
    return compose(self, *arguments)
ConfigLoaderImpl.load_sweep_config = noted
try:
    runpy.run_module(f"gpuqa.{{sys.argv.pop(1)}}", run_name="__main__")
finally:
    with open("composed", "w") as file:
        file.write(str(len(cells)))
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what users bring by mistake."""
    folder = tmp_path_factory.mktemp("here")
    shutil.copytree(ROOT / "gpuqa" / "embedded" / "model", folder / "page")
    (folder / "page" / "model.safetensors").write_text("<!DOCTYPE html><title>404</title>")
    shutil.copytree(ROOT / "gpuqa" / "embedded" / "model", folder / "mute", ignore=shutil.ignore_patterns("tokenizer*"))
    with zipfile.ZipFile(folder / "rows.xlsx", "w") as workbook:
        workbook.writestr("[Content_Types].xml", "")
    written(folder / "rows.json", as_list({"question": "q"}))
    (folder / "empty.yaml").write_text("{}\n")
    write_study(folder / "experiments" / "mine")
    shutil.copytree(ROOT / "tests" / "format_1", folder / "experiments" / "format_1")
    return folder


@pytest.fixture
def nothing_is_left_behind(here: Path) -> Iterator[None]:
    """A refusal writes nothing."""
    before = sorted(here.rglob("*"))
    yield
    (here / "composed").unlink()
    assert sorted(here.rglob("*")) == before


REFUSED = [  # the command line; the most cells that may be composed; how the message begins
    ("sweep dataset.limit=-3", 1, "dataset.limit: got -3, allowed is an integer of at least 1, or null"),
    ("sweep dataset.path=absent", 1, "dataset.path: 'absent' does not exist; looked for "),
    ("sweep dataset.path=rows.xlsx", 1, "rows.xlsx: is an Excel workbook or another Office file, not text; save the sheet"),
    ("sweep dataset.path=rows.json", 1, "rows.json: row 1 has 'question' and no answer: looked for 'answer'; its other fields"),
    ("sweep model.path=absent", 1, "model.path: 'absent' does not exist; looked for "),
    ("sweep model.path=page", 1, "model.path: page/model.safetensors is an HTML page, not the file itself; download it again"),
    ("sweep model.path=mute", 1, "model.path: mute holds no usable tokenizer (there is: chat_template.jinja, config.json, "),
    ("predict gpu=h100 model.path=mute", 1, "model.path: mute holds no usable tokenizer (there is: chat_template.jinja, con"),
    ("sweep model.warmup=absent", 1, "model.warmup: 'absent' does not exist"),
    ("sweep prompt.template=absent", 1, "prompt.template: "),
    ("sweep engine.args.max_model_len=4096", 1, "engine.args.max_model_len: got 4096, allowed is at most 2048"),
    (
        "sweep +engine.args.max_num_sequences=3",
        1,
        "engine.args.max_num_sequences: the installed vLLM has no such argument; near",
    ),
    (
        "sweep experiment=none engine=transformers +engine.args.batchsize=3",
        1,
        "engine.args.batchsize: the transformers backend has no such",
    ),
    ("sweep experiment=rtx5090", 1, "model.path: 'local-model/Iammarcus/Qwen3-0.6B-GPU-Pro' does not exist"),
    ("predict experiment=rtx5090 prompt=bare,expert,nope", 3, "prompt: got 'nope', allowed is bare, "),
    ("sweep prompt=bare,nope", 2, "prompt: got 'nope', allowed is bare, "),
    ("sweep prompt=bare,expert quantization=none,nope", 2, "quantization: got 'nope', allowed is "),
    ("sweep engine.args.max_num_seqs=16,0", 4, "engine.args.max_num_seqs: got 0, allowed is a whole number above 0"),
    ("sweep sampling.temperature=0,1,3", 4, "sampling.temperature: got 3"),
    ("sweep dataset.limit=3,absent", 4, "dataset.limit: got 'absent', allowed is an integer, or null"),
    ("sweep prompt=bare engine.args.max_num_seqs=8 quantization=none selection=knee,fastest", 2, "selection: must be the same"),
    ("sweep selection=knee,fastest", 4, "selection: must be the same in all cells of a study; run one study for each"),
    ("sweep study.name=format_1", 4, "experiments/format_1: format 1"),
    ("predict", 1, "gpu: no card is named; say for which one: gpu=NAME, with one of a100, "),
    ("predict experiment=rtx5090 prompt=nope", 1, "prompt: got 'nope', allowed is bare, "),
    ("predict experiment=rtx5090 answer_tokens=0", 1, "answer_tokens: got 0, allowed is an integer from 1 to"),
    ("predict experiment=rtx5090 dataset.path=absent", 1, "dataset.path: 'absent' does not exist"),
    (
        "predict experiment=rtx5090 model.assumed=null",
        1,
        "model.path: 'local-model/Iammarcus/Qwen3-0.6B-GPU-Pro' does not exist",
    ),
    ("predict experiment=rtx5090 +engine.args.max_num_sequences=3", 1, "engine.args.max_num_sequences: the installed vLLM has"),
    ("predict experiment=rtx5090 +engine.args.tensor_parallel_size=2", 1, "engine.args: got {'tensor_parallel_size': 2}"),
    ("freeze study.name=mime", 0, "study: experiments/mime holds no trials; did you mean 'mine'?; `python -m gpuqa.sweep "),
    (
        "freeze study.name=other",
        0,
        "study: experiments/other holds no trials; studies in experiments: format_1, mine; `python -m ",
    ),
    ("freeze selection.min_rouge_l_f1_judge=2", 0, "selection.min_rouge_l_f1_judge: got 2.0, allowed is "),
    ("compare a=absent b=experiments/mine", 0, "a: got 'absent', and 'absent' does not exist; allowed is a frozen.yaml"),
    (
        "compare a=experiments/mine b=experiments/mine",
        0,
        "a: got 'experiments/mine', and 'experiments/mine/frozen.yaml' does not",
    ),
    ("serve frozen=absent", 0, "frozen: "),
    ("serve frozen=empty.yaml", 0, "frozen: "),
    ("serve http.port=99999", 0, "http.port: got 99999"),
    ("reproduce frozen=absent", 0, "frozen: "),
    ("reproduce frozen=empty.yaml", 0, "frozen: "),
    ("evaluate url=localhost", 0, "url: got 'localhost', allowed is an http:// or https:// address with a host"),
    ("evaluate dataset.path=rows.xlsx", 0, "rows.xlsx: is an Excel workbook"),
    (
        "evaluate output=absent/evaluation.json",
        0,
        "output: got 'absent/evaluation.json', allowed is a file in an existing folder",
    ),
    ("download model=embedded", 0, "model=embedded has no model.download.repository: there is nothing to fetch"),
    ("download model=nope", 0, "model: got 'nope', allowed is embedded, "),
]


@pytest.mark.parametrize(("line", "most", "message"), REFUSED, ids=[line for line, *_ in REFUSED])
@pytest.mark.usefixtures("nothing_is_left_behind")
def test_a_wrong_command_line_is_refused_in_one_line_after_few_cells_and_without_a_heavy_import(
    line: str, most: int, message: str, here: Path
) -> None:
    done = run_python("-c", SCRIPT, *line.split(), cwd=here)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    composed = int((here / "composed").read_text())
    assert composed <= most, f"{composed} cells were composed before it was refused"
