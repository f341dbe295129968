"""The rule that picks a winner, asked about trials that were made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuqa.config.measurement import ConstraintTest, Rule, SelectionConfig
from gpuqa.measure.statistics import bootstrap_interval, geometric_mean
from gpuqa.records import Answer, Dropped, Interval, Measurement, Trial
from gpuqa.selection.comparison import lead_texts
from gpuqa.selection.decision import decide
from gpuqa.selection.pairing import paired, scores_of
from gpuqa.selection.ranking import RANKINGS
from gpuqa.selection.verdict import Outcome

RULE = SelectionConfig(
    name="rule",
    min_rouge_l_f1_judge=0.35,
    min_rouge_l_f1_of_best=0.0,
    baseline_quantization="none",
    min_rouge_l_f1_ratio=0.99,
    min_answer_chars_ratio=0.90,
    confidence=0.95,
)
GOOD = Measurement(
    questions=100,
    repeats=3,
    seconds=1.0,
    chars_per_s=10_000.0,
    chars_per_s_mad=50.0,
    chars_per_s_repeats=[9_950.0, 10_000.0, 10_050.0],
    output_tokens_per_s=6_000.0,
    questions_per_s=100.0,
    ttft_ms_p50=10.0,
    ttft_ms_p95=20.0,
    tpot_ms_mean=1.0,
    e2e_latency_ms_p50=500.0,
    e2e_latency_ms_p95=900.0,
    e2e_latency_ms_p99=990.0,
    prefix_cache_hit_rate=0.5,
    cached_tokens=5_000,
    prompt_tokens=10_000,
    output_tokens=6_000,
    rouge_l_f1_judge=0.40,
    rouge_l_f1=0.50,
    answer_chars_mean=100.0,
    answers_truncated=0,
    truncated_fraction=0.0,
    answers_empty=0,
    answers_multi_line=0,
    answers_failed=0,
    questions_cut=0,
    engine_start_s=5.0,
    warmup_s=1.0,
    peak_memory_gib=2.0,
)


def trial(
    quantization: str = "none", chars_per_s: float = 10_000.0, prompt: str = "bare", seqs: int = 256, **numbers: Any
) -> Trial:
    """A trial with good numbers but for those that are given."""
    return Trial(
        key=f"{prompt} {quantization} {seqs} {chars_per_s} {numbers}",
        axes={"prompt": prompt, "quantization": quantization, "engine.args.max_num_seqs": str(seqs)},
        pipeline={
            "model": {"name": "tiny"},
            "prompt": {"name": prompt, "system": prompt, "user": "{question}", "examples": []},
            "quantization": {"name": quantization, "args": {"quantization": quantization}},
            "engine": {"name": "vllm", "args": {"max_num_seqs": seqs}},
            "sampling": {"max_tokens": 256},
        },
        fingerprint={},
        measurement=replace(GOOD, chars_per_s=chars_per_s, **{"chars_per_s_repeats": [chars_per_s], **numbers}),
    )


def failed(quantization: str = "fp8", prompt: str = "bare") -> Trial:
    return replace(trial(quantization, prompt=prompt, chars_per_s=0.0), measurement=None, error="EngineFailed: no fp8 here")


def violations_of(wanted: Trial, trials: list[Trial], rule: SelectionConfig = RULE) -> tuple[str, ...]:
    return next(standing.violations for standing in decide(trials, rule).standings if standing.trial is wanted)


def test_the_fastest_in_characters_wins_and_the_reason_says_by_how_much() -> None:
    trials = [trial(chars_per_s=8_000), trial("fp8", chars_per_s=10_000, output_tokens_per_s=1.0), failed("awq")]
    verdict = decide(trials, RULE)
    assert verdict.winner is trials[1]
    first = "prompt=bare quantization=fp8 max_num_seqs=256 is the fastest of 2 eligible trials"
    assert verdict.reason.startswith(f"INCONCLUSIVE: {first} (of 3; 1 failed: {trials[2].name}): 10,000 chars/s ")
    assert "10,000 chars/s (MAD 50 over 3 repeats) at rouge_l_f1_judge 0.4000 (floor 0.35), rouge_l_f1 0.5000" in verdict.reason
    assert "leads prompt=bare quantization=none max_num_seqs=256 by 25.0%" in verdict.reason


@pytest.mark.parametrize(
    ("rivals", "among"),
    [
        ([], "of 1"),
        ([trial(prompt="low", rouge_l_f1_judge=0.1)], "of 2"),
        ([failed("fp8")], "of 2; 1 failed: prompt=bare quantization=fp8 max_num_seqs=256"),
        ([replace(failed(), error=None, dropped=Dropped("slower", GOOD))], "of 2; 1 dropped by the race"),
    ],
    ids=["alone", "beside a violation", "beside a failure", "beside a cell that a race dropped"],
)
def test_a_trial_without_an_eligible_opponent_does_not_win_but_is_the_only_one_and_failures_are_named_first(
    rivals: list[Trial], among: str
) -> None:
    only = repeats(9_990, 10_000, 10_010)
    verdict = decide([*rivals, only], RULE)
    assert (verdict.outcome, verdict.winner) == (Outcome.ONLY_ELIGIBLE, only)
    assert verdict.reason.startswith(f"ONLY ELIGIBLE: {only.name} is the only eligible trial ({among}): 10,000 chars/s")
    assert "leads" not in verdict.reason
    assert "WIN" not in verdict.reason


def test_the_names_of_the_failed_stand_in_the_first_sentence_of_a_win_and_of_many_the_first_three() -> None:
    fast, slow = repeats(2000, 2010, 2020), repeats(1000, 1005, 1010, prompt="structured")
    lost = [failed(prompt=name) for name in "abcde"]
    verdict = decide([slow, *lost, fast], RULE)
    assert verdict.outcome is Outcome.WIN
    names = ", ".join(one.name for one in lost[:3])
    assert f"is the fastest of 2 eligible trials (of 7; 5 failed: {names} and 2 more): 2,010 chars/s" in verdict.reason


@pytest.mark.parametrize(("questions", "outcome"), [(20, Outcome.WIN), (19, Outcome.INCONCLUSIVE), (2, Outcome.INCONCLUSIVE)])
def test_few_questions_make_no_verdict_and_that_is_said(questions: int, outcome: Outcome) -> None:
    fast = repeats(2000, 2010, 2020, questions=questions)
    slow = repeats(1000, 1005, 1010, prompt="structured", questions=questions)
    verdict = decide([slow, fast], RULE)
    assert (verdict.outcome, verdict.winner) == (outcome, fast)
    told = f"only {questions} questions were asked, and one answer is {1 / questions:.0%} of a score; a verdict needs 20."
    assert (f"Not conclusive: {told}" in verdict.reason) == (questions < 20)
    assert "may be as good" not in verdict.reason, "the lead itself is shown"
    alone = decide([fast], RULE)
    assert alone.outcome is Outcome.ONLY_ELIGIBLE
    assert (f"This is no verdict on quality: {told}" in alone.reason) == (questions < 20)


def test_repeated_questions_count_once() -> None:
    fast, slow = repeats(2000, 2010, 2020), repeats(1000, 1005, 1010, prompt="structured")
    asked = [replace(answer, id="q", question="什么是 warp？") for answer in answers(BASE)]
    told = decide([slow, fast], RULE, {fast.key: asked, slow.key: asked})
    assert told.outcome is Outcome.INCONCLUSIVE
    assert "only 1 question was asked, and one answer is 100% of a score" in told.reason


def test_a_finalist_that_has_no_rival_left_among_the_finalists_does_not_win() -> None:
    again = repeats(2000, 2010, 2020, first_round_chars_per_s=2100.0)
    once = repeats(1000, 1005, 1010, prompt="structured")
    verdict = decide([once, again], RULE)
    assert (verdict.outcome, verdict.winner) == (Outcome.INCONCLUSIVE, again)
    assert f"{again.name} is the fastest of 1 finalist of 2 eligible trials (of 2)" in verdict.reason
    assert "The finalists were measured again, and that decides; in the first round it had 2,100 chars/s." in verdict.reason
    assert "Not conclusive: no other trial was measured again, so there is nothing to compare it with." in verdict.reason


def test_an_interval_that_says_nothing_is_not_shown() -> None:
    fast, slow = repeats(1000, 9000), repeats(900, 1900, prompt="structured")
    verdict = decide([slow, fast], RULE)
    [comparison] = verdict.comparisons
    assert comparison.interval is not None
    assert comparison.interval.high > 100, "more than +10000 %"
    noisy = "too noisy, the highest ratio that fits is more than twice the lowest"
    assert f"It is not told from {slow.name}: {noisy}." in verdict.reason
    assert "%" not in verdict.reason.partition("Not conclusive")[0].partition("It is not")[2], "no number is a result here"
    assert lead_texts(0.1, Interval(-0.2, 0.5), 0.04) == ("+10.0%", "-20.0% to +50.0%", "0.04")
    assert lead_texts(19.0, Interval(18.9, 19.1), 0.0)[1] == "+1890.0% to +1910.0%", "far ahead is not wide"


@pytest.mark.parametrize(("judge", "wins"), [(0.35, True), (0.3499, False), (0.0, False)])
def test_the_floor_is_the_least_score_that_may_win(judge: float, wins: bool) -> None:
    fast, slow = trial(chars_per_s=20_000, prompt="keywords", rouge_l_f1_judge=judge), trial()
    verdict = decide([fast, slow], RULE)
    assert verdict.winner is (fast if wins else slow)
    if not wins:
        assert violations_of(fast, [fast, slow]) == (
            f"rouge_l_f1_judge {judge:.4f} is below the floor 0.35 (a point estimate)",
        )


BY_MEANS = "by means alone, since answers are not at hand"
BY_RATIO, BY_LENGTH = (f"(selection.min_{name}_ratio), {BY_MEANS}" for name in ("rouge_l_f1", "answer_chars"))


@pytest.mark.parametrize(
    ("collapsed", "violation"),
    [
        ({"rouge_l_f1": 0.30}, f"rouge_l_f1 0.3 is below 99% of the unquantized 0.5 {BY_RATIO}"),
        ({"answer_chars_mean": 40.0}, f"answer_chars_mean 40 is below 90% of the unquantized 100 {BY_LENGTH}"),
        ({"rouge_l_f1": 0.4949}, f"rouge_l_f1 0.4949 is below 99% of the unquantized 0.5 {BY_RATIO}"),
        ({"answer_chars_mean": 89.9}, f"answer_chars_mean 89.9 is below 90% of the unquantized 100 {BY_LENGTH}"),
    ],
)
@pytest.mark.parametrize("baseline_comes_first", [True, False])
def test_a_fast_trial_whose_answers_collapsed_never_wins(
    collapsed: dict[str, float], violation: str, baseline_comes_first: bool
) -> None:
    fast, baseline = trial("fp8", chars_per_s=99_000, rouge_l_f1_judge=0.99, **collapsed), trial()
    trials = [baseline, fast] if baseline_comes_first else [fast, baseline]
    assert decide(trials, RULE).winner is baseline
    assert violations_of(fast, trials) == (violation,)


def test_a_trial_exactly_at_its_ratios_may_win() -> None:
    fast = trial("fp8", chars_per_s=20_000, rouge_l_f1=0.99 * 0.50, answer_chars_mean=0.90 * 100)
    assert decide([fast, trial()], RULE).winner is fast


def test_the_ratios_can_be_set() -> None:
    fast, baseline = trial("fp8", chars_per_s=20_000, rouge_l_f1=0.26, answer_chars_mean=51.0), trial()
    assert decide([fast, baseline], RULE).winner is baseline
    lax = replace(RULE, min_rouge_l_f1_ratio=0.5, min_answer_chars_ratio=0.5)
    assert decide([fast, baseline], lax).winner is fast


def test_every_violation_is_named() -> None:
    bad = trial("fp8", rouge_l_f1_judge=0.1, rouge_l_f1=0.1, answer_chars_mean=10.0)
    assert [violation.split()[0] for violation in violations_of(bad, [bad, trial()])] == [
        "rouge_l_f1_judge",
        "rouge_l_f1",
        "answer_chars_mean",
    ]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"prompt": "structured"}, id="another prompt"),
        pytest.param({"seqs": 512}, id="another engine"),
    ],
)
def test_the_baseline_has_the_same_prompt_and_engine(other: dict[str, int | str]) -> None:
    long = trial(chars_per_s=1_000, answer_chars_mean=900.0, rouge_l_f1=0.9, **other)
    short, short_fp8 = trial(chars_per_s=9_000), trial("fp8", chars_per_s=9_500)
    assert decide([long, short, short_fp8], RULE).winner is short_fp8
    long_fp8 = trial("fp8", chars_per_s=99_000, **other)  # as good as `short`, a collapse beside `long`
    verdict = decide([short, long, short_fp8, long_fp8], RULE)
    assert verdict.winner is short_fp8
    assert len(violations_of(long_fp8, [short, long, short_fp8, long_fp8])) == 2


def with_cache(one: Trial, kv_cache_dtype: str) -> Trial:
    """The trial with a number format of its KV cache among the engine's arguments, where no quantization option says it."""
    args = {**one.pipeline["engine"]["args"], "kv_cache_dtype": kv_cache_dtype}
    return replace(one, key=f"{one.key} {kv_cache_dtype}", pipeline={**one.pipeline, "engine": {"name": "vllm", "args": args}})


