"""What a quantized cell is shown to keep of its unquantized baseline, and what a user reads of it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generated_trials import RULE, cell
from reported import data_of
from rich.console import Console

from gpuqa.config.commands import StudyConfig
from gpuqa.config.measurement import ConstraintTest, SelectionConfig
from gpuqa.measure.paired import PRIOR_FREEDOM, clusters_needed, moderated_mean
from gpuqa.records import Answer, Trial
from gpuqa.selection.constraints import floor_note
from gpuqa.selection.decision import decide
from gpuqa.selection.ratios import FEWEST_QUESTIONS, Kept
from gpuqa.selection.verdict import Outcome, Standing, Verdict
from gpuqa.study import report
from gpuqa.study.conclusion import conclude
from gpuqa.study.journal import Journal
from gpuqa.study.output import TextOutput
from gpuqa.study.page.result import Result
from gpuqa.study.terminal_table import print_table, to_table

SPEED = [1000.0, 1001.0, 1002.0]
BOUND, REFUTED, POINT = ConstraintTest.bound, ConstraintTest.refuted, ConstraintTest.point


def answered(scores: Sequence[float], chars: int = 100, judge: float = 0.4, different: int | None = None) -> list[Answer]:
    """Answers with these scores; to `different` questions in turn, or each to its own."""
    asked = [place % (different or len(scores)) for place in range(len(scores))]
    return [
        Answer(str(place), f"问题 {question}", "", "字" * chars, judge, score, "stop", 9, 0.1)
        for place, (question, score) in enumerate(zip(asked, scores, strict=True))
    ]


def study_of(ours: Sequence[Answer], baseline: Sequence[Answer], rule: SelectionConfig = RULE) -> Verdict:
    """The verdict on a fast quantized cell and its slower baseline."""
    trials = [trial_of(ours, "fp8", 3.0), trial_of(baseline, "none", 1.0)]
    return decide(trials, rule, {trials[0].key: ours, trials[1].key: baseline})


def trial_of(answers: Sequence[Answer], quantization: str, faster: float, **numbers: Any) -> Trial:
    means = {
        "rouge_l_f1": float(np.mean([answer.rouge_l_f1 for answer in answers])),
        "rouge_l_f1_judge": float(np.mean([answer.rouge_l_f1_judge for answer in answers])),
        "answer_chars_mean": float(np.mean([len(answer.answer) for answer in answers])),
    }
    return cell(64, [faster * speed for speed in SPEED], quantization, questions=len(answers), **{**means, **numbers})


def scores(count: int) -> list[float]:
    """Scores of a baseline; their mean is 0.5."""
    return np.linspace(0.3, 0.7, count).tolist()


def scattered(baseline: Sequence[float], sd: float, kept: float = 1.0) -> list[float]:
    """Scores that keep just this share of a baseline's mean; `sd`: of the differences, as a share of that mean."""
    noise = np.random.default_rng(1).normal(0, 1, len(baseline))
    noise = (noise - noise.mean()) / noise.std() * sd * np.mean(baseline)
    return (np.asarray(baseline) * kept + noise).tolist()


def quantized(verdict: Verdict) -> Standing:
    return next(standing for standing in verdict.standings if standing.trial.pipeline["quantization"]["name"] == "fp8")


def text_of(verdict: Verdict) -> str:
    beside = quantized(verdict).beside_baseline
    assert beside is not None
    return beside.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("questions", "wanted"),
    [
        (24, "90% of the unquantized 0.5 (the default below 80 different questions)"),
        (79, "90% of the unquantized 0.5 (the default below 80 different questions)"),
        (80, "95% of the unquantized 0.5 (the default for 80 to 399 different questions)"),
        (399, "95% of the unquantized 0.5 (the default for 80 to 399 different questions)"),
        (400, "97% of the unquantized 0.5 (the default for 400 to 999 different questions)"),
        (1000, "98% of the unquantized 0.5 (the default for 1,000 to 2,499 different questions)"),
        (2500, "99% of the unquantized 0.5 (the default from 2,500 different questions)"),
    ],
)
def test_the_ratio_narrows_with_the_number_of_different_questions_and_every_message_names_it(
    questions: int, wanted: str
) -> None:
    base = scores(questions)
    for kept in (1.0, 0.5):
        assert wanted in text_of(study_of(answered([kept * score for score in base]), answered(base)))
    own = replace(RULE, min_rouge_l_f1_ratio=0.93)
    wanted = "93% of the unquantized 0.5 (selection.min_rouge_l_f1_ratio)"
    assert wanted in text_of(study_of(answered(base), answered(base), own)), "a number that a user sets is used as it is"


