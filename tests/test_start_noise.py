"""What studies on one machine have shown of the noise between starts, and that the next study begins with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuqa.measure.speed_tests import StartNoise
from gpuqa.study.journal import Journal
from gpuqa.study.start_noise import FILE, Shown, note, shown_by, usual


def test_the_noise_of_passes_is_taken_out_of_what_starts_differ_in() -> None:
    quiet_passes = [{"a": [1.0, 1.0], "b": [1.1, 1.1]}, {"c": [2.0, 2.0], "d": [2.1, 2.1]}]
    assert shown_by(quiet_passes) == (pytest.approx(0.005), 2)
    noisy_passes = [{"a": [1.0, 1.2], "b": [1.0, 1.2]}]
    assert shown_by(noisy_passes) == (pytest.approx(-0.01), 1)
    assert shown_by([{"a": [1.0, 1.1]}]) is None, "one start"
    assert shown_by([{"a": [1.0], "b": [1.1]}]) is None, "nothing is known of passes"


def test_a_study_begins_with_what_those_before_it_showed_on_its_device(tmp_path: Path) -> None:
    assert usual(tmp_path, "a card", "new") == StartNoise()
    note(tmp_path, Shown("one", "a card", 0.0001, 6))
    note(tmp_path, Shown("two", "a card", 0.0003, 10))
    note(tmp_path, Shown("else", "another card", 1.0, 10))
    found = usual(tmp_path, "a card", "new")
    assert found == StartNoise(pytest.approx(0.0003**0.5, abs=1e-5), 20.0), "the median of 1, 1.73 and the usual 2 %"
    assert usual(tmp_path, "a card", "two") == StartNoise(0.015, 10.0), "a study's own starts are no prior for itself"
    note(tmp_path, Shown("busy", "a card", 0.3, 1))
    assert usual(tmp_path, "a card", "new").sd < 0.02, "one busy hour takes nothing over"
    for name in ("one", "busy"):
        note(tmp_path, Shown(name, "a card", -1.0, 90))
    assert usual(tmp_path, "a card", "new").sd == pytest.approx(0.00866, abs=1e-5)
    note(tmp_path, Shown("two", "a card", -1.0, 90))
    assert usual(tmp_path, "a card", "new").sd == 0.005, "chance makes no machine perfect"
    (tmp_path / FILE).write_text('{"study": "torn', encoding="utf-8")
    assert usual(tmp_path, "a card", "new") == StartNoise()


def test_the_same_showing_is_noted_once(tmp_path: Path) -> None:
    for _ in range(2):
        note(tmp_path, Shown("one", "a card", 0.0001, 6))
    assert len((tmp_path / FILE).read_text(encoding="utf-8").splitlines()) == 1


def test_a_study_keeps_the_noise_that_it_began_with(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "study")
    assert journal.start_noise() == StartNoise()
    journal.write_study([("key", {})], noise=StartNoise(0.01, 9.0))
    assert journal.start_noise() == StartNoise(0.01, 9.0)
    journal.write_study([("key", {})], noise=StartNoise(0.03, 12.0))
    assert journal.start_noise() == StartNoise(0.01, 9.0), "its verdict would change with the studies after it"
