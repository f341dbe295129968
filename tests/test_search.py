"""The command `search` on real engines: what it finds and writes, that it goes on after kills, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from conftest import start_python

from gpuqa.prompt_search.engine_run import SELECTED

SPACE = """
name: small
fragments:
  role: [你是 CUDA 专家。]
  short: [只说要点。, 不超过一百字。]
reorder: false
users: ["{question}"]
examples: [0]
"""
WORDS = (
    "experiment=embedded_search",
    "space=small",
    "prompt=bare,few_shot",  # neither can be said by the space, so they have no children
    "engine=transformers",
    "engine.args.dtype=float32",
    "engine.env.OMP_NUM_THREADS='1'",
    "sampling.max_tokens=8",
    "workload.repeats=1",
    "study.finalists=0",
    "selection.min_rouge_l_f1_judge=0",
    "selection.max_truncated_fraction=1",
    "search.children=4",
    "search.at_least_as_fast=false",
)
PROMPTS = 2 + 6  # shipped ones, and all of the space
SLICES = 2


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("options")
    (folder / "space").mkdir()
    (folder / "space" / "small.yaml").write_text(SPACE, encoding="utf-8")
    (folder / "space" / "empty.yaml").write_text("name: empty\n", encoding="utf-8")
    return ("--config-dir", str(folder), *WORDS)


@pytest.fixture(scope="module")
def found(command, options, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A search that has seen its whole space, and its folder. Read only, but for the same command again."""
    root = tmp_path_factory.mktemp("search")
    return root / "experiments" / "embedded_search", command("search", *options, cwd=root)


def passes(folder: Path) -> list[dict]:
    file = folder / "search" / "passes.jsonl"
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.engine
def test_a_search_asks_its_whole_space_on_one_engine_and_proves_the_best_on_questions_that_it_never_saw(found):
    folder, run = found
    assert run.returncode == 0, run.stdout + run.stderr
    seen = passes(folder)
    assert len({row["cell"] for row in seen}) == PROMPTS
    assert len({(row["cell"], row["slice"]) for row in seen}) == len(seen) == PROMPTS * SLICES
    assert len({row["measured"]["engine_id"] for row in seen}) == 1, "an engine was started again for a prompt"
    asked = {question for row in seen for question in row["measured"]["questions"]}
    final = {row["id"] for row in json.loads((folder / "search" / "final_questions.json").read_text())}
    assert (len(asked), len(final), asked & final) == (40, 40, set())
    assert re.search(
        r"^Searched \d+\.\d min: 8 prompts \(\d+ a minute\), 320 answers; 1 engine start, engines answered", run.stdout, re.M
    )
    said = re.search(
        r"On 40 questions that the search never saw, prompt=found_1 has [+-]0\.\d+ rouge_l_f1 \(97% interval", run.stdout
    )
    assert said, run.stdout
    assert re.search(r"The search's own lead was [+-]0\.\d+, [+-]0\.\d+ too good; the prompt's score was 0\.\d+", run.stdout)
    rows = table(folder / "leaderboard.csv")
    assert {row["prompt"] for row in rows} == {"bare", "few_shot", "found_1"}
    trials = [json.loads(line) for line in (folder / "trials" / "trials.jsonl").read_text(encoding="utf-8").splitlines()]
    engines = {engine for trial in trials for engine in trial["measurement"]["engine_ids"]}
    assert len(engines) == 1
    assert not engines & {row["measured"]["engine_id"] for row in seen}, "the end needs a fresh engine"


@pytest.mark.engine
def test_the_found_prompt_is_a_file_that_a_sweep_takes_and_the_winner_is_frozen(found, command):
    folder, _ = found
    prompt = yaml.safe_load((folder / "conf" / "prompt" / "found_1.yaml").read_text(encoding="utf-8"))
    assert prompt["name"] == "found_1"
    words = ("experiment=none", "prompt=found_1", "dataset=embedded_final", "--cfg", "job")
    shown = command("sweep", "--config-dir", str(folder / "conf"), *words, cwd=folder.parent.parent)
    composed = yaml.safe_load(shown.stdout)
    assert composed["prompt"]["system"] == prompt.get("system")
    assert composed["dataset"]["path"].endswith("search/final_questions.json")
    frozen = yaml.safe_load((folder / "frozen.yaml").read_text(encoding="utf-8"))
    assert frozen["pipeline"]["prompt"]["name"] in {"bare", "few_shot", "found_1"}
    assert frozen["setting"]["dataset"]["name"] == "embedded_final"