def test_a_number_format_among_the_engines_arguments_is_a_quantization_too() -> None:
    plain, spelt_out = trial(), with_cache(trial(), "auto")
    lossy = with_cache(trial(chars_per_s=20_000, rouge_l_f1=0.4), "fp8")
    for baseline in (plain, spelt_out):
        assert violations_of(lossy, [baseline, lossy]) == (f"rouge_l_f1 0.4 is below 99% of the unquantized 0.5 {BY_RATIO}",)
    unchecked = "1 quantized trial (none with kv_cache_dtype=fp8) was not checked"
    assert unchecked in decide([lossy], RULE).reason
    assert "was not checked" not in decide([with_cache(trial(), "bfloat16")], RULE).reason


def test_a_failed_baseline_does_not_hide_a_measured_one() -> None:
    broken, fast, baseline = failed("none"), trial("fp8", chars_per_s=99_000, answer_chars_mean=10.0), trial()
    assert decide([broken, fast, baseline], RULE).winner is baseline


def test_the_rule_says_which_quantization_is_the_baseline() -> None:
    unquantized, fp8, int4 = trial(rouge_l_f1=0.9), trial("fp8", rouge_l_f1=0.5), trial("int4", 99_000, rouge_l_f1=0.5)
    assert decide([unquantized, fp8, int4], replace(RULE, baseline_quantization="fp8")).winner is int4
    assert decide([unquantized, fp8, int4], RULE).winner is unquantized


