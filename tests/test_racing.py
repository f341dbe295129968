"""Which cells are dropped from a race and why, what is measured next, and how often a race ends as the full grid does.

The replays run the same `Race` that a study runs, on studies recorded on the CPU engine (tests/traces, made by
experiments/racing/record.py) and on generated ones; run this file with `-s` to see the rates that the README states.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from race_replay import Replay, Shape, disturbed, draw, generated, load, numbers, replayed

from gpuqa.config import UserError
from gpuqa.config.commands import StudyConfig
from gpuqa.config.measurement import Issue, Rule, SelectionConfig
from gpuqa.measure.statistics import t_quantile
from gpuqa.records import Answer, Question, Trial
from gpuqa.selection.decision import decide
from gpuqa.study.racing.elimination import Snapshot, tie_ratio
from gpuqa.study.racing.evidence import Candidate, SlicePass, chance_of, mean_of, speed_of, spread
from gpuqa.study.racing.race import Race, WantedPass, slices_of

sys.path.insert(0, str(ROOT / "experiments" / "verdict"))
import simulate

RULE = SelectionConfig(name="fastest_above_floor", min_rouge_l_f1_judge=0.35)
QUESTIONS = 80
REPLAYS = int(os.environ.get("GPUQA_REPLAYS", "20"))  # of each recorded study; `make simulations` takes 200


def answers_of(score: float, count: int = QUESTIONS, judge: float | None = None, first: int = 0, seed: int = 0) -> list[Answer]:
    """Answers whose scores lie around a mean, the same noise for all cells with one seed."""
    noise = np.random.default_rng([seed, first]).normal(0, 0.08, count)
    noise -= noise.mean()
    judges = np.clip((score if judge is None else judge) + noise, 0, 1)
    return [
        Answer(
            str(first + place),
            f"问 {first + place}",
            "",
            "字" * 100,
            float(judges[place]),
            float(np.clip(score + noise[place], 0, 1)),
            "stop",
            50,
            0.1,
        )
        for place in range(count)
    ]


def trial(name: str, quantization: str = "none") -> Trial:
    pipeline = {
        "prompt": {"name": name, "system": name, "user": "{question}", "examples": []},
        "quantization": {"name": quantization},
        "engine": {"backend": "vllm", "args": {"max_num_seqs": 64}},
        "sampling": {"max_tokens": 256},
    }
    return Trial(f"{name}-{quantization}", {"prompt": name, "quantization": quantization}, pipeline, {})


def race_of(*names: str, rule: SelectionConfig = RULE, repeats: int = 3, slices: int = 1) -> Race:
    """A race of unquantized cells on engine "none" and of quantized ones ("name:fp8") on engine "fp8"."""
    split = [(name.partition(":")[0], name.partition(":")[2] or "none") for name in names]
    candidates = {(one := trial(*pair)).key: Candidate(one, pair[1], QUESTIONS) for pair in split}
    return Race(candidates, rule, 0.9, [[]] * slices, repeats)


def see(race: Race, key: str, speed: float, score: float = 0.5, judge: float | None = None) -> None:
    """A slice of 16 questions."""
    answers = answers_of(score, 16, judge)
    race.measured_slice(key, SlicePass(numbers([(1.0, round(speed))], answers), answers))


def finish(race: Race, key: str, speeds: list[float], score: float = 0.5, judge: float | None = None) -> None:
    """All questions, as often as there are speeds."""
    answers = answers_of(score, judge=judge)
    race.measured(
        replace(race.candidates[key].trial, measurement=numbers([(1.0, round(one)) for one in speeds], answers)), answers
    )


# What is asked


def study(**settings: Any) -> StudyConfig:
    return StudyConfig(name="mine", **settings)


def questions(count: int) -> list[Question]:
    return [Question(str(number), f"问题 {number}") for number in range(count)]


def test_slices_are_seeded_disjoint_and_grow_to_at_most_a_quarter_of_the_questions():
    slices = slices_of(questions(400), study(), Issue.closed)
    assert [len(one) for one in slices] == [16, 64]
    assert len({one.id for part in slices for one in part}) == 80
    assert slices == slices_of(questions(400), study(), Issue.closed)
    assert slices != slices_of(questions(400), study(racing_seed=1), Issue.closed)
    assert [one.id for one in slices[0]] != [str(number) for number in range(16)]


@pytest.mark.parametrize(
    ("count", "issue", "sizes"), [(400, Issue.batch, [16]), (80, Issue.batch, [16]), (63, Issue.serial, [])]
)
def test_a_batch_has_one_slice_and_a_small_dataset_none(count, issue, sizes):
    assert [len(one) for one in slices_of(questions(count), study(), issue)] == sizes


def test_an_engine_measures_the_slice_then_its_best_cell_in_full_then_the_others_then_the_repeats():
    race = race_of("a", "b", "c", "d:fp8", "e:fp8")
    assert race.next_round("none") == [WantedPass(f"{name}-none", slice=0) for name in "abc"]
    for name, speed in zip("abc", (1000, 1300, 1200), strict=True):
        see(race, f"{name}-none", speed)
    assert race.next_round("none") == [WantedPass("b-none", repeat=0), WantedPass("c-none", repeat=0)], (
        "two while nothing is known"
    )
    finish(race, "b-none", [2600])
    finish(race, "c-none", [2610])
    assert race.next_round("none") == [WantedPass("a-none", repeat=0)]
    finish(race, "a-none", [2590])
    assert race.next_round("none") == [WantedPass(f"{name}-none", repeat=1) for name in "abc"]
    for name in "abc":
        finish(race, f"{name}-none", [2600, 2600, 2600])
    assert race.next_round("none") == []
    for name, speed in (("d", 1200), ("e", 1300)):
        see(race, f"{name}-fp8", speed)
    assert race.next_round("fp8") == [WantedPass("e-fp8", repeat=0)], "one on every other engine"
    assert race.dropped == {}


def test_one_pass_that_stalled_drops_no_cell_by_a_slice():
    race = race_of("stalled", "b", "c", "d")
    race.confidence = study().racing_confidence
    for name, speed in (("stalled", 5000), ("b", 4800), ("c", 2000), ("d", 1900)):
        see(race, f"{name}-none", speed)
    assert race.next_round("none") == [WantedPass("stalled-none", repeat=0), WantedPass("b-none", repeat=0)]
    finish(race, "stalled-none", [4900])  # as if a slice and all questions were equally fast
    finish(race, "b-none", [20000])
    race.next_round("none")
    assert "c-none" not in race.dropped
    assert "d-none" not in race.dropped


def test_a_cell_that_was_measured_before_gets_no_more_passes():
    race = race_of("a", "b")
    finish(race, "a-none", [1000, 1000, 1000])
    assert race.next_round("none") == [WantedPass("b-none", slice=0)]


def test_a_cell_that_failed_runs_no_more():
    race = race_of("a", "b")
    race.measured(replace(race.candidates["a-none"].trial, error="out_of_memory"), [])
    assert race.next_round("none") == [WantedPass("b-none", slice=0)]


def test_engines_with_baselines_come_first_and_then_those_with_the_highest_bound():
    race = race_of("a:fp8", "b:fp8_kv", "a", "b")
    assert race.engines(lambda key, tokens: {"a-fp8": 1.0, "b-fp8_kv": 2.0}.get(key)) == ["none", "fp8_kv", "fp8"]
    race = race_of("a:fp8", "b:fp8_kv")
    assert race.engines(lambda key, tokens: None) == ["fp8", "fp8_kv"], "else in the order of their appearance"


def test_where_no_bound_is_known_the_engine_that_takes_more_at_once_comes_first():
    race = race_of("a:fp8", "b:fp8_kv")
    race.candidates["b-fp8_kv"].trial.pipeline["engine"]["args"]["max_num_seqs"] = 128
    assert race.engines(lambda key, tokens: None) == ["fp8_kv", "fp8"]
    assert race.engines(lambda key, tokens: {"a-fp8": 2.0, "b-fp8_kv": 1.0}[key]) == ["fp8", "fp8_kv"]


def test_the_engines_of_another_backend_are_ordered_by_its_own_name_for_how_many_it_takes_at_once():
    race = race_of("a:fp8", "b:fp8_kv")
    for key, width in (("a-fp8", 8), ("b-fp8_kv", 128)):
        race.candidates[key].trial.pipeline["engine"] = {"backend": "transformers", "args": {"batch_size": width}}
    assert race.engines(lambda key, tokens: None) == ["fp8_kv", "fp8"]
    race.candidates["a-fp8"].trial.pipeline["engine"]["args"] = {"max_num_seqs": 256}  # of vLLM: it says nothing here
    assert race.engines(lambda key, tokens: None) == ["fp8_kv", "fp8"]


# Who is dropped


def test_a_cell_that_cannot_reach_the_floor_even_at_the_upper_bound_is_dropped_after_its_slice():
    race = race_of("good", "poor")
    see(race, "good-none", 1000)
    see(race, "poor-none", 5000, judge=0.1)
    race.next_round("none")
    assert list(race.dropped) == ["poor-none"]
    assert race.dropped["poor-none"].startswith("rouge_l_f1_judge is at most 0.1")
    assert "by 16 questions, below the floor 0.35" in race.dropped["poor-none"]


def test_a_cell_just_below_the_floor_is_not_dropped_by_a_slice():
    race = race_of("good", "near")
    see(race, "good-none", 1000)
    see(race, "near-none", 1000, judge=0.34)
    race.next_round("none")
    assert race.dropped == {}


@pytest.mark.parametrize(("cut", "stays"), [(16, False), (14, False), (11, True), (8, True)])
def test_a_cell_that_cuts_more_answers_of_its_slice_than_chance_would_is_dropped(cut, stays):
    race = race_of("good", "short")
    see(race, "good-none", 1000)
    answers = [replace(one, finish_reason="length" if place < cut else "stop") for place, one in enumerate(answers_of(0.5, 16))]
    race.measured_slice("short-none", SlicePass(numbers([(1.0, 5000)], answers), answers))
    race.next_round("none")
    told = f"{cut} of 16 answers are truncated, which shows that more than 50% of all would be"
    assert race.dropped == ({} if stays else {"short-none": told})


def test_the_chance_of_a_sample_is_hypergeometric():
    assert chance_of(2, 2, 4, 8) == pytest.approx(4 / 8 * 3 / 7)
    assert chance_of(0, 2, 4, 8) == 1
    assert chance_of(3, 4, 2, 8) == 0


def slow_and_fast(rule: SelectionConfig, score: float) -> Race:
    """A cell that was measured in full, and one half as fast on the same slice, with that score."""
    race = race_of("fast", "slow", rule=rule)
    see(race, "fast-none", 2000)
    see(race, "slow-none", 500, score=score)
    finish(race, "fast-none", [4000, 4020, 3980])
    race.next_round("none")
    return race


DOMINATED = {
    Rule.fastest: ([0.4, 0.5, 0.6], "slower than"),
    Rule.best_quality: ([0.38], "worse than"),
    Rule.knee: ([0.38], "slower and worse than"),
    Rule.weighted: ([0.4, 0.5, 0.6], "behind by weight than"),
}


@pytest.mark.parametrize("rule", DOMINATED, ids=lambda rule: rule.name)
@pytest.mark.parametrize("score", [0.38, 0.4, 0.5, 0.6])
def test_dominated_is_behind_in_what_the_rule_ranks_by(rule, score):
    scores, told = DOMINATED[rule]
    race = slow_and_fast(replace(RULE, rule=rule, min_rouge_l_f1_of_best=0), score)
    if score in scores or (rule is Rule.weighted):
        assert told in race.dropped["slow-none"]
        assert "by 16 questions" in race.dropped["slow-none"]
    elif score >= 0.5 and rule is not Rule.fastest:
        assert race.dropped == {}


def test_a_slice_is_not_compared_with_another_engines_speed_before_that_engine_has_measured_a_cell_in_full():
    race = race_of("a", "a:fp8", "b:fp8")
    see(race, "a-none", 2000)
    finish(race, "a-none", [4000, 4000, 4000])
    see(race, "a-fp8", 500)
    see(race, "b-fp8", 400)
    assert race.next_round("fp8") == [WantedPass("a-fp8", repeat=0)]
    assert race.dropped == {}
    finish(race, "a-fp8", [6000])  # this engine gains twelve times from a slice to all, the other twice
    assert race.next_round("fp8") == [WantedPass("b-fp8", repeat=0)]
    assert race.dropped == {"a-none": race.dropped["a-none"]} if race.dropped else True


def test_a_fast_cell_with_a_violation_drops_no_other():
    race = race_of("good", "nonsense")
    for key, speed in (("good-none", 1000), ("nonsense-none", 5000)):
        see(race, key, speed, score=0.5 if key == "good-none" else 0.33, judge=0.5)
    finish(race, "nonsense-none", [9000, 9000], score=0.3, judge=0.3)
    race.next_round("none")
    assert "good-none" not in race.dropped
    assert "below the floor" in race.dropped["nonsense-none"]


def test_a_quantized_cell_leads_only_once_its_baseline_was_measured_in_full():
    race = race_of("a", "b", "a:fp8")
    for key, speed in (("a-none", 1000), ("b-none", 1000), ("a-fp8", 4000)):
        see(race, key, speed)
    finish(race, "a-fp8", [8000, 8000, 8000])
    race.next_round("none")
    assert race.dropped == {}
    finish(race, "a-none", [2000, 2000, 2000])
    race.next_round("none")
    assert "slower than prompt=a quantization=fp8" in race.dropped["b-none"]


def test_a_dropped_baseline_of_a_cell_that_stays_is_measured_in_full_once_and_constrains_it():
    race = race_of("fast", "slow", "slow:fp8")
    for key, speed in (("fast-none", 2000), ("slow-none", 400)):
        see(race, key, speed)
    finish(race, "fast-none", [4000, 4000, 4000])
    assert race.next_round("none") == []
    assert list(race.dropped) == ["slow-none"]
    see(race, "slow-fp8", 2000)
    finish(race, "slow-fp8", [4500, 4500, 4500], score=0.45)
    assert race.next_round("fp8") == []
    assert race.recall() == {"none": ["slow-none"]}
    assert race.next_round("none") == [WantedPass("slow-none", repeat=0)]
    finish(race, "slow-none", [800])
    assert race.next_round("none") == []
    assert race.recall() == {}
    ended = {one.key: one for one in race.trials()}
    assert ended["slow-none"].dropped.seen.questions == QUESTIONS
    verdict = decide(race.trials(), RULE, {key: race.candidates[key].known for key in ended})
    assert verdict.winner is ended["fast-none"], "the constraint refuses the quantized one, which lost a tenth"
    refused = next(standing for standing in verdict.standings if standing.trial is ended["slow-fp8"])
    assert "95% of the unquantized" in refused.violations[0]


def test_a_race_holds_a_quantized_cell_to_the_ratio_of_the_verdict_and_names_it():
    def told(rule: SelectionConfig) -> str:
        race = race_of("a", "a:fp8", rule=rule)
        finish(race, "a-none", [2000, 2000, 2000])
        see(race, "a-fp8", 4000, score=0.3, judge=0.5)
        race.next_round("fp8")
        return race.dropped["a-fp8"]

    default = "95% of the unquantized (the default for 80 to 399 different questions)"
    lax = replace(RULE, min_rouge_l_f1_of_best=0.0)
    assert told(lax) == f"rouge_l_f1 is shown to be below {default} by 16 questions"
    own = replace(lax, min_rouge_l_f1_ratio=0.98)
    assert "below 98% of the unquantized (selection.min_rouge_l_f1_ratio) by 16 questions" in told(own)


def test_a_cell_that_one_slow_pass_dropped_runs_on_once_others_show_that_passes_can_be_slow():
    race = race_of("a", "b", "b:fp8")
    for name in ("a-none", "b-none", "b-fp8"):
        see(race, name, 1000)
    finish(race, "a-none", [2000])
    finish(race, "b-none", [1400])
    assert race.next_round("none") == [WantedPass("a-none", repeat=1)]
    assert "slower than prompt=a" in race.dropped["b-none"]
    finish(race, "a-none", [2000, 1400])
    assert race.next_round("none") == [WantedPass("b-none", repeat=1)]
    assert race.dropped == {}


def test_an_engine_starts_once_more_for_a_cell_that_later_passes_do_not_show_to_be_behind():
    race = race_of("a", "b", "c:fp8", "d:fp8")
    race.by_passes, race.dropped = {"b-none"}, {"b-none": "by one slow pass"}
    finish(race, "a-none", [2000, 2010, 1990])
    finish(race, "b-none", [1500])
    for name in ("c-fp8", "d-fp8"):
        finish(race, name, [2000, 1300, 2000])
    assert race.recall() == {"none": ["b-none"]}
    assert race.next_round("none") == [WantedPass("b-none", repeat=1)]
    finish(race, "b-none", [1500, 2000])
    assert race.next_round("none") == [WantedPass("b-none", repeat=2)]
    finish(race, "b-none", [1500, 2000, 2000])
    assert race.recall() == {}
    assert race.dropped == {}


def test_a_cell_that_has_all_its_repeats_is_left_to_the_verdict():
    race = race_of("fast", "slow")
    finish(race, "fast-none", [4000, 4000, 4000])
    finish(race, "slow-none", [1000, 1000, 1000])
    assert race.next_round("none") == []
    assert race.recall() == {}
    assert race.dropped == {}


def test_a_recalled_baseline_that_fails_is_asked_once():
    race = race_of("fast", "slow", "slow:fp8")
    see(race, "slow-none", 400)
    finish(race, "fast-none", [4000, 4000, 4000])
    race.dropped = {"slow-none": "not even the bound of its card"}
    finish(race, "slow-fp8", [4500, 4500, 4500])
    assert race.recall() == {"none": ["slow-none"]}
    assert race.next_round("none") == [WantedPass("slow-none", repeat=0)]
    race.measured(replace(race.candidates["slow-none"].trial, error="out_of_memory"), [])
    assert race.next_round("none") == []
    assert race.recall() == {}


def test_dominated_is_behind_by_more_than_a_tie_allows_also_where_the_least_lead_allows_more_than_its_interval():
    assert tie_ratio(replace(RULE, max_interval_ratio=1.21, min_lead=0.01)) == pytest.approx(1.1)
    assert tie_ratio(replace(RULE, max_interval_ratio=1.21, min_lead=0.15)) == pytest.approx(1.15)
    assert tie_ratio(replace(RULE, max_interval_ratio=1.21, min_lead=0.5)) == pytest.approx(1.21), "else it is no tie"
    for min_lead, dropped in ((0.01, ["near-none"]), (0.15, [])):
        quiet = list("abcdefghijklmnop")
        race = race_of("first", "near", *quiet, rule=replace(RULE, max_interval_ratio=1.21, min_lead=min_lead))
        for name, speeds in {"first": [1140] * 3, "near": [1000] * 2, **{name: [900] * 3 for name in quiet}}.items():
            finish(race, f"{name}-none", speeds)
        race.next_round("none")
        assert list(race.dropped) == dropped


def test_if_all_would_be_dropped_the_best_stays():
    race = race_of("a", "b")
    see(race, "a-none", 1000, judge=0.05)
    see(race, "b-none", 2000, judge=0.05)
    assert race.next_round("none") == [WantedPass("b-none", repeat=0)]
    assert list(race.dropped) == ["a-none"]


def test_cells_that_cannot_win_even_at_the_bound_of_their_card_are_skipped_with_the_reason():
    race = race_of("a", "a:fp8", "b:fp8")
    finish(race, "a-none", [4000, 4000, 4000])
    measured = race.candidates["a-none"].trial
    measurement = replace(measured.measurement, output_tokens=QUESTIONS * 3 * 50)  # two characters a token
    race.measured(replace(measured, measurement=measurement), race.candidates["a-none"].answers)
    bounds = {"a-fp8": 1500.0, "b-fp8": 2500.0}
    race.skip_hopeless("fp8", lambda key, tokens: bounds[key] if tokens == 50 else None)
    assert list(race.dropped) == ["a-fp8"]
    assert race.dropped["a-fp8"].startswith("not even the bound of its card, 3,000 chars/s (1,500 tokens of at most 2.00 char")
    race.skip_hopeless("fp8", lambda key, tokens: None)
    assert list(race.dropped) == ["a-fp8"]


def test_dropped_cells_stay_in_the_table_with_their_reason_and_never_win():
    race = slow_and_fast(RULE, 0.9)
    trials = race.trials()
    slow = next(one for one in trials if one.dropped)
    assert slow.measurement is None
    assert slow.dropped.seen.questions == 16
    verdict = decide(trials, RULE)
    assert [one.trial.key for one in verdict.standings] == ["fast-none", "slow-none"]
    assert verdict.standings[1].violations == (f"dropped: {slow.dropped.reason}",)
    assert not verdict.standings[1].on_front


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"racing_first_slice": 1}, "study.racing_first_slice: got 1, "),
        ({"racing_growth": 0}, "study.racing_growth: got 0, "),
        ({"racing_confidence": 1.0}, "study.racing_confidence: got 1.0, "),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, told):
    with pytest.raises(UserError, match=told):
        study(**settings)


# What a few passes show


def test_few_values_borrow_their_spread_and_many_know_their_own():
    assert spread([[1.0]], 0.1).sd == pytest.approx(0.1)
    many = np.random.default_rng(0).normal(0, 0.3, 4000).tolist()
    assert spread([many], 0.1).sd == pytest.approx(0.3, rel=0.05)


def test_the_mean_of_a_slice_is_known_the_better_the_more_of_all_questions_it_holds():
    values, texts = [0.2, 0.4, 0.6] * 8, [str(place) for place in range(24)]
    assert mean_of(values, texts, 24).error == 0
    assert mean_of(values, texts, 48).error == pytest.approx(mean_of(values, texts).error / 2**0.5)


def test_rows_that_repeat_a_question_tell_a_race_no_more_than_one_of_them():
    values, texts = np.random.default_rng(1).normal(0.03, 0.12, 20).tolist(), [str(place) for place in range(20)]
    once, repeated = mean_of(values, texts), mean_of(np.repeat(values, 4).tolist(), np.repeat(texts, 4).tolist())
    assert (repeated.error, repeated.freedom) == (pytest.approx(once.error), once.freedom)


REPEATED = {  # what is wrong with a cell by a slice of 16 rows -> (score, judge's score, truncated answers)
    "the floor": (0.5, 0.25, 0),
    "the study's best": (0.4, 0.5, 0),
    "are truncated": (0.5, 0.5, 8),
}


@pytest.mark.parametrize("what", REPEATED)
def test_a_slice_that_asks_few_different_questions_drops_no_cell_that_as_many_different_ones_would(what: str) -> None:
    score, judge, truncated = REPEATED[what]
    rule = replace(RULE, min_rouge_l_f1_of_best=0.95, max_truncated_fraction=0.1)
    reasons = {}
    for different in (16, 2):
        race = race_of("a", "b", rule=rule)
        see(race, "a-none", 1000.0)
        finish(race, "a-none", [2000.0])
        answers = [replace(answer, question=f"问 {int(answer.id) % different}") for answer in answers_of(score, 16, judge)]
        measurement = replace(numbers([(1.0, 1000)], answers), answers_truncated=truncated)
        leading = race.candidates["a-none"]
        same = [replace(answer, question=answers[int(answer.id) % 16].question) for answer in leading.answers]
        race.candidates["a-none"] = replace(leading, answers=same)
        race.measured_slice("b-none", SlicePass(measurement, answers))
        snapshot = Snapshot(race.candidates, rule, 0.01)
        reasons[different] = snapshot.missed(race.candidates["b-none"])
    assert what in str(reasons[16])
    assert reasons[2] is None


@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.parametrize("sd", [0.02, 0.15])
def test_a_forecast_from_a_slice_misses_the_whole_as_seldom_as_it_says(sd):
    generator, missed, count = np.random.default_rng(1), 0, 400
    answers, all_answers = answers_of(0.5, 16), answers_of(0.5)
    for _ in range(count):
        speeds, gains = generator.normal(8, 0.3, 8), generator.normal(1, sd, 8)
        race = race_of(*"abcdefgh")
        for name, speed, gain in zip("abcdefgh", speeds, gains, strict=True):
            seen = numbers([(1.0, round(float(np.exp(speed)) * 1000))], answers)
            race.measured_slice(f"{name}-none", SlicePass(seen, answers))
            if name != "h":
                whole = numbers([(1.0, round(float(np.exp(speed + gain)) * 1000))], all_answers)
                race.measured(replace(race.candidates[f"{name}-none"].trial, measurement=whole), all_answers)
        found = speed_of(race.candidates["h-none"], list(race.candidates.values()))
        bound = found.difference + t_quantile(0.9, found.freedom) * found.error
        missed += speeds[-1] + gains[-1] + np.log(1000) > bound
    assert missed / count <= 0.05 + 0.02


# How often a race ends as the full grid does

NOISY_REPLAYS = int(os.environ.get("GPUQA_REPLAYS", "4"))  # of each noise
GENERATED = int(os.environ.get("GPUQA_REPLAYS", "10")) // 2
NOISES = ["normal (sd 12 %)", "bimodal, 30 % slow", "bimodal, 50 % slow", "slow stretches"]  # on top of a study's own


def rates(name: str, replays: list[Replay]) -> tuple[float, float]:
    """Print and return: the share of replays with the full grid's winner, the share of engine time saved."""
    same = sum(one.grid_winner == one.race_winner for one in replays) / len(replays)
    saved = 1 - sum(one.race_s for one in replays) / sum(one.grid_s for one in replays)
    print(f"{name}: same winner {same:.1%} of {len(replays)}, engine time saved {saved:.1%}")
    return same, saved


