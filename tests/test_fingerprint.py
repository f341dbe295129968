"""Digests change with what a trial depends on, and with nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import fields, replace
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpuqa.config.paths import PACKAGE
from gpuqa.config.pipeline import Backend, DownloadConfig, ExampleConfig, ModelConfig, PostprocessConfig, PromptConfig
from gpuqa.engines import BACKENDS
from gpuqa.measure import fingerprint

LEAF = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
LEAF = LEAF.filter(lambda value: not isinstance(value, str) or value.isprintable())
PLAIN = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc是", max_size=3), inner, max_size=4)
)


def reversed_keys(value):
    """The same data, every dict with its keys in the opposite order."""
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


@settings(max_examples=50, deadline=None, database=None)
@given(value=PLAIN)
def test_a_digest_does_not_depend_on_the_order_of_keys(value):
    assert fingerprint.sha256_of(value) == fingerprint.sha256_of(reversed_keys(value))


@settings(max_examples=50, deadline=None, database=None)
@given(one=PLAIN, other=PLAIN)
def test_different_data_have_different_digests(one, other):
    assume(one != other)
    assert fingerprint.sha256_of({"key": one}) != fingerprint.sha256_of({"key": other})


def test_a_digest_is_the_sha256_of_sorted_json_so_that_other_tools_can_check_it():
    digest = hashlib.sha256('{"a": "是", "b": [1, null]}'.encode()).hexdigest()
    assert fingerprint.sha256_of({"b": [1, None], "a": "是"}) == digest


def test_an_enum_and_its_name_have_one_digest_so_that_files_compare_with_objects():
    class Other(Enum):
        vllm = "something else"

    assert fingerprint.sha256_of({"backend": Backend.vllm}) == fingerprint.sha256_of({"backend": "vllm"})
    assert fingerprint.sha256_of([Other.vllm]) == fingerprint.sha256_of(("vllm",))


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        (folder / name).write_text(f"content of {name}")
    return folder


def changed(folder: Path, before: dict[str, str]) -> list[str]:
    return [what for what, digest in fingerprint.sha256_of_model(folder).items() if digest != before[what]]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("model.safetensors", ["weights"]),
        ("model-00002-of-00002.safetensors", ["weights"]),
        ("pytorch_model.bin", ["weights"]),
        ("config.json", ["weights"]),
        ("generation_config.json", ["weights"]),
        ("hf_quant_config.json", ["weights"]),
        ("quantize_config.json", ["weights"]),
        ("adapter_config.json", ["weights"]),
        ("adapter_model.safetensors", ["weights"]),
        ("params.json", ["weights"]),
        ("modeling_own.py", ["weights"]),
        ("layers/attention.py", ["weights"]),
        ("tokenizer.json", ["tokenizer"]),
        ("tokenizer_config.json", ["tokenizer"]),
        ("vocab.json", ["tokenizer"]),
        ("merges.txt", ["tokenizer"]),
        ("special_tokens_map.json", ["tokenizer"]),
        ("added_tokens.json", ["tokenizer"]),
        ("chat_template.jinja", ["tokenizer"]),
        ("chat_template.json", ["tokenizer"]),
        ("additional_chat_templates/rag.jinja", ["tokenizer"]),
        ("spiece.model", ["tokenizer"]),
        ("qwen.tiktoken", ["tokenizer"]),
        ("tekken.json", ["tokenizer"]),
        ("README.md", []),
        ("qwen-zh-basic.json", []),
        ("checkpoint-500/model.safetensors", []),
        (".cache/modules/old.py", []),
    ],
)
def test_writing_a_file_changes_only_the_digest_that_it_belongs_to(model, name, what):
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    before = fingerprint.sha256_of_model(model)
    (model / name).write_text("another content")
    assert changed(model, before) == what


def test_removing_or_renaming_a_file_changes_its_digest(model):
    before = fingerprint.sha256_of_model(model)
    (model / "chat_template.jinja").rename(model / "chat_template2.jinja")
    assert changed(model, before) == ["tokenizer"]
    (model / "config.json").unlink()
    assert changed(model, before) == ["weights", "tokenizer"]


def test_a_file_that_moves_into_a_subfolder_is_another_model(model):
    (model / "layers").mkdir()
    (model / "attention.py").write_text("code")
    before = fingerprint.sha256_of_model(model)
    (model / "attention.py").rename(model / "layers" / "attention.py")
    assert changed(model, before) == ["weights"]


def test_two_files_with_each_others_content_are_another_model(model):
    before = fingerprint.sha256_of_model(model)
    one, other = model / "config.json", model / "model.safetensors"
    texts = one.read_text(), other.read_text()
    one.write_text(texts[1])
    other.write_text(texts[0])
    assert changed(model, before) == ["weights"]


def test_digests_do_not_depend_on_where_the_folder_lies_or_on_its_dates(model, tmp_path):
    before = fingerprint.sha256_of_model(model)
    elsewhere = Path(shutil.copytree(model, tmp_path / "elsewhere" / "named otherwise"))
    for file in elsewhere.iterdir():
        os.utime(file, (1, 1))
    assert fingerprint.sha256_of_model(elsewhere) == before


PROMPT = PromptConfig(
    name="p", system="系统", user="{question}", examples=[ExampleConfig("甲", "乙")], postprocess=PostprocessConfig()
)
OTHER_PROMPT = {
    "system": None,
    "user": "问题：{question}",
    "examples": [ExampleConfig("甲", "丙")],
    "postprocess": PostprocessConfig(strip_headings=False),
}


def test_every_field_of_a_prompt_but_its_name_counts():
    digest = fingerprint.sha256_of_prompt(PROMPT)
    in_the_prompts_tokens = {"template", "system_in"}  # tests/test_prompts.py holds their digest
    assert {field.name for field in fields(PromptConfig)} == {"name", *in_the_prompts_tokens, *OTHER_PROMPT}
    unnoticed = [
        key for key in OTHER_PROMPT if fingerprint.sha256_of_prompt(replace(PROMPT, **{key: OTHER_PROMPT[key]})) == digest
    ]
    assert unnoticed == []
    assert fingerprint.sha256_of_prompt(replace(PROMPT, name="renamed")) == digest


def test_the_environment_names_the_versions_that_are_installed_and_no_others():
    versions = fingerprint.environment()["versions"]
    installed = {
        (one.metadata["Name"] or "").lower().replace("_", "-"): one.version for one in importlib.metadata.distributions()
    }
    assert versions.pop("python") == platform.python_version()
    assert versions.pop("gpuqa")
    assert versions == {name: installed[name] for name in fingerprint.packages() if name in installed}
    needed = {name for entry in BACKENDS.values() for name in entry.packages}
    assert needed | {"jieba", "rouge-score", "rapidfuzz"} == set(fingerprint.packages()), "of all backends, also of a new one"
    assert {"torch", "jieba", "transformers"} <= set(versions)


def test_the_environment_tells_the_device_and_is_the_same_twice():
    found = fingerprint.environment()
    assert found["device"]
    assert isinstance(found["driver"], str)
    assert found == fingerprint.environment()


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A small package in place of gpuqa's own, to change it."""
    package = tmp_path / "checkout" / "gpuqa"
    (package / "engines").mkdir(parents=True)
    (package / "metrics.py").write_text("FACTOR = 1\n")
    (package / "engines" / "one.py").write_text("# 引擎\n", encoding="utf-8")
    monkeypatch.setattr(fingerprint, "PACKAGE", package)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return package


