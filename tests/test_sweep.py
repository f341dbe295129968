"""The command of a study, from the command line to the files, with the real vLLM."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml
from conftest import ROOT, end_session, start_python
from reported import data_of

from gpuqa.study.journal import Journal

pytestmark = pytest.mark.engine


def rows(folder: Path) -> list[dict[str, Any]]:
    """The leaderboard, with None where a cell is empty."""
    table = pandas.read_csv(folder / "leaderboard.csv").astype(object)
    return table.where(table.notna(), None).to_dict("records")


def trials(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "trials" / "trials.jsonl").read_text(encoding="utf-8").splitlines()]


def said(run: subprocess.CompletedProcess[str]) -> str:
    """Standard output with every run of white space as one space, because a terminal's width breaks lines."""
    return " ".join(run.stdout.split())


def test_a_study_measures_every_cell_and_freezes_the_fastest(study: Any) -> None:
    assert study.run.returncode == 0, study.run.stdout + study.run.stderr
    assert "Traceback" not in study.run.stdout + study.run.stderr
    table = rows(study.folder)
    assert {(row["prompt"], row["quantization"]) for row in table} == {
        (prompt, quantization) for prompt in ("bare", "structured") for quantization in ("none", "fp8")
    }
    measured = [row for row in table if row["chars_per_s"]]
    assert [row["chars_per_s"] for row in measured] == sorted((row["chars_per_s"] for row in measured), reverse=True)
    frozen = yaml.safe_load((study.folder / "frozen.yaml").read_text(encoding="utf-8"))
    assert frozen["pipeline"]["prompt"]["name"] == table[0]["prompt"]
    assert frozen["measurement"]["chars_per_s"] == pytest.approx(table[0]["chars_per_s"])
    assert frozen["trial"].startswith(table[0]["trial"])
    assert frozen["pipeline"]["engine"]["args"]["max_num_seqs"] == 16
    lost = "2 failed: prompt=bare quantization=fp8, prompt=structured quantization=fp8"
    assert f"prompt={table[0]['prompt']} quantization=none is the fastest of 2 eligible trials (of 4; {lost})" in said(
        study.run
    )
    assert "only 6 questions were asked, and one answer is 17% of a score; a verdict needs 20" in said(study.run)


def test_a_quantization_that_the_engine_refuses_fails_its_own_trials_and_the_study_goes_on(study: Any) -> None:
    journal = trials(study.folder)
    assert [trial["pipeline"]["quantization"]["name"] for trial in journal] == ["fp8", "fp8", "none", "none"]
    for trial in journal[:2]:
        assert "static_scaled_fp8_quant" in trial["error"], "the engine's own reason, not a wrapper's"
        assert trial["measurement"] is None
    for trial in journal[2:]:
        assert trial["error"] is None
        assert trial["measurement"]["questions"] == 6
        assert trial["measurement"]["answers_failed"] == 0
    failed = [row for row in rows(study.folder) if row["quantization"] == "fp8"]
    assert [row["rank"] for row in failed] == [3, 4]
    assert all(not row["eligible"] and "static_scaled_fp8_quant" in row["violations"] for row in failed)
    assert said(study.run).count("quantization=fp8: failed: unsupported: RuntimeError") >= 2, "as each of them fails"
    told = "2 trials (prompt=bare quantization=fp8, prompt=structured quantization=fp8): failed: unsupported: RuntimeError"
    assert said(study.run).count(told) == 1, "in the end"
    assert "docs/formats.md says which formats ran where" in said(study.run)


def test_cells_that_share_an_engine_share_its_start(study: Any) -> None:
    assert "4 trials on 2 engines" in said(study.run)
    assert "embedded: 6 questions (gpuqa/embedded/questions/test.json, UTF-8, sha256 " in said(study.run)
    assert "4 trials measured; 2 engine starts, 2 saved by sharing" in said(study.run)


def test_the_files_of_a_study_hold_every_trial_and_every_answer(study: Any) -> None:
    journal = trials(study.folder)
    content = yaml.safe_load((study.folder / "study.yaml").read_text(encoding="utf-8"))
    cells, asked = content["cells"], content["questions"]
    assert (asked["path"], asked["rows"], asked["different_questions"]) == ("gpuqa/embedded/questions/test.json", 6, 6)
    assert asked["digest"] == journal[0]["fingerprint"]["digests"]["dataset"]
    assert content["selection"]["min_rouge_l_f1_judge"] == 0
    assert {cell["trial"] for cell in cells} == {trial["key"] for trial in journal}
    assert cells[0]["axes"] == {"prompt": "bare", "quantization": "fp8"}
    page = data_of(study.folder)
    assert "DEMONSTRATION MODEL" in page["notes"][0]
    assert "prompt=bare,structured" in page["setup"]["commands"]["sweep"]
    assert all("<|im_start|>user" in prompt["text"] and prompt["tokens"] > 0 for prompt in page["setup"]["prompts"])
    assert "DEMONSTRATION MODEL" in said(study.run), "a demonstration says so wherever it shows"
    for trial in journal:
        answers_file = study.folder / "trials" / f"{trial['key'][:16]}.answers.jsonl"
        assert answers_file.exists() == (trial["error"] is None)
        if trial["error"] is None:
            answers = [json.loads(line) for line in answers_file.read_text(encoding="utf-8").splitlines()]
            questions = json.loads((ROOT / "gpuqa/embedded/questions/test.json").read_text(encoding="utf-8"))[:6]
            assert [answer["reference"] for answer in answers] == [row["output"] for row in questions]
            scores = [answer["rouge_l_f1_judge"] for answer in answers]
            assert sum(scores) / 6 == pytest.approx(trial["measurement"]["rouge_l_f1_judge"])
            letters = sum(len(answer["answer"]) for answer in answers)
            assert letters / trial["measurement"]["seconds"] == pytest.approx(trial["measurement"]["chars_per_s"])