def test_standings_are_eligible_by_speed_then_those_with_violations_by_speed_then_failures() -> None:
    slow, fast = trial(chars_per_s=1_000), trial(chars_per_s=3_000, seqs=64)
    poor, poorer = trial(chars_per_s=9_000, rouge_l_f1_judge=0.3), trial(chars_per_s=8_000, rouge_l_f1_judge=0.1)
    broken, silent = failed(), trial(chars_per_s=0.0, rouge_l_f1_judge=0.0)
    verdict = decide([broken, silent, poorer, slow, poor, fast], RULE)
    assert [standing.trial for standing in verdict.standings] == [fast, slow, poor, poorer, silent, broken]
    assert verdict.standings[-1].violations == ("failed: EngineFailed: no fp8 here",)


def test_where_nobody_is_eligible_the_nearest_is_named_with_its_violations() -> None:
    fastest = trial(chars_per_s=90_000, rouge_l_f1_judge=0.05, prompt="keywords")
    nearest = trial(chars_per_s=100, rouge_l_f1_judge=0.34, prompt="structured")
    verdict = decide([fastest, failed(), nearest], RULE)
    assert verdict.winner is None
    assert verdict.reason == (
        "no trial is eligible; the nearest is prompt=structured quantization=none max_num_seqs=256: "
        "rouge_l_f1_judge 0.3400 is below the floor 0.35 (a point estimate)"
    )


