"""A slice of experiments/verdict/constraint_power.py: how often the constraint on quality lets an equal or a worse cell pass.

`make simulations` runs the whole; its table stands in docs/verdict.md. Run this file with `-s` to see the rates.
"""

from __future__ import annotations

import sys
from statistics import NormalDist

import numpy as np
import pytest
from conftest import ROOT
from race_replay import answer_of, load, numbers

from gpuqa.config.measurement import SelectionConfig
from gpuqa.measure.paired import moderated_mean
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


def test_the_t_bound_errs_no_more_often_than_it_says_where_a_bootstrap_of_few_questions_does() -> None:
    """Cells exactly at 90 %, 24 questions: most answers are unchanged and a few change by a lot, which resamples often miss."""
    errors, studies = {"moderated t": 0, "percentile": 0, "BCa": 0}, 600
    for number in range(studies):
        generator = np.random.default_rng([1, number])
        made = constraint_power.study(24, generator, constraint_power.at_limit)
        ours, other = (np.array([row.rouge_l_f1 for row in made.answers[cell.key]]) for cell in (made.quantized, made.baseline))
        beyond = ours - 0.9 * other
        bound = moderated_mean(beyond.tolist(), [], USUAL_SD["rouge_l_f1"] * other.mean()).interval(0.94).low
        errors["moderated t"] += bound >= 0
        for name, low in bootstrap_bounds(beyond, generator, 0.97).items():
            errors[name] += low >= 0
    print({name: f"{count / studies:.1%}" for name, count in errors.items()})
    assert errors["moderated t"] <= 0.03 * studies
    assert min(errors["percentile"], errors["BCa"]) > 0.06 * studies


def bootstrap_bounds(values: np.ndarray, generator: np.random.Generator, confidence: float) -> dict[str, float]:
    """One-sided lower bounds of a mean (Efron and Tibshirani, 1993, chapters 13 and 14)."""
    count, normal = len(values), NormalDist()
    means = values[generator.integers(0, count, size=(1000, count))].mean(axis=1)
    below = (means < values.mean()).mean() + (means == values.mean()).mean() / 2
    bias, end = normal.inv_cdf(min(max(below, 0.001), 0.999)), normal.inv_cdf(1 - confidence)
    spread = values - values.mean()
    skew = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5 or 1.0)
    shifted = normal.cdf(bias + (bias + end) / (1 - skew * (bias + end)))
    return {"percentile": float(np.quantile(means, 1 - confidence)), "BCa": float(np.quantile(means, shifted))}


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
