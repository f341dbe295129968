"""How many questions may be in flight, and when a client that was refused should ask again. Pure: the clock is passed in."""

from __future__ import annotations

import math
from collections import deque

WINDOW_S = 30.0  # the current rate is over the last so many seconds
LONGEST_S = 300  # the longest time that a client is told to wait


class Refused(Exception):
    """The server is at capacity."""

    def __init__(self, questions: int, in_flight: int, limit: int, retry_after_s: int) -> None:
        load = f"{in_flight} of {limit} questions in flight, {questions} more requested"
        super().__init__(f"at capacity: {load}; retry after {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Admission:
    """Counts the questions in flight: admitted and not answered yet. At most `limit` at a time."""

    def __init__(self, limit: int) -> None:
        self.limit, self.in_flight = limit, 0
        self._left: deque[tuple[float, int]] = deque()  # when questions left, and how many
        self._began = 0.0  # when questions were last admitted with none in flight; the rate counts from here at the earliest

    def enter(self, questions: int, now: float) -> None:
        """Admit questions; `now` is in seconds of any steady clock.

        Raises:
            Refused: they are too many beside those in flight. With none in flight any number is admitted, so that a request
                larger than the limit is not refused for ever.
        """
        if self.in_flight and self.in_flight + questions > self.limit:
            raise Refused(questions, self.in_flight, self.limit, self.retry_after_s(questions, now))
        if not self.in_flight:
            self._began = now  # idle time says nothing about how fast answers come
            self._left.clear()
        self.in_flight += questions

    def leave(self, questions: int, now: float) -> None:
        """Note that questions were answered or given up."""
        self.in_flight -= questions
        self._left.append((now, questions))
        self._forget(now)

    def rate_per_s(self, now: float) -> float | None:
        """Questions that left per second, over the last `WINDOW_S` seconds; None before the first."""
        self._forget(now)
        since = max(self._began, now - WINDOW_S)
        left = sum(questions for _, questions in self._left)
        return left / (now - since) if left and now > since else None

    def retry_after_s(self, questions: int, now: float) -> int:
        """Whole seconds until so many more could be admitted, by the current rate; 1 where there is no rate yet."""
        rate = self.rate_per_s(now)
        too_many = max(1, min(self.in_flight + questions - self.limit, self.in_flight))
        return 1 if rate is None else min(LONGEST_S, max(1, math.ceil(too_many / rate)))

    def _forget(self, now: float) -> None:
        while self._left and self._left[0][0] < now - WINDOW_S:
            self._left.popleft()
