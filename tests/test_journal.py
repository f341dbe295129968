"""Trials on disk come back as they were, whatever a killed process left behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from any_measurement import READINGS, any_measurement
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpuqa.config import UserError
from gpuqa.config.measurement import DatasetConfig, Rule, SelectionConfig
from gpuqa.machine.files import FileNotWritten, make_folder
from gpuqa.pipeline.dataset.summary import summary_of
from gpuqa.records import Answer, Answered, Completion, Dropped, Measurement, Override, Pass, Trial
from gpuqa.study.journal import Journal
from gpuqa.study.record_lines import digest_of

BURST = Override("scheduler", "burst", "burst", None, "5" * 16)
OFF = Override("attention", "shared_prefix", "default", "fp8 KV")


def measurement() -> Measurement:
    """Numbers in every field, None where a sample may be too small."""
    return any_measurement(ttft_ms_p95=None)


def trial(key: str, error: str | None = None, **axes: str) -> Trial:
    pipeline = {"prompt": {"name": "结构化", "examples": []}, "engine": {"args": {"max_model_len": 1024, "seed": None}}}
    found = None if error else measurement()
    known = {"digests": {"weights": "ab"}, "revision": "v1.0", "driver": ""}
    return Trial(key, axes, pipeline, known, found, error, overrides=[BURST, OFF])


def answer(number: int, text: str = "warp 是 32 个线程。") -> Answer:
    return Answer(str(number), f"问题 {number}", "参考", text, 0.5, 0.25, "stop", 12, 0.75, None, "0123456789abcdef")


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def test_trials_come_back_as_they_were_written(tmp_path):
    first, failed = trial("a" * 64, prompt="bare"), trial("b" * 64, error="KV cache 放不下")
    Journal(tmp_path / "study").write(first, [answer(1)])
    Journal(tmp_path / "study").write(failed, [])
    dropped = replace(trial("c" * 64), measurement=None, dropped=Dropped("too slow", measurement(), "race"))
    Journal(tmp_path / "study").write(dropped, [])
    assert Journal(tmp_path / "study").read() == {first.key: first, failed.key: failed, dropped.key: dropped}
    assert Journal(tmp_path / "study").problems() == []


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\r\n\x0b\x85\u2028\u2029"))


@pytest.mark.slow
@settings(max_examples=80, deadline=None, database=None)
@example(texts=["第一行\u2028第二行", "\x85", "\x1c"])  # line breaks to str.splitlines, but not to a journal
@given(texts=st.lists(ANY_TEXT, max_size=4))
def test_any_text_survives_the_round_trip(tmp_path_factory, texts):
    journal = Journal(tmp_path_factory.mktemp("study"))
    written = [trial(f"{place}", error=f"E: {text}", prompt=text) for place, text in enumerate(texts)]
    for one in written:
        journal.write(one, [])
    assert list(journal.read().values()) == written


def test_an_empty_folder_holds_no_trials(tmp_path):
    journal = Journal(tmp_path / "never written")
    assert journal.read() == {}
    assert journal.read_study() == []


def test_the_last_of_several_trials_with_one_key_counts(tmp_path):
    journal, failed = Journal(tmp_path), trial("k", error="died")
    journal.write(failed, [])
    journal.write(replace(failed, error=None, measurement=measurement()), [answer(1)])
    assert journal.read()["k"].error is None
    assert journal.read()["k"].measurement == measurement()


def test_a_last_line_torn_at_any_byte_costs_only_its_own_trial(tmp_path):
    journal, kept, torn, later = Journal(tmp_path), trial("kept"), trial("torn", prompt="结构化"), trial("later", prompt="裸")
    journal.write(kept, [])
    safe = journal.file.stat().st_size
    journal.write(torn, [])
    whole = journal.file.read_bytes()
    inside_a_character = whole.index("结构化".encode(), safe) + 1
    for length in {safe, safe + 1, inside_a_character, inside_a_character + 1, len(whole) - 2}:
        journal.file.write_bytes(whole[:length])
        assert journal.read() == {"kept": kept}, f"torn at byte {length}"
        journal.write(later, [])
        assert journal.read() == {"kept": kept, "later": later}, f"torn at byte {length}"


def test_a_last_line_that_lacks_only_its_newline_counts_and_the_next_line_stays_intact(tmp_path):
    journal, first, second = Journal(tmp_path), trial("first"), trial("second")
    journal.write(first, [])
    journal.file.write_bytes(journal.file.read_bytes().removesuffix(b"\n"))
    assert journal.read() == {"first": first}
    journal.write(second, [])
    assert journal.read() == {"first": first, "second": second}


def signed(row: dict[str, Any]) -> str:
    """A line with the digest that belongs to its content."""
    row = {"format": 2, **row}
    return json.dumps({**row, "digest": digest_of(row)}, ensure_ascii=False)


def test_every_line_says_its_format_and_carries_a_digest_that_other_tools_can_check(tmp_path):
    journal = Journal(tmp_path)
    journal.write(trial("k", error="died"), [answer(1), answer(2)])
    journal.write_pass("k", one_pass(0))
    rows = [row for file in (journal.file, journal.answers_file("k"), journal.passes_file("k")) for row in lines(file)]
    assert [row["format"] for row in rows] == [2] * 4
    for row in rows:
        digest = row.pop("digest")
        text = json.dumps(row, sort_keys=True, ensure_ascii=False)
        assert digest == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_a_number_that_was_edited_is_named_and_its_trial_does_not_count(tmp_path):
    journal, mine = Journal(tmp_path), trial("mine")
    journal.write(mine, [])
    journal.write(trial("other"), [])
    kept, edited = journal.file.read_text(encoding="utf-8").splitlines()
    edited = edited.replace('"chars_per_s": 3.125', '"chars_per_s": 999.125')
    journal.file.write_text(f"{kept}\n{edited}\n", encoding="utf-8")
    assert journal.read() == {"mine": mine}
    assert journal.problems() == ["trials.jsonl: 1 of 2 lines cannot be read: line 2 was edited (its digest differs)"]


def changed(row: dict[str, Any], place: str, value: Any = None) -> dict[str, Any]:
    """A copy of a row with another value at a dotted place, or without it."""
    copy = json.loads(json.dumps(row))
    *path, last = place.split(".")
    inner = copy
    for key in path:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return copy


ROW = asdict(trial("other"))
UNREADABLE = {
    signed(changed(ROW, "measurement.chars_per_s")): "lacks measurement.chars_per_s",
    signed(changed(ROW, "measurement.weather", "rain")): "holds measurement.weather, which this version does not know",
    signed(changed(ROW, "measurement.repeats", "three")): "holds 'three' as measurement.repeats, which should be int",
    signed(changed(ROW, "measurement.repeats", 2.5)): "holds '2.5' as measurement.repeats, which should be int",
    signed(changed(ROW, "measurement.saturated", 1)): "holds '1' as measurement.saturated, which should be bool",
    signed(changed(ROW, "measurement.conditions", [3])): "holds '3' as measurement.conditions[0], which should be a mapping",
    signed(changed(ROW, "axes", ["a"])): "holds \"['a']\" as axes, which should be dict",
    signed({"unlike": "a trial"}): "lacks key, axes, pipeline, fingerprint",
    signed(changed(ROW, "pipeline.engine", json.loads("[" * 40 + "]" * 40))): "is nested too deeply",
    "[" * 100_000: "is nested too deeply",
    "[1]": "is not a JSON object",
    '{"key": 1, }': "is not JSON",
    '{"key": "k", "axes": {"prompt': "was never finished",
    "garbage": "is not JSON",
    "\x00\x00\x00": "is not JSON",
    json.dumps({"format": 2, **ROW}): "lacks its digest",
    json.dumps({"format": 3, **ROW}): "has format 3",
}


@pytest.mark.parametrize(("line", "reason"), UNREADABLE.items(), ids=UNREADABLE.values())
def test_a_line_that_cannot_be_read_is_counted_and_explained_and_the_others_count(tmp_path, line, reason):
    journal, first, last = Journal(tmp_path), trial("first"), trial("last")
    journal.write(first, [])
    with journal.file.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    journal.write(last, [])
    assert journal.read() == {"first": first, "last": last}
    assert journal.problems() == [f"trials.jsonl: 1 of 3 lines cannot be read: line 2 {reason}"]


def test_several_unreadable_lines_are_told_in_one_sentence_with_equal_reasons_together(tmp_path):
    journal = Journal(tmp_path)
    journal.write(trial("first"), [])
    old = signed(changed(ROW, "measurement.chars_per_s"))
    with journal.file.open("a", encoding="utf-8") as stream:
        stream.write("\n".join([old, '{"key": "k', old, "[1]"]) + "\n")
    assert journal.problems() == [
        "trials.jsonl: 4 of 5 lines cannot be read: lines 2, 4: each lacks measurement.chars_per_s; "
        "line 3 was never finished; line 5 is not a JSON object"
    ]


def test_a_field_that_a_later_version_added_with_a_default_takes_that_default(tmp_path):
    journal, whole = Journal(tmp_path), trial("k")
    journal.folder.mkdir()
    journal.file.write_text(signed(changed(asdict(whole), "overrides")) + "\n", encoding="utf-8")
    assert journal.read() == {"k": replace(whole, overrides=[])}
    assert journal.problems() == []


def test_a_last_line_that_a_kill_tore_off_is_told_as_what_it_is(tmp_path):
    journal = Journal(tmp_path)
    journal.write(trial("first"), [])
    journal.write(trial("torn"), [])
    journal.file.write_bytes(journal.file.read_bytes()[:-40])
    [told] = journal.problems()
    assert told == "trials.jsonl: the last line was never finished, as a kill leaves it; a sweep measures it again"


def without_marks(row: dict[str, Any]) -> dict[str, Any]:
    """What a line holds of its record."""
    return {key: value for key, value in row.items() if key not in ("format", "digest")}


def test_answers_lie_beside_the_trials_one_line_each_in_the_order_of_the_questions(tmp_path):
    journal = Journal(tmp_path)
    answers = [answer(2, "第一\n第二\u2028第三"), replace(answer(1), answer="", error="ValueError: 太长")]
    journal.write(trial("0123456789abcdef" + "f" * 48), answers)
    file = tmp_path / "trials" / "0123456789abcdef.answers.jsonl"
    assert [without_marks(row) for row in lines(file)] == [asdict(one) for one in answers]
    assert "太长" in file.read_text(encoding="utf-8")  # readable without a decoder


def test_answers_of_another_measurement_of_the_same_trial_replace_the_earlier_ones(tmp_path):
    journal = Journal(tmp_path)
    journal.write(trial("k"), [answer(1, "旧"), answer(2, "旧")])
    journal.write(trial("k"), [answer(1, "新")])
    assert [row["answer"] for row in lines(journal.answers_file("k"))] == ["新"]


def test_answers_that_a_killed_run_left_half_written_do_not_stop_a_report(tmp_path):
    journal = Journal(tmp_path)
    journal.write(trial("good"), [answer(1, "甲")])
    for key, left in {"empty": "", "torn": '{"id": "1", "que'}.items():  # tried again after a failure, and then killed
        journal.write(trial(key, error="died"), [])
        journal.answers_file(key).write_text(left)
    assert [one.answer for one in journal.answers("good")] == ["甲"]
    assert journal.answers("empty") == journal.answers("torn") == []
    told = "torn.answers.jsonl: the last line was never finished, as a kill leaves it; a sweep measures it again"
    assert journal.problems() == [told]


def test_answers_of_which_one_was_edited_do_not_count_and_are_named(tmp_path):
    journal = Journal(tmp_path)
    journal.write(trial("k"), [answer(1, "甲"), answer(2, "乙")])
    text = journal.answers_file("k").read_text(encoding="utf-8")
    journal.answers_file("k").write_text(text.replace("乙", "丙"), encoding="utf-8")
    assert journal.answers("k") == []
    assert journal.problems() == ["k.answers.jsonl: 1 of 2 lines cannot be read: line 2 was edited (its digest differs)"]


def test_a_study_is_read_in_its_own_order_with_its_own_axes(tmp_path):
    journal, axes = Journal(tmp_path), {"prompt": "bare", "engine.args.max_num_seqs": "64"}
    for key in ("a", "b", "c", "d"):
        journal.write(trial(key, prompt="older words"), [])
    journal.write_study([("c", axes), ("not measured yet", {}), ("a", {})])
    assert [(one.key, one.axes) for one in journal.read_study()] == [("c", axes), ("a", {})]
    assert list(journal.read()) == ["a", "b", "c", "d"]


def test_a_study_file_names_the_questions_and_the_rule_which_comes_back(tmp_path):
    journal, rule = Journal(tmp_path), SelectionConfig(name="mine", rule=Rule.knee, max_ttft_ms_p95=20.0)
    questions = summary_of(DatasetConfig("embedded", "gpuqa/embedded/questions/test.json", limit=3), None)
    journal.write_study([("a", {})], questions=questions, rule=rule)
    content = yaml.safe_load(journal.study_file.read_text(encoding="utf-8"))
    assert (content["questions"]["path"], content["questions"]["rows"]) == ("gpuqa/embedded/questions/test.json", 3)
    assert journal.questions() == questions
    assert content["selection"]["rule"] == "knee"
    assert journal.rule() == rule
    journal.write_study([("a", {})])
    assert journal.rule() is None, "a study file of an older gpuqa has none"


def test_a_rule_that_was_edited_to_nonsense_is_a_user_error_that_names_the_file(tmp_path):
    journal = Journal(tmp_path)
    journal.write_study([("a", {})], rule=SelectionConfig(name="mine"))
    text = journal.study_file.read_text(encoding="utf-8")
    journal.study_file.write_text(text.replace("confidence: 0.97", "confidence: 97"), encoding="utf-8")
    with pytest.raises(UserError, match=r"study\.yaml: selection: selection\.confidence: got 97"):
        journal.rule()


def test_the_latest_command_says_what_the_study_is(tmp_path):
    journal = Journal(tmp_path)
    journal.write(trial("a"), [])
    journal.write(trial("b"), [])
    journal.write_study([("a", {}), ("b", {})])
    journal.write_study([("b", {})])
    assert [one.key for one in journal.read_study()] == ["b"]


@pytest.mark.parametrize(
    "value", ["null", "1e3", "no", "0x10", "2026-11-01", "[a,b]", "{a: 1}", "~", "", " x ", "a: b #c", "是🙂", "a\nb", "'\""]
)
def test_axes_stay_the_text_that_the_user_typed(tmp_path, value):
    journal = Journal(tmp_path)
    journal.write(trial("a"), [])
    journal.write_study([("a", {"key": value})])
    assert journal.read_study()[0].axes == {"key": value}


def one_pass(repeat: int, text: str = "warp 是 32 个线程。") -> Pass:
    said = Completion(text, "stop", 20, 9, 16, False, 0.1, 0.5)
    answered = Answered([said, replace(said, error="E: 太长", first_token_s=None)], 0.5, [0.4, 0.5], saturated=True)
    return Pass(
        answered,
        repeat,
        ["a", "b"],
        1.25e9,
        14.5,
        0.25,
        1.5,
        prefix_cached=repeat == 2,
        conditions=READINGS,
        engine_id="start 1",
        round=repeat,
        host="host",
        device="a GPU",
        overrides=[BURST, OFF],
        question_digests=["0" * 16, "1" * 16],
    )


def test_passes_come_back_as_they_were_written_and_go_with_their_trial(tmp_path):
    journal = Journal(tmp_path)
    assert journal.read_passes("k") == []
    written = [one_pass(repeat, "\u2028\x85\n字") for repeat in range(3)]
    for one in written:
        journal.write_pass("k", one)
    assert Journal(tmp_path).read_passes("k") == written
    journal.write(trial("k", error="died"), [])
    assert journal.read_passes("k") == written, "what was measured of a failed trial is kept for the next try"
    journal.write(trial("k"), [answer(1)])
    assert journal.read_passes("k") == []
    assert not journal.passes_file("k").exists()


def test_a_pass_that_a_kill_tore_off_is_missing_and_the_next_one_stays_intact(tmp_path):
    journal = Journal(tmp_path)
    journal.write_pass("k", one_pass(0))
    safe = journal.passes_file("k").stat().st_size
    journal.write_pass("k", one_pass(1))
    whole = journal.passes_file("k").read_bytes()
    for length in (safe + 1, safe + 40, len(whole) - 2):
        journal.passes_file("k").write_bytes(whole[:length])
        assert journal.read_passes("k") == [one_pass(0)], f"torn at byte {length}"
        journal.write_pass("k", one_pass(2))
        assert journal.read_passes("k") == [one_pass(0), one_pass(2)], f"torn at byte {length}"


BAD_STUDIES = {
    "not UTF-8": b"\xff\xfe\x00",
    "not YAML": b"a: [1",
    "nested too deeply": b"[" * 1000,
    "a number": b"3",
    "cells that are a number": b"format: 2\nfinalists: 0\ncells: 3\n",
    "a cell without axes": b"format: 2\nfinalists: 0\ncells:\n- trial: a\n",
    "a key that is a list": b"format: 2\nfinalists: 0\ncells:\n- trial: [a]\n  axes: {}\n",
    "finalists that are text": b"format: 2\nfinalists: many\ncells: []\n",
    "a rule that is a number": b"format: 2\nfinalists: 0\nselection: 3\ncells: []\n",
    "questions that are a list": b"format: 2\nfinalists: 0\nquestions: []\ncells: []\n",
}


@pytest.mark.parametrize("content", BAD_STUDIES.values(), ids=BAD_STUDIES)
def test_a_study_file_that_is_damaged_is_a_user_error_in_one_line_and_the_next_sweep_writes_it_again(tmp_path, content):
    journal, kept = Journal(tmp_path), trial("a")
    journal.write(kept, [])
    journal.study_file.write_bytes(content)
    for read in (journal.read_study, journal.finalists):
        with pytest.raises(UserError, match=r"study\.yaml .*the sweep's command writes it again") as refused:
            read()
        assert "\n" not in str(refused.value)
    assert journal.study_file.read_bytes() == content
    with journal.locked():
        journal.write_study([("a", {})], finalists=1)
    assert journal.read_study() == [kept]
    assert journal.finalists() == 1


def test_a_lock_or_a_file_of_passes_that_the_system_does_not_let_be_changed_is_named(tmp_path):
    journal = Journal(tmp_path)
    (journal.folder / "lock").mkdir(parents=True)
    with pytest.raises(FileNotWritten, match=r"trials/lock cannot be written: Is a directory"), journal.locked():
        pass
    journal.passes_file("k").mkdir()
    with pytest.raises(FileNotWritten, match=r"trials/k\.passes\.jsonl cannot be written: "):
        journal.forget_passes("k")


def test_a_file_of_trials_that_cannot_be_opened_is_a_user_error(tmp_path):
    journal = Journal(tmp_path)
    journal.file.mkdir(parents=True)
    with pytest.raises(UserError, match=r"trials\.jsonl cannot be read: Is a directory"):
        journal.read()


@contextlib.contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[None]:
    """A real file system of so many KiB."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a small file system needs root")
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this container may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_all_that_was_finished_and_takes_no_half_of_anything(tmp_path):
    with small_disk(tmp_path / "disk", kib=64):
        journal: Journal = Journal(tmp_path / "disk" / "study")
        written: list[str] = []
        journal.write_study([(f"{number}", {}) for number in range(100)])

        def write_trials() -> None:
            for number in range(100):
                journal.write(trial(f"{number}"), [answer(number)])
                written.append(f"{number}")

        with pytest.raises(FileNotWritten, match="No space left on device; all that was finished before is kept"):
            write_trials()
        before = journal.study_file.read_bytes()
        with pytest.raises(FileNotWritten, match=r"study\.yaml cannot be written"):
            journal.write_study([(f"{number}", {"prompt": "x" * 100}) for number in range(1000)])
        assert journal.study_file.read_bytes() == before
        assert len(written) > 1
        assert list(journal.read()) == written
        assert [one.key for one in journal.read_study()] == written
        assert all(journal.answers(key) for key in written)
        assert journal.problems() == []
        assert not list(journal.folder.glob("*.tmp"))


def test_a_lock_on_a_full_disk_is_refused_as_such(tmp_path):
    with small_disk(tmp_path / "disk", kib=64):
        journal = Journal(tmp_path / "disk" / "study")
        make_folder(journal.folder)
        with (tmp_path / "disk" / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(b"0" * 4096):
                pass
        with pytest.raises(FileNotWritten, match=r"trials/lock cannot be written: No space left"), journal.locked():
            pass
