"""Which overrides an engine has, and what is said of those that are off: before a start, and by the engine's processes."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpuqa.config.app import compose_cell, vllm_on_this_machine
from gpuqa.config.pipeline import Attention, Backend, EngineConfig, Scheduler
from gpuqa.engines import BACKENDS
from gpuqa.engines.vllm import compat
from gpuqa.engines.vllm.override_reports import REPORTS_FILE, Report, State, read_reports, report
from gpuqa.engines.vllm.overrides import PREPARED_IN_FULL, SILENCE, Choice, choose, choose_scheduler, what_ran
from gpuqa.machine.child_processes import WATCH, children
from gpuqa.machine.hardware import processor_flags
from gpuqa.pipeline.pipeline import Pipeline
from gpuqa.records import Override

BURST = EngineConfig(name="x", backend="vllm", args={"max_model_len": 64}, scheduler=Scheduler.burst)
ON = Choice("scheduler", "burst", {"scheduler_cls": "x"})


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1", "0.33.0", "0.33.0rc1"])
def test_bursts_are_on_with_a_vllm_that_they_were_run_with(version, monkeypatch):
    monkeypatch.setattr(compat, "version", lambda: version)
    assert "scheduler_cls" in choose_scheduler(BURST).args


@pytest.mark.parametrize("version", ["0.26.0", "0.31.9", "0.34.0", "0.3.2", "1.0.0", "not installed"])
def test_bursts_are_off_with_any_other_vllm_and_that_is_said(version, monkeypatch, caplog):
    monkeypatch.setattr(compat, "version", lambda: version)
    [scheduler, _] = choose(BURST, {})
    assert scheduler.args == {}
    reason = f"this is vLLM {version}, it knows 0.32.*, 0.33.*"
    assert caplog.messages == [f"engine.scheduler=burst is off: {reason}"]
    assert what_ran(scheduler, []) == Override("scheduler", "burst", "default", reason)


def test_an_override_whose_names_a_vllm_lacks_is_off_and_the_names_are_said(monkeypatch, caplog):
    """The table is a fake, because the installed vLLM has every name."""
    monkeypatch.setitem(compat.TABLES, "scheduler", {"vllm.v1.request": ("Request.num_tokens", "Request.renamed")})
    [scheduler, _] = choose(BURST, {})
    assert scheduler.args == {}
    [message] = caplog.messages
    assert message == f"engine.scheduler=burst is off: vLLM {compat.version()} lacks vllm.v1.request: Request.renamed"


def test_a_model_runner_whose_names_a_vllm_lacks_leaves_bursts_on(monkeypatch):
    monkeypatch.setitem(compat.TABLES, "runner", {"vllm.v1.worker.gpu.gone": ("GPUModelRunner",)})
    choice = choose_scheduler(BURST)
    assert set(choice.args) == {"scheduler_cls"}
    override = what_ran(choice, [Report("scheduler", State.on)])
    assert (override.ran, override.reason) == (
        "burst",
        f"{PREPARED_IN_FULL}: vLLM {compat.version()} lacks vllm.v1.worker.gpu.gone: GPUModelRunner",
    )


def test_what_was_not_asked_for_is_default_without_a_reason():
    config = EngineConfig(name="x", backend="vllm", args={"max_model_len": 64})
    assert [what_ran(choice, []) for choice in choose(config, {})] == [
        Override("scheduler", "default", "default"),
        Override("attention", "default", "default"),
    ]


def test_an_override_counts_as_on_only_when_a_process_of_the_engine_says_so():
    assert what_ran(ON, []) == Override("scheduler", "burst", "default", SILENCE)
    assert what_ran(ON, [Report("attention", State.on)]).ran == "default"
    assert what_ran(ON, [Report("scheduler", State.on)]).ran == "burst"
    off = what_ran(ON, [Report("scheduler", State.off, "LoRA"), Report("scheduler", State.partly, "said by the runner")])
    assert off == Override("scheduler", "burst", "default", "LoRA")


def test_what_an_override_does_not_take_is_its_reason_and_leaves_it_on():
    reports = [Report("scheduler", State.on), Report("scheduler", State.partly, "a"), Report("scheduler", State.partly, "b")]
    override = what_ran(ON, reports)
    assert (override.ran, override.reason) == ("burst", "a; b")


def test_the_version_of_an_override_is_a_digest_of_its_own_code():
    burst = what_ran(ON, [Report("scheduler", State.on)])
    attention = what_ran(Choice("attention", "shared_prefix", {"x": 1}), [Report("attention", State.on)])
    assert [len(override.version) for override in (burst, attention)] == [16, 16]
    assert burst.version != attention.version


def test_reports_of_several_processes_are_read_once_each_and_a_half_written_line_is_not(tmp_path: Path, monkeypatch):
    file = tmp_path / "overrides.jsonl"
    assert read_reports(file) == []
    monkeypatch.setenv(REPORTS_FILE, str(file))
    for _ in range(2):  # two workers
        report("attention", State.off, "heads of 96")
    report("scheduler", State.on)
    with file.open("a") as stream:
        stream.write(json.dumps({"part": "scheduler"})[:-4])
    assert read_reports(file) == [Report("attention", State.off, "heads of 96"), Report("scheduler", State.on)]


def test_a_report_that_cannot_be_written_stops_nothing(tmp_path: Path, monkeypatch):
    monkeypatch.setenv(REPORTS_FILE, str(tmp_path / "no" / "folder"))
    report("scheduler", State.on)
    monkeypatch.delenv(REPORTS_FILE)
    report("scheduler", State.on)


def test_every_backend_is_in_the_table_with_its_class_packages_and_width_argument():
    assert list(BACKENDS) == list(Backend)
    for entry in BACKENDS.values():
        assert entry.load().check_args({"max_model_len": 64, entry.width_argument: 4}) is None
        assert "torch" in entry.packages


def test_transformers_says_that_it_has_nothing_to_replace():
    from contextlib import ExitStack

    from gpuqa.engines.transformers_engine import Settings, TransformersEngine

    config = EngineConfig(
        name="x", backend="transformers", args={"max_model_len": 64}, scheduler=Scheduler.burst, attention=Attention.default
    )
    engine = TransformersEngine(object(), Settings(config.args, config, 1), 0.0, ExitStack())
    [override] = engine.overrides()
    assert (override.part, override.asked, override.ran) == ("scheduler", "burst", "default")
    assert override.reason == "the transformers backend has none to replace"


# ---------------------------------------------------------------- the real engine


has_fp8 = any(flag.startswith(("avx512", "amx")) for flag in processor_flags())
needs_fp8 = pytest.mark.skipif(
    not has_fp8, reason="vLLM has no fp8 KV cache on this CPU; without an engine: test_shared_prefix"
)


@pytest.fixture
def short_temporary(monkeypatch):
    """A folder for sockets, whose paths must be short."""
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


def watched() -> bool:
    """Whether a process ends children of this one should this one end."""
    living = [child for child in children() if child.status() != psutil.STATUS_ZOMBIE]
    return any(WATCH in child.cmdline() for child in living)


def started(*overrides: str) -> list[list[Override]]:
    """The overrides of vLLM right after its start, after whole answers and a streamed one, and after one with logprobs."""

    async def live() -> list[list[Override]]:
        vllm = (f"engine={vllm_on_this_machine()}", "sampling.max_tokens=8")
        pipeline = await Pipeline.start(compose_cell("experiment=none", "prompt=bare", *vllm, *overrides))
        try:
            moments = [pipeline.engine.overrides()]
            spawned = "engine.env.VLLM_WORKER_MULTIPROC_METHOD=spawn" in overrides
            deadline = time.monotonic() + 5
            while watched() is not spawned and time.monotonic() < deadline:  # a process has no arguments while it begins
                await asyncio.sleep(0.05)
            assert watched() is spawned, "a forked engine watches its parent itself"
            assert (await pipeline.answer(["什么是 warp？"] * 8))[0].error is None
            deltas = [delta async for delta in pipeline.stream("什么是 warp？")]
            assert deltas[-1].completion is not None
            moments.append(pipeline.engine.overrides())
            from vllm import SamplingParams

            llm: Any = pipeline.engine.llm  # type: ignore[attr-defined]
            request = {"type": "token", "prompt_token_ids": [1, 2, 3]}
            assert [one async for one in llm.generate(request, SamplingParams(logprobs=1, max_tokens=2, detokenize=False), "1")]
            return [*moments, pipeline.engine.overrides()]
        finally:
            await pipeline.close()

    return asyncio.run(live())


@pytest.mark.engine
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_the_engines_process_says_that_bursts_run_however_it_is_started_and_names_logprobs(
    start: str, short_temporary: Path
) -> None:
    before, after, logprobs = started("engine.scheduler=burst", f"engine.env.VLLM_WORKER_MULTIPROC_METHOD={start}")
    assert before == after
    scheduler, attention = after
    assert (scheduler.asked, scheduler.ran, len(scheduler.version)) == ("burst", "burst", 16)
    assert attention == Override("attention", "default", "default")
    assert "own scheduling" not in (scheduler.reason or "")
    assert logprobs[0].ran == "burst"
    assert "requests took vLLM's own scheduling: logprobs" in (logprobs[0].reason or "")


@pytest.mark.engine
def test_what_only_the_engines_process_knows_turns_an_override_off_with_its_reason(short_temporary: Path) -> None:
    asked = ("engine.scheduler=burst", "engine.attention=shared_prefix")
    _, [scheduler, attention], _ = started(*asked, "+engine.args.prefill_schedule_interval=4")
    assert scheduler == Override("scheduler", "burst", "default", "prefills held back for some steps")
    if vllm_on_this_machine() == "vllm_cpu":  # a GPU has the attention
        assert attention == Override("attention", "shared_prefix", "default", "there is no CUDA device")


@pytest.mark.engine
def test_an_unknown_version_runs_vllms_own_scheduler_and_attention(short_temporary: Path, monkeypatch) -> None:
    monkeypatch.setattr(compat, "version", lambda: "0.99.0")
    _, after, _ = started("engine.scheduler=burst", "engine.attention=shared_prefix")
    reason = "this is vLLM 0.99.0, it knows 0.32.*, 0.33.*"
    assert after == [
        Override("scheduler", "burst", "default", reason),
        Override("attention", "shared_prefix", "default", reason),
    ]


@pytest.mark.engine
@pytest.mark.skipif(vllm_on_this_machine() != "vllm_cpu", reason="a GPU has the attention")
@needs_fp8
def test_attention_that_does_not_read_the_cache_says_so(short_temporary: Path) -> None:
    _, [_, attention], _ = started("engine.attention=shared_prefix", "+engine.args.kv_cache_dtype=fp8_e5m2")
    assert attention == Override("attention", "shared_prefix", "default", "it does not read a KV cache of fp8_e5m2")
