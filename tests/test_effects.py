"""Main effects and interactions: planted ones are found, and intervals hold what they promise."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from generated_trials import RULE, measured

from gpuqa.records import Answer, Trial
from gpuqa.selection.effects import Change, Effect, effects_of

PROMPTS, FORMATS, WIDTHS = ("bare", "long", "keywords"), ("none", "fp8"), ("16", "64")
SPEED = {"long": 0.9, "keywords": 1.0, "fp8": 1.2, "64": 1.5}
BOTH = ("fp8", "64")  # together 30 % more than either alone would make them
FP8 = (Change("quantization", "fp8", "none"),)


def study(seed: int, start_sd: float = 0.0, pass_sd: float = 0.0, repeats: int = 3, joint: float = 1.3) -> list[Trial]:
    """Twelve cells on four engines, with known effects; noise from start to start, round to round, pass to pass."""
    generator, trials = np.random.default_rng(seed), []
    for engine in itertools.product(FORMATS, WIDTHS):
        start, rounds = generator.normal(0, start_sd), generator.normal(0, pass_sd, repeats)
        for prompt in PROMPTS:
            value = 1000 * math.prod(SPEED.get(name, 1.0) for name in (prompt, *engine)) * (joint if engine == BOTH else 1.0)
            logs = math.log(value) + start + rounds + generator.normal(0, pass_sd / 3, repeats)
            axes = {"prompt": prompt, "quantization": engine[0], "seqs": engine[1]}
            numbers = measured(np.exp(logs).tolist(), engine_ids=["-".join(engine)] * repeats)
            trials.append(Trial("-".join(axes.values()), axes, {}, {}, numbers))
    return trials


def by_name(effects: list[Effect]) -> dict[tuple[str, ...], Effect]:
    return {tuple(change.value for change in effect.changes): effect for effect in effects}


def answers(trial: Trial, score: float, questions: int = 40) -> list[Answer]:
    """Scores that differ from question to question, and are `score` in the mean."""
    spread = [0.1 * (-1) ** place for place in range(questions)]
    return [Answer(str(n), f"问题 {n}", "", "", score, score + spread[n], "stop", 1, 0.1) for n in range(questions)]


def test_planted_effects_of_speed_are_found_with_their_size_and_each_axis_has_its_reference():
    effects = by_name(effects_of(study(0), RULE, {}))
    main = {name: effect.on["chars_per_s"].share for name, effect in effects.items() if len(name) == 1}
    assert main == pytest.approx(
        {("long",): -0.1, ("keywords",): 0.0, ("fp8",): 1.2 * 1.3**0.5 - 1, ("64",): 1.5 * 1.3**0.5 - 1}
    )
    joint = {name: effect.on["chars_per_s"].share for name, effect in effects.items() if len(name) == 2}
    expected = dict.fromkeys(itertools.product(("long", "keywords"), ("fp8", "64")), 0.0) | {("fp8", "64"): 0.3}
    assert joint == pytest.approx(expected, abs=1e-9)
    assert effects[("fp8",)].changes == FP8
    assert (effects[("fp8",)].groups, effects[("fp8", "64")].groups, effects[("long",)].groups) == (6, 3, 4)


def test_the_unquantized_baseline_is_the_reference_wherever_it_stands_in_the_command():
    first, *rest = study(0)
    turned = sorted([first, *rest], key=lambda trial: trial.axes["quantization"])  # fp8 comes first
    assert turned[0].axes["quantization"] == "fp8"
    assert by_name(effects_of(turned, RULE, {}))[("fp8",)].changes == FP8


@pytest.mark.slow
def test_intervals_of_speeds_hold_the_planted_effect_in_most_studies_within_engines_and_between_them():
    kept: dict[tuple[str, ...], int] = {}
    false_alarms, studies = 0, 300
    for seed in range(studies):
        effects = by_name(effects_of(study(seed, start_sd=0.02, pass_sd=0.02, joint=1.0), RULE, {}))
        for name, truth in (("long", -0.1), ("fp8", 0.2), ("64", 0.5)):
            interval = effects[(name,)].on["chars_per_s"].interval
            assert interval is not None
            kept[(name,)] = kept.get((name,), 0) + (interval.low <= truth <= interval.high)
        false_alarms += any(effect.on["chars_per_s"].shown for name, effect in effects.items() if len(name) == 2)
    assert all(count >= 0.93 * studies for count in kept.values()), kept
    assert false_alarms <= 0.08 * studies, "no interaction was planted"


def test_an_effect_that_all_cells_of_an_engine_share_is_less_sure_than_one_between_its_cells():
    effects = by_name(effects_of(study(1, start_sd=0.02, pass_sd=0.01), RULE, {}))
    widths = {}
    for name in ("long", "fp8"):
        interval = effects[(name,)].on["chars_per_s"].interval
        assert interval is not None
        widths[name] = interval.high - interval.low
    assert 2 * widths["long"] < widths["fp8"]


def test_one_pass_of_each_cell_gives_an_effect_without_an_interval():
    effect = by_name(effects_of(study(0, repeats=1), RULE, {}))[("fp8",)].on["chars_per_s"]
    assert effect.share == pytest.approx(1.2 * 1.3**0.5 - 1)
    assert (effect.interval, effect.p_value, effect.shown) == (None, None, False)


def test_a_planted_loss_of_quality_is_found_question_by_question_and_a_small_one_is_not_shown():
    trials = study(0)
    lost = {"fp8": 0.1, "long": 0.001}
    known = {one.key: answers(one, 0.5 - sum(lost.get(value, 0.0) for value in one.axes.values())) for one in trials}
    effects = by_name(effects_of(trials, RULE, known))
    assert effects[("fp8",)].on["rouge_l_f1"].share == pytest.approx(-0.1 / 0.4995, rel=0.01)
    assert effects[("fp8",)].on["rouge_l_f1"].shown
    small = effects[("long",)].on["rouge_l_f1_judge"]
    assert small.interval is not None
    assert small.interval.low < small.share < 0 < small.interval.high
    assert not small.shown


def test_cells_that_failed_leave_their_pairs_out_and_an_axis_without_a_pair_has_no_effect():
    trials = study(0)
    broken = [replace(one, measurement=None, error="died") if one.axes["prompt"] == "bare" else one for one in trials]
    effects = by_name(effects_of(broken, RULE, {}))
    assert effects[("fp8",)].groups == 4
    assert effects[("keywords",)].changes[0].reference == "long", "the first that was measured"
    lone = [one for one in trials if list(one.axes.values()) in (["bare", "none", "16"], ["long", "fp8", "64"])]
    assert effects_of(lone, RULE, {}) == []
    assert effects_of(trials[:1], RULE, {}) == []
