"""Admission: how many questions may be in flight, the current rate, and when to ask again. The clock is the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuqa.serving.admission import LONGEST_S, WINDOW_S, Admission, Refused


def refusal(admission: Admission, questions: int, now: float) -> Refused:
    with pytest.raises(Refused) as refused:
        admission.enter(questions, now)
    return refused.value


def test_as_many_as_allowed_are_let_in_and_not_one_more():
    admission = Admission(10)
    admission.enter(4, 0.0)
    admission.enter(6, 0.0)
    assert str(refusal(admission, 3, 0.0)) == "at capacity: 10 of 10 questions in flight, 3 more requested; retry after 1 s"
    admission.leave(4, 1.0)
    admission.enter(4, 1.0)
    assert admission.in_flight == 10


def test_with_none_in_flight_any_number_is_admitted_so_that_a_large_batch_is_not_refused_for_ever():
    admission = Admission(10)
    admission.enter(650, 0.0)
    refusal(admission, 1, 0.0)
    admission.leave(650, 9.0)
    admission.enter(11, 9.0)


def test_a_refused_client_is_told_when_by_the_current_rate_its_questions_will_be_admitted():
    admission = Admission(100)
    admission.enter(100, 0.0)
    admission.leave(20, 4.0)  # 5 a second
    assert admission.rate_per_s(4.0) == pytest.approx(5.0)
    assert refusal(admission, 50, 4.0).retry_after_s == 6  # 30 have to leave first
    assert refusal(admission, 10_000, 4.0).retry_after_s == 16  # all 80 have to


def test_before_the_first_answer_there_is_no_rate():
    admission = Admission(1)
    admission.enter(1, 0.0)
    assert admission.rate_per_s(5.0) is None
    assert refusal(admission, 1, 5.0).retry_after_s == 1


def test_the_rate_is_of_lately_and_idle_time_does_not_count():
    admission = Admission(1000)
    admission.enter(900, 0.0)
    admission.leave(300, 1.0)
    admission.leave(30, 40.0)
    assert admission.rate_per_s(40.0) == pytest.approx(30 / WINDOW_S)
    admission.leave(570, 41.0)
    admission.enter(10, 1000.0)
    admission.leave(8, 1002.0)
    assert admission.rate_per_s(1002.0) == pytest.approx(4.0)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 50), st.floats(0, 100)), max_size=60), st.integers(1, 100))
def test_whatever_comes_and_goes_the_limit_holds_and_the_waiting_time_is_in_its_bounds(steps, limit):
    admission, in_flight, now = Admission(limit), [], 0.0
    for comes, questions, later in steps:
        now += later
        if comes:
            if not in_flight or sum(in_flight) + questions <= limit:
                admission.enter(questions, now)
                in_flight.append(questions)
            else:
                assert 1 <= refusal(admission, questions, now).retry_after_s <= LONGEST_S
        elif in_flight:
            admission.leave(in_flight.pop(), now)
        assert admission.in_flight == sum(in_flight)
        assert admission.in_flight <= limit or len(in_flight) == 1
