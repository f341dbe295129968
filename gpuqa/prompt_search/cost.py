"""What a pass takes, by its tokens: learnt from the passes of a search, and asked before a prompt is measured.

seconds = start + a * prompt tokens that were computed + b * output tokens + c * steps (tokens of the longest answer), none of
them negative. A slow minute of the machine spoils one measured time, and hardly what all of them together say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuqa.prompt_search.objective import Outcome, together

FEWEST = 12  # passes before anything is predicted
GROWS = 1.2  # so many times the passes, until they are fitted again
SURE = 3.0  # standard deviations of a pass from its prediction, by which a bound favours a prompt


class Costs:
    """The passes of a search so far."""

    def __init__(self) -> None:
        self.rows: list[list[float]] = []
        self.seconds: list[float] = []
        self.chars_a_token, self.tokens_an_answer = 0.0, 0.0  # the most of any pass
        self.fitted: tuple[int, list[float], float] = (0, [], 0.0)  # by how many passes, the factors, their error

    def learn(self, outcome: Outcome) -> None:
        """One more pass."""
        self.rows.append(row_of(outcome))
        self.seconds.append(outcome.seconds)
        if tokens := sum(outcome.output_tokens):
            self.chars_a_token = max(self.chars_a_token, sum(outcome.chars) / tokens)
            self.tokens_an_answer = max(self.tokens_an_answer, tokens / len(outcome.output_tokens))

    def fit(self) -> tuple[list[float], float]:
        """The four factors, and the standard deviation of log seconds around what they say; none before `FEWEST` passes."""
        if len(self.rows) >= max(FEWEST, GROWS * self.fitted[0]):
            factors = non_negative(self.rows, self.seconds)
            said = np.maximum(np.array(self.rows) @ np.array(factors), 1e-9)
            self.fitted = len(self.rows), factors, float(np.std(np.log(np.array(self.seconds) / said)))
        return self.fitted[1], self.fitted[2]

    def seconds_of(self, outcomes: Sequence[Outcome]) -> float:
        """What one pass over the questions of several would take by its tokens; what those took before enough is known."""
        whole, (factors, _) = together(outcomes), self.fit()
        told = sum(factor * number for factor, number in zip(factors, row_of(whole), strict=True)) if factors else 0.0
        return told or whole.seconds

    def bound(self, prompt_tokens: int, questions: int) -> float | None:
        """The most chars/s that a prompt of so many tokens can have in a pass; None before enough is known.

        It favours the prompt: its tokens are computed once, its answers are as long as any, and their tokens as rich.
        """
        factors, sd = self.fit()
        if not factors:
            return None
        tokens = self.tokens_an_answer
        least = factors[0] + factors[1] * prompt_tokens + (factors[2] * questions + factors[3]) * tokens
        chars = tokens * questions * self.chars_a_token
        return chars / least * float(np.exp(SURE * sd)) if least > 0 else None


def row_of(outcome: Outcome) -> list[float]:
    """What a pass's time is made of."""
    return [
        1.0,
        float(outcome.computed_tokens),
        float(sum(outcome.output_tokens)),
        float(max(outcome.output_tokens, default=0)),
    ]


def non_negative(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Least squares of relative errors, with the factors that would be negative left out, the worst first."""
    weights = 1 / np.maximum(np.array(values), 1e-9)
    matrix, wanted = np.array(rows) * weights[:, None], np.ones(len(values))
    used = list(range(matrix.shape[1]))
    while used:
        factors = np.linalg.lstsq(matrix[:, used], wanted, rcond=None)[0]
        if factors.min() >= 0:
            whole = np.zeros(matrix.shape[1])
            whole[used] = factors
            return [float(factor) for factor in whole]
        del used[int(factors.argmin())]
    return []