@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.parametrize("name", ["wide", "busy"])
def test_on_a_recorded_study_a_race_has_the_winner_of_the_full_grid_for_less_engine_time(name: str) -> None:
    trace, rule = load(name), replace(RULE, min_rouge_l_f1_judge=0.15)
    starts_s = [one["start_s"] for one in trace["engines"]]
    replays = [replayed(draw(trace, 3, 16, seed), starts_s, rule, study().racing_confidence) for seed in range(REPLAYS)]
    same, saved = rates(f"recorded, {name}, 48 cells on 4 engines", replays)
    assert same >= 0.95
    assert saved >= 0.40
    assert len({one.grid_winner for one in replays}) >= 4, "else one cell wins by so much that nobody could miss it"
    assert all(one.starts >= len(starts_s) for one in replays), "each engine is charged, and those that are called back again"


@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.parametrize("name", ["wide", "busy"])
@pytest.mark.parametrize("noise", NOISES)
def test_on_a_recorded_study_with_noise_of_its_own_a_race_has_the_winner_of_the_full_grid(noise: str, name: str) -> None:
    trace, rule = load(name), replace(RULE, min_rouge_l_f1_judge=0.15)
    starts_s = [one["start_s"] for one in trace["engines"]]
    draws = [disturbed(draw(trace, 3, 16, seed), simulate.NOISES[noise], seed) for seed in range(NOISY_REPLAYS)]
    same, _ = rates(
        f"recorded, {name}, {noise}", [replayed(cells, starts_s, rule, study().racing_confidence) for cells in draws]
    )
    assert same >= 0.95


