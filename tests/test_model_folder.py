"""What users bring as a model, each kind of damage found from the files and told in one line before an engine starts."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpuqa.config import UserError
from gpuqa.config.paths import PACKAGE
from gpuqa.config.pipeline import Backend, EngineConfig
from gpuqa.pipeline.model_folder import check_length, check_weights, longest_context

EMBEDDED = PACKAGE / "embedded" / "model"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2234528\n"
WEIGHTS = "model.safetensors"


def change(name: str, make: Callable[[bytes], bytes | str | None]) -> Callable[[Path], None]:
    """A damage: the file `name` gets what is made of its content; None removes it."""

    def damage(folder: Path) -> None:
        file = folder / name
        made = make(file.read_bytes() if file.exists() else b"")
        if made is None:
            file.unlink()
        else:
            file.write_bytes(made.encode() if isinstance(made, str) else made)

    return damage


def adapter(folder: Path) -> None:
    """What PEFT saves: no config.json, no whole weights."""
    for file in folder.iterdir():
        file.unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen3-0.6B", "peft_type": "LORA"}))
    (folder / "adapter_model.safetensors").write_bytes((EMBEDDED / WEIGHTS).read_bytes())


def two_shards(*there: str) -> Callable[[Path], None]:
    """A checkpoint in two files, of which only some are there."""

    def damage(folder: Path) -> None:
        shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        listing = {"metadata": {}, "weight_map": {f"layer.{number}": shard for number, shard in enumerate(shards)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(listing))
        for shard in there:
            shutil.copy(folder / WEIGHTS, folder / shard)
        (folder / WEIGHTS).unlink()

    return damage


def zip_archive(content: bytes) -> bytes:
    """The beginning of what torch.save writes."""
    return b"PK\x03\x04" + content[:100]


DEEP = '{"a":' * 2_000 + "1" + "}" * 2_000
LOADED = json.dumps({"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
DAMAGED = {
    "a LoRA adapter": (adapter, "holds a LoRA adapter of 'Qwen/Qwen3-0.6B' .*: merge it first "),
    "an adapter beside a model": (
        change("adapter_config.json", lambda _: "{}"),
        "holds a LoRA adapter of None .*merge it first",
    ),
    "a pointer to weights": (change(WEIGHTS, lambda _: POINTER), f"{WEIGHTS} is a git-LFS pointer.*`git lfs pull`"),
    "a pointer to config.json": (change("config.json", lambda _: POINTER), "config.json is a git-LFS pointer"),
    "empty weights": (change(WEIGHTS, lambda _: b""), f"{WEIGHTS} is empty; download it again"),
    "a cut header": (
        change(WEIGHTS, lambda whole: whole[:500]),
        f"{WEIGHTS} is cut or not a safetensors file: it has 500 bytes",
    ),
    "six bytes": (change(WEIGHTS, lambda whole: whole[:6]), f"{WEIGHTS} is cut or not a safetensors file"),
    "cut weights": (
        change(WEIGHTS, lambda whole: whole[:-1]),
        f"{WEIGHTS} is cut or damaged: it has 2,234,527 bytes, .* 2,234,528",
    ),
    "weights with more behind": (change(WEIGHTS, lambda whole: whole + b"x"), "is cut or damaged: it has 2,234,529 bytes"),
    "an error page": (
        change(WEIGHTS, lambda _: "<!DOCTYPE html>" + " " * 99),
        f"{WEIGHTS} is an HTML page, not the file itself; download it again",
    ),
    "a page in place of a torch file": (
        change("pytorch_model.bin", lambda _: "\n<html><body>404</body></html>"),
        "pytorch_model.bin is an HTML page, not the file itself; download it again",
    ),
    "a page in place of config.json": (change("config.json", lambda _: "<html>"), "config.json is an HTML page, not the file"),
    "an archive with the weights in it": (change(WEIGHTS, zip_archive), f"{WEIGHTS} is a zip archive, not the file itself"),
    "a header that is no JSON": (change(WEIGHTS, lambda _: b"\4" + bytes(7) + b"{{{{"), "its header cannot be read"),
    "a header that is a list": (change(WEIGHTS, lambda _: b"\2" + bytes(7) + b"[]"), "its header cannot be read"),
    "a header without tensors": (change(WEIGHTS, lambda _: b"\2" + bytes(7) + b"{}"), "its header cannot be read"),
    "a cut torch file": (change("pytorch_model.bin", zip_archive), "pytorch_model.bin is cut"),
    "a missing shard": (
        two_shards("model-00001-of-00002.safetensors"),
        "lacks 1 of the 2 weight files .* model-00002-of-00002",
    ),
    "no shard at all": (two_shards(), "has no weights"),
    "an index without a map": (change("model.safetensors.index.json", lambda _: "{}"), "index.json is damaged"),
    "no config.json": (change("config.json", lambda _: None), "has no config.json .there is: chat_template.jinja, "),
    "half a config.json": (
        change("config.json", lambda whole: whole[:99]),
        "config.json cannot be read: .*; download it again",
    ),
    "a config.json that is nested too deeply": (
        change("config.json", lambda _: DEEP),
        "config.json cannot be read: it is nested too",
    ),
    "a deep index": (
        change("model.safetensors.index.json", lambda _: DEEP),
        "index.json cannot be read: it is nested too deeply",
    ),
    "a deep adapter": (
        change("adapter_config.json", lambda _: DEEP),
        "adapter_config.json cannot be read: it is nested too deeply",
    ),
    "a deep header": (
        change(WEIGHTS, lambda _: len(DEEP).to_bytes(8, "little") + DEEP.encode()),
        f"{WEIGHTS} is not a safetensors file: its header cannot be read",
    ),
    "a config.json that is a list": (change("config.json", lambda _: "[1]"), "config.json cannot be read: it holds a list"),
    "no weights": (change(WEIGHTS, lambda _: None), r"has no weights .*none of \*.safetensors"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The embedded model, to damage it."""
    return Path(shutil.copytree(EMBEDDED, tmp_path / "model"))