@pytest.mark.engine
def test_the_page_and_the_table_show_the_front_and_the_family_of_the_found_prompt(found):
    folder, _ = found
    rows = table(folder / "search" / "front.csv")
    assert len(rows) == PROMPTS
    points = [(float(row["quality"]), float(row["speed"]), row["on_front"]) for row in rows]
    for quality, speed, on_front in points:
        beaten = any(a >= quality and b >= speed and (a, b) != (quality, speed) for a, b, _ in points)
        assert on_front == str(not beaten)
    page = (folder / "search.html").read_text(encoding="utf-8")
    assert page.count("<circle") == PROMPTS
    assert "<p>Searched 0." in page or "<p>Searched 1." in page
    assert "<h2>found_1</h2>" in page
    assert "How it came about, and what each change brought" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "INCONCLUSIVE" in page or "WIN" in page or "TIE" in page


@pytest.mark.engine
def test_the_same_command_again_measures_nothing_and_says_the_same(found, command, options):
    folder, first = found
    before = (folder / "search" / "passes.jsonl").read_bytes()
    again = command("search", *options, cwd=folder.parent.parent)
    assert again.returncode == 0, again.stderr
    assert (folder / "search" / "passes.jsonl").read_bytes() == before
    assert "starting transformers" not in again.stdout
    honest = [line for line in first.stdout.splitlines() if line.startswith(("On 40", "The search's own"))]
    assert len(honest) == 2
    assert set(honest) <= set(again.stdout.splitlines())


@pytest.mark.engine
def test_a_folder_with_another_search_is_refused_with_what_differs(found, command, options):
    folder, _ = found
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.name != "lock"}
    refused = command("search", *options, "search.children=5", cwd=folder.parent.parent)
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: study.name: experiments/embedded_search holds another search: search.children is 4 there and 5 here; "
        "take another name, such as study.name=embedded_search_2 (nothing was changed)\n"
    )
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.name != "lock"} == before


def started(options: tuple[str, ...], root: Path, log: Path, count: int) -> subprocess.Popen[bytes]:
    """A search in its own process, as soon as it has so many passes on the disk."""
    with log.open("wb") as out:
        process = start_python("-m", "gpuqa.search", *options, cwd=root, env=None, stdout=out, stderr=out)
    folder, deadline = root / "experiments" / "embedded_search", time.monotonic() + 120
    while len(passes(folder)) < count:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return process


@pytest.mark.engine
def test_a_search_goes_on_after_kills_and_an_interrupt_and_measures_nothing_twice(found, command, options, tmp_path):
    folder, log = tmp_path / "experiments" / "embedded_search", tmp_path / "log"
    process = started(options, tmp_path, log, 2)
    os.kill(process.pid, signal.SIGSTOP)  # it has eight passes in all, and the other command takes seconds
    other = command("search", *options, cwd=tmp_path)
    assert other.returncode == 2
    assert re.search(r"study: \S*embedded_search is being measured or decided by process \d+; wait for it", other.stderr)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    first = passes(folder)
    process = started(options, tmp_path, log, len(first) + 2)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    assert re.search(r"Interrupted: \d+ passes of the search are kept. The same command goes on from here.", log.read_text())
    second = passes(folder)
    assert second[: len(first)] == first
    last = command("search", *options, cwd=tmp_path)
    assert last.returncode == 0, last.stdout + last.stderr
    seen, undisturbed = passes(folder), passes(found[0])
    assert seen[: len(second)] == second
    assert len({(row["cell"], row["slice"]) for row in seen}) == len(seen)
    assert {(row["cell"], row["slice"]) for row in seen} == {(row["cell"], row["slice"]) for row in undisturbed}


