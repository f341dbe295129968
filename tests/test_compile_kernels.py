"""The attention's kernels, compiled for cards that are not here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import run_python

ROOM = 99 * 1024  # bytes of shared memory that one program may take on an RTX 5090; an H200 has more than twice that
SMALL = "90,fp8,1,16,16"  # heads of 16: half of one is too short for a product
CARDS = [
    "80,bf16,2,128,32",
    "89,fp8,8,64,16",
    "90,bf16,2,128,32",
    "90,fp8,2,128,32",
    SMALL,
    "120,fp8,3,128,32",
    "120,bf16,2,256,32",
]


@pytest.mark.slow
def test_the_kernels_compile_for_other_cards_with_room_left_and_read_no_single_bytes(tmp_path: Path) -> None:
    """An A100, an RTX 4090, an H200 and an RTX 5090. A byte at a time, an fp8 cache would be no faster than one of 16 bits."""
    pytest.importorskip("triton")
    compiler = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = run_python(str(Path(__file__).with_name("compile_kernels.py")), *CARDS, cwd=tmp_path, env=compiler)
    assert run.returncode == 0, run.stderr
    made = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(made) == len(CARDS)
    for card, found in zip(CARDS, made, strict=True):
        for kernel, measured in found.items():
            assert measured["shared_bytes"] <= ROOM, (card, kernel)
            assert measured["byte_loads"] == 0 or card == SMALL, (card, kernel)
