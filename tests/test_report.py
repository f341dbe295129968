"""Trials become a leaderboard; the page and the terminal's table have tests of their own."""

from __future__ import annotations

import csv
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path

import pytest
from reported import RULE, answer, data_of, prompts, trial
from rich.console import Console

from gpuqa.config.commands import StudyConfig
from gpuqa.config.measurement import Rule, SelectionConfig
from gpuqa.measure.latency import PERCENTILES
from gpuqa.measure.statistics import bootstrap_interval
from gpuqa.records import Answer, Measurement, Override, Timing
from gpuqa.selection.decision import decide
from gpuqa.selection.pairing import Answers
from gpuqa.selection.verdict import Verdict
from gpuqa.study import report
from gpuqa.study.conclusion import conclude
from gpuqa.study.journal import Journal
from gpuqa.study.output import TextOutput
from gpuqa.study.page.result import Result
from gpuqa.study.terminal_table import print_table


def rows_of(verdict: Verdict, folder: Path, answers: Answers | None = None) -> list[dict[str, str]]:
    report.write(Result("Study s", verdict, answers or {}), folder)
    return list(csv.DictReader(StringIO((folder / "leaderboard.csv").read_text(encoding="utf-8"))))


def printed(verdict: Verdict) -> str:
    print_table(verdict, "Study s", RULE, console := Console(file=StringIO(), width=80, color_system=None))
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def test_the_leaderboard_has_a_row_a_trial_with_axes_rule_and_every_number(tmp_path):
    fast = trial({"prompt": "bare", "engine.args.max_num_seqs": "64"}, chars_per_s=300.0)
    low = trial({"prompt": "keywords", "engine.args.max_num_seqs": "16"}, chars_per_s=900.0, rouge_l_f1_judge=0.1)
    failed = trial({"prompt": "broken", "engine.args.max_num_seqs": "16"}, error="KV cache, 放不下")
    answers = {fast.key: [answer(f"q{place}", score) for place, score in enumerate([0.4, 0.6] * 5)]}
    rows = rows_of(decide([failed, low, fast], RULE), tmp_path, answers)
    lists = {field.name for field in fields(Measurement) if "list" in str(field.type)} - {
        "conditions",
        "ramp",
        "engine_ids",
        "devices",
    }
    ranged = ("chars_per_s", "rouge_l_f1_judge", "rouge_l_f1", *PERCENTILES)
    numbers = {field.name for field in fields(Measurement)} - lists - {"conditions", "ramp", "engine_ids", "devices"}
    derived = {"roofline_fraction"} | {f"{key}_interval_{end}" for key in ranged for end in ("low", "high")} | lists
    leads = {"first_leads_by", "first_leads_low", "first_leads_high", "p_value", "pareto"}
    named = {"rank", "eligible", "violations", "quality_kept", "quality_kept_by", "dropped", "trial"}
    named |= {"prompt", "engine.args.max_num_seqs"}
    overrides = {"scheduler", "attention", "overrides_off"}
    assert set(rows[0]) == named | numbers | derived | leads | overrides
    assert [row["pareto"] for row in rows] == ["False", "True", "False"]
    assert rows[0]["chars_per_s_repeats"] == "1.5 2.5"
    assert (rows[0]["repeats_began_at"], rows[0]["throttle_reasons"]) == ("1763990000.25 1763990042.5", "sw_power_cap")
    assert [(row["rank"], row["prompt"], row["eligible"]) for row in rows] == [
        ("1", "bare", "True"),
        ("2", "keywords", "False"),
        ("3", "broken", "False"),
    ]
    expected = {key: getattr(fast.measurement, key) for key in numbers}
    assert {key: rows[0][key] for key in numbers} == {
        key: "" if value is None else str(value) for key, value in expected.items()
    }
    interval = bootstrap_interval([0.4, 0.6] * 5)
    assert (rows[0]["rouge_l_f1_interval_low"], rows[0]["rouge_l_f1_interval_high"]) == (str(interval.low), str(interval.high))
    assert (rows[1]["rouge_l_f1_interval_low"], rows[0]["roofline_fraction"]) == ("", "")
    assert rows[0]["trial"] == fast.key[:16]
    assert rows[1]["violations"] == "rouge_l_f1_judge 0.1000 is below the floor 0.35 (a point estimate)"
    assert rows[2]["violations"] == "failed: KV cache, 放不下"
    assert rows[2]["chars_per_s"] == ""


def test_the_interval_of_a_percentile_is_in_the_leaderboard(tmp_path):
    timed = [replace(answer(str(place), 0.5), timings=[Timing(place / 10, 0.1, 5)] * 2) for place in range(80)]
    one = trial({"prompt": "bare"}, e2e_latency_ms_p95=7505.0, questions=80)
    [row] = rows_of(decide([one], RULE), tmp_path, {one.key: timed})
    ends = [row[f"e2e_latency_ms_p95_interval_{end}"] for end in ("low", "high")]
    assert ends == ["7100.0", "7900.0"]
    assert row["e2e_latency_ms_p99_interval_low"] == "", "80 questions are too few"


