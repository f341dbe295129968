"""What the pieces of prompts bring, learnt from all answers of a search, so that a good prompt is told from one that had luck.

The mean score of a prompt on a slice is a sum: what the slice's questions have, what the prompt's pieces bring, what pairs of
them bring together, what the prompt has of its own, and luck, the less of it the more questions. Each kind is normal with a
variance that the answers tell (EM for mixed models: N. M. Laird and J. H. Ware, Biometrics 38, 1982). Where pieces explain
nothing, a prompt's own mean is all that counts; where they do, prompts with the same piece tell about each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, pairwise
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
STEPS = 4  # of EM in each fit, which begins where the last one ended
LEAST = 1e-6  # of the variance of what was seen, below which a kind has none
DIGITS = 9  # that count: the rest depends on the order in which a machine adds


@dataclass(frozen=True, slots=True)
class Seen:
    """What a search knows of a prompt."""

    pieces: Sequence[str]
    scores: Mapping[int, Sequence[float]]  # of its answers, by the number of their slice; never empty


@dataclass(frozen=True, slots=True)
class Effects:
    """What was learnt."""

    quality: Mapping[str, float]  # the mean score that a prompt is expected to have over all slices
    variances: Sequence[float]  # of what a piece, a pair of pieces, and a prompt of its own bring


@dataclass(frozen=True)
class Passes:
    """What was seen, a row a pass; a prompt's rows differ in their slice alone."""

    prompt: NDArray[np.int64]  # of each row, its number
    rows: Floats  # of each row, 1 for its slice, its pieces and its pairs of pieces
    means: Floats
    counts: Floats  # of questions
    kinds: Sequence[slice]  # where the columns of the slices, the pieces and the pairs are


def learn(seen: Mapping[str, Seen], before: Effects | None = None, steps: int = STEPS) -> Effects:
    """From what was seen of each prompt; `before`: what was learnt from another part of it, where that is known."""
    passes, luck = passes_of(list(seen.values())), luck_of(list(seen.values()))
    spread = float(np.var(passes.means)) or 1.0
    model = Model(passes, max(luck, LEAST * spread))
    variances = before.variances if before else [spread / 4, spread / 8, spread / 4]
    for _ in range(steps):
        model.solve(variances)
        variances = [max(LEAST * spread, one) for one in model.variances()]
    of_slices = np.array([passes.counts[passes.rows[:, column] == 1][0] for column in range(passes.kinds[0].stop)])
    quality = model.explained + np.average(model.effects[passes.kinds[0]], weights=of_slices)
    return Effects({key: round(float(one), DIGITS) for key, one in zip(seen, quality, strict=True)}, variances)


class Model:
    """The equations of a mixed model (C. R. Henderson, Biometrics 31, 1975), a prompt's own effect eliminated from them."""

    def __init__(self, passes: Passes, luck: float) -> None:
        """`luck`: variance of a single score."""
        weights, rows = passes.counts / luck, passes.rows
        self.kinds = passes.kinds
        prompts = int(passes.prompt.max()) + 1
        self.sums = np.zeros((prompts, rows.shape[1]))
        np.add.at(self.sums, passes.prompt, weights[:, None] * rows)
        self.weights = np.bincount(passes.prompt, weights, prompts)
        self.totals = np.bincount(passes.prompt, weights * passes.means, prompts)
        self.products, self.wanted = rows.T @ (weights[:, None] * rows), rows.T @ (weights * passes.means)
        self.pieces = self.sums / self.weights[:, None]
        self.pieces[:, self.kinds[0]] = 0.0

    def solve(self, variances: Sequence[float]) -> None:
        """The effects, by the variances of the kinds."""
        held = np.zeros(len(self.wanted))
        for kind, variance in zip(self.kinds[1:], variances, strict=False):
            held[kind] = 1 / variance
        shrink = variances[-1] / (1 + variances[-1] * self.weights)
        self.covariance = np.linalg.inv(self.products - self.sums.T @ (shrink[:, None] * self.sums) + np.diag(held))
        self.effects = self.covariance @ (self.wanted - self.sums.T @ (shrink * self.totals))
        self.own = shrink * (self.totals - self.sums @ self.effects)
        unsure = ((self.sums @ self.covariance) * self.sums).sum(1)
        self.own_variances = shrink + shrink**2 * unsure
        self.explained = self.pieces @ self.effects + self.own

    def variances(self) -> list[float]:
        """Of the kinds, by the effects: one step of EM."""
        squares = self.effects**2 + np.diag(self.covariance)
        return [
            *(float(np.mean(squares[kind])) if kind.stop > kind.start else 0.0 for kind in self.kinds[1:]),
            float(np.mean(self.own**2 + self.own_variances)),
        ]


def passes_of(prompts: Sequence[Seen]) -> Passes:
    """All passes, as rows of numbers."""
    together = [list(combinations(sorted(prompt.pieces), 2)) for prompt in prompts]
    count = Counter(chain.from_iterable(together))
    slices = sorted({part for prompt in prompts for part in prompt.scores})
    single = sorted({piece for prompt in prompts for piece in prompt.pieces})
    pairs = sorted(pair for pair in count if count[pair] > 1)
    ends = np.cumsum([0, len(slices), len(single), len(pairs)]).tolist()
    column = {name: place for place, name in enumerate([*slices, *single, *pairs])}
    of_prompts = np.zeros((len(prompts), len(column)))
    for row, prompt, both in zip(of_prompts, prompts, together, strict=True):
        row[[column[name] for name in [*prompt.pieces, *both] if name in column]] = 1.0
    passes = [(number, column[part], scores) for number, prompt in enumerate(prompts) for part, scores in prompt.scores.items()]
    numbers, places = (np.array([one[field] for one in passes]) for field in (0, 1))
    rows = of_prompts[numbers]
    rows[np.arange(len(passes)), places] = 1.0
    means, counts = (np.array([how(scores) for *_, scores in passes], dtype=float) for how in (fmean, len))
    return Passes(numbers, rows, means, counts, [slice(begin, end) for begin, end in pairwise(ends)])


def luck_of(prompts: Sequence[Seen]) -> float:
    """The variance of a score that neither its question nor its prompt explains."""
    squares, free = 0.0, 0
    for part in {part for prompt in prompts for part in prompt.scores}:
        scores = np.array([prompt.scores[part] for prompt in prompts if part in prompt.scores])
        left = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
        squares, free = squares + float((left**2).sum()), free + (scores.shape[0] - 1) * (scores.shape[1] - 1)
    return squares / free if free else 0.0
