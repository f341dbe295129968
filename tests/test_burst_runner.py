"""A step that repeats the one before gives the tokens that vLLM's own runner gives, by its own kernels."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from conftest import run_python

from gpuqa.config.pipeline import Backend, EngineConfig, Scheduler
from gpuqa.engines.vllm.burst.runner import RepeatedSteps, WorkerExtension
from gpuqa.engines.vllm.overrides import PREPARED_IN_FULL, REPEATS_STEPS, choose_scheduler

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("second_runner.py")
SECOND_RUNNER = {"VLLM_USE_V2_MODEL_RUNNER": "1"}  # conftest.py has Triton interpret its kernels


def test_repeated_steps_change_no_token(tmp_path: Path) -> None:
    """Answers that end by themselves, newcomers in the middle of a burst, and a request that is given up; then the same with
    what changes logits.

    Six answers in two waves; in full precision, for another batch must not round otherwise.
    """
    overrides = ("engine.args.dtype=float32", "sampling.max_tokens=48")
    run = run_python(str(PROGRAM), "default,burst", *overrides, cwd=tmp_path, late_env=SECOND_RUNNER)
    assert run.returncode == 0, run.stderr[-2000:]
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith('{"limits"')]
    theirs, ours = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    for plain, burst in zip(theirs, ours, strict=True):
        assert plain["repeated"] == 0
        assert burst["repeated"] > 10, burst["limits"]
        assert burst["answers"] == plain["answers"], burst["limits"]
    answers = {line["limits"]: line["answers"] for line in theirs}
    assert len({len(tokens) for tokens in answers["none"]}) > 2
    assert len({str(each) for each in answers.values()}) == len(answers), "each of them changes an answer"


class Recording:
    """Stands for vLLM's runner, which cannot be had without its engine."""

    def __init__(self) -> None:
        self.taken: list[bool] = []

    def execute_model(self, scheduler_output: Any) -> None:
        assert isinstance(self, RepeatedSteps)
        self.taken.append(self.repeats)


def step(scheduled: dict[str, int], **news: Any) -> Any:
    """A scheduler's output, as far as it is looked at."""
    nothing: dict[str, Any] = {"scheduled_new_reqs": [], "finished_req_ids": set(), "preempted_req_ids": set()}
    return SimpleNamespace(num_scheduled_tokens=scheduled, **{**nothing, **news})


def test_a_step_repeats_the_one_before_only_if_it_is_the_same_batch_and_nobody_came_or_went() -> None:
    runner = type("Repeating", (RepeatedSteps, Recording), {})()
    batch, equal = {"a": 1, "b": 1}, {"a": 1, "b": 1}
    steps = [step(batch), step(batch), step(equal), step(equal, finished_req_ids={"c"}), step(equal), step(batch)]
    for one in [*steps, step(batch, scheduled_new_reqs=["d"]), step(batch, preempted_req_ids={"a"})]:
        runner.execute_model(one)
    assert runner.taken == [False, True, False, False, True, False, False, False]


def test_a_runner_that_it_does_not_know_stays_vllms_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    extension = WorkerExtension()
    extension.model_runner = object()
    extension.repeat_steps()
    assert type(extension.model_runner) is object
    assert f"{PREPARED_IN_FULL}: vLLM drives this device by its first model runner" in caplog.text


def test_an_extension_of_the_users_own_is_not_replaced_and_steps_are_prepared_anew() -> None:
    def chosen(**args: Any) -> Any:
        config = EngineConfig(name="vllm", backend=Backend.vllm, args={"max_model_len": 64, **args}, scheduler=Scheduler.burst)
        return choose_scheduler(config)

    assert chosen().args["worker_extension_cls"] == REPEATS_STEPS
    assert chosen().limits == ()
    own = chosen(worker_extension_cls="mine.Extension")
    assert "worker_extension_cls" not in own.args
    [parallel] = chosen(tensor_parallel_size=2).limits
    assert parallel.endswith("tensor parallelism sends each process a copy of a step")
    assert own.limits == (f"{PREPARED_IN_FULL}: vLLM takes one worker_extension_cls, here 'mine.Extension'",)
