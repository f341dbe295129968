"""Fetch a model's weights into the folder that its config names.

    python -m gpuqa.download model=qwen3_0_6b_gpu_pro
    HF_TOKEN=... python -m gpuqa.download model=qwen3_0_6b_gpu_pro model.download.hub=huggingface
    python -m gpuqa.download model=qwen3_0_6b_gpu_pro model.path=/mnt/weights

A token comes from the hub's own environment variable (HF_TOKEN, MODELSCOPE_API_TOKEN) and from nowhere else. Files named in
`model.download.sha256` are verified; digests of the others are printed, so that they can be pinned.

Exit codes: 0 fetched and verified, 1 the hub could not be reached or a digest differs, 2 the input is wrong.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpuqa.config import UserError
from gpuqa.config.app import run_command
from gpuqa.config.command_line import command_line, override
from gpuqa.config.commands import ModelDownloadConfig, resolve
from gpuqa.config.pipeline import Hub, ModelConfig

FAILED = 1


class DownloadFailed(Exception):
    """The hub did not deliver, or not what was expected."""


def main() -> None:
    """Enter with conf/download.yaml."""
    os.environ["HF_HUB_OFFLINE"] = "0"  # the one command that asks for the network
    run_command(download, "download")


def download(composed: Any) -> int:
    """Fetch and verify -> exit code."""
    model = resolve(composed, ModelDownloadConfig).model
    source = model.download
    if source.repository is None:
        raise UserError(
            f"model={model.name} ships with the project: model.download.repository is null, there is nothing to fetch"
        )
    folder = Path(model.path)
    try:
        HUBS[source.hub](model, folder)
        verify(folder, source.sha256)
    except DownloadFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    print(f"{model.name} is in {folder}; measure it with: {command_line('sweep', override('model', model.name))}")
    return 0


def from_huggingface(model: ModelConfig, folder: Path) -> None:
    """huggingface_hub's snapshot of one revision, with its own progress bars."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    source = model.download
    assert source.repository is not None
    wanted = f"{source.repository} at revision {source.revision}"
    token = os.environ.get("HF_TOKEN") or False  # False: not the one that a login left in a file
    try:
        # Asked first, because snapshot_download takes whatever is in the folder for the model when it cannot reach the hub.
        commit = HfApi(token=token).model_info(source.repository, revision=source.revision).sha
        snapshot_download(source.repository, revision=commit, local_dir=folder, token=token)
    except HfHubHTTPError as error:
        raise DownloadFailed(f"{wanted}: the hub answered: {first_line(error)}") from error
    except Exception as error:  # httpx's errors, the library's own and plain ones; all mean that it did not come whole
        raise DownloadFailed(f"{wanted}: the hub cannot be reached: {first_line(error)}") from error


def from_modelscope(model: ModelConfig, folder: Path) -> None:
    """modelscope's snapshot of one revision; the package is not a dependency, because only this needs it."""
    try:
        from modelscope import snapshot_download
    except ImportError as error:
        raise UserError("model.download.hub=modelscope needs the package: pip install modelscope") from error
    source = model.download
    try:
        snapshot_download(source.repository, revision=source.revision, local_dir=str(folder))
    except Exception as error:  # it raises requests' errors, its own and plain ones; all mean that nothing came
        raise DownloadFailed(
            f"{source.repository} at revision {source.revision}: ModelScope did not deliver: {first_line(error)}"
        ) from error


HUBS: dict[Hub, Callable[[ModelConfig, Path], None]] = {Hub.huggingface: from_huggingface, Hub.modelscope: from_modelscope}


def verify(folder: Path, expected: dict[str, str]) -> None:
    """Compare every named file's sha256; print those of the unnamed ones.

    Raises:
        DownloadFailed: a file is absent or differs.
    """
    for name, digest in expected.items():
        file = folder / name
        actual = sha256(file) if file.is_file() else "no such file"
        if actual != digest:
            raise DownloadFailed(f"{file}: sha256 is {actual}, model.download.sha256 says {digest}; remove it and fetch again")
    for file in sorted(folder.glob("*")):
        if file.is_file() and file.name not in expected:
            print(f"not pinned: {file.name}: {sha256(file)}")


def sha256(file: Path) -> str:
    """Hex digest of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error) or type(error).__name__).strip().splitlines()[0]


if __name__ == "__main__":
    main()
