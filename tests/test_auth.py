"""Bearer keys: where they come from, which are accepted, and that no message shows one."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

import pytest

from gpuqa.config import UserError
from gpuqa.serving import auth
from gpuqa.serving.auth import read_keys

OLD, NEW = "old-key-0123456789", "new-key-9876543210"
VARIABLE = "GPUQA_TEST_KEYS"


def test_without_a_file_and_a_variable_there_are_no_keys():
    assert read_keys(None, VARIABLE) is None


def test_keys_of_the_file_and_of_the_variable_are_all_accepted_and_nothing_else(tmp_path: Path, monkeypatch):
    (tmp_path / "keys").write_text(f"{OLD}\n\n  {NEW}  \n")
    monkeypatch.setenv(VARIABLE, "third-key-aaaaaaaa, fourth-key-bbbbbbb")
    keys = read_keys(str(tmp_path / "keys"), VARIABLE)
    assert keys is not None
    assert len(keys) == 4
    assert all(map(keys.accepts, (OLD, NEW, "third-key-aaaaaaaa", "fourth-key-bbbbbbb")))
    assert not any(map(keys.accepts, ("", OLD[:-1], OLD + "x", OLD.upper(), f"{OLD}\n{NEW}", "é" * 20, "\udcff")))


def test_the_variable_is_taken_out_of_the_environment(monkeypatch):
    monkeypatch.setenv(VARIABLE, OLD)
    assert read_keys(None, VARIABLE)
    assert VARIABLE not in os.environ


@pytest.mark.parametrize("content", ["", " \n,\n", "short", f"{OLD}\nshort", "with-ünicode-0123456789"])
def test_a_key_that_is_none_is_refused_and_never_quoted(tmp_path: Path, content: str):
    (tmp_path / "keys").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="at least 16 printable ASCII") as refused:
        read_keys(str(tmp_path / "keys"), VARIABLE)
    assert not [word for word in content.replace(",", " ").split() if word in str(refused.value)]


def test_a_file_that_is_absent_is_refused_by_name(tmp_path: Path):
    with pytest.raises(UserError, match=r"http\.keys_file: .*absent"):
        read_keys(str(tmp_path / "absent"), VARIABLE)


def test_every_key_is_compared_in_constant_time_whichever_fits(tmp_path: Path, monkeypatch):
    compared, real = [], hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return real(one, other)

    (tmp_path / "keys").write_text(f"{OLD}\n{NEW}")
    keys = read_keys(str(tmp_path / "keys"), VARIABLE)
    monkeypatch.setattr(auth.hmac, "compare_digest", compare)
    assert keys is not None
    assert [keys.accepts(given) for given in (OLD, NEW, "x")] == [True, True, False]
    assert compared == [(32, 32)] * 6


def test_a_dump_of_the_keys_shows_none(tmp_path: Path):
    (tmp_path / "keys").write_text(OLD)
    keys = read_keys(str(tmp_path / "keys"), VARIABLE)
    assert OLD not in f"{keys!r} {vars(keys)!r}"