def test_rows_that_repeat_a_question_choose_the_ratio_and_are_counted_as_one() -> None:
    base = scores(400)
    told = text_of(study_of(answered(base, different=60), answered(base, different=60)))
    assert "90% of the unquantized 0.5 (the default below 80 different questions)" in told
    assert "over 400 rows, 60 different questions" in told


@pytest.mark.parametrize(
    ("kept", "state", "refused_by"),
    [
        (1.0, Kept.yes, set()),
        (0.94, Kept.open, {BOUND}),
        (0.89, Kept.open, {BOUND, POINT}),
        (0.78, Kept.no, {BOUND, REFUTED, POINT}),
    ],
)
def test_a_cell_is_shown_to_keep_its_ratio_or_shown_to_be_worse_or_neither_and_the_rule_says_what_becomes_of_the_last(
    kept: float, state: Kept, refused_by: set[ConstraintTest]
) -> None:
    base = scores(24)
    for test in ConstraintTest:
        verdict = study_of(answered(scattered(base, 0.165, kept)), answered(base), replace(RULE, constraint_test=test))
        standing = quantized(verdict)
        assert standing.beside_baseline is not None
        assert standing.beside_baseline.kept is state
        assert (standing.violations == (standing.beside_baseline.text,)) == (test in refused_by)
        assert (not standing.violations) == (test not in refused_by)
        assert standing.not_shown == (state is Kept.open)
        assert (verdict.winner is standing.trial) == (test not in refused_by)


def test_a_sentence_that_nothing_is_shown_says_how_many_questions_an_equal_cell_would_need_and_what_would_accept_it() -> None:
    base = scores(24)
    verdict = study_of(answered(scattered(base, 0.3)), answered(base))
    assert text_of(verdict) == (
        "rouge_l_f1 0.5 is not shown to keep 90% of the unquantized 0.5 (the default below 80 different questions): "
        "at least 88.4% by a 97% bound over 24 questions; an equal cell would need about 63 different questions; "
        "selection.constraint_test=refuted would accept it"
    )
    accepted = study_of(answered(scattered(base, 0.3)), answered(base), replace(RULE, constraint_test=REFUTED))
    assert "would need about 63 different questions; selection.constraint_test=refuted accepts it" in text_of(accepted)
    assert f"The winner's {text_of(accepted)}." in accepted.reason, "who freezes it reads that"
    whole = study_of(answered(base), answered(base), replace(RULE, min_rouge_l_f1_ratio=1.0))
    assert "; no number of questions shows that an equal cell keeps all of it; " in text_of(whole)


def test_the_questions_that_an_equal_cell_would_need_are_enough_in_four_of_five_studies() -> None:
    needed, generator = clusters_needed(0.165, 0.05, 0.97), np.random.default_rng(0)
    assert needed == 81
    samples = generator.normal(0.05, 0.165, size=(2000, needed)).tolist()
    names = [str(place) for place in range(needed)]
    shown = sum(moderated_mean(sample, names, 0.165).interval(0.94).low >= 0 for sample in samples)
    assert 0.77 <= shown / 2000 <= 0.83


def test_answers_that_all_come_out_the_same_do_not_make_a_few_questions_sure() -> None:
    base = scores(24)
    strict = replace(RULE, min_rouge_l_f1_ratio=0.99)
    assert quantized(study_of(answered(base), answered(base), strict)).not_shown
    assert "at least 97.5%" in text_of(study_of(answered(base), answered(base), strict))
    assert not quantized(study_of(answered(base), answered(base))).not_shown, "they do show nine tenths"
    many = scores(400)
    assert not quantized(study_of(answered(many), answered(many), strict)).not_shown


