"""Admission: how many may be inside, the current rate, and when to come back. The clock is the test's own."""

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
    assert "10 questions" in str(refusal(admission, 1, 0.0))
    admission.leave(4, 1.0)
    admission.enter(4, 1.0)
    assert admission.in_flight == 10


def test_an_empty_house_takes_any_number_so_that_a_large_batch_is_never_refused_for_ever():
    admission = Admission(10)
    admission.enter(650, 0.0)
    refusal(admission, 1, 0.0)
    admission.leave(650, 9.0)
    admission.enter(11, 9.0)


def test_who_is_refused_is_told_when_by_the_current_rate_there_will_be_room():
    admission = Admission(100)
    admission.enter(100, 0.0)
    admission.leave(20, 4.0)  # 5 a second
    assert admission.rate_per_s(4.0) == pytest.approx(5.0)
    assert refusal(admission, 50, 4.0).retry_after_s == 6  # 30 have to leave first
    assert refusal(admission, 10_000, 4.0).retry_after_s == 16  # all 80 have to


def test_before_the_first_answer_nobody_knows_the_rate():
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
def test_whatever_comes_and_goes_the_house_is_never_over_full_and_the_advice_is_a_sane_number(steps, most):
    admission, inside, now = Admission(most), [], 0.0
    for comes, questions, later in steps:
        now += later
        if comes:
            if not inside or sum(inside) + questions <= most:
                admission.enter(questions, now)
                inside.append(questions)
            else:
                assert 1 <= refusal(admission, questions, now).retry_after_s <= LONGEST_S
        elif inside:
            admission.leave(inside.pop(), now)
        assert admission.in_flight == sum(inside)
        assert admission.in_flight <= most or len(inside) == 1
