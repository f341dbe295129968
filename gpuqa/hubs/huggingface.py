"""Hugging Face, by huggingface_hub. A branch is resolved to its commit before anything is asked of it."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpuqa.config.pipeline import DownloadConfig
from gpuqa.hubs import HubFailed, ListedFile, Listing, reason_of


def list_files(source: DownloadConfig) -> Listing:
    """The tree of the commit that the revision is now."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.hf_api import RepoFile

    assert source.repository is not None
    with reasons():
        api = HfApi(token=token())
        patience_s = constants.HF_HUB_ETAG_TIMEOUT  # without one it would wait for a silent hub for ever
        commit = api.model_info(source.repository, revision=source.wanted, timeout=patience_s).sha
        tree = api.list_repo_tree(source.repository, revision=commit, recursive=True)
        files = tuple(listed(entry) for entry in tree if isinstance(entry, RepoFile))
    return Listing(source.wanted, commit, files)


def listed(entry: object) -> ListedFile:
    """A file of the tree: large ones have a sha256, the others git's own digest."""
    from huggingface_hub.hf_api import RepoFile

    assert isinstance(entry, RepoFile)
    if entry.lfs is not None:
        return ListedFile(entry.path, entry.size, sha256=entry.lfs.sha256)
    return ListedFile(entry.path, entry.size, git_sha1=entry.blob_id)


def fetch(source: DownloadConfig, listing: Listing, files: list[ListedFile], folder: Path) -> None:
    """Those files of the listing's commit, with the client's own progress bars."""
    from huggingface_hub import snapshot_download

    assert source.repository is not None
    patterns = [glob.escape(file.path) for file in files]
    with reasons():
        snapshot_download(source.repository, revision=listing.commit, local_dir=folder, token=token(), allow_patterns=patterns)


def token() -> str | bool:
    """The token of the environment; False keeps the client from taking one that a login left in a file."""
    return os.environ.get("HF_TOKEN") or False


@contextmanager
def reasons() -> Iterator[None]:
    """Turn whatever the client raises into one line."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        raise HubFailed(f"the hub answered: {str(error).splitlines()[0]}") from error
    except Exception as error:  # httpx's errors, the library's own and plain ones; all mean that it did not come whole
        raise HubFailed(f"the hub did not deliver: {reason_of(error)}") from error