def test_fewer_violations_are_nearer_than_a_better_score() -> None:
    rule = replace(RULE, min_rouge_l_f1_judge=0.9)
    baseline, quantized = trial(rouge_l_f1_judge=0.4), trial("fp8", rouge_l_f1_judge=0.8, rouge_l_f1=0.1)
    assert "nearest is prompt=bare quantization=none" in decide([quantized, baseline], rule).reason


@pytest.mark.parametrize("trials", [[], [failed(), failed("awq")]])
def test_without_a_measured_trial_there_is_no_winner_and_the_reason_says_so(trials: list[Trial]) -> None:
    verdict = decide(trials, RULE)
    assert verdict.winner is None
    assert verdict.reason == "no trial was measured, so there is no winner"
    assert len(verdict.standings) == len(trials)


def test_trials_without_a_single_character_get_a_verdict_too() -> None:
    silent = [
        trial(seqs=seqs, chars_per_s=0.0, rouge_l_f1_judge=0.0, rouge_l_f1=0.0, answer_chars_mean=0.0) for seqs in (64, 128)
    ]
    assert decide(silent, replace(RULE, min_rouge_l_f1_judge=0.0)).winner is silent[0]


made = st.builds(
    trial,
    quantization=st.sampled_from(["none", "fp8", "int4"]),
    chars_per_s=st.sampled_from([1.0, 2.0, 5.0, 9.0]),
    prompt=st.sampled_from(["bare", "structured"]),
    rouge_l_f1_judge=st.sampled_from([0.1, 0.35, 0.5]),
    rouge_l_f1=st.sampled_from([0.1, 0.495, 0.5]),
    answer_chars_mean=st.sampled_from([10.0, 90.0, 100.0]),
)
broken = st.builds(failed, quantization=st.sampled_from(["none", "fp8"]), prompt=st.sampled_from(["bare", "structured"]))


def may_win(one: Trial, trials: list[Trial]) -> bool:
    """The rule once more, said in another way."""
    if one.measurement is None or one.measurement.rouge_l_f1_judge < 0.35:
        return False
    if one.axes["quantization"] == "none":
        return True
    prompt = one.axes["prompt"]
    beside = [other.measurement for other in trials if other.axes["prompt"] == prompt and other.axes["quantization"] == "none"]
    for baseline in filter(None, beside):  # the first that was measured
        least = 0.99 * baseline.rouge_l_f1, 0.90 * baseline.answer_chars_mean
        return one.measurement.rouge_l_f1 >= least[0] and one.measurement.answer_chars_mean >= least[1]
    return True


