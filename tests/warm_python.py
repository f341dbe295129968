"""A Python that has imported what all commands import, and forks for every command: seconds less for each of them.

    python tests/warm_python.py [engines]   # commands come over the Unix socket that is its standard input; see `WarmPython`

What it runs is a process like any other, with a session, a folder, an environment and an exit code of its own. Only
libraries are imported beforehand, those of engines where it is told to: neither vLLM, which reads the environment when it is
imported, nor gpuqa. A test that looks at what a command imports, or gives it another path, starts a fresh Python instead.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import setproctitle  # vLLM's

LIBRARIES = (
    *("numpy", "hydra", "omegaconf", "httpx", "rich.console", "rich.table", "rich.progress", "jinja2", "fastapi", "uvicorn"),
    *("numpy.polynomial", "psutil", "rapidfuzz.distance", "prometheus_client", "concurrent.futures.process"),
)
OF_ENGINES = (
    *("torch", "torch._dynamo", "torch._inductor.standalone_compile", "torch._inductor.lowering", "torch.export"),
    *("transformers", "transformers.models.gemma", "transformers.modeling_gguf_pytorch_utils"),
    *("transformers.generation.utils", "transformers.models.auto.processing_auto", "torch._inductor.compile_fx"),
    *("openai.types.responses", "cv2", "xgrammar", "sympy", "opentelemetry.sdk.metrics"),  # vLLM's
    *("opentelemetry.sdk._logs", "opentelemetry.exporter.otlp.proto.http.trace_exporter", "zmq.asyncio"),
    "torch.utils.cpp_extension",
)


class WarmProcess:
    """One command that runs: as much of `subprocess.Popen` as tests need."""

    def __init__(self, news: int) -> None:
        self._news = os.fdopen(news, "r")
        self.returncode: int | None = None
        self.pid = int(self._news.readline())

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once there is one."""
        if self.returncode is None:
            if not select.select([self._news], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            self.returncode = int(self._news.readline())
            self._news.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To it alone; nothing once it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class WarmPython:
    """The process that forks, seen from the one that started it, with which it ends."""

    def __init__(self, env: dict[str, str], engines: bool) -> None:
        """`engines`: whether it also imports what engines need, which takes many seconds."""
        self._ours, other_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}  # as the commands have it before they import anything
        words = [sys.executable, __file__, *(["engines"] if engines else [])]
        with other_end:
            self._process = subprocess.Popen(words, stdin=other_end, env={**env, **offline})

    def start(self, words: list[str], cwd: Path, env: dict[str, str], stdout: int, stderr: int) -> WarmProcess:
        """`python WORDS`, where these are `-m MODULE ...`, `-c CODE ...` or `FILE ...`."""
        request = json.dumps({"words": words, "cwd": os.fspath(cwd), "env": env}).encode()
        news, writing_end = os.pipe()
        socket.send_fds(self._ours, [request], [stdout, stderr, writing_end])
        os.close(writing_end)
        return WarmProcess(news)


def main() -> None:
    """Import, then fork for every command, until the process that sends them has ended."""
    for name in (*LIBRARIES, *(OF_ENGINES if "engines" in sys.argv[1:] else ())):
        importlib.import_module(name)
    setproctitle.getproctitle()  # it looks for the title's memory once, and finds it while the environment is the first one
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no process waits for the go-betweens
    with socket.socket(fileno=os.dup(0)) as requests:
        while True:
            request, numbers, *_ = socket.recv_fds(requests, 2**20, 3)
            if not request:
                return
            if not os.fork():
                break
            for number in numbers:
                os.close(number)
    go_between(json.loads(request), *numbers)


def go_between(request: dict[str, object], stdout: int, stderr: int, news: int) -> None:
    """Fork the command itself, and tell how it is called and how it ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if pid := os.fork():
        os.close(stdout)
        os.close(stderr)
        os.write(news, f"{pid}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(BrokenPipeError):
            os.write(news, f"{code}\n".encode())
        os._exit(0)
    os.setsid()
    silence = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate((silence, stdout, stderr)):
        os.dup2(file, number)
        os.close(file)
    os.close(news)
    os.environ.clear()
    os.environ.update(request["env"])  # type: ignore[call-overload]
    os.chdir(request["cwd"])  # type: ignore[arg-type]
    run(request["words"])  # type: ignore[arg-type]


def run(words: list[str]) -> None:
    """What the interpreter does with its command line; `sys.exit` flies on to the end of this process."""
    if words[0] == "-m":
        sys.path[0] = os.getcwd()
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.path[0] = ""
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path[0] = os.path.dirname(words[0])
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main()
