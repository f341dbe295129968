"""What a frozen file from somebody else may ask for before the operator has said that it is trusted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_frozen import ANSWERS, RULE, winner

from gpuqa import frozen
from gpuqa.config import UserError
from gpuqa.config.foreign import code_in, refuse_code, yaml_of
from gpuqa.config.paths import conf_folder

OPTIONS = sorted(file for group in ("engine", "model", "quantization") for file in (conf_folder() / group).glob("*.yaml"))


def pipeline(**engine: Any) -> dict[str, Any]:
    return {"model": {"trust_remote_code": False}, "quantization": {"args": {}}, "engine": {"args": {}, "env": {}, **engine}}


@pytest.mark.parametrize("file", OPTIONS, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_no_option_of_ours_needs_to_be_trusted(file: Path) -> None:
    assert not list(code_in({file.parent.name: yaml.safe_load(file.read_text(encoding="utf-8"))}))


CODE: list[tuple[dict[str, Any], str]] = [
    ({"args": {"worker_cls": "theirs.Worker"}}, "engine.args.worker_cls='theirs.Worker'"),
    ({"args": {"worker_extension_cls": "theirs"}}, "engine.args.worker_extension_cls='theirs'"),
    ({"args": {"scheduler_cls": "theirs.scheduler.Best"}}, "engine.args.scheduler_cls='theirs.scheduler.Best'"),
    ({"args": {"logits_processors": ["theirs.logits:Best"]}}, "engine.args.logits_processors.0='theirs.logits:Best'"),
    ({"args": {"distributed_executor_backend": "theirs.Executor"}}, "engine.args.distributed_executor_backend='theirs.Exec"),
    ({"args": {"kv_transfer_config": {"kv_connector_module_path": "theirs"}}}, "kv_connector_module_path='theirs'"),
    ({"args": {"compilation_config": {"backend": "theirs.compile"}}}, "engine.args.compilation_config.backend='theirs.comp"),
    ({"args": {"hf_overrides": {"auto_map": {"AutoConfig": "their_file.Config"}}}}, "auto_map.AutoConfig='their_file.Config'"),
    ({"args": {"reasoning_parser_plugin": "/tmp/theirs"}}, "engine.args.reasoning_parser_plugin='/tmp/theirs'"),
    ({"args": {"anything": "/tmp/theirs.py"}}, "engine.args.anything='/tmp/theirs.py'"),
    ({"args": {"trust_remote_code": True}}, "engine.args.trust_remote_code=True"),
    ({"env": {"LD_PRELOAD": "theirs.so"}}, "engine.env.LD_PRELOAD='theirs.so'"),
    ({"env": {"VLLM_PLUGINS": "theirs"}}, "engine.env.VLLM_PLUGINS='theirs'"),
    ({"env": {"OMP_NUM_THREADS": "$(theirs)"}}, "engine.env.OMP_NUM_THREADS='$(theirs)'"),
]


@pytest.mark.parametrize(("engine", "named"), CODE, ids=[named for _, named in CODE])
def test_what_would_run_code_is_refused_by_its_key_and_value_unless_the_file_is_trusted(
    engine: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=r"may run code .* if you trust the file say trust_frozen=true") as refused:
        refuse_code(pipeline(**engine), False, "frozen: theirs.yaml")
    assert named in str(refused.value)
    assert str(refused.value).startswith("frozen: theirs.yaml: ")
    refuse_code(pipeline(**engine), True, "frozen: theirs.yaml")


def test_a_models_own_code_is_refused() -> None:
    assert list(code_in({**pipeline(), "model": {"trust_remote_code": True}})) == ["model.trust_remote_code=True"]


@pytest.mark.parametrize(
    "args",
    [
        {
            "kv_cache_dtype": "fp8_e5m2",
            "gpu_memory_utilization": 0.9,
            "compilation_config": {"cudagraph_capture_sizes": [1, 2]},
        },
        {"speculative_config": {"model": "Qwen/Qwen3-0.6B", "method": "ngram"}, "attention_config": {"backend": "FLASH_ATTN"}},
        {"load_format": "auto", "worker_cls": "", "scheduler_cls": None},
    ],
)
def test_usual_arguments_are_no_code(args: dict[str, Any]) -> None:
    assert not list(code_in(pipeline(args=args, env={"OMP_NUM_THREADS": "1"})))


@pytest.mark.slow
def test_the_commands_refuse_a_file_that_names_code_in_one_line(tmp_path: Path, command: Any) -> None:
    """The winner is the small one of `test_frozen`, with a class that does not exist; nothing gets as far as loading it."""
    file = tmp_path / "theirs" / "frozen.yaml"
    frozen.freeze(frozen.Winner(winner(), ANSWERS), RULE, "它最快。", file)
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content["pipeline"]["engine"]["args"]["worker_cls"] = "theirs.Worker"
    file.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
    for name in ("serve", "reproduce"):
        run = command(name, f"frozen={file}", cwd=tmp_path)
        assert (run.returncode, len(run.stderr.splitlines())) == (2, 1)
        assert "engine.args.worker_cls='theirs.Worker' may run code" in run.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    ["[" * 100 + "]" * 100, "{a: " * 60 + "1" + "}" * 60, "- a\n" * 300_000, "a: &x 1\nb: *x", "a: &x {b: 1}\nc: {<<: *x}"],
)
def test_yaml_beyond_the_bounds_is_refused_at_once(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(yaml.YAMLError):
        yaml_of(text)
    assert time.monotonic() - began < 20, "1.2 MB of values take minutes without the bound"