@pytest.mark.parametrize("questions", [8, FEWEST_QUESTIONS - 1])
def test_fewer_than_twenty_questions_show_nothing_good_but_they_can_show_a_loss(questions: int) -> None:
    base = scores(questions)
    verdict = study_of(answered(base), answered(base))
    assert quantized(verdict).not_shown
    assert f"over {questions} questions; an equal cell would need about 20 different questions" in text_of(verdict)
    lost = quantized(study_of(answered([0.1 * score for score in base]), answered(base))).beside_baseline
    assert lost is not None
    assert lost.kept is Kept.no
    assert "is shown to be below 90% of the unquantized" in lost.text


@pytest.mark.parametrize("count", [8, 24, 92])
def test_the_moderated_bound_errs_as_often_as_it_says(count: int) -> None:
    generator, names = np.random.default_rng(count), [str(place) for place in range(count)]
    estimates = [moderated_mean(sample, names, 0.165) for sample in generator.normal(0, 0.165, size=(3000, count)).tolist()]
    assert {estimate.freedom for estimate in estimates} == {count - 1 + PRIOR_FREEDOM}
    assert 0.02 <= sum(estimate.interval(0.94).low > 0 for estimate in estimates) / 3000 <= 0.04


def test_shorter_answers_are_refused_only_where_that_is_shown() -> None:
    base = scores(24)
    lax = replace(RULE, min_rouge_l_f1_ratio=0.5)
    assert study_of(answered(base, chars=88), answered(base), lax).outcome is not Outcome.ONLY_ELIGIBLE
    [violation] = quantized(study_of(answered(base, chars=40), answered(base), lax)).violations
    assert violation.startswith("answer_chars_mean 40 is shown to be below 90% of the unquantized 100")
    [violation] = quantized(study_of(answered(base, chars=88), answered(base), replace(lax, constraint_test=POINT))).violations
    assert violation.endswith("; selection.constraint_test=point lets the means decide")


def test_a_floor_is_compared_as_a_point_and_says_so_with_its_interval_and_a_winner_near_it_has_a_note() -> None:
    rows = [replace(row, rouge_l_f1_judge=0.1 + 0.01 * place) for place, row in enumerate(answered(scores(24)))]
    trial = trial_of(rows, "none", 1.0)
    [violation] = decide([trial], replace(RULE, min_rouge_l_f1_judge=0.3), {trial.key: rows}).standings[0].violations
    ends = "0.1879 to 0.2429"
    assert violation == f"rouge_l_f1_judge 0.2150 is below the floor 0.3 (a point estimate, 95% interval {ends})"
    best = trial_of(rows, "none", 1.0, rouge_l_f1=0.9)
    rival = replace(trial, key="rival", axes={"seqs": "other"})
    found = decide([best, rival], RULE, {rival.key: rows}).standings
    [violation] = next(standing.violations for standing in found if standing.trial is rival)
    assert "is below 75% of the study's best 0.9 (a point estimate, 95% interval 0." in violation
    note = floor_note(trial, replace(RULE, min_rouge_l_f1_judge=0.2), {trial.key: rows})
    inside = "The floor 0.2 lies inside the 95% interval of its rouge_l_f1_judge"
    assert note == f"{inside} ({ends}): over other questions it may miss it."
    low = replace(RULE, min_rouge_l_f1_judge=0.2)
    assert decide([trial], low, {trial.key: rows}).reason.endswith(note)
    assert "lies inside" not in decide([trial], RULE, {trial.key: rows}).reason
    for floor in (0.15, 0.0):
        assert floor_note(trial, replace(RULE, min_rouge_l_f1_judge=floor), {trial.key: rows}) == ""
    assert floor_note(trial, RULE, {}) == "", "without answers there is no interval"


def three_states() -> tuple[Verdict, dict[str, list[Answer]]]:
    """A study with a cell of each state, their baselines, and one that breaks a floor."""
    base, trials, answers = scores(24), [], {}
    for number, kept in ((1, 1.0), (2, 0.94), (3, 0.5)):
        for name, rows in (("none", answered(base)), ("fp8", answered(scattered(base, 0.165, kept)))):
            trial = trial_of(rows, name, 5.0 - number if name == "fp8" else 1.0)
            pipeline = {**trial.pipeline, "model": {"note": None}, "engine": {"args": {"max_num_seqs": number}}}
            trial = replace(trial, key=f"{number}{name}", axes={"seqs": str(number), "quantization": name}, pipeline=pipeline)
            trials.append(trial)
            answers[trial.key] = rows
    low = replace(trials[0], key="low", axes={"seqs": "4", "quantization": "none"})
    assert low.measurement is not None
    trials.append(replace(low, measurement=replace(low.measurement, rouge_l_f1_judge=0.1)))
    return decide(trials, RULE, answers), answers


