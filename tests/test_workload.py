"""How questions are issued and timed, with small answer functions in the place of a pipeline.

The answer functions here are fakes: no real engine answers after a set time, never, or by failing on demand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gpuqa.criteria import Issue, WorkloadConfig
from gpuqa.engines import EngineFailed
from gpuqa.records import Answered, Completion, Question
from gpuqa.workload import issue

QUESTIONS = [Question("a", "甲？"), Question("b", "乙？"), Question("c", "丙？")]


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


def run(answer: Answering, how: Issue, timeout_s: float = 60.0, questions: Sequence[Question] = QUESTIONS) -> Answered:
    return asyncio.run(issue(questions, answer, WorkloadConfig(name="mine", issue=how, answer_timeout_s=timeout_s)))


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
    config = WorkloadConfig(name="mine", issue=how, answer_timeout_s=0.05)

    async def still_running() -> int:
        with pytest.raises(EngineFailed, match=r"no answer within workload\.answer_timeout_s=0\.05 s"):
            await issue(QUESTIONS, answer, config)
        return answer.running  # asked before asyncio.run cancels whatever is left

    assert asyncio.run(still_running()) == 0


def test_the_time_limit_is_for_the_whole_pass_not_for_one_question() -> None:
    many = [Question(str(number), "甲？") for number in range(20)]
    with pytest.raises(EngineFailed):
        run(Answering({"甲？": 0.05}), Issue.serial, timeout_s=0.3, questions=many)


@pytest.mark.parametrize("how", list(Issue))
@pytest.mark.parametrize("error", [EngineFailed("out of memory"), ValueError("a bug")])
def test_an_error_of_the_answer_function_flies_as_it_is(how: Issue, error: Exception) -> None:
    async def broken(texts: Sequence[str]) -> list[Completion]:
        raise error

    with pytest.raises(type(error)) as raised:
        asyncio.run(issue(QUESTIONS, broken, WorkloadConfig(name="mine", issue=how)))
    assert raised.value is error
