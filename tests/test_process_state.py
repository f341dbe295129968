"""What an engine changes in its process is put back when it is closed, and when it does not start."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuqa.config.app import compose_cell, vllm_on_this_machine
from gpuqa.engines import EngineFailed
from gpuqa.engines.vllm import build
from gpuqa.machine.process_state import ProcessState, set_torch_threads, torch_threads
from gpuqa.pipeline.pipeline import Pipeline

VLLM = (f"engine={vllm_on_this_machine()}", "sampling.max_tokens=8")
TRANSFORMERS = ("engine=transformers", "sampling.max_tokens=8")
STATE = dict[str, Any]


def state() -> STATE:
    """All that is compared: of PyTorch what this thread and what a new one computes with."""
    torch = sys.modules["torch"]
    return {
        "environment": dict(os.environ),
        "threads": (torch.get_num_threads(), torch_threads()),
        "collector": (gc.get_threshold(), gc.get_freeze_count(), gc.isenabled()),
        "level": logging.getLogger("vllm.renderers.base").level,
        "starting": [thread.name for thread in threading.enumerate() if thread.name.startswith("vllm-start")],
    }


@pytest.fixture
def short_temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for sockets, whose paths must be short."""
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


# ---------------------------------------------------------------- without an engine


def test_variables_that_were_added_changed_or_removed_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUQA_CHANGED", "before")
    monkeypatch.setenv("GPUQA_REMOVED", "before")
    before = dict(os.environ)
    kept = ProcessState()
    os.environ.update(GPUQA_CHANGED="after", GPUQA_ADDED="after")
    del os.environ["GPUQA_REMOVED"]
    kept.restore()
    assert dict(os.environ) == before


def test_what_others_change_while_an_engine_runs_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ProcessState()
    monkeypatch.setenv("GPUQA_ENGINE", "1")
    kept.engine_started()
    monkeypatch.setenv("GPUQA_OTHER", "1")
    kept.restore()
    assert "GPUQA_ENGINE" not in os.environ
    assert os.environ["GPUQA_OTHER"] == "1"


def test_threads_and_collector_are_put_back() -> None:
    pytest.importorskip("torch")
    before = torch_threads(), gc.get_threshold()
    kept = ProcessState()
    thread = threading.Thread(target=set_torch_threads, args=(before[0] + 3,))
    thread.start()
    thread.join()
    gc.set_threshold(12345)
    assert torch_threads() == before[0] + 3
    kept.restore()
    assert (torch_threads(), gc.get_threshold()) == before


def test_a_logger_is_quiet_only_in_its_block() -> None:
    logger = logging.getLogger("gpuqa.test")
    logger.setLevel(logging.INFO)
    with build.quiet("gpuqa.test"):
        assert logger.level == logging.ERROR
    assert logger.level == logging.INFO


# ---------------------------------------------------------------- with engines


def lived(*overrides: str) -> STATE:
    """Start an engine, answer one question, close it; what was there while it ran."""

    async def live() -> STATE:
        pipeline = await Pipeline.start(compose_cell("experiment=none", "prompt=bare", *overrides))
        during = state()
        [answer] = await pipeline.answer(["什么是 warp？"])
        assert answer.error is None
        await pipeline.close()
        return during

    return asyncio.run(live())


FIRST, SECOND = ("+engine.env.GPUQA_FIRST='1'", "engine.env.OMP_NUM_THREADS='1'"), ("engine.env.OMP_NUM_THREADS='2'",)


@pytest.mark.engine
def test_engines_that_follow_each_other_see_nothing_of_each_other(short_temporary: Path) -> None:
    pytest.importorskip("vllm.engine.arg_utils")  # which changes the environment as it is imported
    logging.getLogger("vllm.renderers.base").setLevel(logging.NOTSET)  # engines of other files overlapped, and left it as one
    before = state()
    follow_each_other = [(VLLM, FIRST), (VLLM, SECOND), (VLLM, FIRST), (TRANSFORMERS, SECOND), (VLLM, FIRST)]
    for backend, own in follow_each_other:
        during = lived(*backend, *own)
        assert state() == before
        assert ("GPUQA_FIRST" in during["environment"]) is (own is FIRST)
        number = during["environment"]["OMP_NUM_THREADS"]
        assert number == ("1" if own is FIRST else "2")
        assert during["threads"][1] == int(number)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((*VLLM, "engine.args.dtype=float99"), "float99"),
        ((*VLLM, "engine.start_timeout_s=0.2"), "did not start within"),
        ((*TRANSFORMERS, "engine.args.dtype=float99"), "float99"),
    ],
    ids=["vllm_refused", "vllm_too_slow", "transformers_refused"],
)
def test_an_engine_that_does_not_start_leaves_the_process_as_it_was(
    overrides: tuple[str, ...], message: str, short_temporary: Path
) -> None:
    pytest.importorskip("vllm.engine.arg_utils")
    before = state()
    with pytest.raises(EngineFailed, match=message):
        lived(*overrides, "+engine.env.GPUQA_FIRST='1'", "engine.env.OMP_NUM_THREADS='2'")
    assert state() == before
