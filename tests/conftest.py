"""What the end-to-end tests share: commands run as a user runs them, one small study, and its winner served.

A command is a process with its own session, so that every process that it leaves behind is found, reported and ended. It is
forked from a warm Python (`warm_python.py`), unless a test gives it an environment. The study and the two services are
session-scoped: each starts once, however many files ask for it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx
import psutil
import pytest
from warm_python import WarmProcess, WarmPython

# A command imports vLLM: seconds where its bytecode is kept, twice as long where an image has this set and nothing is.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's: on busy cores two threads wait for each other by spinning
signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background job ignores it, and so would every command
if not shutil.which("nvidia-smi"):
    os.environ["TRITON_INTERPRET"] = "1"  # kernels run on the CPU; Triton reads it when it is imported, by whomever

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 300.0
ADDRESS = re.compile(r"Uvicorn running on (http://\S+)")
STUDY = (
    "prompt=bare,structured",
    "quantization=fp8,none",  # the one that fails first, to see that the study goes on after it
    "engine.args.max_num_seqs=16",
    "dataset.limit=6",
    "workload.repeats=1",
    "selection.min_rouge_l_f1_judge=0",
    "study.finalists=0",
)


@dataclass(frozen=True)
class Study:
    """A finished study: what its command was, said and wrote."""

    overrides: tuple[str, ...]
    run: subprocess.CompletedProcess[str]
    folder: Path

    @property
    def root(self) -> Path:
        """The working folder of the command; `experiments/` lies in it."""
        return self.folder.parent.parent


@dataclass
class Service:
    """A running `gpuqa.serve`, and how it behaved while it started."""

    process: subprocess.Popen[bytes] | WarmProcess
    log_file: Path
    url: str = ""
    start_replies: list[tuple[int, str]] = field(default_factory=list)  # of GET /, up to the first 200
    early_predict: int = 0  # status of a POST /predict sent before it was ready

    @property
    def log(self) -> str:
        """All that it said so far."""
        return self.log_file.read_text(encoding="utf-8")

    def predict(self, prompt: str | list[str]) -> Any:
        """The "response" of one POST /predict."""
        reply = httpx.post(f"{self.url}/predict", json={"prompt": prompt}, timeout=PATIENCE_S, trust_env=False)
        assert reply.status_code == 200, reply.text
        return reply.json()["response"]


def child_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would change a command's behaviour, the package on the path, wide lines."""
    dropped = ("HF_", "HUGGING", "TRANSFORMERS_", "VLLM_", "GPUQA_", "HYDRA_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped) and "proxy" not in key.lower()}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path, "COLUMNS": "1000", **(extra or {})}


def left_behind(session: int) -> list[psutil.Process]:
    """Living processes of a session that a command started."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
    return processes


def end_session(session: int, grace_s: float = 10.0) -> list[str]:
    """End what a command left behind after a moment of grace; the command lines of what had to be ended."""
    deadline = time.monotonic() + grace_s
    while (processes := left_behind(session)) and time.monotonic() < deadline:
        time.sleep(0.1)
    ended = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            ended.append(" ".join(process.cmdline()))
            process.kill()
    return ended


class Selected:
    """What the tests of this run need."""

    engines = True  # some of them start an engine


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under `-n 2` a file's tests stay in one process, and all that use the one study and its services in the same one.

    Groups with most tests that take seconds come first, so that both processes end together (`--no-loadscope-reorder` keeps
    xdist from another order). Tests that start an engine go without coverage, which costs them a third more time: most of what
    they run is vLLM's, or runs in other processes.
    """
    groups = {item: "study" if "study" in getattr(item, "fixturenames", ()) else item.path.name for item in items}
    seconds = Counter(groups[item] for item in items if is_slow(item))
    items.sort(key=lambda item: -seconds[groups[item]])
    for item in items:
        if item.get_closest_marker("engine"):
            item.add_marker(pytest.mark.no_cover)
        if config.pluginmanager.hasplugin("xdist"):
            item.add_marker(pytest.mark.xdist_group(groups[item]))


def is_slow(item: pytest.Item) -> bool:
    """Whether a test's marks say that it takes seconds."""
    return any(item.get_closest_marker(mark) for mark in ("engine", "slow"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Look whether any test that was selected starts an engine: without one the warm Python needs no PyTorch."""
    grouped = getattr(session.config.option, "loadgroup", False)  # is there in a process of xdist
    assert not grouped or all("@" in item.nodeid for item in session.items), "xdist does not keep a file's tests together"
    Selected.engines = any(item.get_closest_marker("engine") for item in session.items)


@functools.cache
def warm_python() -> WarmPython:
    """Started by the first test that runs a command; it ends with this process."""
    return WarmPython(child_environment(), Selected.engines)


def start_python(
    *words: str,
    cwd: Path,
    stdout: IO[bytes],
    stderr: IO[bytes],
    env: dict[str, str] | None = None,
    late_env: dict[str, str] | None = None,
) -> subprocess.Popen[bytes] | WarmProcess:
    """`python WORDS` in a folder and a session of its own: a fork of the warm one, or a fresh one where `env` is given.

    Variables that no library reads when it is imported may be given to a fork as well: `late_env`.
    """
    if env is None:
        return warm_python().start(list(words), cwd, child_environment(late_env), stdout.fileno(), stderr.fileno())
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=cwd,
        env=child_environment(env),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


def run_python(*words: str, cwd: Path, timeout_s: float = PATIENCE_S, **how: Any) -> subprocess.CompletedProcess[str]:
    """`python WORDS` in a folder, as `start_python` starts it, to its end; it may leave no process behind."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = start_python(*words, cwd=cwd, stdout=out, stderr=err, **how)
        try:
            code = process.wait(timeout_s)
        except BaseException:
            end_session(process.pid, grace_s=0)
            raise
        assert not (survivors := end_session(process.pid)), f"{words} left behind: {survivors}"
        said = [(file.seek(0), file.read().decode())[1] for file in (out, err)]
        return subprocess.CompletedProcess(words, code, *said)


def run_command(name: str, *overrides: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """`python -m gpuqa.NAME OVERRIDES`, as `run_python` runs it."""
    return run_python("-m", f"gpuqa.{name}", *overrides, **how)


@contextlib.contextmanager
def starting_service(
    frozen: Path, *overrides: str, cwd: Path, env: dict[str, str] | None = None, how: tuple[str, str] = ("-m", "gpuqa.serve")
) -> Iterator[Service]:
    """A `gpuqa.serve` process on any free port of the loopback; ended with the context, whatever happened."""
    log_file = cwd / f"serve-{time.monotonic_ns()}.log"
    words = (*how, f"frozen={frozen}", "http.host=127.0.0.1", "http.port=0", *overrides)
    with log_file.open("wb") as log:
        process = start_python(*words, cwd=cwd, env=env, stdout=log, stderr=log)
    try:
        yield Service(process, log_file)
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        end_session(process.pid, grace_s=0)
        process.wait()


def wait_for_address(service: Service) -> None:
    """Until its port answers."""
    deadline = time.monotonic() + PATIENCE_S
    while not (address := ADDRESS.search(service.log)):
        assert service.process.poll() is None, f"the service ended early:\n{service.log}"
        assert time.monotonic() < deadline, service.log
        time.sleep(0.05)
    service.url = address[1]


def wait_until_ready(service: Service) -> None:
    """Poll `GET /` until its first 200, and note what it said on the way."""
    wait_for_address(service)
    deadline = time.monotonic() + PATIENCE_S
    with httpx.Client(base_url=service.url, timeout=30, trust_env=False) as client:
        while not service.start_replies or service.start_replies[-1][0] != 200:
            assert service.process.poll() is None, f"the service ended early:\n{service.log}"
            assert time.monotonic() < deadline, service.log
            reply = client.get("/")
            service.start_replies.append((reply.status_code, reply.text))
            if not service.early_predict and reply.status_code != 200:
                service.early_predict = client.post("/predict", json={"prompt": "too early"}).status_code
            time.sleep(0.1)


@contextlib.contextmanager
def ready_service(frozen: Path, *overrides: str, cwd: Path) -> Iterator[Service]:
    """A service that answers."""
    with starting_service(frozen, *overrides, cwd=cwd) as service:
        wait_until_ready(service)
        yield service


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`command("sweep", "prompt=bare", cwd=tmp_path)` runs a command to its end."""
    return run_command


@pytest.fixture(scope="session")
def serve() -> Callable[..., contextlib.AbstractContextManager[Service]]:
    """`with serve(frozen, "http=serial", cwd=tmp_path) as service:` serves until the block ends."""
    return ready_service


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """One small study with the real vLLM: two prompts, a quantization that a CPU refuses, and none. Read only: copy it."""
    root = tmp_path_factory.mktemp("study")
    return Study(STUDY, run_command("sweep", *STUDY, cwd=root), root / "experiments" / "embedded")


@pytest.fixture(scope="session")
def study_folder(study: Study) -> Path:
    """The folder of a study that has a frozen winner. Read only: copy it."""
    assert study.run.returncode == 0, study.run.stdout + study.run.stderr
    return study.folder


@pytest.fixture
def study_copy(study_folder: Path, tmp_path: Path) -> Path:
    """The study's folder at `experiments/embedded` of this test's own folder, to change at will."""
    copy = tmp_path / "experiments" / "embedded"
    shutil.copytree(study_folder, copy)
    return copy


@pytest.fixture(scope="session")
def service(study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The study's winner, served in batch mode."""
    with ready_service(study_folder / "frozen.yaml", cwd=tmp_path_factory.mktemp("service")) as ready:
        yield ready


@pytest.fixture(scope="session")
def serial_service(study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The study's winner, served in ok mode."""
    with ready_service(study_folder / "frozen.yaml", "http=serial", cwd=tmp_path_factory.mktemp("serial")) as ready:
        yield ready


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Two threads that share a busy core with others wait for each other most of the time."""
    import torch  # seconds

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Starts and closes of real transformers engines, as they happen."""
    from gpuqa.engines.transformers_engine import TransformersEngine

    happened: list[str] = []
    start, close = TransformersEngine.start.__func__, TransformersEngine.close  # type: ignore[attr-defined]

    async def noted_start(cls: type, *args: Any) -> Any:
        happened.append("start")
        return await start(cls, *args)

    async def noted_close(self: Any) -> None:
        happened.append("close")
        await close(self)

    monkeypatch.setattr(TransformersEngine, "start", classmethod(noted_start))
    monkeypatch.setattr(TransformersEngine, "close", noted_close)
    return happened