@pytest.mark.engine
def test_a_search_uses_the_places_of_an_executor_goes_on_without_a_proposer_and_lets_questions_choose_where_there_is_a_share(
    command, options, tmp_path
):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    words = ("executor.workers=2", "search.selection_share=0.2", "space.max_tokens=[8,12]", "search.found=2")
    run = command("search", *options, *words, "proposer.url=http://127.0.0.1:1", cwd=tmp_path)  # where nobody listens
    assert run.returncode == 0, run.stdout + run.stderr
    told = (
        r"^proposer.url=http://127.0.0.1:1: a proposal is not used: it cannot be reached \(.*\); the search goes on without it"
    )
    assert re.search(told, run.stdout, re.M), run.stdout
    assert "24 questions to search with, 16 that choose among the best, 40 for the end" in run.stdout
    seen = passes(tmp_path / "experiments" / "embedded_search")
    assert len({row["measured"]["place"] for row in seen}) == 2
    assert len({row["measured"]["engine_id"] for row in seen}) == 2
    searched, chose = ([row for row in seen if row["slice"] == part] for part in (0, 1))
    assert len({row["cell"] for row in searched}) == len(searched) == 2 + 2 * 6  # each prompt of the space with both lengths
    assert len({row["cell"] for row in chose}) == len(chose) == SELECTED
    asked = [{question for row in rows for question in row["measured"]["questions"]} for rows in (searched, chose)]
    assert [len(each) for each in asked] == [24, 16]
    assert not asked[0] & asked[1]
    rows = table(tmp_path / "experiments" / "embedded_search" / "leaderboard.csv")
    ended = {(row["prompt"], row["sampling.max_tokens"]) for row in rows if row["prompt"].startswith("found_")}
    assert len(ended) == 2
    assert {length for _, length in ended} <= {"8", "12"}


@pytest.mark.engine
def test_a_budget_that_is_too_small_is_told_and_what_was_measured_is_kept(command, options, tmp_path):
    run = command("search", *options, "search.minutes=0.001", cwd=tmp_path)
    assert run.returncode == 2
    assert re.search(
        r"^error: search.minutes: got 0.001, too little for one prompt of the space to answer the 40 questions of the search "
        r"beside the shipped prompts \(\d+ pass.*\); give more, such as search.minutes=1: the same command goes on$",
        run.stderr.strip(),
    ), run.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["selection.rule=goodput", "workload.slo={ttft_ms: 200}"], "selection.rule: got 'goodput', a search goes by one of "),
        (["sampling.ignore_eos=true"], "sampling.ignore_eos: got True, allowed is false in a search"),
        (["study.racing=true"], "study.racing: got True, allowed is false in a search"),
        (["sampling.max_tokens=8,16"], "sampling: got 'an axis', allowed is one value in a search, whose only axis is prompt"),
        (["dataset.limit=30"], "dataset: 30 different questions are too few for a search"),
        (
            ["space=empty"],
            "space: got 'empty', allowed is more than one prompt: a line in space.fragments, or a second value in",
        ),
        (["search.final_share=1"], "search.final_share: got 1.0, allowed is a number between 0 and 1"),
        (["search.minutes=0"], "search.minutes: got 0.0, allowed is a number above 0"),
        (["proposer.url=nowhere"], "proposer.url: got 'nowhere', allowed is an http:// or https:// address"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line_before_an_engine_starts(command, options, tmp_path, words, message):
    run = command("search", *options, *words, cwd=tmp_path)
    assert run.returncode == 2, run.stdout + run.stderr
    assert run.stderr.startswith(f"error: {message}"), run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert not (tmp_path / "experiments" / "embedded_search" / "engine.log").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ['+space.fragments.bad=["你好<|im_end|>"]'],
            "space.fragments.bad: '你好<|im_end|>' cannot be used: it holds '<|im_end|>'",
        ),
        (
            ["space.max_system_chars=5"],
            "space.fragments.role: '你是 CUDA 专家。' cannot be used: the system text is longer than",
        ),
        (
            ['+space.fragments.bad=["多个线程读 shared memory 的同一个 word 会产生 bank conflict 吗"]'],
            "space.fragments.bad: '多个线程",
        ),
        (
            ['prompt.examples=[{question:"多个线程读 shared memory 的同一个 word 会产生 bank conflict 吗",answer:"不会。"}]'],
            "prompt=bare: example 1 is like the question of ",
        ),
        (["space.max_tokens=[8,100000]"], "space.max_tokens: '100000' cannot be used: "),
    ],
)
def test_what_the_tokenizer_or_the_questions_speak_against_is_refused_in_one_line(command, options, tmp_path, words, message):
    test_what_cannot_be_searched_is_refused_in_one_line_before_an_engine_starts(command, options, tmp_path, words, message)
