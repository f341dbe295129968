"""ModelScope, by modelscope_hub, the part of its client that downloads.

What the client does otherwise than one expects is mended here: an unknown revision is an empty listing and no error, its first
error line has no reason, and the commit of a listing is dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from gpuqa.config import UserError
from gpuqa.config.pipeline import DownloadConfig
from gpuqa.hubs import HubFailed, ListedFile, Listing, reason_of

COMMIT_TIMEOUT_S = 10.0


def list_files(source: DownloadConfig) -> Listing:
    """The files of the revision, and the commit where the hub names it.

    Raises:
        UserError: the client is not installed.
    """
    api = client()
    with reasons():
        entries = api.list_repo_files(source.repository, "model", revision=source.wanted)
    files = tuple(listed(entry.path, entry.size, entry.sha256) for entry in entries if not entry.is_dir)
    return Listing(source.wanted, commit_of(source, files, api.legacy.endpoint, api.legacy.token), files)


def listed(path: str, size: int, sha256: str | None) -> ListedFile:
    """A file of the listing, its digest in lower case: the client compares with that."""
    return ListedFile(path, size, sha256=(sha256 or "").lower() or None)


def client() -> Any:
    """The client for one site: without an endpoint it would ask a second one for what the first has not.

    Raises:
        UserError: the package is not installed, because only this needs it.
    """
    try:
        from modelscope_hub import HubApi
    except ImportError as error:
        raise UserError("model.download.hub=modelscope needs a package: pip install 'modelscope-hub>=0.5'") from error
    for handler in logging.getLogger("modelscope_hub").handlers:
        handler.addFilter(lambda record: record.levelno < logging.ERROR)  # it raises those as well
    return HubApi()


def commit_of(source: DownloadConfig, files: tuple[ListedFile, ...], endpoint: str, token: str | None) -> str | None:
    """The commit of a listing with these files, asked for once more, since the client does not hand it on.

    None where the hub does not say, or the branch has moved meanwhile: nothing depends on it but the record.
    """
    address = f"{endpoint}/api/v1/models/{source.repository}/repo/files"
    query, headers = {"Revision": source.wanted, "Recursive": "True"}, {"Authorization": f"Bearer {token}"} if token else {}
    try:
        data = httpx.get(address, params=query, headers=headers, timeout=COMMIT_TIMEOUT_S).raise_for_status().json()["Data"]
        blobs = [entry for entry in data["Files"] if entry["Type"] != "tree"]
        same = files == tuple(listed(entry["Path"], entry["Size"], entry.get("Sha256")) for entry in blobs)
        newest = data["LatestCommitter"]
        return (newest.get("Id") or newest.get("ShortId") or None) if same else None
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
        return None


def fetch(source: DownloadConfig, listing: Listing, files: list[ListedFile], folder: Path) -> None:
    """Those files of the listing, with the client's own progress bars."""
    wanted = [{"Path": file.path, "Type": "blob", "Size": file.size, "Sha256": file.sha256} for file in files]
    with reasons():
        client().download_repo(source.repository, "model", revision=listing.revision, local_dir=folder, file_list=wanted)


@contextmanager
def reasons() -> Iterator[None]:
    """Turn whatever the client raises into one line; of files that failed, the first one's reason."""
    from modelscope_hub.errors import FileDownloadError

    try:
        yield
    except FileDownloadError as error:
        (path, reason), *others = error.failed_files.items()
        more = f" (and {len(others)} more files)" if others else ""
        raise HubFailed(f"the hub did not deliver {path}{more}: {reason_of(reason)}") from error
    except Exception as error:  # requests' errors, the library's own and plain ones; all mean that nothing came
        raise HubFailed(f"the hub did not deliver: {reason_of(error)}") from error