@pytest.fixture(scope="session")
def package(tmp_path_factory) -> Path:
    """A copy of this package, to edit it and put it back."""
    return Path(shutil.copytree(PACKAGE, tmp_path_factory.mktemp("copy") / "gpuqa", ignore=shutil.ignore_patterns("model")))


@contextlib.contextmanager
def edited(file: Path) -> Iterator[None]:
    before = file.read_bytes()
    file.write_bytes(before + b"# a comment\n")
    yield
    file.write_bytes(before)


CAN_CHANGE_A_NUMBER = [
    "records.py",
    "machine/hardware.py",
    "config/pipeline.py",
    "config/measurement.py",
    "engines/__init__.py",
    "engines/vllm/engine.py",
    "engines/vllm/burst/scheduler.py",
    "pipeline/prompts.py",
    "measure/cell.py",
    "measure/metrics.py",
    "study/engine_session.py",
    "study/grid.py",
]
CANNOT_CHANGE_A_NUMBER = [
    "study/report.py",
    "study/page/report.html.j2",
    "study/page/content.py",
    "study/run_file.py",
    "study/journal.py",
    "study/conclusion.py",
    "selection/verdict.py",
    "measure/metric_table.py",
    "measure/speed_tests.py",
    "study/finals.py",
    "roofline/roofline.py",
    "serving/app.py",
    "config/http.py",
    "config/usage.py",
    "config/wrong_overrides.py",
    "pipeline/dataset/summary.py",
    "frozen.py",
    "freeze.py",
    "serve.py",
    "embedded/train.py",
]


