"""The numbers of a trial, worked by hand from completions that were made by hand."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from gpuqa.measure.metric_table import METRICS, shown
from gpuqa.measure.metrics import Overhead, intervals_of, measure, measure_prefix_cached, score_answers, with_timings
from gpuqa.measure.speed_prediction import next_of
from gpuqa.records import Answer, Answered, Completion, Conditions, Interval, Measurement, Question

QUESTIONS = [
    Question("memory-1", "甲？", "cuda warp"),
    Question("memory-2", "乙？", "共享 内存"),
    Question("memory-3", "丙？", "warp"),
]
CUDA = Completion(
    text="cuda",
    finish_reason="stop",
    prompt_tokens=10,
    output_tokens=3,
    cached_tokens=4,
    question_was_cut=False,
    first_token_s=0.100,
    last_token_s=0.300,
)
TWO_LINES = Completion(
    text="共享\n内存",
    finish_reason="length",
    prompt_tokens=20,
    output_tokens=1,
    cached_tokens=16,
    question_was_cut=True,
    first_token_s=0.200,
    last_token_s=0.200,
)
FAILED = Completion(
    text="",
    finish_reason="error",
    prompt_tokens=70,
    output_tokens=0,
    cached_tokens=0,
    question_was_cut=True,
    first_token_s=None,
    last_token_s=None,
    error="ValueError: too long",
)
FIRST = Answered([CUDA, TWO_LINES, FAILED], seconds=2.0, latencies_s=[0.3, 0.2, 2.0])
LATER_CUDA = replace(CUDA, text="cuda warp bank", output_tokens=5, last_token_s=0.300, first_token_s=0.180)
SECOND = Answered([LATER_CUDA, TWO_LINES, replace(FAILED, text="warp")], seconds=1.0, latencies_s=[0.4, 0.2, 1.0])
THIRD = Answered([CUDA, replace(TWO_LINES, finish_reason="stop"), FAILED], seconds=6.0, latencies_s=[0.5, 0.6, 6.0])
OVERHEAD = Overhead(engine_start_s=5.5, warmup_s=0.7, peak_memory_gib=1.25)


@pytest.fixture(scope="module")
def answers() -> list[Answer]:
    return score_answers(QUESTIONS, FIRST)


@pytest.fixture(scope="module")
def found(answers: list[Answer]) -> Measurement:
    return measure([FIRST, SECOND, THIRD], answers, OVERHEAD)


def test_every_answer_stands_beside_its_question_with_both_scores(answers: list[Answer]) -> None:
    assert [(answer.id, answer.question, answer.reference, answer.answer) for answer in answers] == [
        ("memory-1", "甲？", "cuda warp", "cuda"),
        ("memory-2", "乙？", "共享 内存", "共享\n内存"),
        ("memory-3", "丙？", "warp", ""),
    ]
    assert [answer.rouge_l_f1_judge for answer in answers] == pytest.approx([2 / 3, 0.0, 0.0])
    assert [answer.rouge_l_f1 for answer in answers] == pytest.approx([2 / 3, 1.0, 0.0])
    assert [(answer.finish_reason, answer.output_tokens, answer.latency_s, answer.error) for answer in answers] == [
        ("stop", 3, 0.3, None),
        ("length", 1, 0.2, None),
        ("error", 0, 2.0, "ValueError: too long"),
    ]


def test_answers_that_ran_past_their_end_have_no_score_and_no_mean() -> None:
    unscored = score_answers(QUESTIONS, FIRST, scored=False)
    assert {(one.rouge_l_f1_judge, one.rouge_l_f1) for one in unscored} == {(None, None)}
    found = measure([FIRST, SECOND, THIRD], unscored, OVERHEAD)
    assert (found.rouge_l_f1_judge, found.rouge_l_f1) == (None, None)
    assert intervals_of(found, unscored)["rouge_l_f1"] is None
    assert found.chars_per_s > 0


def test_a_pass_that_lost_an_answer_is_not_scored() -> None:
    short = Answered([CUDA, TWO_LINES], seconds=1.0, latencies_s=[0.1, 0.1])
    with pytest.raises(ValueError, match="shorter"):
        score_answers(QUESTIONS, short)


def test_speeds_are_geometric_means_over_the_passes(found: Measurement) -> None:
    assert found.questions == 3
    assert found.repeats == 3
    assert found.seconds == pytest.approx((2 * 1 * 6) ** (1 / 3))
    # Characters: 4 + 5 + 0, 14 + 5 + 4 and 4 + 5 + 0; so 9 / 2, 23 / 1 and 9 / 6 a second.
    assert found.chars_per_s == pytest.approx((4.5 * 23 * 1.5) ** (1 / 3))
    assert found.chars_per_s_mad == 3.0  # of 0, 18.5 and 3
    assert found.chars_per_s_repeats == [4.5, 23.0, 1.5]
    assert intervals_of(found, [])["chars_per_s"] == next_of(found)
    assert found.output_tokens_per_s == pytest.approx((4 / 2 * 6 / 1 * 4 / 6) ** (1 / 3))
    assert found.questions_per_s == pytest.approx(3 / found.seconds)


def test_tokens_are_counted_over_all_passes(found: Measurement) -> None:
    assert found.prompt_tokens == 3 * (10 + 20 + 70)
    assert found.cached_tokens == 3 * (4 + 16)
    assert found.prefix_cache_hit_rate == pytest.approx(60 / 300)
    assert found.output_tokens == 4 + 6 + 4


def test_latencies_are_percentiles_over_all_passes_in_milliseconds(found: Measurement) -> None:
    assert found.ttft_ms_p50 == pytest.approx(190.0)  # of 100, 200; 180, 200; 100, 200
    assert found.e2e_latency_ms_p50 == pytest.approx(500.0)  # of 300, 200, 2000; 400, 200, 1000; 500, 600, 6000


def test_percentiles_that_nine_answers_cannot_support_are_none(found: Measurement) -> None:
    assert (found.ttft_ms_p95, found.e2e_latency_ms_p95, found.e2e_latency_ms_p99) == (None, None, None)


def test_time_per_output_token_is_a_mean_over_answers_of_what_their_latency_has_beyond_the_first_token(
    found: Measurement,
) -> None:
    # 300 - 100 ms for 2 more tokens, 400 - 180 ms for 4 more, 500 - 100 ms for 2 more; the answer of one token has none.
    assert found.tpot_ms_mean == pytest.approx((100 + 55 + 200) / 3)


def test_gaps_between_tokens_are_those_that_a_client_sees_and_are_not_the_time_per_output_token() -> None:
    long = replace(CUDA, output_tokens=5, token_times_s=[0.100, 0.110, 0.110, 0.110, 0.300])  # a chunk of three tokens
    short = replace(CUDA, output_tokens=2, token_times_s=[0.100, 0.300])
    streamed = Answered([long, short, FAILED], 2.0, [0.300, 0.300, 2.0])
    found = measure([streamed], score_answers(QUESTIONS, streamed), OVERHEAD)
    assert found.itl_ms_mean == pytest.approx((10 + 0 + 0 + 190 + 200) / 5)
    assert found.itl_ms_p50 == pytest.approx(10.0)
    assert found.tpot_ms_mean == pytest.approx((200 / 4 + 200 / 1) / 2)
    assert (found.itl_ms_p95, found.itl_ms_p99) == (None, None), "five gaps of two answers"


def test_without_streams_no_gap_between_tokens_is_known(found: Measurement) -> None:
    assert (found.itl_ms_mean, found.itl_ms_p50, found.itl_ms_p95, found.itl_ms_p99) == (None,) * 4
    assert shown("itl_ms_mean", found.itl_ms_mean) == "n/a"


def test_scores_are_means_over_the_scored_answers(found: Measurement) -> None:
    assert found.rouge_l_f1_judge == pytest.approx(2 / 9)
    assert found.rouge_l_f1 == pytest.approx(5 / 9)


def test_counts_are_those_of_the_first_pass(found: Measurement) -> None:
    assert found.answer_chars_mean == 3.0
    assert found.answers_truncated == 1  # the failed one was not truncated
    assert found.truncated_fraction == pytest.approx(1 / 3)
    assert found.answers_empty == 1
    assert found.answers_multi_line == 1
    assert found.answers_failed == 1
    assert found.questions_cut == 2


def test_what_the_trial_cost_beside_its_passes_is_kept(found: Measurement) -> None:
    assert (found.engine_start_s, found.warmup_s, found.peak_memory_gib) == (5.5, 0.7, 1.25)


def test_each_score_has_its_own_interval() -> None:
    questions = [Question(str(number), f"问 {number}", "共享内存") for number in range(4)]
    seen = Answered([replace(CUDA, text="共享内存")] * 4, seconds=1.0, latencies_s=[0.1] * 4)
    answers = score_answers(questions, seen)
    found = measure([seen], answers, OVERHEAD)
    assert (found.rouge_l_f1_judge, found.rouge_l_f1) == (0.0, 1.0)
    intervals = intervals_of(found, answers)
    assert {name for name, interval in intervals.items() if interval} == {"rouge_l_f1_judge", "rouge_l_f1"}
    assert (intervals["rouge_l_f1_judge"], intervals["rouge_l_f1"]) == (Interval(0.0, 0.0), Interval(1.0, 1.0))


def test_the_interval_of_a_score_is_that_of_the_different_questions(answers: list[Answer]) -> None:
    scores = [0.1, 0.2, 0.4, 0.8]
    once = [replace(answers[0], question=f"问题 {place}", rouge_l_f1=score) for place, score in enumerate(scores)]
    measurement = measure([FIRST], answers, OVERHEAD)
    alone, repeated = (intervals_of(measurement, rows)["rouge_l_f1"] for rows in (once, once * 25))
    assert alone is not None
    assert repeated is not None
    assert (repeated.low, repeated.high) == pytest.approx((alone.low, alone.high))
    assert intervals_of(measurement, once[:1] * 25)["rouge_l_f1"] is None, "one question is no sample"


def test_an_answer_is_scored_against_all_references_of_its_question_and_keeps_them() -> None:
    one = replace(QUESTIONS[0], other_references=("nothing alike", "cuda"))
    [best] = score_answers([one], Answered([CUDA], 1.0, [1.0]))
    [mean] = score_answers([replace(one, mean_of_references=True)], Answered([CUDA], 1.0, [1.0]))
    assert (best.rouge_l_f1_judge, best.rouge_l_f1) == (1.0, 1.0)
    assert mean.rouge_l_f1_judge == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert (best.reference, best.other_references) == ("cuda warp", ["nothing alike", "cuda"])


def test_every_number_of_a_measurement_has_a_line_in_the_table_of_metrics() -> None:
    lists = {field.name for field in fields(Measurement) if "list" in str(field.type)}
    assert set(METRICS) == {field.name for field in fields(Measurement)} - lists


def test_a_metric_is_shown_in_its_format_and_a_missing_percentile_with_what_it_needs() -> None:
    assert shown("chars_per_s", 12345.6) == "12,346"
    assert shown("truncated_fraction", 0.125) == "12.5%"
    assert shown("saturated", True) == "True"
    assert (shown("e2e_latency_ms_p99", None), shown("ttft_ms_p50", None)) == ("n/a (needs 100)", "n/a (needs 2)")
    assert shown("tpot_ms_mean", None) == "n/a"


def test_an_answer_carries_the_digest_of_its_question_which_repeated_questions_share() -> None:
    questions = [Question("a", "什么是 warp？"), Question("b", "什么是 warp？"), Question("c", "什么是 bank？")]
    digests = [one.question_digest for one in score_answers(questions, FIRST)]
    assert digests == [one.digest for one in questions]
    assert digests[0] == digests[1] != digests[2]


def test_a_hundred_answers_support_every_percentile() -> None:
    completions = [replace(CUDA, first_token_s=number / 1000) for number in range(100, 0, -1)]
    questions = [Question(str(number), f"问 {number}", "cuda") for number in range(100)]
    one = Answered(completions, seconds=1.0, latencies_s=[number / 100 for number in range(1, 101)])
    found = measure([one], score_answers(questions, one), OVERHEAD)
    assert (found.ttft_ms_p50, found.ttft_ms_p95) == (pytest.approx(50.5), pytest.approx(95.05))
    latencies = (found.e2e_latency_ms_p50, found.e2e_latency_ms_p95, found.e2e_latency_ms_p99)
    assert latencies == (pytest.approx(505.0), pytest.approx(950.5), pytest.approx(990.1))


def test_a_percentile_counts_different_questions_and_its_interval_is_computed_from_the_timings_of_all_repeats() -> None:
    questions = [Question(str(number), f"问 {number}", "cuda") for number in range(80)]
    passes = [
        Answered([replace(CUDA, first_token_s=(number + slow) / 1000) for number in range(80)], 1.0, [0.2 + slow] * 80)
        for slow in (0, 1)
    ]
    answers = with_timings(score_answers(questions, passes[0]), passes)
    assert [timing.latency_s for timing in answers[7].timings] == [0.2, 1.2]
    assert (answers[7].timings[1].first_token_s, answers[7].timings[1].output_tokens) == (0.008, 3)
    found, intervals = measure(passes, answers, OVERHEAD), intervals_of(measure(passes, answers, OVERHEAD), answers)
    assert found.e2e_latency_ms_p99 is None, "160 answers to 80 questions"
    assert intervals["e2e_latency_ms_p99"] is None
    for name in ("ttft_ms_p50", "ttft_ms_p95", "e2e_latency_ms_p50", "e2e_latency_ms_p95"):
        interval = intervals[name]
        assert interval is not None, name
        assert interval.low <= getattr(found, name) <= interval.high, name
    assert intervals["e2e_latency_ms_p95"] == Interval(1200.0, 1200.0)
    same = [replace(answer, question="问") for answer in answers]
    assert measure(passes, same, OVERHEAD).ttft_ms_p50 is None, "one question, however often it is repeated"
    assert intervals_of(found, [replace(answer, timings=[]) for answer in answers])["ttft_ms_p50"] is None


def test_a_trial_without_a_single_token_has_numbers_too() -> None:
    nothing = Answered([replace(FAILED, prompt_tokens=0)] * 3, seconds=1.0, latencies_s=[1.0] * 3)
    found = measure([nothing], score_answers(QUESTIONS, nothing), OVERHEAD)
    assert (found.chars_per_s, found.output_tokens_per_s, found.prefix_cache_hit_rate) == (0.0, 0.0, 0.0)
    assert (found.ttft_ms_p50, found.tpot_ms_mean) == (None, None)
    assert (found.answers_empty, found.answers_failed, found.answers_truncated) == (3, 3, 0)


def test_a_trial_is_saturated_where_any_of_its_passes_was(answers: list[Answer], found: Measurement) -> None:
    assert not found.saturated
    assert measure([FIRST, replace(SECOND, saturated=True), THIRD], answers, OVERHEAD).saturated


def test_the_state_of_the_gpu_is_summarised_over_all_readings(answers: list[Answer], found: Measurement) -> None:
    assert (found.sm_clock_mhz_min, found.temperature_c_max, found.throttle_reasons) == (None, None, None)
    readings = [
        Conditions(345, 2600, 40, 80.0, ["gpu_idle"]),  # before the first pass: it says nothing of what the pass ran at
        Conditions(1755, 3201, 71, 690.0, ["sw_power_cap"]),
        Conditions(1980, 3201, 66, 500.0, []),
        Conditions(1200, 3201, 70, 650.0, ["hw_thermal_slowdown", "sw_power_cap"]),
    ]
    hot = measure([FIRST, SECOND], answers, replace(OVERHEAD, conditions=readings))
    assert (hot.sm_clock_mhz_min, hot.temperature_c_max) == (1200, 71)
    assert hot.throttle_reasons == ["hw_thermal_slowdown", "sw_power_cap"]
    assert hot.conditions == readings
    assert measure([FIRST], answers, replace(OVERHEAD, conditions=readings[2:3])).throttle_reasons == []


def test_energy_is_told_a_token_where_every_pass_has_some(answers: list[Answer], found: Measurement) -> None:
    assert (found.joules_per_output_token, found.joules_per_output_token_repeats) == (None, [])
    passes, energies = [FIRST, SECOND], [8.0, 3.0]  # 4 and 6 tokens
    known = measure(passes, answers, replace(OVERHEAD, energies_j=energies))
    assert known.joules_per_output_token_repeats == [2.0, 0.5]
    assert known.joules_per_output_token == pytest.approx(1.0)
    partly = measure(passes, answers, replace(OVERHEAD, energies_j=[8.0, None]))
    silent = [replace(FIRST, completions=[replace(FAILED)] * 3)]
    nothing = measure(silent, answers, replace(OVERHEAD, energies_j=[8.0]))
    assert partly.joules_per_output_token is nothing.joules_per_output_token is None


def test_warm_passes_have_numbers_of_their_own(answers: list[Answer], found: Measurement) -> None:
    assert (found.prefix_cached_repeats, found.prefix_cached_chars_per_s, found.prefix_cached_hit_rate) == (0, None, None)
    assert measure_prefix_cached([], answers) == {}
    cached = [replace(CUDA, cached_tokens=9), replace(TWO_LINES, cached_tokens=18), FAILED]
    assert measure_prefix_cached([replace(FIRST, completions=cached, seconds=0.5)], answers) == {
        "prefix_cached_repeats": 1,
        "prefix_cached_chars_per_s": pytest.approx(18.0),  # 9 characters
        "prefix_cached_output_tokens_per_s": pytest.approx(8.0),
        "prefix_cached_ttft_ms_p50": pytest.approx(150.0),
        "prefix_cached_ttft_ms_p95": None,
        "prefix_cached_hit_rate": pytest.approx(0.27),
    }
