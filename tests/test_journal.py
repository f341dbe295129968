"""Trials on disk come back as they were, whatever a killed process left behind."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpuqa.records import Answer, Answered, Completion, Conditions, Interval, Measurement, Pass, Trial
from gpuqa.study.journal import Journal

READINGS = [Conditions(1980, 3201, 61, 412.5, ["sw_power_cap"]), Conditions(345, 2600, 40, 80.0, ["gpu_idle"])]


def measurement() -> Measurement:
    """A different number in every field, so that a swap shows; None where the records allow it."""
    numbers = {field.name: place + 0.125 for place, field in enumerate(fields(Measurement))}
    intervals = {key: Interval(value - 0.1, value + 0.1) for key, value in numbers.items() if key.endswith("_interval")}
    return Measurement(
        **{**numbers, **intervals, "questions": 24, "ttft_ms_p95": None, "roofline_fraction": None, "conditions": READINGS}
    )


def trial(key: str, error: str | None = None, **axes: str) -> Trial:
    pipeline = {"prompt": {"name": "结构化", "examples": []}, "engine": {"args": {"max_model_len": 1024, "seed": None}}}
    found = None if error else measurement()
    return Trial(key, axes, pipeline, {"digests": {"weights": "ab"}, "driver": ""}, found, error)


def answer(number: int, text: str = "warp 是 32 个线程。") -> Answer:
    return Answer(str(number), f"问题 {number}", "参考", text, 0.5, 0.25, "stop", 12, 0.75, None)


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def test_trials_come_back_as_they_were_written(tmp_path):
    first, failed = trial("a" * 64, prompt="bare"), trial("b" * 64, error="KV cache 放不下")
    Journal(tmp_path / "study").write(first, [answer(1)])
    Journal(tmp_path / "study").write(failed, [])
    assert Journal(tmp_path / "study").read() == {first.key: first, failed.key: failed}


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


def test_a_trial_of_a_version_with_other_fields_is_measured_again_instead_of_stopping_the_study(tmp_path):
    journal, mine = Journal(tmp_path), trial("mine")
    older = asdict(trial("older"))
    del older["measurement"]["chars_per_s"]
    newer = {**asdict(trial("newer")), "weather": "rain"}
    journal.folder.mkdir()
    journal.file.write_text("".join(json.dumps(row) + "\n" for row in (older, newer, {"unlike": "a trial"}, [1])))
    journal.write(mine, [])
    assert journal.read() == {"mine": mine}


def test_answers_lie_beside_the_trials_one_line_each_in_the_order_of_the_questions(tmp_path):
    journal = Journal(tmp_path)
    answers = [answer(2, "第一\n第二\u2028第三"), replace(answer(1), answer="", error="ValueError: 太长")]
    journal.write(trial("0123456789abcdef" + "f" * 48), answers)
    file = tmp_path / "trials" / "0123456789abcdef.answers.jsonl"
    assert lines(file) == [asdict(one) for one in answers]
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


def test_a_study_is_read_in_its_own_order_with_its_own_axes(tmp_path):
    journal, axes = Journal(tmp_path), {"prompt": "bare", "engine.args.max_num_seqs": "64"}
    for key in ("a", "b", "c", "d"):
        journal.write(trial(key, prompt="older words"), [])
    journal.write_study([("c", axes), ("not measured yet", {}), ("a", {})])
    assert [(one.key, one.axes) for one in journal.read_study()] == [("c", axes), ("a", {})]
    assert list(journal.read()) == ["a", "b", "c", "d"]


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
    return Pass(answered, repeat, ["a", "b"], 1.25e9, 14.5, 0.25, 1.5, prefix_cached=repeat == 2, conditions=READINGS)


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