@settings(deadline=None)
@given(st.lists(st.one_of(made, broken), max_size=8))
def test_the_winner_is_the_fastest_that_may_win_whatever_the_trials(trials: list[Trial]) -> None:
    verdict = decide(trials, RULE)
    speeds = [one.measurement.chars_per_s for one in trials if one.measurement and may_win(one, trials)]
    if verdict.winner is None:
        assert not speeds
    else:
        assert may_win(verdict.winner, trials)
        assert verdict.winner.measurement is not None
        assert verdict.winner.measurement.chars_per_s == max(speeds)
    assert sorted(id(standing.trial) for standing in verdict.standings) == sorted(map(id, trials))
    assert sum(not standing.violations for standing in verdict.standings) == len(speeds)


def repeats(*speeds: float, quantization: str = "none", **numbers: Any) -> Trial:
    numbers = {"engine_ids": ["one engine"] * len(speeds), **numbers}
    middle = geometric_mean(speeds)
    return trial(quantization, chars_per_s=middle, chars_per_s_repeats=list(speeds), repeats=len(speeds), **numbers)


def answers(scores: list[float], chars: int = 100) -> list[Answer]:
    same = ("参考", "字" * chars, 0.4)
    return [Answer(f"q{place}", f"问题 {place}", *same, score, "stop", 60, 0.1) for place, score in enumerate(scores)]


def test_a_lead_beyond_the_noise_is_a_win_with_its_interval_and_p_value() -> None:
    fast, slow = repeats(2000, 2010, 2020), repeats(1000, 1005, 1010, prompt="structured")
    verdict = decide([slow, fast], RULE)
    assert (verdict.outcome, verdict.winner, verdict.first) == (Outcome.WIN, fast, fast)
    [found] = verdict.comparisons
    assert found.difference == pytest.approx(1.0, abs=0.001)
    assert found.interval is not None
    assert 0.97 < found.interval.low < 1.0 < found.interval.high < 1.03
    assert found.p_value is not None
    assert found.p_value < 1e-4
    assert "WIN: prompt=bare" in verdict.reason
    assert "95% interval +9" in verdict.reason


@pytest.mark.parametrize(
    ("simple", "other"),
    [
        pytest.param({}, {"quantization": "fp8"}, id="unquantized before quantized"),
        pytest.param({"prompt": "bare"}, {"prompt": "structured"}, id="the shorter system prompt"),
        pytest.param({"seqs": 64}, {"seqs": 512}, id="smaller settings"),
        pytest.param({"prompt": "structured"}, {"quantization": "fp8", "prompt": "bare"}, id="quantization before prompt"),
    ],
)
def test_a_tie_goes_to_the_simplest_and_the_reason_says_so(simple: dict[str, Any], other: dict[str, Any]) -> None:
    plain, faster = repeats(990, 1000, 1010, **simple), repeats(991, 1001, 1011, **other)
    for trials in ([plain, faster], [faster, plain]):
        verdict = decide(trials, RULE)
        assert (verdict.outcome, verdict.winner, verdict.first) == (Outcome.TIE, plain, faster)
        assert verdict.standings[0].trial is plain
        place = "the simplest of 2 that share the first place (fastest) of 2 eligible trials (of 2)"
        assert f"TIE: {plain.name} is {place}" in verdict.reason
        assert f"The first, {faster.name}, leads {plain.name} by 0.1%" in verdict.reason
        assert "over 3 repeats on one engine" in verdict.reason
        assert "too little to prefer it." in verdict.reason


def test_a_tie_among_the_fastest_leaves_out_who_is_shown_to_be_slower() -> None:
    slow = repeats(500, 501, 502, 503, prompt="a", seqs=1)
    tied = repeats(1000, 1001, 1002, 1003, prompt="bare"), repeats(1001, 1002, 1003, 1004, prompt="structured")
    verdict = decide([slow, *tied], RULE)
    assert (verdict.outcome, verdict.winner) == (Outcome.TIE, tied[0])


@pytest.mark.parametrize("speeds", [(1001.0,), (520.0, 1001.0, 2000.0)], ids=["one repeat", "a wide interval"])
def test_what_nobody_can_tell_is_inconclusive_and_still_has_a_winner(speeds: tuple[float, ...]) -> None:
    fast, simple = repeats(*speeds, prompt="structured"), repeats(990, 1000, 1000, prompt="bare")
    verdict = decide([simple, fast], RULE)
    assert (verdict.outcome, verdict.winner) == (Outcome.INCONCLUSIVE, fast)
    assert "Not conclusive: " in verdict.reason


BASE = [0.3, 0.5, 0.7, 0.4] * 25


