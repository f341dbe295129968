"""A folder in /tmp for the files of one process, and the removal of those whose process was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX, LOCK = "gpuqa-", "lock"


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder of this process, removed at the end. First those of dead processes are removed.

    A file in it is locked as long as this process, or one that was forked from it, lives; the kernel ends the lock. (A process
    id would not do: in a container that shares /tmp, others have the same.)
    """
    remove_stale_folders(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_stale_folders(place: Path) -> list[Path]:
    """Remove this user's private folders that no living process has locked -> which these were."""
    stale = []
    for file in place.glob(f"{PREFIX}*/{LOCK}"):
        with contextlib.suppress(OSError), file.open() as lock:
            if os.fstat(lock.fileno()).st_uid == os.geteuid() and not file.is_symlink():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where it is locked
                shutil.rmtree(file.parent, ignore_errors=True)
                stale.append(file.parent)
    return stale
