"""Fetch a model's weights into the folder that its config names.

    python -m gpuqa.download model=qwen3_0_6b_gpu_pro
    HF_TOKEN=... python -m gpuqa.download model=qwen3_0_6b_gpu_pro model.download.hub=huggingface
    python -m gpuqa.download model=qwen3_0_6b_gpu_pro model.path=/mnt/weights

The files come into a new folder, FOLDER.incoming, and are compared with the digests that the hub lists and that
`model.download.sha256` pins. Only a whole new folder takes the place of the old one, which is kept beside it; until then the
old one stays as it is, and the same command fetches only what is missing. A token comes from the hub's own environment variable
(HF_TOKEN, MODELSCOPE_API_TOKEN) and from nowhere else.

Exit codes: 0 fetched and verified, 1 the hub failed or a digest differs, 2 the input is wrong.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gpuqa.config import UserError
from gpuqa.config.app import run_command
from gpuqa.config.command_line import command_line, override
from gpuqa.config.commands import ModelDownloadConfig, resolve
from gpuqa.config.pipeline import DownloadConfig, Hub
from gpuqa.hubs import HubClient, HubFailed, ListedFile, Listing, checked, huggingface, modelscope, record, settings, sha256_of
from gpuqa.machine.files import make_folder, writing

FAILED = 1
HUBS: dict[Hub, HubClient] = {Hub.huggingface: huggingface, Hub.modelscope: modelscope}
NOTES = ".cache"  # of the clients, in the folder that they download into; huggingface_hub goes on from them


def main() -> None:
    """Enter with conf/download.yaml."""
    run_command(download, "download")


def download(composed: Any) -> int:
    """Fetch and verify -> exit code."""
    model = resolve(composed, ModelDownloadConfig).model
    source = model.download
    if source.repository is None:
        raise UserError(f"model={model.name} has no model.download.repository: there is nothing to fetch")
    folder = Path(os.path.realpath(os.path.expanduser(model.path)))
    if folder.exists() and not folder.is_dir():
        raise UserError(f"model.path: {folder} is a file, and the weights need a folder; name another one")
    try:
        with alone(folder):
            put_back(folder)
            listing, kept = update(folder, source)
    except HubFailed as error:
        print(f"error: {source.repository} at revision {source.wanted} on {source.hub.name}: {error}", file=sys.stderr)
        return FAILED
    tell(listing, folder, kept)
    measure = command_line("sweep", override("model", model.name), override("model.path", model.path))
    print(f"{model.name} is in {model.path}; measure it with: {measure}")
    return 0


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a second download out of FOLDER.incoming. The lock ends with this process, however that ends.

    Raises:
        UserError: another download has the lock.
        FileNotWritten: the folder has no place to be in.
    """
    lock = folder.with_name(f"{folder.name}.lock")
    created = [parent for parent in folder.parents if not parent.exists()]
    make_folder(lock.parent)
    with writing(lock), lock.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samefile(lock, stream.fileno())  # not a file that the other download has just removed
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:
            raise UserError(f"model.path: another download is bringing {folder}; wait for it or end it, then run this again")
        try:
            yield
        finally:
            lock.unlink()
            with contextlib.suppress(OSError):  # the weights are in them
                for parent in created:
                    parent.rmdir()


def put_back(folder: Path) -> None:
    """Have the folder of before under its name, where a kill between the two renames of `put_in_place` left it beside that."""
    kept = kept_before(folder)
    if kept and not folder.exists():
        newest = kept[max(kept)]
        with writing(folder):
            newest.rename(folder)
        print(f"{newest} is {folder} again: a download was ended while it replaced that folder")


def kept_before(folder: Path) -> dict[int, Path]:
    """The folders that new ones took the place of, by their numbers; the newest has the highest."""
    name = re.compile(rf"{re.escape(folder.name)}\.previous(\d*)")
    return {int(match[1] or 0): path for path in folder.parent.iterdir() if (match := name.fullmatch(path.name))}


