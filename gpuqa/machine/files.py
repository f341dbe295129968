"""Files that a kill or a full disk leaves whole: with their old content or with the new one, never with half of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


class FileNotWritten(OSError):
    """A file of results could not be written: no space, no permission, no such folder. Its old content is untouched."""

    def __init__(self, file: Path, error: OSError) -> None:
        super().__init__(error.errno, error.strerror or str(error), str(file))

    def __str__(self) -> str:
        reason = f"{self.filename} cannot be written: {self.strerror}"
        return f"{reason}; all that was finished before is kept, so mend this and run the same command again"


def write_atomically(file: Path, content: str | bytes) -> None:
    """Replace a file by a complete new one that is on the disk on return; text is written as UTF-8, its line ends as they are.

    A link is followed. What is no regular file, such as /dev/stdout on a pipe, is written to directly.

    Raises:
        FileNotWritten: nothing has changed then.
    """
    data = content.encode() if isinstance(content, str) else content
    target = Path(os.path.realpath(file))
    with writing(file):
        if file.exists() and not file.is_file() and not file.is_dir():
            file.write_bytes(data)
            return
        unfinished = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        try:
            with unfinished.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)


def append_line(file: Path, line: str) -> None:
    """Add a line that is on the disk on return; behind a line that a kill tore off, it begins a new one.

    Raises:
        FileNotWritten: the file ends where it ended before.
    """
    with writing(file), file.open("a+b", buffering=0) as stream:
        end = os.fstat(stream.fileno()).st_size
        torn = end > 0 and os.pread(stream.fileno(), 1, end - 1) != b"\n"
        rest = memoryview((("\n" if torn else "") + line + "\n").encode())
        try:
            while rest:
                rest = rest[os.write(stream.fileno(), rest) :]  # a disk that is nearly full takes a part
            os.fsync(stream.fileno())
        except OSError:
            os.ftruncate(stream.fileno(), end)
            raise
        if end == 0:
            sync_folder(file.parent)


def make_folder(folder: Path) -> None:
    """Have a folder and those that it lies in.

    Raises:
        FileNotWritten: it cannot be made.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def writing(file: Path) -> Iterator[None]:
    """Name the file in whatever the operating system refuses."""
    try:
        yield
    except OSError as error:
        raise FileNotWritten(file, error) from error


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk: without that, a power cut may undo a rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
