"""Tests of what a search learns from all answers about the pieces of its prompts: pure, on answers that are made up."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from gpuqa.prompt_search.effects import Seen, learn

PIECES = {"role": 0.05, "short": -0.03, "api": 0.04, "line": 0.0, "restate": -0.05, "number": 0.03}
LUCK = 0.1
SLICES = (8, 8, 24)


def true_of(pieces: tuple[str, ...], together: float) -> float:
    return 0.4 + sum(PIECES[piece] for piece in pieces) + together * ({"role", "short"} <= set(pieces))


def searched(together: float = 0.0, own: float = 0.0, effects: float = 1.0, seed: int = 5) -> tuple[dict, dict[str, float]]:
    """All 64 prompts of six pieces, a third of which answered all questions, and the mean that each would have for ever."""
    draw, seen, true = np.random.default_rng(seed), {}, {}
    hard = draw.normal(0, 0.12, sum(SLICES))
    for number, on in enumerate(product([False, True], repeat=len(PIECES))):
        pieces = tuple(name for name, is_on in zip(PIECES, on, strict=True) if is_on)
        key = "+".join(pieces)
        true[key] = 0.4 + effects * (true_of(pieces, together) - 0.4) + draw.normal(0, own)
        parts = np.split(hard + true[key] + draw.normal(0, LUCK, sum(SLICES)), np.cumsum(SLICES)[:-1])
        asked = parts if number % 3 == 0 else parts[:1]
        seen[key] = Seen(pieces, {part: scores.tolist() for part, scores in enumerate(asked)})
    return seen, true


def error_of(quality: dict[str, float], true: dict[str, float]) -> float:
    """The standard deviation of what was told around the truth."""
    return float(np.std([quality[key] - true[key] for key in true]))


def fitted(seen: dict[str, Seen]) -> dict[str, float]:
    effects = None
    for _ in range(10):
        effects = learn(seen, effects)
    return dict(effects.quality)


def own_means(seen: dict[str, Seen]) -> dict[str, float]:
    return {key: float(np.mean([score for scores in one.scores.values() for score in scores])) for key, one in seen.items()}


@pytest.mark.parametrize("together", [0.0, 0.06])
def test_prompts_with_the_same_pieces_tell_about_each_other(together):
    found, by_own_means, errors = 0, 0, list[float]()
    for seed in range(20):
        seen, true = searched(together, seed=seed)
        quality, means, best = fitted(seen), own_means(seen), max(true.values())
        errors.append(error_of(quality, true) / error_of(means, true))
        found += true[max(quality, key=quality.__getitem__)] > best - 1e-9
        by_own_means += true[max(means, key=means.__getitem__)] > best - 1e-9
    assert np.mean(errors) < 0.5
    assert found >= by_own_means + 3, (found, by_own_means)


def test_where_nothing_has_an_effect_no_prompt_is_expected_to_be_better():
    seen, _ = searched(effects=0.0)
    assert np.std(list(fitted(seen).values())) < 0.2 * np.std(list(own_means(seen).values()))


def test_where_pieces_explain_nothing_a_prompt_keeps_its_own_mean():
    seen, true = searched(own=0.3, effects=0.0)
    quality = fitted(seen)
    asked_all = [key for key, one in seen.items() if len(one.scores) == len(SLICES)]
    means = own_means(seen)
    assert np.std([quality[key] - means[key] for key in asked_all]) < 0.01
    assert error_of(quality, true) < 0.05


def test_a_hard_slice_is_not_held_against_those_that_answered_it():
    seen, true = searched()
    harder = {
        key: Seen(one.pieces, {part: [score - 0.3 * (part == 2) for score in scores] for part, scores in one.scores.items()})
        for key, one in seen.items()
    }
    assert error_of(fitted(harder), true) == pytest.approx(error_of(fitted(seen), true), abs=0.001)


def test_what_is_learnt_does_not_depend_on_the_order_of_the_prompts():
    seen, _ = searched(0.06)
    turned = dict(sorted(seen.items(), key=lambda item: item[0][::-1]))
    first, second = fitted(seen), fitted(turned)
    assert {key: first[key] - second[key] for key in first} == pytest.approx(dict.fromkeys(first, 0.0), abs=1e-8)


def test_answers_without_luck_are_taken_as_they_are():
    exact = {key: Seen([key], {0: [value] * 4}) for key, value in {"a": 0.2, "b": 0.5, "c": 0.3}.items()}
    quality = fitted(exact)
    assert sorted(quality, key=quality.__getitem__) == ["a", "c", "b"]
    assert fitted({"a": Seen(["a"], {0: [0.0] * 4}), "b": Seen(["b"], {0: [0.0] * 4})}) == {"a": 0.0, "b": 0.0}