def update(folder: Path, source: DownloadConfig) -> tuple[Listing, Path | None]:
    """Have exactly the files that the hub lists in the folder -> the listing, and where the old folder is, if it was replaced.

    Raises:
        HubFailed: the folder is as it was.
        FileNotWritten: the same.
    """
    incoming = folder.with_name(f"{folder.name}.incoming")
    hub, scratch = HUBS[source.hub], incoming / NOTES / "scratch"
    os.environ.update(settings(scratch))
    try:
        with writing(folder):
            listing = without_records(checked(hub.list_files(source), source))
            if not different(listing.files, folder):
                write_record(folder, source, listing)
                return listing, None
            make_folder(incoming)
            bring(hub, source, listing, folder, incoming)
            write_record(incoming, source, listing)
            return listing, put_in_place(incoming, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):  # as far as nothing is in them
            (incoming / NOTES).rmdir()
            incoming.rmdir()


def without_records(listing: Listing) -> Listing:
    """The listing without the record of another download: somebody uploaded a folder that had one."""
    return Listing(listing.revision, listing.commit, tuple(file for file in listing.files if file.path != record.NAME))


def different(files: Iterable[ListedFile], folder: Path) -> list[ListedFile]:
    """Those of the files that the folder is not known to have as they are listed: each whose digest the hub does not list, and
    each that differs. Reads every file whose size agrees."""
    return [file for file in files if file.digest is None or file.difference(folder / file.path) is not None]


def bring(hub: HubClient, source: DownloadConfig, listing: Listing, folder: Path, incoming: Path) -> None:
    """Fill the incoming folder with the files of the listing alone: from the old folder where it has them, else from the hub.

    Raises:
        HubFailed: a file did not come as it is listed; it is gone from the incoming folder, the others stay.
    """
    missing = different(listing.files, incoming)
    for file in missing:
        (incoming / file.path).unlink(missing_ok=True)  # a client would take it for what it fetched before
    for file in missing:
        if not different([file], folder):
            link(folder / file.path, incoming / file.path)
    if missing := different(missing, incoming):
        hub.fetch(source, listing, missing, incoming)
    for file in missing:
        if difference := file.difference(incoming / file.path):
            (incoming / file.path).unlink(missing_ok=True)
            raise HubFailed(f"{file.path} is not what the hub lists: {difference}; if the branch has moved, run this again")
    shutil.rmtree(incoming / NOTES, ignore_errors=True)
    for stranger in strangers(listing, incoming):
        (incoming / stranger).unlink()


def link(old: Path, new: Path) -> None:
    """Have a file in a second folder without its bytes on the disk twice, where the file system can."""
    new.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(old, new)
    except OSError:
        shutil.copy2(old, new)


def strangers(listing: Listing, folder: Path) -> list[str]:
    """Files of a folder that are neither of the listing nor notes of a client or of this command."""
    own = {record.NAME, *(file.path for file in listing.files)}
    paths = [file.relative_to(folder) for file in folder.rglob("*") if not file.is_dir()]
    return sorted(path.as_posix() for path in paths if path.parts[0] != NOTES and path.as_posix() not in own)


def write_record(folder: Path, source: DownloadConfig, listing: Listing) -> None:
    """Say in the folder where its files came from, with a sha256 of each, whichever digest the hub lists."""
    files = {file.path: record.FileRecord(file.size, file.sha256 or sha256_of(folder / file.path)) for file in listing.files}
    assert source.repository is not None
    record.Record(source.hub.name, source.repository, listing.revision, listing.commit, files).write(folder)


def put_in_place(incoming: Path, folder: Path) -> Path | None:
    """Rename the new folder to its name -> where the old one is now; None if there was none."""
    if not folder.exists():
        incoming.rename(folder)
        return None
    number = max(kept_before(folder), default=-1) + 1
    kept = folder.with_name(f"{folder.name}.previous{number or ''}")
    folder.rename(kept)
    try:
        incoming.rename(folder)
    except BaseException:  # Ctrl-C too
        kept.rename(folder)
        raise
    return kept


def tell(listing: Listing, folder: Path, kept: Path | None) -> None:
    """Say what is there now, what could not be compared, and what is not of this revision."""
    size = sum(file.size for file in listing.files)
    commit = f" (commit {listing.commit})" if listing.commit else ""
    print(f"{len(listing.files)} files, {size / 1e6:,.1f} MB, of revision {listing.revision}{commit} are as the hub lists them")
    if unlisted := [file.path for file in listing.files if file.digest is None]:
        print(f"compared by size alone, because the hub lists no digest of them: {', '.join(unlisted)}")
    if others := strangers(listing, kept or folder):
        print(f"not of this revision: {', '.join(others)}")
    if kept is not None:
        print(f"the folder that was there before is now {kept}; remove it when you no longer need it")


if __name__ == "__main__":
    main()
