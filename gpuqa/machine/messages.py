"""Messages between a process and those that it started: pickled, behind their length in bytes (8, big endian)."""

from __future__ import annotations

import asyncio
import pickle
import struct
from typing import Any, BinaryIO

LENGTH = struct.Struct(">Q")


def framed(message: Any) -> bytes:
    """A message as both ends write it."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(data)) + data


async def receive(source: asyncio.StreamReader) -> Any:
    """The next message.

    Raises:
        EOFError: the other end is gone (`asyncio.IncompleteReadError` is one).
    """
    [length] = LENGTH.unpack(await source.readexactly(LENGTH.size))
    return pickle.loads(await source.readexactly(length))


def read(source: BinaryIO) -> Any:
    """The same, for a thread that may wait.

    Raises:
        EOFError: the other end is gone.
    """
    head = source.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    return pickle.loads(source.read(LENGTH.unpack(head)[0]))