@pytest.mark.parametrize(
    ("test", "scores", "wins"),
    [
        ("bound", BASE, True),
        ("bound", [score + 0.02 for score in BASE], True),
        ("bound", [score + (0.2 if place % 2 else -0.2) for place, score in enumerate(BASE)], False),  # the mean is the same
        ("refuted", [score + (0.2 if place % 2 else -0.2) for place, score in enumerate(BASE)], True),
        ("point", [score + (0.2 if place % 2 else -0.2) for place, score in enumerate(BASE)], True),
        ("refuted", [score * 0.8 for score in BASE], False),
    ],
)
def test_a_ratio_is_read_from_the_bound_over_paired_questions_as_the_rule_says(
    test: str, scores: list[float], wins: bool
) -> None:
    mean = sum(scores) / len(scores)
    fast, baseline = repeats(2000, 2001, 2002, quantization="fp8", rouge_l_f1=mean), repeats(1000, 1001, 1002, rouge_l_f1=0.475)
    told = {fast.key: answers(scores), baseline.key: answers(BASE)}
    verdict = decide([fast, baseline], replace(RULE, constraint_test=ConstraintTest[test]), told)
    assert verdict.winner is (fast if wins else baseline)
    if not wins:
        [violation] = next(one.violations for one in verdict.standings if one.trial is fast)
        assert "by a 95% bound over 100 questions" in violation


def test_a_length_is_compared_question_by_question_too() -> None:
    fast, baseline = trial("fp8", 20_000, answer_chars_mean=80.0), trial()
    told = {fast.key: answers(BASE, chars=80), baseline.key: answers(BASE, chars=100)}
    [violation] = next(one.violations for one in decide([fast, baseline], RULE, told).standings if one.trial is fast)
    told = (
        "answer_chars_mean 80 is shown to be below 90% of the unquantized 100 (selection.min_answer_chars_ratio): at most 81.0%"
    )
    assert violation.startswith(told)


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ({"answers_empty": 6}, "6.0% of the answers are empty"),
        ({"truncated_fraction": 0.51}, "51.0% of the answers are truncated"),
        ({"rouge_l_f1": 0.1}, "rouge_l_f1 0.1000 is below 50% of the study's best 0.5"),
    ],
)
def test_answers_that_are_no_answers_have_a_cap_without_a_baseline(numbers: dict[str, float], told: str) -> None:
    fast, good = trial(chars_per_s=90_000, prompt="keywords", **numbers), trial()
    verdict = decide([fast, good], replace(RULE, min_rouge_l_f1_of_best=0.5))
    assert verdict.winner is good
    assert told in verdict.standings[1].violations[0]


def test_a_verdict_says_which_quantized_trials_have_no_baseline() -> None:
    verdict = decide([trial("fp8"), trial("int4", 9_000)], RULE)
    unchecked = "2 quantized trials (fp8, int4) were not checked for lost quality and length, because no trial with "
    assert f"{unchecked}quantization=none that is otherwise the same was measured." in verdict.reason
    assert "were not checked" not in decide([trial("fp8"), trial()], RULE).reason
    without_ratios = replace(RULE, min_rouge_l_f1_ratio=0.0, min_answer_chars_ratio=0.0)
    assert "were not checked" not in decide([trial("fp8")], without_ratios).reason


def test_every_rule_has_a_row_in_the_table_that_ranks_compares_and_names_the_first() -> None:
    assert set(RANKINGS) == set(Rule)
    figures = {"goodput_questions_per_s": 2.0, "joules_per_output_token": 3.0}
    trials = [repeats(1000, 1010, 1020, **figures), repeats(2000, 2010, 2020, prompt="fast", rouge_l_f1=0.4, **figures)]
    for rule in Rule:
        verdict = decide(trials, replace(RULE, rule=rule))
        assert verdict.winner in trials
        assert f"the {RANKINGS[rule].title} of 2 eligible trials" in verdict.reason
        assert RANKINGS[rule].untested is None or f"Not conclusive: {RANKINGS[rule].untested}" in verdict.reason


def test_goodput_ranks_and_is_tested_by_its_own_repeats_and_not_by_speed() -> None:
    def kept(*each: float, speed: float) -> Trial:
        return repeats(
            *[speed] * 3,
            prompt=f"{speed:g}",
            goodput_questions_per_s=geometric_mean(each),
            goodput_questions_per_s_repeats=list(each),
        )

    many, few = kept(20.0, 20.1, 20.2, speed=1000), kept(10.0, 10.1, 10.2, speed=2000)
    verdict = decide([few, many], replace(RULE, rule=Rule.goodput))
    assert (verdict.winner, verdict.outcome) == (many, Outcome.WIN)
    assert "the highest in goodput of 2 eligible trials" in verdict.reason
    assert "goodput_questions_per_s 20.1, 1,000 chars/s" in verdict.reason
    [comparison] = verdict.comparisons
    assert comparison.difference == pytest.approx(20.1 / 10.1 - 1, rel=1e-3)
    assert comparison.interval is not None
    assert comparison.interval.low <= comparison.difference <= comparison.interval.high
    near = kept(19.9, 20.1, 20.4, speed=2000)
    assert decide([many, near], replace(RULE, rule=Rule.goodput)).outcome is not Outcome.WIN
    nothing = kept(0.0, 0.0, 0.0, speed=3000)
    assert decide([nothing, few], replace(RULE, rule=Rule.goodput)).winner is few


