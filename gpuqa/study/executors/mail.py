"""Messages through a file on a disk that two machines share: one appends to it, the other reads on from where it was.

A message is its length (8 bytes, big endian), a digest of 16 bytes, and the pickle. One that is not whole is read again later,
since a network's file system may show the length of a file before its content. The reader opens the file each time, because
NFS promises what was written before it was opened.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
import time
from pathlib import Path
from typing import Any

HEAD = struct.Struct(">Q16s")


class Mail:
    """One end of a file of messages; the other end has its own."""

    def __init__(self, file: Path) -> None:
        self.file, self.offset = file, 0

    def send(self, message: Any) -> None:
        """Add a message, which is on the disk on return."""
        data = pickle.dumps(message)
        with self.file.open("ab") as stream:
            stream.write(HEAD.pack(len(data), digest_of(data)) + data)
            stream.flush()
            os.fsync(stream.fileno())

    def take(self) -> list[Any]:
        """The next message, as a list of one; an empty list where there is none yet."""
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            head = stream.read(HEAD.size)
            if len(head) < HEAD.size:
                return []
            length, digest = HEAD.unpack(head)
            data = stream.read(length)
        if len(data) < length or digest_of(data) != digest:
            return []
        self.offset += HEAD.size + length
        return [pickle.loads(data)]


def digest_of(data: bytes) -> bytes:
    """Of a message."""
    return hashlib.blake2b(data, digest_size=16).digest()


class Pulse:
    """A file that changes every second as long as a process lives; for how long it did not is what another sees."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.count, self.seen, self.since = 0, b"", time.monotonic()

    def beat(self) -> None:
        """Change it."""
        self.count += 1
        self.file.write_bytes(b"%d" % self.count)

    def silent_s(self) -> float:
        """Seconds since it was seen to change."""
        try:
            content = self.file.read_bytes()
        except FileNotFoundError:
            content = b""
        if content != self.seen:
            self.seen, self.since = content, time.monotonic()
        return time.monotonic() - self.since


def pause_s(waited_s: float) -> float:
    """How long to wait before a file is read again: 2 % of what was waited for so far, so that many readers cost little."""
    return min(1.0, max(0.02, waited_s / 50))