def test_a_second_run_keeps_what_was_measured_and_tries_only_the_failures_again(
    study: Any, study_copy: Path, command: Any, tmp_path: Path
) -> None:
    before = trials(study_copy)
    again = command("sweep", *study.overrides, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 trials measured, 2 kept from an earlier run; 1 engine start, 1 saved by sharing" in said(again)
    assert said(again).count("chars/s (kept)") == 2
    added = trials(study_copy)[len(before) :]
    assert [(trial["axes"]["quantization"], bool(trial["error"])) for trial in added] == [("fp8", True)] * 2
    assert (study_copy / "frozen.yaml").read_bytes() == (study.folder / "frozen.yaml").read_bytes()
    assert "Unchanged: experiments/embedded/frozen.yaml (digest " in said(again)


def test_without_an_eligible_trial_the_nearest_is_named_and_the_winner_of_before_stays_frozen(
    study: Any, study_copy: Path, command: Any, tmp_path: Path
) -> None:
    before = (study_copy / "frozen.yaml").read_bytes()
    overrides = [*study.overrides, "quantization=none", "selection.min_rouge_l_f1_judge=1"]
    run = command("sweep", *overrides, cwd=tmp_path)
    assert run.returncode == 1, run.stdout + run.stderr
    best = max((row for row in rows(study_copy) if row["chars_per_s"]), key=lambda row: row["rouge_l_f1_judge"])
    expected = f"the nearest is prompt={best['prompt']}: rouge_l_f1_judge {best['rouge_l_f1_judge']:.4f} is below the floor 1"
    assert expected in said(run)
    assert "0 trials measured, 2 kept from an earlier run; 0 engine starts" in said(run)
    assert (study_copy / "frozen.yaml").read_bytes() == before
    assert "Nothing was frozen. experiments/embedded/frozen.yaml stays and holds the decision of before, prompt=" in said(run)
    assert "Traceback" not in run.stdout + run.stderr


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("prompt=bare", "this command lacks 1 cell that was measured: prompt=structured quantization=none; name those "),
        ("dataset.limit=5", "its trials answered other questions: 6 questions of gpuqa/embedded/questions/test.json "),
    ],
)
def test_a_command_that_would_take_a_studys_place_is_refused_and_changes_nothing(
    override: str, told: str, study: Any, study_copy: Path, command: Any, tmp_path: Path
) -> None:
    before = {file: file.read_bytes() for file in study_copy.rglob("*") if file.is_file() and file.name != "lock"}
    run = command("sweep", *study.overrides, override, cwd=tmp_path)
    assert run.returncode == 2, run.stdout + run.stderr
    [line] = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: study.name: experiments/embedded holds another study: {told}")
    assert line.endswith("take another name, such as study.name=embedded_2 (nothing was changed)")
    assert {file: file.read_bytes() for file in before} == before


def test_one_wrong_cell_stops_the_study_before_anything_starts(command: Any, tmp_path: Path) -> None:
    run = command("sweep", "experiment=none", "engine=transformers", "quantization=none,fp8", cwd=tmp_path)
    assert run.returncode == 2, run.stdout + run.stderr
    assert "engine.args.quantization" in run.stderr
    assert "transformers backend has no such argument" in run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_study_that_is_asked_to_end_goes_on_where_it_was(command: Any, tmp_path: Path) -> None:
    overrides = ["experiment=none", "engine=transformers", "prompt=bare,structured,keywords", "dataset.limit=2"]
    overrides += ["workload.repeats=3", "study.finalists=0", "selection.min_rouge_l_f1_judge=0"]
    overrides += ["sampling.max_tokens=24", "selection.max_truncated_fraction=1"]
    journal = Journal(tmp_path / "experiments" / "adhoc")
    log = tmp_path / "sweep.log"
    with log.open("wb") as stream:
        process = start_python("-m", "gpuqa.sweep", *overrides, cwd=tmp_path, env=None, stdout=stream, stderr=stream)
    try:
        deadline = time.monotonic() + 120
        while not any(file.read_bytes().endswith(b"\n") for file in journal.folder.glob("*.passes.jsonl")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
    finally:
        end_session(process.pid, grace_s=0)
    assert "Traceback" not in log.read_text(encoding="utf-8")
    assert not (tmp_path / "experiments" / "adhoc" / "frozen.yaml").exists()
    files = journal.folder.glob("*.passes.jsonl")
    kept = {json.loads(line)["began_at"] for file in files for line in file.read_text(encoding="utf-8").splitlines(True)[:-1]}
    again = command("sweep", *overrides, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert re.search("[123] trials? measured(, [12] kept from an earlier run)?; (1 engine start,|0 engine st)", said(again))
    began = [moment for trial in journal.read_study() for moment in trial.measurement.repeats_began_at]  # type: ignore[union-attr]
    assert len(began) == 9
    assert kept <= set(began), "no repeat was measured twice"
