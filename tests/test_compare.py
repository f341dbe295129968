"""Two trials on disk against each other, as a CI gate asks: files made by hand, no engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from any_measurement import any_measurement
from omegaconf import OmegaConf

from gpuqa import frozen
from gpuqa.compare import compare
from gpuqa.config import UserError
from gpuqa.config.commands import CompareConfig
from gpuqa.measure.fingerprint import Stage, at_stage
from gpuqa.records import Answer, Trial
from gpuqa.study.journal import Journal

BETTER_OR_EQUAL, WORSE, NOT_SHOWN = 0, 1, 3
SCORES = [0.3, 0.5, 0.7, 0.4] * 10
QUIET = (1000.0, 1001.0, 1002.0)


def written(
    study: Path, key: str, speeds: tuple[float, ...] = QUIET, better: float | list[float] = 0.0, questions: str = "问"
) -> Trial:
    """A trial in a study, with an answer to each of forty questions; `better` is added to the scores, a list turn by turn."""
    measurement = any_measurement(chars_per_s=sorted(speeds)[len(speeds) // 2], chars_per_s_repeats=list(speeds))
    engine = {"args": {"max_num_seqs": 64}, "env": {"A_TOKEN": f"secret of {key}"}}
    pipeline = {"prompt": {"name": key, "system": None}, "engine": engine}
    trial = Trial(key.ljust(64, "0"), {"prompt": key}, pipeline, {"versions": {"vllm": "0.33.0"}}, measurement)
    changes = better if isinstance(better, list) else [better]
    answers = [
        Answer(
            f"q{place}", f"{questions} {place}", "参考", f"{key} 答", 0.4, score + changes[place % len(changes)], "stop", 9, 0.1
        )
        for place, score in enumerate(SCORES)
    ]
    Journal(study).write(trial, answers)
    return trial


def asked(study: Path, key: str, *scores: float, questions: str) -> Trial:
    """A trial with a score for each question; a letter of `questions` stands for its text, and may be there again."""
    trial = replace(written(study, key), key=key.ljust(64, "1"))
    rows = enumerate(zip(questions, scores, strict=True))
    answers = [Answer(f"q{place}", text, "参考", "答", score, score, "stop", 9, 0.1) for place, (text, score) in rows]
    Journal(study).write(trial, answers)
    return trial


def without_scores(study: Path, *keys: str) -> None:
    """Have no score in these trials, as if `sampling.ignore_eos` had been on."""
    journal = Journal(study)
    for trial in [one for one in journal.read().values() if one.axes["prompt"] in keys]:
        answers = [replace(one, rouge_l_f1_judge=None, rouge_l_f1=None) for one in journal.answers(trial.key)]
        journal.write(trial, answers)


def compared(a: object, b: object, **options: Any) -> int:
    return compare(OmegaConf.merge(OmegaConf.structured(CompareConfig), {"a": str(a), "b": str(b), **options}))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, BETTER_OR_EQUAL),
        ({"speeds": (2000.0, 2001.0, 2002.0)}, BETTER_OR_EQUAL),
        ({"speeds": (500.0, 501.0, 502.0)}, WORSE),
        ({"better": -0.05}, WORSE),
        ({"better": 0.05}, BETTER_OR_EQUAL),
        ({"speeds": (2000.0, 2001.0, 2002.0), "better": -0.05}, WORSE),  # faster does not pay for worse
        ({"speeds": (600.0, 1000.0, 1700.0)}, NOT_SHOWN),
        ({"speeds": (1000.0,)}, NOT_SHOWN),
    ],
)
def test_the_exit_code_says_better_or_equal_worse_or_not_shown(
    changes: dict[str, Any], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "s", "new", **changes)
    written(tmp_path / "s", "old")
    assert compared(f"{tmp_path}/s:new", f"{tmp_path}/s:old") == code
    assert f"(exit code {code})" in capsys.readouterr().out.splitlines()[-1]


def test_answers_that_flipped_are_counted_and_shown_worst_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = written(tmp_path, "old")
    new = replace(old, key="new".ljust(64, "0"))
    answers = Journal(tmp_path).answers(old.key)
    answers[3] = replace(answers[3], rouge_l_f1=0.1, answer="坏 [bold]")
    answers[5] = replace(answers[5], rouge_l_f1=0.9, answer="好")
    answers[6] = replace(answers[6], rouge_l_f1=0.6)
    Journal(tmp_path).write(new, answers)
    compared(f"{tmp_path}:new", f"{tmp_path}:old")
    told = capsys.readouterr().out
    assert "2 of 40 answers flipped (rouge_l_f1 by more than 0.2): 1 better, 1 worse" in told
    assert told.index("-0.30 q3: 问 3\n  A: 坏 [bold]\n  B: old 答") < told.index("+0.40 q5")


def test_a_study_is_its_winner_and_a_frozen_file_is_its_trial(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    for study, speed in ((new, 500.0), (old, 1000.0)):
        written(study, "slow", (speed, speed + 1, speed + 2))
        winner = written(study, "fast", (2 * speed, 2 * speed + 1, 2 * speed + 2))
        content = {**{key: {} for key in frozen.FIELDS}, "format": frozen.FORMAT, "trial": winner.key}
        (study / "frozen.yaml").write_text(yaml.safe_dump(content))
    assert compared(new, old) == WORSE
    assert compared(old / "frozen.yaml", new) == BETTER_OR_EQUAL
    assert compared(new, f"{old}:slow") == BETTER_OR_EQUAL  # 1,000 against 1,000


@pytest.mark.parametrize(
    ("a", "told"),
    [
        ("", "a: got '', and 'frozen.yaml' does not exist; allowed is a frozen.yaml, a study folder that has one, or FOLDER:"),
        ("{study}/nowhere:new", "a: '{study}/nowhere:new' has no trials beside it"),
        ("{study}:old", "'{study}:old' and '{study}:old' are the same trial, old0000000000000; name two trials"),
        ("{study}:x", "a: '{study}:x' names 0 measured trials of {study}; measured there: new"),
        ("{study}:", "a: '{study}:' names 2 measured trials"),
        ("{study}", "'{study}/frozen.yaml' does not exist"),
        ("{study}/nowhere", "'{study}/nowhere' does not exist"),
        ("{study}/other:new", "A has 40 answers, B 40, to 0 common questions; compare trials of one dataset"),
    ],
)
def test_a_side_that_cannot_be_compared_is_the_users_mistake(a: str, told: str, tmp_path: Path) -> None:
    written(tmp_path, "new")
    written(tmp_path, "old")
    written(tmp_path / "other", "new", questions="别的")
    with pytest.raises(UserError) as refused:
        compared(a.format(study=tmp_path), f"{tmp_path}:old")
    assert told.format(study=tmp_path) in str(refused.value)


def test_answers_that_are_gone_are_named(tmp_path: Path) -> None:
    trial = written(tmp_path, "new")
    Journal(tmp_path).answers_file(trial.key).unlink()
    with pytest.raises(UserError, match=r"a: the answers of trial new0+ are not in .*, or not whole"):
        compared(f"{tmp_path}:new", f"{tmp_path}:new")


def test_a_frozen_file_without_its_study_is_named_as_such(tmp_path: Path) -> None:
    written(tmp_path / "s", "old")
    content = {**{key: {} for key in frozen.FIELDS}, "format": frozen.FORMAT, "trial": "old"}
    (tmp_path / "copied.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"a: '.*copied.yaml' has no trials beside it, which hold the answers; name the study"):
        compared(tmp_path / "copied.yaml", f"{tmp_path}/s:old")


UNDECIDED = {  # what the new one measured differently -> what is open, and what would decide it
    "one repeat": (
        {"speeds": (1000.0,)},
        ["chars_per_s: A has 1 repeat and B has 3, and a test needs 2 of each; measure again with workload.repeats=3"],
    ),
    "a repeat without characters": (
        {"speeds": (0.0, 1000.0, 1001.0)},
        ["chars_per_s: a repeat of A gave no characters, so there is no ratio; measure it again"],
    ),
    "noise": (
        {"speeds": (900.0, 1000.0, 1100.0)},
        ["chars_per_s: A may be up to 26.9% slower by a 95% bound, and 9.1% would be equal; about 16 engine starts of each"],
    ),
    "two repeats": (
        {"speeds": (1000.0, 1001.0)},
        ["chars_per_s: two repeats may be alike by chance; measure again with workload.repeats=3 or more"],
    ),
    "more noise than starts could overcome": (
        {"speeds": (1.0, 30.0, 1000.0)},
        ["too noisy", "passes vary so much that no number of them is advised: find out what disturbs the machine"],
    ),
    "scores that go up and down": (
        {"better": [0.6, -0.6, 0.6, -0.6, -0.6]},
        [
            "rouge_l_f1: A is not shown to keep 90% of B (the default below 80 different questions): at least 43.0% by",
            "an equal cell would need about 884 different questions",
        ],
    ),
}


@pytest.mark.parametrize("case", UNDECIDED)
def test_not_shown_says_why_and_what_would_show_it(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, told = UNDECIDED[case]
    written(tmp_path / "s", "new", **changes)
    written(tmp_path / "s", "old")
    assert compared(f"{tmp_path}/s:new", f"{tmp_path}/s:old") == NOT_SHOWN
    said = capsys.readouterr().out
    assert all(part in said for part in told), said
    assert "not shown (exit code 3)" in said


SEEMS = "rouge_l_f1: A seems to keep less than 90% of B (the default below 80 different questions): at most"
FEW = {  # different questions -> what a large and even loss over them shows
    "Q" * 20: (NOT_SHOWN, SEEMS),
    "abcde": (NOT_SHOWN, SEEMS),
    "abcdef": (NOT_SHOWN, SEEMS),
    "abcdefg": (WORSE, "rouge_l_f1: A is 88.9% lower (p 0.0469)"),
}


@pytest.mark.parametrize("questions", FEW)
def test_a_large_loss_over_few_different_questions_does_not_pass_the_gate(
    questions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(tmp_path, "new", *[0.1] * len(questions), questions=questions)
    asked(tmp_path, "old", *[0.9] * len(questions), questions=questions)
    code, reason = FEW[questions]
    assert compared(f"{tmp_path}:new1", f"{tmp_path}:old1") == code
    assert reason in capsys.readouterr().out


def test_few_questions_show_a_gain_but_not_that_nothing_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions = "abcdefghijkl"
    same, low = [0.9] * 12, [0.8] * 12
    asked(tmp_path, "new", *same, questions=questions)
    asked(tmp_path / "same", "old", *same, questions=questions)
    asked(tmp_path / "low", "old", *low, questions=questions)
    assert compared(f"{tmp_path}:new1", f"{tmp_path}/same:old1") == NOT_SHOWN
    assert "95% bound over 12 questions; an equal cell would need about 20 different questions" in capsys.readouterr().out
    assert compared(f"{tmp_path}:new1", f"{tmp_path}/low:old1") == BETTER_OR_EQUAL


def on_starts(study: Path, key: str, *starts: float) -> Trial:
    """A trial of three quiet repeats on each of these starts of an engine, each given by its speed."""
    trial = written(study, key, tuple(speed + place for speed in starts for place in range(3)))
    assert trial.measurement is not None
    engines = [f"{study} {key} {number}" for number, _ in enumerate(starts) for _ in range(3)]
    trial = replace(trial, measurement=replace(trial.measurement, engine_ids=engines, repeats=len(engines)))
    Journal(study).write(trial, Journal(study).answers(trial.key))
    return trial


def test_a_start_that_is_5_percent_slower_is_open_and_starts_decide_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on_starts(tmp_path, "new", 950.0)
    on_starts(tmp_path / "s", "old", 1000.0)
    assert compared(f"{tmp_path}:new", f"{tmp_path}/s:old") == NOT_SHOWN
    told = capsys.readouterr().out
    assert "about 2 engine starts of each would show an equal A (a sweep of both with study.finalists=2); that takes" in told
    on_starts(tmp_path, "new", 985.0, 990.0, 995.0)
    on_starts(tmp_path / "s", "old", 995.0, 1000.0, 1005.0)
    assert compared(f"{tmp_path}:new", f"{tmp_path}/s:old") == BETTER_OR_EQUAL


def test_the_starts_of_other_stages_of_its_study_say_how_much_a_cell_varies(tmp_path: Path) -> None:
    first, other = written(tmp_path, "new", (960.0, 961.0, 962.0)), written(tmp_path / "s", "old", (1010.0, 1011.0, 1012.0))
    assert compared(f"{tmp_path}:new", f"{tmp_path}/s:old") == NOT_SHOWN
    for study, trial, near in ((tmp_path, first, 960.0), (tmp_path / "s", other, 1010.0)):
        for stage, speed in ((Stage.finals, near - 2), (Stage.confirmation, near + 2)):
            assert trial.measurement is not None
            measurement = replace(trial.measurement, chars_per_s_repeats=[speed, speed + 1, speed + 2])
            again = replace(trial, key=at_stage(trial.key, stage), measurement=measurement)
            Journal(study).write(again, Journal(study).answers(trial.key))
    assert compared(f"{tmp_path}:new", f"{tmp_path}/s:old") == BETTER_OR_EQUAL


def test_rounds_on_one_engine_are_paired(tmp_path: Path) -> None:
    rounds = (1000.0, 600.0, 1100.0, 700.0, 900.0)  # slow minutes that both cells met
    for key, factor in (("new", 0.99), ("old", 1.0)):
        trial = written(tmp_path, key, tuple(factor * speed for speed in rounds))
        assert trial.measurement is not None
        trial = replace(trial, measurement=replace(trial.measurement, engine_ids=["the engine"] * 5))
        Journal(tmp_path).write(trial, Journal(tmp_path).answers(trial.key))
    assert compared(f"{tmp_path}:old", f"{tmp_path}:new") == BETTER_OR_EQUAL


def test_what_differs_in_configuration_is_named_and_no_secret_of_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "s", "new")
    written(tmp_path / "s", "old")
    compared(f"{tmp_path}/s:new", f"{tmp_path}/s:old")
    said = capsys.readouterr().out
    assert "  prompt.name: new | old\n" in said
    assert "  engine.env.A_TOKEN: (a value that is not shown) | (a value that is not shown)\n" in said
    assert "max_num_seqs" not in said
    assert "vllm" not in said
    assert "secret" not in said


def test_json_is_one_object_with_all_that_a_gate_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "s", "new", speeds=(500.0, 501.0, 502.0), better=[0.5, -0.3, 0.0])
    written(tmp_path / "s", "old")
    assert compared(f"{tmp_path}/s:new", f"{tmp_path}/s:old", json=True, shown_flips=1) == WORSE
    told = json.loads(capsys.readouterr().out)
    assert (told["conclusion"], told["exit_code"], told["confidence"]) == ("worse", 1, 0.95)
    assert told["reasons"] == ["chars_per_s: A is 50.0% lower (p 5.09e-05)"]
    speed = told["numbers"]["chars_per_s"]
    assert (speed["a"], speed["b"], speed["shown"]) == (501.0, 1001.0, True)
    assert speed["interval"]["low"] < speed["lead"] < speed["interval"]["high"] < 0
    assert list(told["numbers"]) == ["chars_per_s", "rouge_l_f1_judge", "rouge_l_f1"]
    assert told["differences"]["prompt.name"] == {"a": "new", "b": "old"}
    assert (told["questions"], told["scored"], told["flipped"], told["flipped_better"]) == (40, 40, 27, 14)
    assert [flip["change"] for flip in told["flips"]] == [pytest.approx(-0.3)]
    assert told["a"] == {"source": f"{tmp_path}/s:new", "trial": "new".ljust(64, "0"), "name": "prompt=new", "problems": []}


def test_a_number_without_a_test_is_null_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "s", "new", speeds=(500.0,))
    written(tmp_path / "s", "old")
    assert compared(f"{tmp_path}/s:new", f"{tmp_path}/s:old", json=True) == NOT_SHOWN
    speed = json.loads(capsys.readouterr().out)["numbers"]["chars_per_s"]
    assert (speed["interval"], speed["p_value"], speed["shown"]) == (None, None, False)


@pytest.mark.slow
def test_the_command_says_worse_by_its_exit_code_and_a_mistake_in_one_line(tmp_path: Path, command: Any) -> None:
    written(tmp_path / "s", "new", better=-0.1)
    written(tmp_path / "s", "old")
    run = command("compare", "a=s:new", "b=s:old", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (1, "")
    assert "worse (exit code 1)" in run.stdout
    assert "rouge_l_f1: A is 21.1% lower (p " in run.stdout
    run = command("compare", "a=s:new", "b=nowhere", "--json", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("error: b: got 'nowhere'")
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.slow
def test_the_flag_json_does_what_json_true_does_and_not_shown_has_a_code_of_its_own(tmp_path: Path, command: Any) -> None:
    written(tmp_path / "s", "new", speeds=(1000.0,))
    written(tmp_path / "s", "old")
    runs = [command("compare", "a=s:new", "b=s:old", word, cwd=tmp_path) for word in ("--json", "json=true")]
    assert [(run.returncode, run.stderr) for run in runs] == [(3, "")] * 2
    assert runs[0].stdout == runs[1].stdout
    assert json.loads(runs[0].stdout)["exit_code"] == 3


def test_trials_without_scores_are_compared_by_speed_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "s", "new", speeds=(2000.0, 2001.0, 2002.0))
    written(tmp_path / "s", "old", better=-0.2)
    without_scores(tmp_path / "s", "new")
    assert compared(f"{tmp_path}/s:new", f"{tmp_path}/s:old") == BETTER_OR_EQUAL
    said = capsys.readouterr().out
    assert "chars_per_s" in said
    assert "rouge_l_f1_judge" not in said
    assert "0 of 0 answers flipped" in said
