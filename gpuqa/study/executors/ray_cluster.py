"""The Ray cluster of a study: one that runs already (`executor.address`), or one of this machine for the study alone.

From Ray 2.60 on a cluster asks for a token, unless it was started without. Who joins it has to say that he has one, else he is
refused after twenty seconds of attempts; so this says it for everybody who has one, and asks in a process of its own first.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpuqa.config import UserError, one_line
from gpuqa.config.executor import ExecutorConfig
from gpuqa.machine.child_processes import children, tied

TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
TOKEN_FILE = Path("~/.ray/auth_token")
MODE = "RAY_AUTH_MODE"
CONNECT_S, JOIN_S = 2.0, 20.0
OBJECTS_BYTES = 200 * 2**20  # of shared memory for a cluster of one study, whose steps and events are small
REFUSED = ("InvalidAuthToken", "AuthenticationError")  # Ray's words for a wrong token, and for none
JOIN = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print("joined", flush=True)
"""


@contextlib.contextmanager
def joined(config: ExecutorConfig, say: Callable[[str], object]) -> Iterator[Any]:
    """Ray's module, connected; a cluster that was started here ends with the context.

    Raises:
        UserError: Ray is not installed, nobody answers at the address, or the cluster refuses.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError("executor=ray: Ray is not installed; pip install 'gpuqa[ray]'")
    before = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would send some
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # an actor without GPUs says nothing about them
    if config.address is not None and MODE not in os.environ and has_token():
        os.environ[MODE] = "token"
    if config.address is not None:
        ask(config.address)
    import ray

    quiet, before_it = {"log_to_driver": False, "logging_level": "ERROR"}, children()
    if config.address is None:
        say("starting a Ray cluster on this machine, which ends with the study")
        ray.init(address="local", include_dashboard=False, object_store_memory=OBJECTS_BYTES, **quiet)
    else:
        ray.init(address=config.address, **quiet)
    try:
        with tied(children() - before_it):  # Ray's agents would live on for a minute where this process is killed
            yield ray
    finally:
        ray.shutdown()
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            del os.environ[name]
        os.environ.update(before)


def has_token() -> bool:
    """Whether this user has a token for clusters."""
    return any(name in os.environ for name in TOKENS) or TOKEN_FILE.expanduser().is_file()


def ask(address: str, join_s: float = JOIN_S) -> None:
    """Raise a UserError unless a cluster at the address lets a process of this user join within this time."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), CONNECT_S).close()
        except OSError as error:
            why = error.strerror or str(error)
            raise UserError(
                f"executor.address: nobody listens at {address} ({why}); `ray start --head` starts a cluster"
            ) from None
    command, out = [sys.executable, "-c", JOIN, address], subprocess.PIPE
    with subprocess.Popen(command, bufsize=0, stdout=out, stderr=subprocess.STDOUT) as asking:
        try:
            wait_for_answer(asking, address, time.monotonic() + join_s)
        finally:
            asking.kill()


def wait_for_answer(asking: subprocess.Popen[bytes], address: str, deadline: float) -> None:
    """Raise a UserError unless that process joins."""
    assert asking.stdout is not None, "it is a pipe"
    os.set_blocking(asking.stdout.fileno(), False)
    said = ""
    while time.monotonic() < deadline:
        ended = asking.poll() is not None
        said += (asking.stdout.read() or b"").decode(errors="replace")
        if "joined\n" in said:
            return
        if any(word in said for word in REFUSED):
            other = "the token here is another one" if has_token() else f"there is none here ({TOKEN_FILE}, or {TOKENS[0]})"
            raise UserError(f"executor.address: the cluster at {address} asks for a token, and {other}: copy the cluster's")
        if ended:
            break
        time.sleep(0.05)
    lines = [line for line in said.splitlines() if line.strip()] or ["what listens there does not answer as Ray does"]
    raise UserError(f"executor.address: no Ray cluster lets this machine join at {address}: {one_line(lines[-1])[:300]}")
