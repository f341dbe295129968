"""The requirements with digests: what `requirements/cpu.txt` names, and each file that pip may take for it."""

from __future__ import annotations

import importlib.util
import re

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REQUIREMENTS = ROOT / "requirements"


def pinned(file: str) -> dict[str, tuple[str, list[str]]]:
    """Name -> version and digests of a requirements file."""
    found = {}
    for line in (REQUIREMENTS / file).read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line[:1] not in ("", "#"):
            requirement, *digests = line.split(" --hash=")
            parsed = Requirement(requirement)
            found[canonicalize_name(parsed.name)] = (str(parsed.specifier), [digest.strip() for digest in digests])
    return found


def test_both_files_name_the_same_packages_and_versions() -> None:
    plain, hashed = pinned("cpu.txt"), pinned("cpu.hashes.txt")
    assert {name: version for name, (version, _) in hashed.items()} == {name: version for name, (version, _) in plain.items()}


def test_every_package_has_digests_and_no_index_is_named() -> None:
    for name, (_, digests) in pinned("cpu.hashes.txt").items():
        assert digests, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in digests), name
        assert len(set(digests)) == len(digests), name
    assert "//" not in (REQUIREMENTS / "cpu.hashes.txt").read_text(encoding="utf-8")


def test_of_torch_only_the_build_without_cuda_may_be_taken() -> None:
    lines = (REQUIREMENTS / "torch_cpu.sha256").read_text(encoding="utf-8").splitlines()
    version, digests = pinned("cpu.hashes.txt")["torch"]
    of_cpu_index = {f"sha256:{line.split()[0]}" for line in lines if not line.startswith("#")}
    assert set(digests) == of_cpu_index
    assert len(digests) == 4, "two interpreters on two machines"
    assert all(f"torch-{version.removeprefix('==')}+cpu-" in line for line in lines if not line.startswith("#"))


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("a-1.0.tar.gz", True),
        ("a-1.0-py3-none-any.whl", True),
        ("a-1.0-py2.py3-none-any.whl", True),
        ("a-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", True),
        ("a-1.0-cp312-cp312-musllinux_1_2_aarch64.whl", True),
        ("a-1.0-cp39-abi3-manylinux_2_28_aarch64.whl", True),
        ("a-1.0-py3-none-manylinux1_x86_64.whl", True),
        ("a-1.0-cp313-cp313-manylinux_2_17_x86_64.whl", False),
        ("a-1.0-cp313-abi3-manylinux_2_17_x86_64.whl", False),
        ("a-1.0-cp310-cp310-manylinux_2_17_x86_64.whl", False),
        ("a-1.0-cp311-cp311-manylinux_2_17_i686.whl", False),
        ("a-1.0-cp311-cp311-macosx_11_0_x86_64.whl", False),
        ("a-1.0-cp311-cp311-win_amd64.whl", False),
        ("a-1.0-pp311-pypy311_pp73-manylinux_2_17_x86_64.whl", False),
    ],
)
def test_a_file_has_its_digest_there_where_pip_may_take_it(name: str, taken: bool) -> None:
    spec = importlib.util.spec_from_file_location("write_hashes", REQUIREMENTS / "write_hashes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.may_take(name) is taken