def test_the_verdict_tells_of_drift_and_of_a_gpu_that_was_held_back():
    rule = SelectionConfig(name="fastest", rule=Rule.fastest, min_rouge_l_f1_judge=0.0, min_rouge_l_f1_of_best=0.0)
    moments = [[100.0 * repeat + place for repeat in range(3)] for place in range(8)]
    trials = [
        trial({"n": str(place)}, chars_per_s=100.0 - place, chars_per_s_repeats=[120.0, 100.0, 80.0], repeats_began_at=row)
        for place, row in enumerate(moments)
    ]
    verdict = decide(trials, rule)
    assert verdict.drift is not None
    assert verdict.drift.p_value < 0.01
    assert verdict.drift.change < -0.3
    assert f"Speeds drifted by {verdict.drift.change:+.1%} from a cell's first repeat to its last (p " in verdict.reason
    assert "The GPU was held back in 8 trials (sw_power_cap; SM clock down to " in verdict.reason
    quiet = [replace(one, measurement=replace(one.measurement, throttle_reasons=["sync_boost"])) for one in trials]
    steady = [replace(one, measurement=replace(one.measurement, chars_per_s_repeats=[100.0] * 3)) for one in quiet]
    assert "drifted" not in decide(steady, rule).reason
    assert "held back" not in decide(steady, rule).reason


def test_overrides_that_did_not_run_or_were_limited_are_told_in_leaderboard_and_terminal_once_for_each_reason(tmp_path):
    off = Override("scheduler", "burst", "default", "fp8 KV cache")
    on = Override("attention", "shared_prefix", "shared_prefix", version="0123456789abcdef")
    limited = replace(off, ran="burst", reason="an answer was streamed")
    trials = [replace(one, overrides=[off, on]) for one in prompts(a=9.0, b=8.0)]
    trials.append(replace(trial({"prompt": "c"}, chars_per_s=7.0), overrides=[replace(off, reason="vLLM 0.99"), on]))
    trials.append(replace(trial({"prompt": "d"}, chars_per_s=6.0), overrides=[limited, on]))
    verdict = decide([*trials, *prompts(plain=1.0)], RULE)
    rows = {row["prompt"]: row for row in rows_of(verdict, tmp_path)}
    assert (rows["a"]["scheduler"], rows["a"]["attention"]) == ("default", "shared_prefix")
    assert rows["a"]["overrides_off"] == "scheduler: burst asked for, default ran: fp8 KV cache"
    streamed = "scheduler: burst ran, but not for everything: an answer was streamed"
    assert (rows["d"]["scheduler"], rows["d"]["overrides_off"]) == ("burst", streamed)
    assert (rows["plain"]["scheduler"], rows["plain"]["overrides_off"]) == ("", "")
    told = [
        "scheduler=burst did not run in 2 of 5 trials, scheduler=default ran instead: fp8 KV cache",
        "scheduler=burst did not run in 1 of 5 trials, scheduler=default ran instead: vLLM 0.99",
        "scheduler=burst ran in 1 of 5 trials, but not for everything: an answer was streamed",
    ]
    assert all(sentence in printed(verdict) for sentence in told)
    assert "did not run" not in printed(decide(prompts(plain=1.0), RULE))


@pytest.mark.parametrize("error", ["no file at [/opt/model]", "1 error [type=literal_error, input_value='x']", "plain"])
def test_an_error_with_brackets_is_told_in_full_when_a_study_ends(tmp_path, error):
    study, journal = StudyConfig(name="mine", root=str(tmp_path)), Journal(tmp_path / "mine")
    console = Console(file=StringIO(), width=200, color_system=None)
    assert conclude([trial({"quantization": "fp8"}, error=error)], study, RULE, journal, TextOutput(console)) == 1
    assert f"quantization=fp8: failed: {error}" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("older", ["an older winner", None, "unreadable"])
def test_a_study_that_ends_without_a_winner_leaves_the_older_one_with_its_report_or_writes_its_own(tmp_path, older):
    study, journal = StudyConfig(name="mine", root=str(tmp_path)), Journal(tmp_path / "mine")
    low = replace(trial({"prompt": "bare"}, rouge_l_f1_judge=0.1), key="k")
    journal.write(low, [Answer("1", "什么是 warp？", "参考", "32 个线程", 0.1, 0.1, "stop", 5, 0.1)])
    frozen, table, page = (tmp_path / "mine" / name for name in ("frozen.yaml", "leaderboard.csv", "report.html"))
    if older == "unreadable":
        frozen.symlink_to("/proc/self/mem")  # the system lets no one read its first byte
    elif older:
        frozen.write_text(older)
    table.write_text("of before")
    page.write_text("of before")
    console = Console(file=StringIO(), width=300)
    assert conclude([low], study, RULE, journal, TextOutput(console)) == 1
    said = console.file.getvalue()
    assert "is below the floor" in said
    if older is None:
        assert said.endswith("Nothing was frozen.\n")
        assert "Leaderboard: " in said
        assert "prompt" in table.read_text()
        answers = data_of(page.parent)["answers"]
        assert (answers["questions"][0]["text"], answers["texts"]) == ("什么是 warp？", ["32 个线程"])
        return
    assert [file.read_text() for file in (table, page)] == ["of before"] * 2
    assert frozen.is_symlink() or frozen.read_text() == older
    assert "Leaderboard: " not in said
    stays = "frozen.yaml stays and holds the decision of before, which was edited or cannot be read. leaderboard.csv and report"
    assert f"{stays}.html stay with it: what is above is in this output only." in said
