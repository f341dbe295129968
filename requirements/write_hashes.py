"""Write the digests of every file that pip may take for a requirements file: CPython 3.11 and 3.12, Linux, x86_64 and aarch64.

    pip install uv packaging
    uv pip compile --no-deps --universal --python-version 3.11 --format pylock.toml requirements/cpu.txt -o /tmp/pylock.toml
    python requirements/write_hashes.py /tmp/pylock.toml requirements/torch_cpu.sha256 > requirements/cpu.hashes.txt

uv asks the index for all files of each release and their digests. The second file has those of torch on PyTorch's CPU index,
a digest and a file name a line, as that index lists them. They take the place of PyPI's: that build is linked to libraries of
CUDA, which are not among these packages, and without them `import torch` fails.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

from packaging.utils import parse_wheel_filename

HEAD = """\
# requirements/cpu.txt with the digests of every file that pip may take, for CPython 3.11 and 3.12 on Linux, x86_64 and aarch64.
# Made by requirements/write_hashes.py, which says how. torch: the build of PyTorch's own CPU index, which pip has to know of;
# PyPI's is left out, since it needs CUDA's libraries to be imported.
"""
INTERPRETERS = {"py2", "py3", "py311", "py312", "cp311", "cp312"}
MACHINES = ("_x86_64", "_aarch64")


def main() -> None:
    """Print the requirements."""
    lock, torch_cpu = tomllib.loads(Path(sys.argv[1]).read_text("utf-8")), Path(sys.argv[2]).read_text("utf-8")
    elsewhere = {"torch": [line.split()[0] for line in torch_cpu.splitlines() if not line.startswith("#")]}
    print(HEAD, end="")
    for package in lock["packages"]:
        digests = elsewhere.get(package["name"]) or [digest for name, digest in files(package) if may_take(name)]
        lines = [f"{package['name']}=={package['version']}", *(f"    --hash=sha256:{digest}" for digest in sorted(digests))]
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