@pytest.mark.parametrize("name", CAN_CHANGE_A_NUMBER)
def test_an_edit_of_code_that_can_change_a_number_changes_the_trials_key(package, name):
    before = fingerprint.sha256_of_code(package)
    with edited(package / name):
        assert fingerprint.sha256_of_code(package) != before
    assert fingerprint.sha256_of_code(package) == before


@pytest.mark.parametrize("name", CANNOT_CHANGE_A_NUMBER)
def test_a_comment_in_code_that_only_reads_numbers_measures_nothing_again(package, name):
    before = fingerprint.sha256_of_code(package)
    with edited(package / name):
        assert fingerprint.sha256_of_code(package) == before


@pytest.mark.parametrize("pattern", [*fingerprint.MEASURING_CODE, *fingerprint.NOT_MEASURING])
def test_every_pattern_of_measuring_code_names_files_that_exist(pattern):
    assert any(PACKAGE.glob(pattern)), "a file that was moved would drop out of the key unnoticed"


def test_a_renamed_module_that_measures_counts_as_other_code(package):
    before = fingerprint.sha256_of_code(package)
    (package / "measure" / "rouge.py").rename(package / "measure" / "rouge2.py")
    after = fingerprint.sha256_of_code(package)
    (package / "measure" / "rouge2.py").rename(package / "measure" / "rouge.py")
    assert after != before


def test_the_code_that_measures_is_part_of_the_environment():
    assert fingerprint.environment()["code"] == fingerprint.sha256_of_code(PACKAGE)


def test_the_revision_is_that_of_the_repository_and_a_model_without_one_has_none(tmp_path):
    source = DownloadConfig(repository="somebody/a-model", revision="v1.0")
    assert fingerprint.model_revision(ModelConfig(name="m", path="m", download=source), tmp_path) == "v1.0"
    assert fingerprint.model_revision(ModelConfig(name="embedded", path="m"), tmp_path) is None


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_says_when_the_checkout_was_edited(checkout):
    assert fingerprint.git_commit() is None  # not a checkout yet
    git(checkout.parent, "init", "-q")
    assert fingerprint.git_commit() is None  # no commit yet
    git(checkout.parent, "add", ".")
    git(checkout.parent, "commit", "-q", "-m", "first")
    commit = git(checkout.parent, "rev-parse", "HEAD")
    assert fingerprint.git_commit() == commit
    (checkout.parent / "outputs.txt").write_text("untracked files are no edit")
    assert fingerprint.git_commit() == commit
    (checkout / "metrics.py").write_text("FACTOR = 2\n")
    assert fingerprint.git_commit() == f"{commit}+"


def test_without_git_there_is_no_commit(checkout, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fingerprint.git_commit() is None
