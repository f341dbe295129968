"""How questions are issued and timed, with small answer functions in the place of a pipeline.

The answer functions here are fakes: no real engine answers after a set time, never, or by failing on demand.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from itertools import pairwise
from typing import Any

import pytest

from gpuqa.config.measurement import Issue, WorkloadConfig
from gpuqa.engines import EngineFailed
from gpuqa.measure.workload import Answer, arrivals_s, is_saturated, issue, streamed
from gpuqa.records import Answered, Completion, CompletionDelta, Question

QUESTIONS = [Question("a", "甲？"), Question("b", "乙？"), Question("c", "丙？")]
SETTINGS: dict[Issue, dict[str, Any]] = {
    Issue.batch: {},
    Issue.serial: {},
    Issue.closed: {"concurrency": 2},
    Issue.open: {"rate_per_s": 1000.0, "arrival_seed": 0},
}
OVERLAPPING = [Issue.closed, Issue.open]


class Answering:
    """Answers after a set time for each text, and remembers how it was called; says how long its engine took itself."""

    def __init__(self, delays_s: dict[str, float] | None = None, last_token_s: dict[str, float] | None = None) -> None:
        self.delays_s, self.last_token_s = delays_s or {}, last_token_s or {}
        self.calls: list[list[str]] = []
        self.running = self.most_at_once = 0

    async def __call__(self, texts: Sequence[str]) -> list[Completion]:
        self.calls.append(list(texts))
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            await asyncio.sleep(max(self.delays_s.get(text, 0.0) for text in texts))
        finally:
            self.running -= 1
        return [
            Completion(f"{text}！", "stop", 1, 1, 0, False, first_token_s=None, last_token_s=self.last_token_s.get(text))
            for text in texts
        ]


def workload(how: Issue, **changes: Any) -> WorkloadConfig:
    return WorkloadConfig(**{"name": "mine", "issue": how, "answer_timeout_s": 60.0, **SETTINGS[how], **changes})


def run(answer: Answer, how: Issue, questions: Sequence[Question] = QUESTIONS, **changes: Any) -> Answered:
    return asyncio.run(issue(questions, answer, workload(how, **changes)))


def many(count: int) -> list[Question]:
    return [Question(str(number), f"{number}？") for number in range(count)]


def said(text: str, **changes: Any) -> Completion:
    none = {**dict.fromkeys(Completion.__slots__), "token_times_s": []}
    return Completion(**{**none, "text": text, "finish_reason": "stop", **changes})


@pytest.mark.parametrize("how", list(Issue))
def test_answers_keep_the_order_of_the_questions(how: Issue) -> None:
    found = run(Answering({"甲？": 0.03, "乙？": 0.01}), how)
    assert [completion.text for completion in found.completions] == ["甲？！", "乙？！", "丙？！"]
    assert len(found.latencies_s) == 3


def test_a_batch_is_one_call() -> None:
    answer = Answering()
    run(answer, Issue.batch)
    assert answer.calls == [["甲？", "乙？", "丙？"]]


def test_serial_questions_are_one_call_each_after_the_answer_to_the_last() -> None:
    answer = Answering({"甲？": 0.02, "乙？": 0.01})
    run(answer, Issue.serial)
    assert answer.calls == [["甲？"], ["乙？"], ["丙？"]]
    assert answer.most_at_once == 1


def test_the_clock_of_a_batch_runs_from_its_call_to_its_return() -> None:
    found = run(Answering({"乙？": 0.05}), Issue.batch)
    assert 0.05 <= found.seconds < 5


def test_a_question_of_a_batch_is_done_when_its_engine_says_so_else_when_the_batch_is() -> None:
    found = run(Answering({"甲？": 0.02}, last_token_s={"甲？": 0.004, "丙？": 0.011}), Issue.batch)
    assert found.latencies_s == [0.004, found.seconds, 0.011]


def test_serial_latencies_are_timed_one_by_one_and_add_up_to_the_seconds() -> None:
    # What the engine reports does not count here: the judge times the whole POST.
    found = run(Answering({"甲？": 0.01, "乙？": 0.2, "丙？": 0.01}, last_token_s={"甲？": 7.0, "乙？": 7.0}), Issue.serial)
    assert 0.2 <= max(found.latencies_s) < 5
    assert found.latencies_s.index(max(found.latencies_s)) == 1
    assert min(found.latencies_s) >= 0.01
    assert found.seconds == pytest.approx(sum(found.latencies_s), abs=1e-12)


@pytest.mark.parametrize("how", list(Issue))
def test_an_answer_that_never_comes_is_a_failed_engine_and_nobody_waits_for_it_any_more(how: Issue) -> None:
    answer = Answering({"乙？": 3600})
    config = workload(how, answer_timeout_s=0.05)

    async def still_running() -> int:
        with pytest.raises(EngineFailed, match=r"no answer within workload\.answer_timeout_s=0\.05 s"):
            await issue(QUESTIONS, answer, config)
        return answer.running  # asked before asyncio.run cancels whatever is left

    assert asyncio.run(still_running()) == 0


def test_the_time_limit_is_for_the_whole_pass_not_for_one_question() -> None:
    with pytest.raises(EngineFailed):
        run(Answering({"甲？": 0.05}), Issue.serial, questions=QUESTIONS[:1] * 20, answer_timeout_s=0.3)


@pytest.mark.parametrize("how", list(Issue))
@pytest.mark.parametrize("error", [EngineFailed("out of memory"), ValueError("a bug")])
def test_an_error_of_the_answer_function_flies_as_it_is(how: Issue, error: Exception) -> None:
    async def broken(texts: Sequence[str]) -> list[Completion]:
        raise error

    with pytest.raises(type(error)) as raised:
        run(broken, how)
    assert raised.value is error


@pytest.mark.parametrize("how", list(Issue))
def test_a_question_that_fails_is_an_answer_with_its_error_and_the_others_are_answered(how: Issue) -> None:
    async def picky(texts: Sequence[str]) -> list[Completion]:
        return [said("", error="too long") if text == "乙？" else said(text) for text in texts]

    found = run(picky, how)
    assert [(one.text, one.error) for one in found.completions] == [("甲？", None), ("", "too long"), ("丙？", None)]
    assert len(found.latencies_s) == 3


@pytest.mark.parametrize("how", OVERLAPPING)
def test_a_call_that_fails_ends_the_pass_at_once_and_leaves_no_task_behind(how: Issue) -> None:
    waiting = Answering({"甲？": 3600, "丙？": 3600})

    async def dies(texts: Sequence[str]) -> list[Completion]:
        if texts == ["乙？"]:
            raise EngineFailed("out of memory")
        return await waiting(texts)

    async def left_over() -> set[asyncio.Task[Any]]:
        with pytest.raises(EngineFailed, match="out of memory"):
            await asyncio.wait_for(issue(QUESTIONS, dies, workload(how)), 30)
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(left_over()) == set()
    assert waiting.running == 0


def test_a_call_that_fails_does_not_wait_for_those_who_are_to_come() -> None:
    async def dies(texts: Sequence[str]) -> list[Completion]:
        raise EngineFailed("out of memory")

    with pytest.raises(EngineFailed, match="out of memory"):
        asyncio.run(asyncio.wait_for(issue(QUESTIONS, dies, workload(Issue.open, rate_per_s=0.001)), 30))


@pytest.mark.parametrize("how", list(Issue))
def test_a_pass_that_is_given_up_leaves_no_call_behind(how: Issue) -> None:
    answer = Answering(dict.fromkeys(("甲？", "乙？", "丙？"), 3600))

    async def still_running() -> int:
        asked = asyncio.create_task(issue(QUESTIONS, answer, workload(how)))
        while not answer.running:
            await asyncio.sleep(0.001)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        return answer.running

    assert asyncio.run(still_running()) == 0


@pytest.mark.parametrize("clients", [1, 2, 5])
def test_so_many_clients_ask_at_once_one_question_a_call(clients: int) -> None:
    answer, questions = Answering({"3？": 0.02}), many(20)
    run(answer, Issue.closed, questions, concurrency=clients)
    assert answer.calls == [[question.text] for question in questions]
    assert answer.most_at_once == clients


def test_more_clients_than_questions_ask_all_at_once() -> None:
    answer = Answering()
    run(answer, Issue.closed, concurrency=64)
    assert answer.most_at_once == 3


def test_a_client_asks_its_next_question_while_another_still_waits() -> None:
    rest_answered = asyncio.Event()

    async def slow_first(texts: Sequence[str]) -> list[Completion]:
        if texts == ["0？"]:
            await rest_answered.wait()
        if texts == ["9？"]:
            rest_answered.set()
        return [said(text) for text in texts]

    found = run(slow_first, Issue.closed, many(10), concurrency=2)
    assert [completion.text for completion in found.completions] == [question.text for question in many(10)]
    assert max(found.latencies_s) == found.latencies_s[0]


def test_the_clock_of_clients_runs_from_the_first_call_to_the_last_answer() -> None:
    found = run(Answering(dict.fromkeys((one.text for one in many(8)), 0.1)), Issue.closed, many(8), concurrency=4)
    assert min(found.latencies_s) >= 0.099
    assert 0.199 <= found.seconds < sum(found.latencies_s) / 2


def test_arrivals_are_drawn_from_the_seed_and_a_rate_only_makes_them_denser() -> None:
    slow, again = (arrivals_s(50, workload(Issue.open, rate_per_s=2.0)) for _ in range(2))
    assert slow == again
    assert slow[0] == 0
    assert slow == sorted(slow)
    assert arrivals_s(50, workload(Issue.open, rate_per_s=4.0)) == pytest.approx([due / 2 for due in slow])
    assert arrivals_s(20, workload(Issue.open, rate_per_s=2.0)) == slow[:20]
    assert arrivals_s(50, workload(Issue.open, rate_per_s=2.0, arrival_seed=1)) != slow
    assert arrivals_s(0, workload(Issue.open)) == []


def test_arrivals_are_a_poisson_process_of_the_configured_rate() -> None:
    due = arrivals_s(20_001, workload(Issue.open, rate_per_s=4.0))
    gaps = [later - sooner for sooner, later in pairwise(due)]
    assert sum(gaps) / len(gaps) == pytest.approx(1 / 4, rel=0.03)
    assert sum(gap > 1 / 4 for gap in gaps) / len(gaps) == pytest.approx(0.3679, abs=0.02)  # of an exponential, 1/e
    assert sum(gap > 1 / 2 for gap in gaps) / len(gaps) == pytest.approx(0.1353, abs=0.02)  # and 1/e²


def test_those_who_arrive_wait_for_nobody() -> None:
    arrived: list[str] = []
    everybody = asyncio.Event()

    async def patient(texts: Sequence[str]) -> list[Completion]:
        arrived.extend(texts)
        if len(arrived) == 100:
            everybody.set()
        await everybody.wait()
        return [said(text) for text in texts]

    found = run(patient, Issue.open, many(100), rate_per_s=2000.0)
    assert [completion.text for completion in found.completions] == [question.text for question in many(100)]


def test_nobody_arrives_before_his_time_and_the_clock_runs_from_the_first_arrival_to_the_last_answer() -> None:
    called: list[float] = []

    async def prompt(texts: Sequence[str]) -> list[Completion]:
        called.append(time.perf_counter())
        return [said(text) for text in texts]

    config = workload(Issue.open, rate_per_s=100.0)
    due = arrivals_s(20, config)
    began = time.perf_counter()
    found = asyncio.run(issue(many(20), prompt, config))
    assert all(at - began >= scheduled for at, scheduled in zip(called, due, strict=True))
    assert found.seconds == pytest.approx(max(map(sum, zip(due, found.latencies_s, strict=True))))
    assert found.seconds < time.perf_counter() - began


@pytest.mark.parametrize("blocking", [False, True], ids=["the server stalls", "the server stalls and the clients with it"])
def test_a_stall_shows_up_in_the_latencies_of_all_who_came_meanwhile(blocking: bool) -> None:
    lock = asyncio.Lock()

    async def stalls_once(texts: Sequence[str]) -> list[Completion]:
        async with lock:
            if texts == ["0？"] and blocking:
                time.sleep(0.3)
            elif texts == ["0？"]:
                await asyncio.sleep(0.3)
        return [said(text, first_token_s=0.0, last_token_s=0.0) for text in texts]

    config = workload(Issue.open, rate_per_s=100.0)
    due = arrivals_s(20, config)
    found = asyncio.run(issue(many(20), stalls_once, config))
    assert due[10] < 0.2
    assert all(latency >= 0.299 - scheduled for latency, scheduled in zip(found.latencies_s, due, strict=True))
    if blocking:  # the calls came late, so the engine saw nothing of the wait; whoever asked did, also for the first token
        first_s = [completion.first_token_s or 0.0 for completion in found.completions]
        assert all(first >= 0.299 - scheduled for first, scheduled in zip(first_s[1:], due[1:], strict=True))
        assert [completion.last_token_s for completion in found.completions[1:]] == first_s[1:]


def test_the_time_limit_of_scheduled_arrivals_counts_from_the_last_of_them() -> None:
    relaxed = arrivals_s(3, workload(Issue.open, rate_per_s=1.0))[-1]
    found = run(Answering(), Issue.open, rate_per_s=relaxed / 0.6, answer_timeout_s=0.3)
    assert found.seconds >= 0.6


def test_a_server_slower_than_the_arrivals_is_saturated() -> None:
    lock = asyncio.Lock()

    async def one_at_a_time(texts: Sequence[str]) -> list[Completion]:
        async with lock:
            await asyncio.sleep(0.005)
        return [said(text) for text in texts]

    assert run(one_at_a_time, Issue.open, many(80)).saturated


@pytest.mark.parametrize(
    ("latencies_s", "saturated"),
    [
        pytest.param([1 + 0.5 * place for place in range(100)], True, id="two answers for three questions"),
        pytest.param([1 + 0.2 * place for place in range(100)], False, id="five answers for six questions"),
        pytest.param([200.5 + place / 10 for place in range(100)], True, id="all answers after the last question"),
        pytest.param([0.5] * 100, False, id="all wait as long"),
        pytest.param([30.5] * 100, False, id="all wait for a third of the pass, in a steady state"),
        pytest.param([0.5] * 10 + [8.5] * 90, False, id="slower once the server is full"),
        pytest.param([0.5] * 60 + [20.5 - place for place in range(20)] + [0.5] * 20, False, id="a stall that is made up for"),
        pytest.param([0.5] * 99 + [90.0], False, id="one straggler at the end"),
    ],
)
def test_a_pass_is_saturated_where_its_second_half_gives_fewer_than_three_answers_for_four_questions(
    latencies_s: list[float], saturated: bool
) -> None:
    assert is_saturated(latencies_s, [float(second) for second in range(100)]) is saturated


def test_a_server_that_slows_all_alike_is_saturated_though_the_first_wait_as_long_as_the_last() -> None:
    everybody = asyncio.Event()
    came: list[str] = []

    async def shares(texts: Sequence[str]) -> list[Completion]:
        came.extend(texts)
        if len(came) == 80:
            everybody.set()
        await everybody.wait()
        return [said(text) for text in texts]

    found = run(shares, Issue.open, many(80))
    assert found.latencies_s[0] > found.latencies_s[-1]
    assert found.saturated


@pytest.mark.parametrize("how", list(Issue))
def test_no_question_is_no_answer(how: Issue) -> None:
    async def echo(texts: Sequence[str]) -> list[Completion]:
        return [said(text) for text in texts]

    found = run(echo, how, [])
    assert (found.completions, found.latencies_s, found.saturated) == ([], [], False)


def test_the_answers_of_a_call_are_streamed_at_once_and_say_when_each_token_came() -> None:
    async def stream(text: str) -> AsyncGenerator[CompletionDelta]:
        began, times = time.perf_counter(), list[float]()
        for count in (1, 2, 1):  # the second chunk has two tokens
            await asyncio.sleep(0.1)
            times += [time.perf_counter() - began] * count
            yield CompletionDelta("答")
        yield CompletionDelta("", said(f"{text}答", first_token_s=times[0], last_token_s=times[-1], token_times_s=times))

    began = time.perf_counter()
    found = run(streamed(stream), Issue.batch, many(20))
    assert time.perf_counter() - began < 2.0, "one after the other would take 6 s"
    assert [completion.text for completion in found.completions] == [f"{question.text}答" for question in many(20)]
    gaps = [later - sooner for sooner, later in pairwise(found.completions[0].token_times_s)]
    assert (gaps[0] > 0.09, gaps[1], gaps[2] > 0.09) == (True, 0.0, True)
    assert found.latencies_s[0] == found.completions[0].last_token_s


def test_an_engine_that_dies_while_it_streams_ends_the_pass_and_all_its_streams() -> None:
    closed = list[str]()

    async def stream(text: str) -> AsyncGenerator[CompletionDelta]:
        try:
            await asyncio.sleep(0.01 if text == "7？" else 60.0)
            raise EngineFailed("the engine process died")
            yield CompletionDelta("")
        finally:
            closed.append(text)

    with pytest.raises(EngineFailed, match="process died"):
        run(streamed(stream), Issue.batch, many(20))
    assert len(closed) == 20


def test_the_tokens_of_a_question_that_was_asked_late_count_from_its_scheduled_time() -> None:
    async def blocks(texts: Sequence[str]) -> list[Completion]:
        if texts == ["0？"]:
            time.sleep(0.2)
        return [said(text, first_token_s=0.0, last_token_s=0.0, token_times_s=[0.0, 0.0]) for text in texts]

    found = run(blocks, Issue.open, many(3), rate_per_s=1000.0)
    assert all(moment > 0.15 for completion in found.completions[1:] for moment in completion.token_times_s)
