"""What `serve run gpuqa.ray_app:app` takes and refuses; test_ray_app_served.py runs it on a real cluster."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import child_environment
from made_winner import made_winner

from gpuqa import ray_app
from gpuqa.config import UserError
from gpuqa.config.app import compose_root
from gpuqa.config.commands import ServeConfig

needs_ray_serve = pytest.mark.skipif(importlib.util.find_spec("grpc_reflection") is None, reason="ray[serve] is not installed")


@pytest.fixture(scope="module")
def winner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_winner(tmp_path_factory.mktemp("winner"), "engine=transformers")


def test_arguments_of_a_file_and_of_a_command_line_are_the_same_overrides() -> None:
    nested = {"frozen": "a.yaml", "warmup": None, "http": {"replicas": 2, "batch_str_as_list": False}}
    flat = {"frozen": "a.yaml", "warmup": "null", "http.replicas": "2", "http.batch_str_as_list": "false"}
    assert list(ray_app.overrides(nested)) == list(ray_app.overrides(flat))


BAD_ARGUMENTS = [
    ({"frozen": "nowhere.yaml"}, "frozen: 'nowhere.yaml' does not exist"),
    ({"http": "seral"}, "http: got 'seral', allowed is batch, serial; did you mean 'serial'?"),
    ({"http": {"replicas": 0}}, "http.replicas: got 0, allowed is auto, or an integer of at least 1"),
    ({"http.port": "9000"}, "http.port: Ray Serve decides this, not gpuqa; say it under http_options of the file"),
    (
        {"http": {"restart_attempts": 1}},
        "http.restart_attempts: Ray Serve decides this, not gpuqa; it replaces a lost engine by its",
    ),
    ({"http.cors_origins": ["a page"]}, "http.cors_origins: got 'a page', allowed is origins such as"),
    ({"autoscaling_config.max_replicas": "3"}, "autoscaling_config: http.replicas is 1, and does not change; say http.rep"),
    ({"http.replicas": "auto", "autoscaling_config": {"max_replica": 3}}, "did you mean 'max_replicas'?"),
    ({"http.replicas": "auto", "autoscaling_config": {"max_replicas": -1}}, "autoscaling_config.max_replicas: got -1: Input"),
    ({"http.watch_frozen": "true"}, "http.watch_frozen: Ray Serve decides this, not gpuqa; `serve deploy` with another"),
]


@needs_ray_serve
@pytest.mark.parametrize(("args", "told"), BAD_ARGUMENTS, ids=[told.partition(":")[0] for _, told in BAD_ARGUMENTS])
def test_wrong_arguments_are_named_before_anything_starts(args: dict[str, Any], told: str, winner: Path) -> None:
    with pytest.raises(UserError) as refused:
        ray_app.application({"frozen": str(winner), **args})
    assert told in str(refused.value)


@needs_ray_serve
@pytest.mark.slow
def test_serve_run_ends_with_one_line_and_exit_code_2_where_the_input_is_wrong() -> None:
    words = [sys.executable, "-m", "ray.serve.scripts", "run", "gpuqa.ray_app:app", "frozen=nowhere.yaml"]
    done = subprocess.run(words, env=child_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("Error: frozen: 'nowhere.yaml' does not exist"), done.stderr
    assert "Traceback" not in done.stderr


def test_without_ray_serve_one_line_says_what_to_install(winner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    with pytest.raises(UserError) as refused:
        ray_app.application({"frozen": str(winner)})
    assert str(refused.value) == "gpuqa.ray_app: Ray Serve is not installed; pip install 'gpuqa[ray-serve]'"


@needs_ray_serve
def test_replicas_are_a_number_or_follow_the_questions_that_wait_up_to_what_an_engine_answers_at_once(winner: Path) -> None:
    config = compose_root("serve", [f"frozen={winner}", "http.replicas=3"], ServeConfig)
    pipeline = ray_app.read_winner(config)[1]
    assert ray_app.number_of_replicas(config, pipeline, {}) == {"num_replicas": 3}
    config = compose_root("serve", [f"frozen={winner}", "http.replicas=auto"], ServeConfig)
    asked = ray_app.scaling({"frozen": "x", "autoscaling_config.max_replicas": "8", "autoscaling_config": {"min_replicas": 2}})
    scale = ray_app.number_of_replicas(config, pipeline, asked)["autoscaling_config"]
    assert (scale.min_replicas, scale.max_replicas) == (2, 8)
    width = scale.get_target_ongoing_requests()
    assert width == pipeline.engine_args()["batch_size"]
    wanted = scale.policy.get_policy()
    for waiting, replicas in (([0], 0), ([width], 1), ([width, 1], 2), ([5 * width, width, width], 7)):
        told = {"questions": dict(enumerate(waiting))}
        assert wanted(SimpleNamespace(aggregated_metrics=told, config=scale)) == (replicas, {})
