"""Trials become a leaderboard, and a page that is safe to open."""

from __future__ import annotations

import csv
from dataclasses import fields, replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gpuqa.config.commands import StudyConfig
from gpuqa.config.measurement import Rule, SelectionConfig
from gpuqa.measure.latency import PERCENTILES
from gpuqa.measure.metric_table import METRICS
from gpuqa.measure.statistics import bootstrap_interval
from gpuqa.records import Answer, Dropped, Measurement, Override, Timing, Trial
from gpuqa.selection.decision import decide
from gpuqa.selection.pairing import Answers
from gpuqa.selection.verdict import Verdict
from gpuqa.study import report
from gpuqa.study.conclusion import conclude
from gpuqa.study.journal import Journal
from gpuqa.study.terminal_table import print_table

RULE = SelectionConfig(name="fastest_above_floor", min_rouge_l_f1_judge=0.35)
NASTY = "<script>alert('字')</script> & \"quoted\""


def measurement(**numbers: Any) -> Measurement:
    """A different number in every field, so that a swap shows."""
    base: dict[str, Any] = {field.name: 10.0 + place for place, field in enumerate(fields(Measurement))}
    base |= {"answers_empty": 0.0, "truncated_fraction": 0.125, "chars_per_s_repeats": [1.5, 2.5]}
    base |= {
        "repeats_began_at": [1763990000.25, 1763990042.5],
        "throttle_reasons": ["sw_power_cap"],
        "first_round_chars_per_s": None,
        "conditions": [],
        "engine_ids": ["one engine", "one engine"],
        "ramp": [],
    }
    return Measurement(**{**base, "questions": 10, "rouge_l_f1_judge": 0.4, "rouge_l_f1": 0.5, **numbers})


def answer(key: str, score: float) -> Answer:
    return Answer(key, f"问题 {key}", "参考", "回答", 0.1, score, "stop", 5, 0.1)


def trial(axes: dict[str, str], error: str | None = None, note: str | None = None, **numbers: Any) -> Trial:
    prompt = {"name": axes.get("prompt", ""), "system": None, "user": "{question}", "examples": []}
    pipeline = {
        **axes,
        "prompt": prompt,
        "quantization": {"name": axes.get("quantization", "none")},
        "model": {"note": note},
        "engine": {"args": {}},
        "sampling": {"max_tokens": 256},
    }
    key = "-".join(axes.values()).ljust(64, "0")
    return Trial(key, axes, pipeline, {}, None if error else measurement(**numbers), error)


def prompts(**speeds: float) -> list[Trial]:
    return [trial({"prompt": name}, chars_per_s=speed, chars_per_s_repeats=[speed]) for name, speed in speeds.items()]


def rows_of(verdict: Verdict, folder: Path, answers: Answers | None = None) -> list[dict[str, str]]:
    report.write(verdict, "Study s", answers or {}, folder)
    return list(csv.DictReader(StringIO((folder / "leaderboard.csv").read_text(encoding="utf-8"))))


def page_of(verdict: Verdict, folder: Path, answers: Answers | None = None) -> str:
    report.write(verdict, f"Study {NASTY}", answers or {}, folder)
    return (folder / "report.html").read_text(encoding="utf-8")


def printed(verdict: Verdict) -> str:
    print_table(verdict, "Study s", RULE, console := Console(file=StringIO(), width=80, color_system=None))
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


