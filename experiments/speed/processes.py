"""A process that obeys: one JSON command a line, one JSON reply a line, everything else it says goes to a log file."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

LOG_TAIL = 1500


class PeerFailed(Exception):
    """The process ended, did not answer in time, or answered with an error."""


class Peer:
    """A child in a session of its own, so that it can be ended together with its engine's processes."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str]) -> None:
        self.log = log
        self.sockets = tempfile.mkdtemp(prefix="yardstick-")  # vLLM leaves files behind; socket paths must be short
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**env, "VLLM_RPC_BASE_PATH": self.sockets, "TMPDIR": self.sockets},
                start_new_session=True,
            )
        self._replies: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send a command and wait for its reply.

        Raises:
            PeerFailed: no reply, or one that says what went wrong. Silence ends the process: its state is unknown.
        """
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise PeerFailed(f"it had ended: {self._tail()}") from error
        return self.reply(timeout_s)

    def reply(self, timeout_s: float) -> dict[str, Any]:
        """The next reply; the first one of a contestant says that it has started."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                reply: dict[str, Any] = json.loads(self._replies.get(timeout=0.5))
                if "error" in reply:
                    raise PeerFailed(reply["error"])
                return reply
            if self.process.poll() is not None and self._replies.empty():
                raise PeerFailed(f"it ended with {self.process.returncode}: {self._tail()}")
        self.kill()
        raise PeerFailed(f"no answer in {timeout_s:.0f} s: {self._tail()}")

    def kill(self) -> None:
        """End it and everything that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.sockets, ignore_errors=True)

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._replies.put(line)

    def _tail(self) -> str:
        return " ".join(self.log.read_text(errors="replace")[-LOG_TAIL:].split())


def take_stdout() -> IO[str]:
    """In the child: where replies go. Whatever else prints, the engine's processes included, prints to the log."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return replies
