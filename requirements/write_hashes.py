"""Write the digests of every file that pip may take for a requirements file: CPython 3.11 and 3.12, Linux, x86_64 and aarch64.

    pip install uv packaging
    uv pip compile --no-deps --universal --python-version 3.11 --format pylock.toml requirements/cpu.txt -o /tmp/pylock.toml
    python requirements/write_hashes.py /tmp/pylock.toml requirements/torch_cpu.sha256 > requirements/cpu.hashes.txt

uv asks the index for all files of each release and their digests. The second file has those of PyTorch's own CPU index, which
builds the same version of torch without CUDA: a digest and a file name a line, as that index lists them.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

from packaging.utils import parse_wheel_filename

HEAD = """\
# requirements/cpu.txt with the digests of every file that pip may take, for CPython 3.11 and 3.12 on Linux, x86_64 and aarch64.
# Made by requirements/write_hashes.py, which says how. torch: those of PyPI's build and of PyTorch's CPU index.
"""
INTERPRETERS = {"py2", "py3", "py311", "py312", "cp311", "cp312"}
MACHINES = ("_x86_64", "_aarch64")


def main() -> None:
    """Print the requirements."""
    lock, torch_cpu = tomllib.loads(Path(sys.argv[1]).read_text("utf-8")), Path(sys.argv[2]).read_text("utf-8")
    more = {"torch": [line.split()[0] for line in torch_cpu.splitlines() if not line.startswith("#")]}
    print(HEAD, end="")
    for package in lock["packages"]:
        digests = sorted({digest for name, digest in files(package) if may_take(name)} | {*more.get(package["name"], ())})
        lines = [f"{package['name']}=={package['version']}", *(f"    --hash=sha256:{digest}" for digest in digests)]
        print(" \\\n".join(lines))


def files(package: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and sha256 of each file of a release."""
    entries = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else ())]
    return [(entry["url"].rpartition("/")[2].replace("%2B", "+"), entry["hashes"]["sha256"]) for entry in entries]


def may_take(name: str) -> bool:
    """Whether pip may take the file of that name, on one of these machines: sources, or a wheel that fits."""
    if not name.endswith(".whl"):
        return True
    tags = parse_wheel_filename(name)[3]
    return any(fits(tag.interpreter, tag.abi) and on_machine(tag.platform) for tag in tags)


def fits(interpreter: str, abi: str) -> bool:
    """Whether CPython 3.11 or 3.12 loads it; of a stable ABI, any version up to theirs."""
    old = interpreter.startswith("cp3") and interpreter[3:].isdigit() and int(interpreter[3:]) <= 12
    return (abi == "abi3" and old) or (abi in ("none", interpreter) and interpreter in INTERPRETERS)


def on_machine(platform: str) -> bool:
    """Whether it is for these machines, or for any."""
    return platform == "any" or ("linux" in platform and platform.endswith(MACHINES))


if __name__ == "__main__":
    main()