def test_the_leaderboard_the_page_and_the_terminal_tell_the_three_states_apart(tmp_path: Path) -> None:
    verdict, answers = three_states()
    report.write(Result("Study s", verdict, answers), tmp_path)
    rows = {row["trial"]: row for row in csv.DictReader(StringIO((tmp_path / "leaderboard.csv").read_text(encoding="utf-8")))}
    states = {key: rows[key]["quality_kept"] for key in rows}
    assert states == {"1fp8": "shown to keep", "2fp8": "not shown", "3fp8": "shown to be worse"} | dict.fromkeys(
        ("1none", "2none", "3none", "low"), ""
    )
    assert rows["1fp8"]["quality_kept_by"].startswith("rouge_l_f1 0.5 is shown to keep 90% of the unquantized 0.5 (the def")
    assert rows["2fp8"]["violations"] == rows["2fp8"]["quality_kept_by"]
    cells = {f"{cell['axes']['seqs']}{cell['axes']['quantization']}": cell for cell in data_of(tmp_path)["cells"]}
    assert {key: (cells[key]["status"], cells[key]["kept"]) for key in ("1fp8", "2fp8", "3fp8", "1none")} == {
        "1fp8": ("winner", "shown to keep"),
        "2fp8": ("open", "not shown"),
        "3fp8": ("refused", "shown to be worse"),
        "1none": ("eligible", None),
    }


def test_the_terminal_marks_what_is_not_shown_otherwise_than_what_is_shown_to_be_worse() -> None:
    verdict, _ = three_states()
    table = to_table(verdict, "s", RULE, [["seqs"], ["quantization"]])
    assert [str(row.style) for row in table.rows] == ["bold green", "None", "None", "None", "yellow", "dim", "dim"]
    console = Console(file=StringIO(), width=80, color_system=None)
    print_table(verdict, "s", RULE, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    rows = {tuple(line.split()[1:3]): line for line in lines if line.split()[2:3] in (["fp8"], ["none"])}
    assert "0.470?" in rows["2", "fp8"]
    assert rows["2", "fp8"].rstrip().endswith(" < 90%")
    assert "<" in rows["3", "fp8"]
    assert " ROUGE-L " in rows["3", "fp8"]
    assert "ROUGE-L" not in rows["1", "fp8"]
    legend = " ".join(" ".join(lines).split())
    assert "? too few questions to show whether it keeps its unquantized baseline's ROUGE-L" in legend
    assert "< shown to be worse than its unquantized baseline" in legend


@pytest.mark.parametrize("test", [BOUND, REFUTED])
def test_the_end_of_a_study_lists_what_is_not_shown_in_another_colour_than_violations(
    tmp_path: Path, test: ConstraintTest
) -> None:
    base, journal = scores(24), Journal(tmp_path / "mine")
    for name, rows in (("none", answered(base, judge=0.1)), ("fp8", answered(scattered(base, 0.3)))):
        trial = trial_of(rows, name, 1.0)
        journal.write(replace(trial, pipeline={**trial.pipeline, "model": {"note": None}}, axes={"quantization": name}), rows)
    console = Console(file=StringIO(), width=600, force_terminal=True, color_system="standard")
    rule = replace(RULE, constraint_test=test, min_chars_per_s=0 if test is BOUND else 1e6)
    assert (
        conclude(
            list(journal.read().values()), StudyConfig(name="mine", root=str(tmp_path)), rule, journal, TextOutput(console)
        )
        == 1
    )
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    [fp8] = [line for line in lines if "quantization=fp8: " in line and "no trial" not in line]
    [none] = [line for line in lines if "quantization=none: " in line and "no trial" not in line]
    yellow, dim = "\x1b[33m", "\x1b[2m"
    assert none.startswith(dim)
    assert fp8.startswith(yellow if test is BOUND else dim), "with another violation it is one that is shown"
    assert "is not shown to keep 90% of the unquantized" in fp8, "where that is accepted, too"