class Page(HTMLParser):
    """What a browser makes of a page: its tags, and the text inside each kind of tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[tuple[str, str]] = []
        self.cells: list[list[str]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        name = next((value or "" for key, value in attrs if key == "class"), "")
        if tag not in ("meta", "line", "circle"):
            self.open.append((tag, name))
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th", "dt", "dd", "p", "h1", "li", "title"):
            self.text.setdefault(f"{tag}.{name}" if name else tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not self.open:
            return
        tag, name = self.open[-1]
        if tag in ("td", "th"):
            self.cells[-1].append(data)
        if (key := f"{tag}.{name}" if name else tag) in self.text:
            self.text[key][-1] += data


def test_a_leaderboard_is_read_as_a_table_in_which_names_stay_names(tmp_path):
    names = ["none", "NA", "null"]
    rows_of(
        decide([trial({"quantization": name}, chars_per_s=100.0 + place) for place, name in enumerate(names)], RULE), tmp_path
    )
    table = report.read_leaderboard(tmp_path)
    assert sorted(table["quantization"]) == sorted(names)
    assert table["chars_per_s"].tolist() == [102.0, 101.0, 100.0]
    assert table["roofline_fraction"].isna().all()
    assert all(isinstance(key, str) for key in table["trial"])


def test_the_leaderboard_has_a_row_a_trial_with_axes_rule_and_every_number(tmp_path):
    fast = trial({"prompt": "bare", "engine.args.max_num_seqs": "64"}, chars_per_s=300.0)
    low = trial({"prompt": "keywords", "engine.args.max_num_seqs": "16"}, chars_per_s=900.0, rouge_l_f1_judge=0.1)
    failed = trial({"prompt": "broken", "engine.args.max_num_seqs": "16"}, error="KV cache, 放不下")
    answers = {fast.key: [answer(f"q{place}", score) for place, score in enumerate([0.4, 0.6] * 5)]}
    rows = rows_of(decide([failed, low, fast], RULE), tmp_path, answers)
    lists = {field.name for field in fields(Measurement) if "list" in str(field.type)} - {"conditions", "ramp", "engine_ids"}
    ranged = ("chars_per_s", "rouge_l_f1_judge", "rouge_l_f1", *PERCENTILES)
    numbers = {field.name for field in fields(Measurement)} - lists - {"conditions", "ramp", "engine_ids"}
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


def test_a_percentile_that_the_sample_cannot_support_says_what_it_needs(tmp_path):
    short = trial({"prompt": "bare"}, e2e_latency_ms_p95=None)
    enough = trial({"prompt": "expert"}, e2e_latency_ms_p95=1234.5, chars_per_s=1.0)
    page = Page(page_of(decide([short, enough], RULE), tmp_path))
    table = [row for row in page.cells if len(row) > 4]
    column = table[0].index("p95 ms")
    assert [row[column] for row in table[1:]] == ["n/a (needs 20)", "1,234"]


def test_a_percentile_has_its_interval_on_the_page_and_in_the_leaderboard(tmp_path):
    timed = [replace(answer(str(place), 0.5), timings=[Timing(place / 10, 0.1, 5)] * 2) for place in range(80)]
    one = trial({"prompt": "bare"}, e2e_latency_ms_p95=7505.0, questions=80)
    answers = {one.key: timed}
    table = [row for row in Page(page_of(decide([one], RULE), tmp_path, answers)).cells if len(row) > 4]
    assert table[1][table[0].index("p95 ms")] == "7,505 [7,100 to 7,900]"
    [row] = rows_of(decide([one], RULE), tmp_path, answers)
    ends = [row[f"e2e_latency_ms_p95_interval_{end}"] for end in ("low", "high")]
    assert ends == ["7100.0", "7900.0"]
    assert row["e2e_latency_ms_p99_interval_low"] == "", "80 questions are too few"


def test_the_page_shows_the_verdict_the_note_and_marks_the_winner(tmp_path):
    trials = [trial({"prompt": "slow"}, note="DEMONSTRATION", chars_per_s=100.0, chars_per_s_repeats=[100.0])]
    verdict = decide([*trials, *prompts(quick=5000.0)], RULE)
    text = page_of(verdict, tmp_path)
    page = Page(text)
    assert page.text["p.verdict open"] == [verdict.reason]
    assert page.text["p.note"] == ["DEMONSTRATION"]
    assert text.count('<tr class="winner">') == 1
    assert page.text["td.axis"] == ["quick", "slow"]
    assert page.cells[-2][1] == "5,000"
    assert page.cells[1] == ["prompt=slow", "+4900.0%", "n/a", "n/a"]


def test_drift_throttling_and_the_first_round_are_told(tmp_path):
    rule = SelectionConfig(name="fastest", rule=Rule.fastest, min_rouge_l_f1_judge=0.0, min_rouge_l_f1_of_best=0.0)
    moments = [[100.0 * repeat + place for repeat in range(3)] for place in range(8)]
    trials = [
        trial({"n": str(place)}, chars_per_s=100.0 - place, chars_per_s_repeats=[120.0, 100.0, 80.0], repeats_began_at=row)
        for place, row in enumerate(moments)
    ]
    verdict = decide(trials, rule)
    assert verdict.drift.p_value < 0.01
    assert verdict.drift.change < -0.3
    assert f"Speeds drifted by {verdict.drift.change:+.1%} from a cell's first repeat to its last (p " in verdict.reason
    assert "The GPU was held back in 8 trials (sw_power_cap; SM clock down to " in verdict.reason
    assert f"{100 * verdict.drift.change:+.1f} %" in page_of(verdict, tmp_path)
    quiet = [replace(one, measurement=replace(one.measurement, throttle_reasons=["sync_boost"])) for one in trials]
    steady = [replace(one, measurement=replace(one.measurement, chars_per_s_repeats=[100.0] * 3)) for one in quiet]
    assert "drifted" not in decide(steady, rule).reason
    assert "held back" not in decide(steady, rule).reason
    again = replace(trials[1], measurement=replace(trials[1].measurement, first_round_chars_per_s=4321.0))
    page = Page(page_of(decide([trials[0], again], rule), tmp_path))
    assert "4,321" in page.cells[-2], "a finalist stands first, with the number of its first round"


def test_warm_numbers_are_shown_where_they_were_measured(tmp_path):
    none = {"prefix_cached_chars_per_s": None, "prefix_cached_ttft_ms_p50": None, "prefix_cached_hit_rate": None}
    cold, both = trial({"prompt": "cold"}, chars_per_s=9.0, **none), trial({"prompt": "both"}, prefix_cached_chars_per_s=1234.0)
    assert "cached chars/s" not in page_of(decide([cold], RULE), tmp_path)
    page = Page(page_of(decide([cold, both], RULE), tmp_path))
    table = [row for row in page.cells if len(row) > 4]
    column = table[0].index("cached chars/s")
    assert {row[0]: row[column] for row in table[1:]} == {"cold": "n/a", "both": "1,234"}
    assert next(row for row in rows_of(decide([both], RULE), tmp_path))["prefix_cached_chars_per_s"] == "1234.0"


def test_overrides_that_did_not_run_or_were_limited_are_told_in_leaderboard_page_and_terminal_once_for_each_reason(tmp_path):
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
    assert sorted(Page(page_of(verdict, tmp_path)).text["li"]) == sorted(told)
    assert all(sentence in printed(verdict) for sentence in told)
    without = decide(prompts(plain=1.0), RULE)
    assert "did not run" not in page_of(without, tmp_path) + printed(without)


def test_the_page_says_what_each_of_its_columns_means(tmp_path):
    page = Page(page_of(decide(prompts(a=1.0), RULE), tmp_path))
    [legend] = page.text["p.legend"]
    assert METRICS["output_tokens_per_s"].meaning in legend
    assert METRICS["ttft_ms_p50"].meaning not in legend


def test_without_a_note_or_a_winner_the_page_shows_none(tmp_path):
    verdict = decide([trial({"prompt": "bare"}, rouge_l_f1_judge=0.1)], RULE)
    text = page_of(verdict, tmp_path)
    assert verdict.winner is None
    assert Page(text).text["p.verdict open"] == [verdict.reason]
    assert '<tr class="winner">' not in text
    assert '<p class="note">' not in text


def test_the_page_of_failures_only_can_be_drawn(tmp_path):
    page = Page(page_of(decide([trial({"prompt": "bare"}, error="died")], RULE), tmp_path))
    assert "circle" not in page.tags
    assert page.text["p.why"] == ["failed: died"]


def test_dropped_trials_are_in_brackets_with_their_reason_and_the_page_says_what_that_means(tmp_path):
    good, slow = prompts(good=900.0, slow=100.0)
    reason = "at least 12.0% slower than prompt=good, shown by 16 questions"
    dropped = replace(slow, measurement=None, dropped=Dropped(reason, slow.measurement))
    unseen = replace(trial({"prompt": "c"}), measurement=None, dropped=Dropped("not even the bound of its card", None))
    page = Page(page_of(decide([good, dropped, unseen], RULE), tmp_path))
    assert page.text["p.why"] == [f"dropped: {reason}", "dropped: not even the bound of its card"]
    row = next(cells for cells in page.cells if "slow" in cells)
    assert "(100)" in row
    assert "dropped" in next(cells for cells in page.cells if "c" in cells)
    assert any(told.startswith("In brackets: trials that the race dropped.") for told in page.text["p"])
    without = Page(page_of(decide([good], RULE), tmp_path))
    assert not any("In brackets" in told for told in without.text["p"])


def test_text_from_models_users_and_errors_is_shown_and_never_run(tmp_path):
    override = Override("scheduler", NASTY, "default", NASTY)
    good, bad = trial({"prompt": NASTY}, note=NASTY, chars_per_s=9.0), trial({"prompt": "b"}, note=NASTY, error=NASTY)
    known = {good.key: [replace(answer("q", 0.5), question="问题", answer=NASTY)]}
    text = page_of(decide([replace(good, overrides=[override]), bad], RULE), tmp_path, known)
    page = Page(text)
    assert "script" not in page.tags
    assert page.text["p.note"] == [NASTY]
    assert page.text["h1"] == page.text["title"][:1] == [f"Study {NASTY}"]
    assert page.text["dd"] == [f"问题\n{NASTY}"]
    assert page.text["td.axis"] == [NASTY, "b"]
    assert page.text["p.why"] == [f"failed: {NASTY}"]
    assert text.isascii() is False  # Chinese stays readable in the source


def test_the_page_needs_nothing_from_the_network(tmp_path):
    text = page_of(decide(prompts(a=1.0), RULE), tmp_path)
    assert not [found for found in ("http://", "https://", "src=", "@import", "url(") if found in text]


def test_every_measured_trial_is_a_dot_inside_the_plot_in_the_order_of_its_numbers():
    verdict = decide(
        [
            trial({"prompt": "slow good"}, chars_per_s=100.0, rouge_l_f1_judge=0.6),
            trial({"prompt": "fast bad"}, chars_per_s=900.0, rouge_l_f1_judge=0.2),
            trial({"prompt": "dead"}, error="died"),
        ],
        RULE,
    )
    good, bad = report.plot_points(verdict.standings)["dots"]
    assert (good["name"], good["eligible"]) == ("prompt=slow good", True)
    assert (bad["name"], bad["eligible"]) == ("prompt=fast bad", False)
    assert 60 < bad["x"] < good["x"] <= 620  # quality to the right
    assert 20 <= bad["y"] < good["y"] < 280  # speed upwards
    assert bad["x"] - 60 == pytest.approx((good["x"] - 60) / 3)  # from zero


def test_trials_without_a_character_or_a_hit_do_not_stop_the_plot():
    verdict = decide([trial({}, chars_per_s=0.0, rouge_l_f1_judge=0.0)], RULE)
    [dot] = report.plot_points(verdict.standings)["dots"]
    assert (dot["x"], dot["y"]) == (60, 280)


@pytest.mark.parametrize("error", ["no file at [/opt/model]", "1 error [type=literal_error, input_value='x']", "plain"])
def test_an_error_with_brackets_is_told_in_full_when_a_study_ends(tmp_path, error):
    study, journal = StudyConfig(name="mine", root=str(tmp_path)), Journal(tmp_path / "mine")
    console = Console(file=StringIO(), width=200, color_system=None)
    assert conclude([trial({"quantization": "fp8"}, error=error)], study, RULE, journal, console) == 1
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
    assert conclude([low], study, RULE, journal, console) == 1
    said = console.file.getvalue()
    assert "is below the floor" in said
    if older is None:
        assert said.endswith("Nothing was frozen.\n")
        assert "Leaderboard: " in said
        assert "prompt" in table.read_text()
        assert "什么是 warp？\n32 个线程" in page.read_text(encoding="utf-8")
        return
    assert [file.read_text() for file in (table, page)] == ["of before"] * 2
    assert frozen.is_symlink() or frozen.read_text() == older
    assert "Leaderboard: " not in said
    stays = "frozen.yaml stays and holds the decision of before, which was edited or cannot be read. leaderboard.csv and report"
    assert f"{stays}.html stay with it: what is above is in this output only." in said
