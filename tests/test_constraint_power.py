"""A slice of experiments/verdict/constraint_power.py: how often the constraint on quality lets an equal or a worse cell pass.

`make simulations` runs the whole; its table stands in docs/verdict.md. Run this file with `-s` to see the rates.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from conftest import ROOT
from race_replay import answer_of, load, numbers

from gpuqa.config.measurement import SelectionConfig
from gpuqa.records import Trial
from gpuqa.selection.constraints import beside_baseline, violations
from gpuqa.selection.ratios import USUAL_SD, Kept

sys.path.insert(0, str(ROOT / "experiments" / "verdict"))
import constraint_power

pytestmark = pytest.mark.no_cover


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "questions", "least", "most"),
    [
        ("an equal cell passes", 24, 0.80, 1.0),
        ("an equal cell passes", 358, 0.80, 1.0),
        ("a cell that is 8 % worse passes", 358, 0.0, 0.03),
        ("a cell that lost a tenth of its answers passes", 8, 0.0, 0.03),
        ("a cell that lost a tenth of its answers passes", 92, 0.0, 0.03),
        ("a cell exactly at the ratio passes", 92, 0.0, 0.05),
        ("a cell that is 20 % worse is shown to be worse", 358, 0.97, 1.0),
    ],
)
def test_the_constraint_on_quality_is_right_as_often_as_the_docs_say(
    what: str, questions: int, least: float, most: float
) -> None:
    rate = constraint_power.rate(what, questions, studies=200, seed=0)
    print(f"{what}, {questions} questions: {rate:.1%}")
    assert least <= rate <= most


def test_the_table_has_a_row_for_each_figure_and_each_number_of_questions() -> None:
    table = constraint_power.rows(studies=2, seed=0, sizes=(8, 24))
    assert [label for label, _ in table] == [
        f"{what}, {size} questions" for what in constraint_power.FIGURES for size in (8, 24)
    ]
    assert all(0 <= rate <= 1 for _, rate in table)
    assert table == constraint_power.rows(studies=2, seed=0, sizes=(8, 24)), "it is seeded"


def test_the_usual_spread_is_that_of_the_recorded_cells_that_differ_in_quantization_only() -> None:
    pairs = constraint_power.real_pairs()
    assert len(pairs) == 12
    for quantity, values in (
        ("rouge_l_f1", [(plain.scores, quantized.scores) for plain, quantized in pairs]),
        ("answer_chars_mean", [[np.array(list(map(len, cell.texts))) for cell in pair] for pair in pairs]),
    ):
        variances = [((quantized - plain) / plain.mean()).var(ddof=1) for plain, quantized in values]
        assert USUAL_SD[quantity] == pytest.approx(np.sqrt(np.mean(variances)), abs=0.0005)


@pytest.mark.parametrize("prompt", ["bare", "structured", "structured_short", "keywords"])
def test_the_quantized_cells_of_the_default_study_are_shown_to_be_good_by_its_24_questions(prompt: str) -> None:
    """Its real scores: tests/traces holds its cells over all 80 test questions, of which it asks the first 24."""
    axes = {"prompt": prompt, "engine.args.max_num_seqs": "64", "sampling.max_tokens": "256"}
    rows = [row for row in load("wide")["cells"] if axes.items() <= row["axes"].items()]
    answers = {row["axes"]["quantization"]: [answer_of(row, place, str(place)) for place in range(24)] for row in rows}
    trials = [
        Trial(name, row["axes"], row["pipeline"], {}, numbers([(1.0, 9000)], answers[name]))
        for row in rows
        if (name := row["axes"]["quantization"])
    ]
    rule = SelectionConfig(name="fastest_above_floor", min_rouge_l_f1_judge=0.15)
    [quantized] = [trial for trial in trials if trial.key == "fp8_kv"]
    beside = beside_baseline(quantized, trials, rule, answers)
    assert beside is not None
    assert beside.kept is Kept.yes, beside.text
    assert violations(quantized, trials, rule, answers) == ()
