"""Tests of which vLLM our parts of it are used with."""

from __future__ import annotations

import pytest

from gpuqa.config.pipeline import EngineConfig, Scheduler
from gpuqa.engines.vllm import overrides

BURST = EngineConfig(name="x", backend="vllm", args={"max_model_len": 64}, scheduler=Scheduler.burst)


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1", "0.33.0", "0.33.0rc1"])
def test_bursts_are_on_with_a_vllm_that_they_were_run_with(version, monkeypatch):
    monkeypatch.setattr(overrides, "version", lambda: version)
    assert "scheduler_cls" in overrides.scheduler_args(BURST)


@pytest.mark.parametrize("version", ["0.26.0", "0.31.9", "0.34.0", "0.3.2", "1.0.0", "not installed"])
def test_bursts_are_off_with_any_other_vllm_and_that_is_said(version, monkeypatch, caplog):
    monkeypatch.setattr(overrides, "version", lambda: version)
    assert overrides.scheduler_args(BURST) == {}
    assert caplog.messages == [f"engine.scheduler=burst is off: this is vLLM {version}, it knows 0.32.*, 0.33.*"]
