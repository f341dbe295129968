"""Hubs that keep weights: what a hub lists of a revision, and which of its files are whole on this disk.

One module for each hub has the same two functions: `list_files` asks what there is, `fetch` brings some of it into a folder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Protocol

from gpuqa.config.pipeline import DownloadConfig


class HubFailed(Exception):
    """The hub did not deliver, or not what was expected. The message is one line with the reason."""


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file of a repository, as its hub lists it."""

    path: str  # relative to the repository, with "/"
    size: int  # bytes
    sha256: str | None = None  # of the content, in lower case
    git_sha1: str | None = None  # of git's blob: Hugging Face has it where it has no sha256

    @property
    def digest(self) -> str | None:
        """The one to compare; None where the hub lists neither."""
        return self.sha256 or self.git_sha1

    def digest_of(self, file: Path) -> str | None:
        """The digest of a file on the disk, of the kind that is listed; None where none is."""
        if self.git_sha1 is None or self.sha256 is not None:
            return sha256_of(file) if self.sha256 is not None else None
        with file.open("rb") as stream:
            blob = hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)
            return hashlib.file_digest(stream, lambda: blob).hexdigest()

    def difference(self, file: Path) -> str | None:
        """What a file on the disk has that this one has not, size first; None where all that is listed agrees."""
        if not file.is_file():
            return "it is absent"
        if (size := file.stat().st_size) != self.size:
            return f"it has {size} bytes, the hub lists {self.size}"
        if (digest := self.digest_of(file)) != self.digest:
            return f"its digest is {digest}, expected is {self.digest}"
        return None


@dataclass(frozen=True, slots=True)
class Listing:
    """All files of a revision, each once."""

    revision: str  # as it was asked for: a branch, a tag or a commit
    commit: str | None  # that it was then; None where the hub names none
    files: tuple[ListedFile, ...]


class HubClient(Protocol):
    """A hub, by its own client."""

    def list_files(self, source: DownloadConfig) -> Listing:
        """What the hub lists at `source.wanted`. Raises HubFailed."""

    def fetch(self, source: DownloadConfig, listing: Listing, files: list[ListedFile], folder: Path) -> None:
        """Bring these files of the listing into the folder; one that a call before left half done is continued.

        Raises:
            HubFailed: one of them did not come.
        """


def checked(listing: Listing, source: DownloadConfig) -> Listing:
    """The listing with the digests that `model.download.sha256` pins, once it is fit to be fetched.

    Raises:
        HubFailed: it is empty, a path does not lie inside the folder, or what is pinned is not what is listed.
    """
    if not listing.files:
        raise HubFailed("the hub lists no file; it also answers so where it does not know the repository or the revision")
    outside = [file.path for file in listing.files if not lies_inside(file.path)]
    if outside:
        raise HubFailed(f"the hub lists {outside[0]!r}, a path outside the model's folder; nothing was fetched")
    if absent := sorted(source.sha256.keys() - {file.path for file in listing.files}):
        raise HubFailed(f"model.download.sha256 names {absent[0]!r}, which the hub does not list")
    for file in listing.files:
        pin = source.sha256.get(file.path)
        if pin is not None and file.sha256 is not None and pin.lower() != file.sha256:
            raise HubFailed(f"{file.path}: the hub lists sha256 {file.sha256}, model.download.sha256 says {pin}")
    return replace(listing, files=tuple(with_pin(file, source.sha256) for file in listing.files))


def lies_inside(path: str) -> bool:
    """Whether a listed path names a file below the folder that it is put in."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "\\" not in path and "\0" not in path


def with_pin(file: ListedFile, pins: Mapping[str, str]) -> ListedFile:
    """The file with the sha256 that is pinned for it, where there is one."""
    return replace(file, sha256=pins[file.path].lower()) if file.path in pins else file


def sha256_of(file: Path) -> str:
    """Of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def settings(scratch: Path) -> dict[str, str]:
    """The environment in which both clients run, set before they are imported.

    What they keep for themselves goes to `scratch`: a home that cannot be written stops nothing, and no login that was saved
    in it, nor one in ~/.netrc, takes part. A token comes from HF_TOKEN or MODELSCOPE_API_TOKEN alone.
    """
    return {
        "HF_HUB_OFFLINE": "0",  # download is the one command that asks for the network
        "HF_HOME": str(scratch / "huggingface"),
        "MODELSCOPE_HOME": str(scratch / "modelscope"),
        "MODELSCOPE_CACHE": str(scratch / "modelscope"),
        "MODELSCOPE_API_TOKEN": os.environ.get("MODELSCOPE_API_TOKEN", ""),  # without it, the one that a login saved
        "NETRC": os.devnull,
    }


def reason_of(error: BaseException) -> str:
    """The first line of what an error says, or of its first cause: clients put words of their own around that."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