@pytest.mark.parametrize("case", DAMAGED)
def test_a_folder_that_holds_no_whole_model_is_refused_in_one_line_that_says_why(case: str, folder: Path) -> None:
    damage, told = DAMAGED[case]
    damage(folder)
    with pytest.raises(UserError, match=told) as caught:
        check_weights(folder)
    assert str(caught.value).startswith(f"model.path: {folder}")
    assert "\n" not in str(caught.value)


HEADER = {"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def header_of(length: int) -> Callable[[Path], None]:
    """Weights whose header has this many bytes, which the file begins with."""
    content = json.dumps(HEADER).ljust(length).encode()
    return change(WEIGHTS, lambda _: length.to_bytes(8, "little") + content + bytes(8))


WHOLE: dict[str, Callable[[Path], None]] = {
    "the embedded model": lambda _: None,
    "all shards": two_shards("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
    "an older torch file, which is no zip archive": change("training_args.bin", lambda _: b"\x80\x02pickled"),
    "metadata in the header": change(
        WEIGHTS,
        lambda _: (
            (len(LOADED) + 33).to_bytes(8, "little") + b'{"__metadata__": {"format": "a"},' + LOADED[1:] + b" " + bytes(8)
        ),
    ),
    "a header whose length begins as a gzip archive does": header_of(0x8B1F),
    "Mistral's own form": lambda folder: (folder / "config.json").rename(folder / "params.json") and None,
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_whole_model_passes(case: str, folder: Path) -> None:
    WHOLE[case](folder)
    check_weights(folder)


def test_what_pytorch_writes_passes_and_a_cut_one_does_not(folder: Path) -> None:
    import torch

    torch.save({"weight": torch.zeros(3)}, folder / "pytorch_model.bin")
    check_weights(folder)
    change("pytorch_model.bin", lambda whole: whole[:-30])(folder)
    with pytest.raises(UserError, match=r"pytorch_model.bin is cut"):
        check_weights(folder)


def test_a_file_in_place_of_the_folder_is_told(folder: Path) -> None:
    with pytest.raises(UserError, match=r"model.safetensors is a file; allowed is the folder"):
        check_weights(folder / WEIGHTS)


# ------------------------------------------------------------------------------------------------- how long a context may be

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LENGTHS: list[tuple[dict[str, Any], int | None]] = [
    ({"max_position_embeddings": 2048}, 2048),
    ({"n_positions": 1024, "seq_length": 512}, 512),
    ({"text_config": {"max_position_embeddings": 4096}}, 4096),
    ({"max_position_embeddings": 2048, "model_max_length": 8192}, 8192),
    ({"max_position_embeddings": 2048, "rope_scaling": {"type": "linear", "factor": 2.0}}, 4096),
    ({"max_position_embeddings": 2048, "rope_parameters": {"rope_type": "dynamic", "factor": 4}}, 8192),
    ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
    ({"max_position_embeddings": 131072, "rope_scaling": YARN}, 131072),
    ({"max_position_embeddings": 2048, "rope_scaling": None}, 2048),
    ({"hidden_size": 64}, None),
]


@pytest.mark.parametrize(("config", "longest"), LENGTHS, ids=str)
def test_the_longest_context_is_derived_as_vllm_does_it(config: dict[str, Any], longest: int | None) -> None:
    assert longest_context(config) == longest


def engine(length: int, env: dict[str, str] | None = None, **args: Any) -> EngineConfig:
    return EngineConfig(name="e", backend=Backend.vllm, args={"max_model_len": length, **args}, env=env or {})


def test_a_context_longer_than_the_models_is_refused_unless_the_engine_is_told_otherwise(folder: Path) -> None:
    check_length(folder, engine(2048))
    with pytest.raises(UserError, match=rf"engine.args.max_model_len: got 2049, allowed is at most 2048, .* {folder} "):
        check_length(folder, engine(2049))
    check_length(folder, engine(2049, {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}))
    check_length(folder, engine(4096, hf_overrides={"rope_parameters": {"rope_type": "linear", "factor": 2.0}}))


@pytest.mark.parametrize(
    ("positions", "factor"), [(2048, "Infinity"), (2048, "NaN"), (2048, "1e308"), (10**400, "2.0")], ids=str
)
def test_a_rope_factor_that_makes_no_length_is_told_with_its_file(positions: int, factor: str, folder: Path) -> None:
    text = f'{{"max_position_embeddings": {positions}, "rope_scaling": {{"type": "linear", "factor": {factor}}}}}'
    (folder / "config.json").write_text(text)
    with pytest.raises(
        UserError, match=rf"^model.path: {folder}/config.json: .*RoPE factor must be a finite number .*; correct"
    ):
        check_length(folder, engine(2048))


# ---------------------------------------------------------------------------------------------------------- the real command


@pytest.mark.slow
def test_a_sweep_over_a_damaged_model_says_one_line_for_all_its_cells(
    folder: Path, tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    change(WEIGHTS, lambda whole: whole[:-1])(folder)
    axes = ("prompt=bare,structured", "engine.args.max_num_seqs=8,16")
    run = command("sweep", "experiment=none", "study.name=s", *axes, f"model.path={folder}", cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert run.stderr.startswith(f"error: model.path: {folder / WEIGHTS} is cut or damaged")
    assert run.stdout == ""
    assert not (tmp_path / "experiments").exists()
