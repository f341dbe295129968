"""How many questions may be in the house, and when somebody who was refused should come back. Pure: the clock is passed in."""

from __future__ import annotations

import math
from collections import deque

WINDOW_S = 30.0  # the current rate is over so many seconds
LONGEST_S = 300


class Refused(Exception):
    """The house is full."""

    def __init__(self, questions: int, in_flight: int, limit: int, retry_after_s: int) -> None:
        super().__init__(f"{in_flight} questions are being answered, with {questions} more than {limit}; come back later")
        self.retry_after_s = retry_after_s


class Admission:
    """Counts questions in and out; `limit` are in_flight at a time."""

    def __init__(self, limit: int) -> None:
        self.limit, self.in_flight = limit, 0
        self._left: deque[tuple[float, int]] = deque()  # when, and how many
        self._began = 0.0  # the rate counts from here at the earliest

    def enter(self, questions: int, now: float) -> None:
        """Let questions in; `now` is in seconds of any steady clock.

        Raises:
            Refused: they are too many beside those in_flight; an empty house takes any number.
        """
        if self.in_flight and self.in_flight + questions > self.limit:
            raise Refused(questions, self.in_flight, self.limit, self.retry_after_s(questions, now))
        if not self.in_flight:
            self._began = now  # idle time says nothing about how fast answers come
            self._left.clear()
        self.in_flight += questions

    def leave(self, questions: int, now: float) -> None:
        """Questions are answered or given up."""
        self.in_flight -= questions
        self._left.append((now, questions))
        self._forget(now)

    def rate_per_s(self, now: float) -> float | None:
        """Questions that left, a second, lately; None before the first."""
        self._forget(now)
        since = max(self._began, now - WINDOW_S)
        left = sum(questions for _, questions in self._left)
        return left / (now - since) if left and now > since else None

    def retry_after_s(self, questions: int, now: float) -> int:
        """Whole seconds until so many more would find room, by the current rate; 1 where nobody knows."""
        rate = self.rate_per_s(now)
        too_many = max(1, min(self.in_flight + questions - self.limit, self.in_flight))
        return 1 if rate is None else min(LONGEST_S, max(1, math.ceil(too_many / rate)))

    def _forget(self, now: float) -> None:
        while self._left and self._left[0][0] < now - WINDOW_S:
            self._left.popleft()