def test_the_cheapest_needs_the_fewest_joules_and_leads_in_tokens_per_joule() -> None:
    def cost(*each: float, speed: float, **numbers: float) -> Trial:
        figures = {"joules_per_output_token": geometric_mean(each), "joules_per_output_token_repeats": list(each)}
        return repeats(*[speed] * 3, prompt=f"{speed:g}", **figures, **numbers)

    cheap, dear = cost(0.2, 0.201, 0.199, speed=1000), cost(0.25, 0.251, 0.249, speed=2000)
    poor = cost(0.01, 0.01, 0.01, speed=500, rouge_l_f1_judge=0.1)
    verdict = decide([dear, cheap, poor], replace(RULE, rule=Rule.cheapest))
    assert (verdict.winner, verdict.outcome) == (cheap, Outcome.WIN), "above the floor"
    assert "joules_per_output_token 0.2, " in verdict.reason
    assert verdict.comparisons[0].difference == pytest.approx(0.25, rel=1e-3)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (Rule.goodput, "it has no goodput_questions_per_s, by which selection.rule=goodput ranks: workload.slo sets no limit"),
        (Rule.cheapest, "it has no joules_per_output_token, by which selection.rule=cheapest ranks: NVML did not count"),
    ],
)
def test_a_trial_without_the_number_that_a_rule_ranks_by_cannot_win(rule: Rule, told: str) -> None:
    verdict = decide([trial()], replace(RULE, rule=rule))
    assert verdict.winner is None
    assert told in verdict.reason


def test_a_slice_counts_for_the_best_of_a_study_with_the_lower_end_of_its_interval() -> None:
    scores = [0.6, 0.9] * 8
    seen = replace(GOOD, questions=16, rouge_l_f1=0.75)
    dropped = replace(trial(prompt="good"), measurement=None, dropped=Dropped("slower", seen))
    whole, rule = trial(rouge_l_f1=0.5), replace(RULE, min_rouge_l_f1_of_best=0.75)
    known = {dropped.key: [*answers([0.0] * 8), *answers(scores)]}  # of two slices: the numbers are those of the second
    [violation] = decide([whole, dropped], rule, known).standings[0].violations
    best = f"rouge_l_f1 0.5000 is below 75% of the study's best {bootstrap_interval(scores).low:.4g}"
    assert violation == f"{best} (a point estimate)"
    assert not decide([whole, dropped], rule, {}).standings[0].violations, "without answers a slice shows nothing"


def test_answers_are_paired_by_id_and_text_and_only_where_both_were_asked() -> None:
    ours, other = answers([0.1, 0.2, 0.3]), answers([0.4, 0.5])
    assert paired(ours, other) == []
    assert scores_of(paired(ours, other, partly=True)) == [(0.1, 0.4, "问题 0"), (0.2, 0.5, "问题 1")]
    assert paired(ours[:2], [replace(other[0], question="另一个问题"), other[1]]) == []
    assert scores_of(paired(ours[:2], [replace(other[0], rouge_l_f1=None), other[1]], partly=True)) == [(0.2, 0.5, "问题 1")]


def asked_again(rows: list[Answer], times: int) -> list[Answer]:
    """The same questions and answers several times, as in a file that repeats its questions."""
    return [replace(row, id=f"{row.id}, {again}") for again in range(times) for row in rows]


def test_repeated_questions_show_no_more_than_different_ones_do() -> None:
    better, worse = repeats(2000, 2010, 2020, prompt="better"), repeats(2000, 2010, 2020)
    leads = [0.03, -0.02, 0.04, 0.02, -0.01, 0.05, 0.01, -0.02, 0.03, 0.01]
    rows = answers([0.5 + lead for lead in leads]), answers([0.5] * len(leads))
    for rule in (Rule.best_quality, Rule.weighted):
        once, often = (
            decide(
                [worse, better], replace(RULE, rule=rule), dict(zip((better.key, worse.key), told, strict=True))
            ).comparisons[0]
            for told in (rows, [asked_again(one, 20) for one in rows])
        )
        assert once.interval is not None
        assert often.interval is not None
        assert (often.p_value, often.interval.low, often.interval.high) == pytest.approx(
            (once.p_value, once.interval.low, once.interval.high)
        )


