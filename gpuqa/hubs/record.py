"""What `gpuqa.download` brought into a folder, written down in it: sweep and serve notice a file that was changed since."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from gpuqa.config import UserError, check
from gpuqa.config.pipeline import DownloadConfig
from gpuqa.machine.files import write_atomically

NAME = "gpuqa-download.json"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file as it came."""

    size: int  # bytes
    sha256: str


@dataclass(frozen=True, slots=True)
class Record:
    """Where the files of a folder came from."""

    hub: str
    repository: str
    revision: str  # as it was asked for
    commit: str | None  # that it was then, where the hub names it
    files: dict[str, FileRecord]  # by their paths in the folder, with "/"

    def write(self, folder: Path) -> None:
        """Into the folder, unless it is there already: a folder may be read only. Raises FileNotWritten."""
        content = (json.dumps(asdict(self), indent=1) + "\n").encode()
        file = folder / NAME
        if not (file.is_file() and file.read_bytes() == content):
            write_atomically(file, content)

    def check_source(self, source: DownloadConfig, folder: Path) -> None:
        """Raises UserError: the configuration names another repository or revision. The hub may differ: a mirror is as good."""
        holds = f"what {NAME} in {folder} names, {self.repository} at {self.revision}; or run gpuqa.download again"
        check(source.repository in (None, self.repository), "model.download.repository", source.repository, holds)
        known = (None, self.revision, self.commit)
        check(source.revision in known, "model.download.revision", source.revision, holds)

    def check_sizes(self, folder: Path) -> None:
        """Raises UserError: a file is gone or has another size."""
        for name, recorded in self.files.items():
            file = folder / name
            size = file.stat().st_size if file.is_file() else None
            if size != recorded.size:
                raise self.refusal(file, "is gone" if size is None else f"has {size} bytes, not {recorded.size}")

    def check(self, folder: Path, file: Path, sha256: str) -> None:
        """Raises UserError: the file has another digest. One that was not downloaded is not compared."""
        recorded = self.files.get(file.relative_to(folder).as_posix())
        if recorded is not None and recorded.sha256 != sha256:
            raise self.refusal(file, f"has sha256 {sha256}, not {recorded.sha256}")

    def refusal(self, file: Path, difference: str) -> UserError:
        """What a user reads where a file is not the one that came."""
        return UserError(
            f"model.path: {file} {difference} as downloaded from {self.repository} at {self.commit or self.revision}; "
            f"run gpuqa.download again, or remove {NAME} from the model's folder if the change is meant"
        )


def read(folder: Path) -> Record | None:
    """The record of a folder; None where `gpuqa.download` did not fill it.

    Raises:
        UserError: the record cannot be read.
    """
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        files = {name: FileRecord(int(file["size"]), str(file["sha256"])) for name, file in content.pop("files").items()}
        return Record(files=files, **content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"model.path: {folder / NAME} cannot be read: {error!r}; run gpuqa.download again, or remove it"
        ) from error
