"""The yardstick under experiments/speed: its arithmetic, and one run of it on real engines."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from argparse import Namespace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, run_python

from gpuqa.config.pipeline import ModelConfig, PromptConfig
from gpuqa.pipeline.prompts import PromptEncoder, load_tokenizer

SPEED = ROOT / "experiments" / "speed"


@pytest.fixture(autouse=True)
def modules_of_the_yardstick(monkeypatch):
    """They import each other by bare names, as scripts do."""
    monkeypatch.syspath_prepend(str(SPEED))
    yield
    for name in [path.stem for path in SPEED.glob("*.py")]:
        sys.modules.pop(name, None)


def load(name: str) -> Any:
    return importlib.import_module(name)


def record(row: str, seconds: float, questions: int, latencies: list[float]) -> dict[str, Any]:
    tokens = questions * 10
    known = {"row": row, "prefix": 50, "questions": questions, "output_tokens": tokens}
    return {**known, "seconds": seconds, "latencies": latencies}


def test_every_repeat_measures_every_row_before_the_next_begins():
    rows = load("rows")
    chosen = rows.chosen("a.text,c,g")
    order = [(repeat, prefix, row.key) for repeat, prefix, row in rows.plan(chosen, [500, 50], 2)]
    first = [(0, prefix, key) for prefix in (500, 50) for key in ("a.text", "c", "g")]
    assert order == first + [(1, prefix, key) for prefix in (500, 50) for key in ("a.text", "c")]  # g runs once


def test_a_letter_means_all_its_rows_and_a_wrong_one_is_refused():
    rows = load("rows")
    assert [row.key for row in rows.chosen("d,b.ids")] == ["b.ids", "d.batch", "d.64"]
    with pytest.raises(ValueError, match="'z', allowed are a"):
        rows.chosen("a,z")


def test_ratios_compare_rates_so_that_fewer_questions_cost_nothing():
    rows = load("rows")
    records = [record("a.text", seconds, 20, []) for seconds in (1.0, 2.0, 4.0)] + [record("g", 4.0, 10, [])]
    reference, floor = rows.summarise(records, rows.ROWS, [50])
    assert (reference.median_s, reference.mad_s, reference.over_reference) == (2.0, 1.0, 1.0)
    assert floor.over_reference == pytest.approx(25 / 100)


def test_starts_are_compared_batch_by_batch_and_their_spread_is_the_interval():
    starts = load("starts")

    def batches(row: str, *seconds: float) -> list[dict[str, Any]]:
        return [{**record(row, second, 10, []), "repeat": repeat} for repeat, second in enumerate(seconds)]

    runs = [
        batches("d.batch", 2.0, 4.0, 9.0) + batches("k.batch", 1.0, 2.0),  # the budget ended the third
        batches("d.batch", 2.0, 4.0) + batches("k.batch", 1.6, 3.2),
    ]
    [one] = starts.ratios(runs, "d.batch")
    assert (one["row"], one["prefix"]) == ("k.batch", 50)
    assert one["starts"] == pytest.approx([2.0, 1.25])
    assert one["ratio"] == pytest.approx(2.5**0.5)
    assert one["low"] < 1 < one["high"], "of two starts"
    [alone] = starts.ratios(runs[:1], "d.batch")
    assert "low" not in alone
    assert "| k.batch | 50 | 2.000 | 2.000 |" in starts.table([alone], "d.batch")


def test_percentiles_are_over_the_requests_of_all_repeats_together():
    rows = load("rows")
    records = [record("e.64", 2.0, 10, [0.1] * 10), record("e.64", 1.0, 10, [0.2] * 9 + [0.9])]
    [one] = rows.summarise(records, rows.ROWS, [50])
    assert (one.questions_per_s, one.p50_s) == (7.5, pytest.approx(0.15))
    assert one.p95_s == pytest.approx(0.235)
    [lonely] = rows.summarise(records[:1], rows.ROWS, [50])
    assert lonely.p95_s is None  # ten latencies hold no 95th percentile
    assert "| n/a |" in rows.table([lonely], {})


def test_kernel_seconds_count_overlapping_kernels_once():
    profile_kernels = load("profile_kernels")
    events = [
        {"cat": "kernel", "ts": 0.0, "dur": 10.0, "name": "gemm"},
        {"cat": "kernel", "ts": 5.0, "dur": 10.0, "name": "copy"},
        {"cat": "kernel", "ts": 30.0, "dur": 5.0, "name": "gemm"},
        {"cat": "gpu_memcpy", "ts": 50.0, "dur": 99.0, "name": "Memcpy"},
        {"ph": "M", "name": "process_name"},
    ]
    found = profile_kernels.kernels({"traceEvents": events})
    figures = profile_kernels.figures(found, [40e-6, 100e-6, 50e-6])
    assert figures["kernel_s"] == pytest.approx(20e-6)
    assert sum(profile_kernels.idle_s(found, 50e-6).values()) == pytest.approx(30e-6)
    assert figures["kernel_fraction"] == pytest.approx(0.4)
    assert [(one["name"], one["calls"]) for one in figures["kernels"]] == [("gemm", 2), ("copy", 1)]


@pytest.mark.parametrize(
    ("answer", "steps"),
    [
        ([7, 8, 9], 3),  # nothing of it stood before
        ([1, 2, 3, 4, 5], 3),  # "1" and "2" by the model, then "3 4" by the prompt and "5" by the model
        ([1, 2, 3, 9], 3),  # of "3 4" only the first token fits
        ([7, 8, 7, 8, 7, 8, 7], 5),  # the answer repeats itself
    ],
)
def test_drafts_are_what_stood_behind_the_last_tokens_before(answer, steps):
    arguments = Namespace(shortest=2, longest=4, drafts=2)
    assert load("ngram_bound").steps_for(answer, [1, 2, 3, 4], arguments) == steps


@pytest.mark.parametrize(
    ("an_hour", "settling", "noise", "verdict"),
    [
        (0, 0, 0.5, "steady"),
        (0, 60, 0.5, "steady"),  # it grows at first and has settled half-way
        (60, 0, 0.5, "growing"),
        (0, 0, 20, "too short to tell"),
    ],
)
def test_memory_is_judged_by_the_second_half_and_only_as_surely_as_it_can_be(an_hour, settling, noise, verdict):
    seconds = np.arange(600.0)
    drawn = np.random.default_rng(0).normal(scale=noise, size=600)
    mib = 500 + an_hour * seconds / 3600 - settling * np.exp(-seconds / 30) + drawn
    told = load("serve_soak").judge(seconds, mib, most=20.0)
    assert told["verdict"] == verdict
    assert told["interval"][0] <= told["slope_mib_per_h"] <= told["interval"][1]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("speed") / "model"
    subprocess.run([sys.executable, str(SPEED / "random_model.py"), str(folder), "--tiny"], check=True)
    return folder


@pytest.mark.slow
def test_questions_are_as_long_as_said_and_never_asked_twice(model):
    from tokenizers import Tokenizer

    questions = load("questions")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    sets = [questions.question_texts(tokenizer, row, 50, repeat, 50) for row in ("c", "d.64") for repeat in (-1, 0, 1)]
    texts = [text for one in sets for text in one]
    assert len(set(texts)) == len(texts)
    assert all(15 <= len(tokenizer.encode(text).ids) <= 60 for text in texts)
    assert any("\u4e00" <= letter <= "\u9fff" for letter in texts[0] + texts[1])
    assert len(tokenizer.encode(questions.system_prompt(tokenizer, 500)).ids) == pytest.approx(500, abs=5)
    starts = [tuple(tokenizer.encode(text).ids[:15]) for text in islice(texts, 300)]
    assert len(set(starts)) == len(starts)  # no cached block of one question serves another


@pytest.mark.slow
def test_a_question_holds_no_token_of_qwen3s_ids_that_means_something_to_the_model(model):
    tokenizer = load_tokenizer(ModelConfig(name="m", path=str(model)))
    encode = PromptEncoder(tokenizer, PromptConfig(name="bare"), 1_000, False, "m")
    for question in ("<think>", "a</think>b", "<|im_end|>\n<|im_start|>system", "<|control_3|>"):
        asked = encode.encode(question).token_ids[len(encode.before) : -len(encode.after)]
        assert max(asked) < 8_000, "all others are made up, control tokens or thoughts"
        assert tokenizer.decode(asked) == question


@pytest.mark.engine
def test_a_run_writes_every_value_and_a_table_and_one_failure_stops_nobody_else(model, tmp_path):
    words = [f"out={tmp_path}", f"model={model}", "--tiny", "--questions", "6", "--tokens", "4", "--clients", "3"]
    subset = ["--only", "a.text,c,d,f.batch", "--repeats", "2", "--prefixes", "50", "--seed-args", "max_num_seq=3"]
    run = run_python(str(SPEED / "yardstick.py"), *words, *subset, cwd=tmp_path)
    assert run.returncode == 1, run.stdout + run.stderr  # the seed did not start
    content = json.loads((tmp_path / "yardstick.json").read_text())
    assert content["errors"].keys() == {"seed"}
    assert "max_num_seq" in content["errors"]["seed"]
    assert [one["row"] for one in content["records"]] == ["a.text", "c", "d.batch", "d.64"] * 2
    assert all(one["seconds"] > 0 and one["output_tokens"] == 24 for one in content["records"])
    assert [len(one["latencies"]) for one in content["records"] if one["row"] == "d.64"] == [6, 6]
    assert content["machine"]["versions"]["torch"]
    assert content["contestants"]["ours"]["scheduler"] in ("burst", "default")
    table = (tmp_path / "table.md").read_text()
    assert run.stdout.endswith(table + "\n")
    assert table.count("| ours") == 3
    assert "- seed: " in table
