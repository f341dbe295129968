"""What a command says while a study runs: lines and a view for people, JSON for programs. Nothing is measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from any_measurement import any_measurement
from generated_trials import RULE
from generated_trials import cell as generated
from rich.console import Console
from small_study import config

from gpuqa.measure.cell import Cell
from gpuqa.records import Answered, Completion, Conditions, Override, Pass, Question
from gpuqa.selection.decision import decide
from gpuqa.study.live_view import render
from gpuqa.study.output import JsonOutput, Output, TextOutput, Told
from gpuqa.study.watched import Watched, mean_speed

LATE = Override("scheduler", "burst", "default", "no process of the engine reported that it runs")
KNOWN = Override("attention", "shared_prefix", "default", "there is no CUDA device")


def cell(**axes: Any) -> Cell:
    known = {"digests": {"weights": "w", "dataset": "d"}}
    named = {key.replace("__", "."): str(value) for key, value in axes.items()}
    return Cell(config(**{"engine": "vllm_cpu", **axes}), named, [Question("1", "什么是 warp？")], [], known)


def measured(repeat: int, seconds: float = 2.0, engine: str = "a", **more: Any) -> Pass:
    """A pass of 1,000 characters on an engine that took 8 s to start and 1 s to warm up."""
    completion = Completion("字" * 1000, "stop", 10, 500, 0, False, 0.1, seconds)
    return Pass(Answered([completion], seconds, [seconds]), repeat, ["1"], 0.0, 8.0, 1.0, 2.5, engine_id=engine, **more)


def told(output: Output, cells: list[Cell], log: Path = Path("nowhere"), passes: bool = False) -> Told:
    return Told(Watched(cells), output, log, passes)


def shown(watched: Watched, width: int = 80) -> list[str]:
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(render(watched))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


@pytest.fixture
def text() -> TextOutput:
    return TextOutput(Console(file=StringIO(), width=300, color_system=None))


def lines_of(output: TextOutput) -> list[str]:
    return output.console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_file_gets_a_line_for_each_engine_and_each_trial_and_none_for_a_pass(text: TextOutput) -> None:
    cells = [cell(prompt="bare"), cell(prompt="expert"), cell(prompt="keywords")]
    with text.watch(cells, Path("nowhere")) as observer:
        observer.engine_starts(cells[0])
        observer.pass_done(cells[0], measured(0))
        observer.trial_done(cells[0].trial(any_measurement(chars_per_s=1234.0)), kept=False)
        observer.trial_done(cells[1].trial(any_measurement(chars_per_s=99.0)), kept=True)
        observer.trial_done(cells[2].failed("the KV cache has no room"), kept=False)
    assert lines_of(text) == [
        "starting vllm_cpu (none)",
        "  prompt=bare: 1,234 chars/s",
        "  prompt=expert: 99 chars/s (kept)",
        f"  prompt=keywords: failed: {cells[2].failed('the KV cache has no room').error}",
    ]


def test_the_engines_of_two_axes_are_told_apart(text: TextOutput) -> None:
    cells = [cell(prompt="bare", engine__args__max_num_seqs=size) for size in (8, 16)]
    with text.watch(cells, Path("nowhere")) as observer:
        for each in cells:
            observer.engine_starts(each)
    assert lines_of(text) == ["starting vllm_cpu (none, max_num_seqs=8)", "starting vllm_cpu (none, max_num_seqs=16)"]


def test_of_a_trial_that_failed_the_last_lines_of_its_engine_are_shown_and_none_of_an_earlier_one(
    text: TextOutput, tmp_path: Path
) -> None:
    (log := tmp_path / "engine.log").write_text("of an earlier run\n", encoding="utf-8")
    cells = [cell(prompt="bare"), cell(prompt="expert")]
    observer = told(text, cells, log)
    with log.open("a", encoding="utf-8") as stream:
        stream.write("\n".join(f"line {place}" for place in range(9)) + "\n\n")
    observer.trial_done(cells[0].failed("died"), kept=False)
    observer.trial_done(cells[1].failed("died"), kept=False)
    said = lines_of(text)
    assert said[1] == f"    the last lines of {log}:"
    assert said[2:7] == [f"    | line {place}" for place in range(4, 9)]
    assert len(said) == 8, "what the first has shown is not shown again"
    assert said[7].startswith("  prompt=expert: failed: ")


def test_a_reason_that_only_a_running_engine_knows_is_told_once_and_a_known_one_not_again(text: TextOutput) -> None:
    one = cell(engine__attention="shared_prefix")
    observer = told(text, [one])
    for overrides in ([LATE, KNOWN], [LATE], [replace(LATE, ran="burst", reason="an answer was streamed")]):
        observer.tell_reasons(overrides)
    assert lines_of(text) == [
        "engine.scheduler=burst is off: no process of the engine reported that it runs",
        "engine.scheduler=burst is limited: an answer was streamed",
    ]


def test_for_programs_every_line_is_an_object_with_its_event_and_the_facts_of_it() -> None:
    output = JsonOutput(stream := StringIO(), "gpuqa.sweep")
    one, conditions = cell(prompt="bare"), Conditions(1980, 3201, 61, 412.5, ["sw_power_cap"])
    output.say("a [sentence]\nof two lines")
    output.say("beware", "yellow")
    with output.watch([one], Path("nowhere")) as observer:
        observer.engine_starts(one)
        observer.pass_done(one, measured(0, conditions=[conditions], device="a card"))
        observer.trial_done(one.trial(any_measurement(chars_per_s=1234.0)), kept=False)
    output.leaderboard(decide([generated(1, [2.0, 3.0]), generated(2, [1.0, 1.0])], RULE), "Study s", RULE)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line.get("event") for line in lines] == [None, None, "engine_starts", "pass", "trial", "leaderboard"]
    assert all(list(line)[:4] == ["time", "level", "logger", "message"] for line in lines)
    assert [line["level"] for line in lines[:2]] == ["INFO", "WARNING"]
    assert (lines[3]["chars_per_s"], lines[3]["seconds"], lines[3]["device"]) == (500.0, 2.0, "a card")
    assert lines[3]["conditions"][0]["throttle_reasons"] == ["sw_power_cap"]
    assert lines[4] | {"axes": {"prompt": "bare"}, "chars_per_s": 1234.0, "error": None, "kept": False} == lines[4]
    assert [row["rank"] for row in lines[5]["rows"]] == [1, 2]


def test_the_view_tells_what_runs_what_it_has_shown_and_what_comes_next() -> None:
    cells = [cell(prompt=prompt, engine__args__max_num_seqs=count) for prompt in ("bare", "expert") for count in (8, 16)]
    cells = [replace(one, config=replace(one.config, workload=replace(one.config.workload, repeats=3))) for one in cells]
    moments = iter([0.0, 0.0, 9.0, *[100.0] * 99])
    watched = Watched(cells, clock=lambda: next(moments))
    assert shown(watched)[0].endswith("0 of 4 trials, 0:00"), "nothing is known of the time that it takes"
    watched = Watched(cells, clock=lambda: 100.0)
    watched.engine_starts(cells[0])
    assert "vllm_cpu (none) starts and warms up for 0:00, start 1 of 2" in "\n".join(shown(watched))
    hot = Conditions(1980, 3201, 61, 412.5, [])
    for repeat in range(3):
        watched.pass_done(cells[0], measured(repeat, seconds=2.0 + repeat / 10, conditions=[hot]))
    watched.trial_done(cells[0].trial(any_measurement(chars_per_s=476.0)))
    watched.trial_done(cells[2].failed("oops"))
    said = "\n".join(shown(watched))
    assert "2 of 4 trials, 0:00, about 23 s left" in said, "a start, two warm-ups and six passes of 2.1 s"
    assert "vllm_cpu (none) answers for 0:00, start 1 of 2" in said
    assert "repeat 3 of 3: 477 chars/s (423 to 536)" in said, "geometric mean and its 95 % interval"
    assert "GPU     1,980 MHz, 61 °C, 412 W, 2.5 GiB" in said
    assert "best    prompt=bare max_num_seqs=8: 476 chars/s" in said
    assert "next    1 more engine with 2 trials" in said
    assert "failed  1 trial" in said
    assert max(map(len, shown(watched))) <= 80


def test_what_finalists_need_is_told_as_the_most_that_it_may_be() -> None:
    cells = [cell(prompt="bare"), cell(prompt="expert")]
    watched = Watched(cells, limit=32, clock=lambda: 0.0)
    watched.engine_starts(cells[0])
    watched.pass_done(cells[0], measured(0))
    assert "at most 2 min 6 s left" in shown(watched)[0]
    assert "next    63 passes on this engine at most" in shown(watched)


def test_an_interval_of_two_passes_is_not_shown() -> None:
    assert mean_speed([]) == (0.0, None)
    assert mean_speed([100.0, 400.0]) == (pytest.approx(200.0), None)
    mean, interval = mean_speed([100.0, 100.0, 100.0])
    assert (mean, interval) == (pytest.approx(100.0), interval)
    assert interval is not None


VIEW = """
import os, sys, time
from pathlib import Path
from rich.console import Console
from gpuqa.machine.captured_output import captured
from gpuqa.study.output import TextOutput
output = TextOutput(Console(file=os.fdopen(os.dup(1), "w"), force_terminal=True, width=80))
with output.watch([], Path("engine.log")):
    with captured(Path("engine.log")):
        print("of the process itself")
        print("to its error output", file=sys.stderr)
        time.sleep(1.2)
        if os.fork() == 0:
            print("of a fork", flush=True)
            os._exit(0)
        os.wait()
output.say("a sentence")
"""


@pytest.mark.slow
def test_what_an_engine_prints_comes_to_its_log_alone_while_the_view_is_drawn(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "TERM": "xterm"}
    ended = subprocess.run(
        [sys.executable, "-c", VIEW], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    printed = (tmp_path / "engine.log").read_text("utf-8").splitlines()
    assert sorted(printed) == ["of a fork", "of the process itself", "to its error output"]
    assert "of the" not in ended.stdout
    assert "of a fork" not in ended.stdout
    assert "a sentence" in ended.stdout