def test_one_question_is_no_sample_however_often_it_is_asked() -> None:
    better, worse = repeats(2000, 2010, 2020, prompt="better", rouge_l_f1=0.6), repeats(2000, 2010, 2020)
    told = {better.key: asked_again(answers([0.6]), 50), worse.key: asked_again(answers([0.5]), 50)}
    for rule in (Rule.best_quality, Rule.weighted):
        verdict = decide([worse, better], replace(RULE, rule=rule), told)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert (verdict.comparisons[0].interval, verdict.comparisons[0].p_value) == (None, None)


def test_questions_that_are_asked_again_are_no_more_questions() -> None:
    fast, slow = repeats(2000, 2010, 2020, prompt="fast"), repeats(1000, 1010, 1020)
    told = {one.key: asked_again(answers([0.5] * 10), 30) for one in (fast, slow)}
    verdict = decide([fast, slow], RULE, told)
    assert (verdict.outcome, verdict.questions) == (Outcome.INCONCLUSIVE, 10)
    assert "only 10 questions were asked" in verdict.reason


def test_a_quantized_trial_is_held_to_the_bound_over_different_questions_and_the_violation_counts_both() -> None:
    plain, quantized = trial(), trial("fp8", chars_per_s=20_000)
    told = {plain.key: answers([0.5] * 6), quantized.key: answers([0.46, 0.53, 0.55, 0.44, 0.52, 0.5])}
    often = {key: asked_again(rows, 50) for key, rows in told.items()}
    for rows, count in ((told, "6 questions"), (often, "300 rows, 6 different questions")):
        [violation] = next(one for one in decide([plain, quantized], RULE, rows).standings if one.trial is quantized).violations
        assert f"by a 95% bound over {count}; an equal cell would need about " in violation


def test_limits_and_other_rules_choose_others() -> None:
    fast = trial(chars_per_s=10_000, prompt="fast", rouge_l_f1=0.30, e2e_latency_ms_p95=900.0)
    both = trial(chars_per_s=8_000, prompt="both", rouge_l_f1=0.45, e2e_latency_ms_p95=500.0)
    good = trial(chars_per_s=2_000, prompt="good", rouge_l_f1=0.50, e2e_latency_ms_p95=100.0)
    dominated = trial(chars_per_s=1_900, prompt="poor", rouge_l_f1=0.44)
    trials = [dominated, fast, good, both]

    def winner(**rule: Any) -> Trial | None:
        return decide(trials, replace(RULE, **rule)).winner

    assert winner() is fast
    assert winner(rule=Rule.best_quality) is good
    assert winner(rule=Rule.best_quality, min_chars_per_s=3_000) is both
    assert winner(max_e2e_latency_ms_p95=600) is both
    assert winner(max_ttft_ms_p95=1) is None
    assert winner(rule=Rule.knee) is both
    assert winner(rule=Rule.weighted, speed_weight=1.0) is fast
    assert winner(rule=Rule.weighted, speed_weight=0.0) is good
    assert [one.trial.axes["prompt"] for one in decide(trials, RULE).standings if one.on_front] == ["fast", "both", "good"]


def test_the_knee_of_a_front_of_one_is_that_one() -> None:
    poor, best = trial(chars_per_s=100, rouge_l_f1=0.4), trial(chars_per_s=2_000, prompt="best", rouge_l_f1=0.5)
    assert decide([poor, best], replace(RULE, rule=Rule.knee)).winner is best


def test_the_best_quality_is_tested_over_the_questions() -> None:
    better, worse = trial(prompt="better", rouge_l_f1=0.525), trial(rouge_l_f1=0.475)
    told = {better.key: answers([score + 0.05 for score in BASE]), worse.key: answers(BASE)}
    verdict = decide([worse, better], replace(RULE, rule=Rule.best_quality), told)
    assert (verdict.outcome, verdict.winner) == (Outcome.WIN, better)
    assert verdict.comparisons[0].difference == pytest.approx(0.05 / 0.475)
    assert verdict.comparisons[0].p_value == pytest.approx(1 / 10_001)


def test_the_weighted_rule_is_tested_by_both_doubts() -> None:
    better = repeats(2000, 2010, 2020, prompt="better", rouge_l_f1=0.525)
    worse = repeats(1000, 1010, 1020, rouge_l_f1=0.475)
    told = {better.key: answers([score + 0.05 for score in BASE]), worse.key: answers(BASE)}
    verdict = decide([worse, better], replace(RULE, rule=Rule.weighted), told)
    assert (verdict.outcome, verdict.winner) == (Outcome.WIN, better)
    assert verdict.comparisons[0].difference == pytest.approx((1.99 * 0.525 / 0.475) ** 0.5 - 1, rel=0.01)
