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
from enum import Enum
from pathlib import Path
from typing import Any

from gpuqa import __version__
from gpuqa.config import plain
from gpuqa.config.model_files import TOKENIZER_FILES, WEIGHT_FILES
from gpuqa.config.paths import PACKAGE
from gpuqa.config.pipeline import ModelConfig, PromptConfig
from gpuqa.engines import BACKENDS
from gpuqa.hubs import sha256_of as sha256_of_file
from gpuqa.hubs.record import Record
from gpuqa.hubs.record import read as read_record
from gpuqa.machine import hardware

SCORING_PACKAGES = ("jieba", "rouge-score", "rapidfuzz")
MEASURING_CODE = (  # glob patterns of the package's files that can change a number of a trial; see `sha256_of_code`
    "records.py",
    "machine/**/*.py",
    "config/**/*.py",
    "engines/**/*.py",
    "pipeline/**/*.py",
    "measure/**/*.py",
    "study/engine_session.py",
    "study/grid.py",  # the order of the passes
)
NOT_MEASURING = (  # among those: what only a server reads, words a message or judges
    *(
        "config/http.py",
        "config/executor.py",
        "config/app.py",
        "config/usage.py",
        "config/command_line.py",
        "config/wrong_overrides.py",
    ),
    *("config/wrong_values.py", "config/cells.py", "config/prompt_search.py", "pipeline/file_kinds.py"),
    *("pipeline/dataset/refusals.py", "pipeline/dataset/summary.py", "measure/metric_table.py"),
    *("measure/speed_tests.py", "measure/speed_prediction.py", "measure/paired.py"),  # read numbers that are there
)


def sha256_of(value: Any) -> str:
    """Digest of plain data, independent of key order."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Stage(Enum):
    """Why a cell is measured: each stage of a study keeps its numbers under a key of its own."""

    first_round = "first round"
    finals = "measured again"  # as a finalist
    confirmation = "confirmed"  # as the winner, by passes that did not choose it


def at_stage(key: str, stage: Stage) -> str:
    """The key under which the trial `key` of the first round is kept when it is measured in another stage."""
    return key if stage is Stage.first_round else sha256_of([stage.value, key])


def sha256_of_files(folder: Path, patterns: Iterable[str], downloaded: Record | None = None) -> str:
    """Digest over the contents of the files that match, and over their paths below the folder; hidden folders do not count.

    Raises:
        UserError: a file is not the one that was downloaded.
    """
    matching = {file.relative_to(folder) for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    whole = hashlib.sha256()
    for path in sorted(path for path in matching if not any(part.startswith(".") for part in path.parts[:-1])):
        digest = sha256_of_file(folder / path)
        if downloaded is not None:
            downloaded.check(folder, folder / path, digest)
        whole.update(f"{path.as_posix()}\0{digest}\n".encode())
    return whole.hexdigest()


def sha256_of_model(folder: Path) -> dict[str, str]:
    """Digests of a model folder: weights with their architecture, and tokenizer with its chat template.

    Raises:
        UserError: a file is not the one that `gpuqa.download` brought.
    """
    downloaded = read_record(folder)
    if downloaded is not None:
        downloaded.check_sizes(folder)
    patterns = {"weights": WEIGHT_FILES, "tokenizer": TOKENIZER_FILES}
    return {name: sha256_of_files(folder, globs, downloaded) for name, globs in patterns.items()}


def sha256_of_prompt(prompt: PromptConfig) -> str:
    """Digest of a prompt variant's text and postprocessing, whatever it is called. How the text is put into a chat
    (`template`, `system_in`) shows in the digest of the prompt's tokens, `gpuqa.pipeline.prompts.PromptEncoder.digest`."""
    return sha256_of({key: value for key, value in asdict(prompt).items() if key not in ("name", "template", "system_in")})


def model_revision(model: ModelConfig, folder: Path) -> str | None:
    """The commit that was downloaded into the folder, or the revision where its hub named none. Of a folder that was filled
    otherwise, the revision that the configuration names; None for a model that has no repository.

    Raises:
        UserError: what was downloaded is not what the configuration names.
    """
    if (downloaded := read_record(folder)) is not None:
        downloaded.check_source(model.download, folder)
        return downloaded.commit or downloaded.revision
    return model.download.wanted if model.download.repository is not None else None


def sha256_of_code(package: Path) -> str:
    """Digest of the code that can change a number of a trial: of what answers, takes the time and scores.

    A verdict, a report or a server reads numbers that are there, so a change to those measures nothing again.
    """
    files = {file for pattern in MEASURING_CODE for file in package.glob(pattern)}
    files -= {package / name for name in NOT_MEASURING}
    return sha256_of({file.relative_to(package).as_posix(): file.read_text(encoding="utf-8") for file in sorted(files)})


def packages() -> list[str]:
    """The distributions whose versions can change a number: those of every backend, and those that score."""
    return list(dict.fromkeys([*(name for entry in BACKENDS.values() for name in entry.packages), *SCORING_PACKAGES]))


def environment() -> dict[str, Any]:
    """Versions and device of this process, and the digest of the code that measures."""
    versions = {"gpuqa": __version__, "python": platform.python_version()}
    for name in packages():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"versions": versions, **hardware.describe(), "code": sha256_of_code(PACKAGE)}


def git_commit() -> str | None:
    """The commit of the checkout that this code runs from, with "+" if it has uncommitted changes."""
    try:
        where = ["git", "-C", str(PACKAGE)]
        commit = subprocess.run([*where, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*where, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
        return commit + ("+" if changes.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return None