@pytest.mark.skipif(NOISY_REPLAYS < 40, reason="two seconds a replay: `make simulations` runs them")
@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.parametrize("noise", NOISES)
def test_on_generated_studies_with_noise_of_its_own_a_race_has_the_winner_of_the_full_grid(noise: str) -> None:
    shape, replays = Shape(noise=0.01), []
    for seed in range(NOISY_REPLAYS // 5):
        trace = generated(shape, seed)
        cells = disturbed(draw(trace, 3, 16, seed), simulate.NOISES[noise], seed)
        replays.append(replayed(cells, [shape.start_s] * len(trace["engines"]), RULE, study().racing_confidence))
    same, _ = rates(f"generated, {noise}", replays)
    assert same >= 0.95


@pytest.mark.slow
@pytest.mark.no_cover
def test_on_generated_studies_of_a_gpu_a_race_saves_nearly_two_fifths() -> None:
    shape, replays = Shape(noise=0.01), []
    for seed in range(GENERATED):
        trace = generated(shape, seed)
        starts_s = [shape.start_s] * len(trace["engines"])
        replays.append(replayed(draw(trace, 3, 16, seed), starts_s, RULE, study().racing_confidence))
    same, saved = rates("generated, 48 cells on 8 engines, MAD 1 %", replays)
    assert same >= 0.95
    assert saved >= 0.38
