"""Tests of the searcher, its objective and its costs: pure, on made-up outcomes."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from conftest import ROOT

from gpuqa.config import UserError
from gpuqa.config.measurement import Rule, SelectionConfig
from gpuqa.config.prompt_search import Against, PromptSearchConfig, Quality
from gpuqa.prompt_search.choosing import chosen
from gpuqa.prompt_search.cost import FEWEST, Costs
from gpuqa.prompt_search.objective import Objective, Outcome, front_ranks
from gpuqa.prompt_search.searcher import Asked, Made, Recipe, Searcher, Setting

sys.path.insert(0, str(ROOT / "experiments" / "prompt_search"))
import simulate_search

CONFIG = PromptSearchConfig(minutes=1.0, children=6)
FREE = SelectionConfig("free", Rule.best_quality, min_rouge_l_f1_judge=0.0, min_rouge_l_f1_of_best=0.0)


def outcome(quality: float = 0.4, chars: int = 100, seconds: float = 1.0, count: int = 4, **changes) -> Outcome:
    made = Outcome(
        [quality] * count, [quality] * count, [chars] * count, [50] * count, 100, seconds, [0.1] * count, [1.0] * count
    )
    return replace(made, **changes)


def objective(rule: Rule = Rule.best_quality, least: float = 0.0, search: PromptSearchConfig = CONFIG, **limits) -> Objective:
    return Objective(replace(FREE, rule=rule, **limits), search, least)


def order(aim: Objective, **outcomes: Outcome) -> list[str]:
    return aim.order({name: aim.score([one]) for name, one in outcomes.items()})


def test_each_rule_puts_its_own_best_first():
    good, fast, both = outcome(0.6, 100), outcome(0.4, 300), outcome(0.55, 280)
    assert order(objective(Rule.best_quality), good=good, fast=fast, both=both) == ["good", "both", "fast"]
    assert order(objective(Rule.fastest), good=good, fast=fast, both=both) == ["fast", "both", "good"]
    assert order(objective(Rule.weighted), good=good, fast=fast, both=both)[0] == "both"


def test_a_prompt_that_misses_a_limit_comes_after_all_that_keep_it():
    good_and_slow, worse = outcome(0.9, 100), outcome(0.5, 200)
    assert order(objective(min_chars_per_s=500), slow=good_and_slow, fast=worse) == ["fast", "slow"]
    assert order(objective(least=600.0), slow=good_and_slow, fast=worse) == ["fast", "slow"]
    poor = outcome(0.3, 900)
    floor = objective(Rule.fastest, min_rouge_l_f1_judge=0.35)
    assert order(floor, poor=poor, fair=worse) == ["fair", "poor"]
    assert order(objective(), empty=outcome(0.9, empty=2), sound=worse) == ["sound", "empty"]
    assert order(objective(), cut=outcome(0.9, truncated=4), sound=worse) == ["sound", "cut"]


def test_a_limit_on_latency_counts_in_the_search_as_well():
    slow, fair = outcome(0.9, ttft_s=[0.1, 0.1, 0.1, 0.5]), outcome(0.5)
    assert order(objective(), slow=slow, fair=fair) == ["slow", "fair"]
    assert order(objective(max_ttft_ms_p95=300.0), slow=slow, fair=fair) == ["fair", "slow"]
    late = outcome(0.9, latency_s=[1.0, 1.0, 1.0, 5.0])
    assert order(objective(max_e2e_latency_ms_p95=2000.0), late=late, fair=fair) == ["fair", "late"]


def test_the_search_goes_by_the_score_and_by_the_cost_that_it_is_told():
    by_judge = PromptSearchConfig(minutes=1.0, quality=Quality.rouge_l_f1_judge)
    ours, judge = outcome(0.6, judge=[0.1] * 4), outcome(0.1, judge=[0.6] * 4)
    assert order(objective(search=by_judge), ours=ours, judge=judge)[0] == "judge"
    short, long = outcome(output_tokens=[10] * 4, chars=10), outcome(output_tokens=[90] * 4, chars=500)
    tokens = PromptSearchConfig(minutes=1.0, against=Against.output_tokens)
    assert order(objective(Rule.fastest, search=tokens), short=short, long=long) == ["short", "long"]
    early, late = outcome(ttft_s=[0.1] * 4, chars=10), outcome(ttft_s=[0.2] * 4, chars=500)
    ttft = PromptSearchConfig(minutes=1.0, against=Against.ttft_ms)
    assert order(objective(Rule.fastest, search=ttft), early=early, late=late) == ["early", "late"]


def test_the_whole_front_is_kept_before_all_that_lies_behind_it():
    points = {"a": (0.9, 1.0), "b": (0.5, 5.0), "c": (0.7, 3.0), "behind": (0.6, 2.0), "last": (0.1, 0.5)}
    assert {key: rank for key, (rank, _) in front_ranks(points).items()} == {"a": 0, "b": 0, "c": 0, "behind": 1, "last": 2}
    outcomes = {key: outcome(quality, round(100 * speed)) for key, (quality, speed) in points.items()}
    aim = objective(Rule.knee)
    assert set(order(aim, **outcomes)[:3]) == {"a", "b", "c"}


def test_a_rule_that_a_slice_of_questions_cannot_tell_is_refused():
    with pytest.raises(UserError, match=r"selection.rule: got 'goodput', a search goes by one of fastest, best_quality, "):
        objective(Rule.goodput)


def pass_of(prompt: int, answer: int, start: float = 0.2) -> Outcome:
    """Eight questions on an engine with a start, a price for a prompt's tokens, one for each answer's and one for each step."""
    seconds = start + 0.002 * prompt + 0.001 * 8 * answer + 0.004 * answer
    return Outcome([0.5] * 8, [0.5] * 8, [2 * answer] * 8, [answer] * 8, prompt, seconds, [0.1] * 8, [1.0] * 8)


def test_costs_tell_what_a_pass_takes_by_its_tokens_and_a_slow_minute_does_not_spoil_them():
    costs = Costs()
    for number in range(FEWEST - 1):
        costs.learn(pass_of(50 + 37 * number % 200, 20 + 13 * number % 60))
    slow = replace(pass_of(60, 30), seconds=9.0)
    assert costs.seconds_of([slow]) == 9.0  # too few passes were seen
    costs.learn(pass_of(500, 90))
    assert costs.seconds_of([slow]) == pytest.approx(pass_of(60, 30).seconds, rel=0.01)
    assert costs.seconds_of([pass_of(100, 80)]) == pytest.approx(pass_of(100, 80).seconds, rel=0.01)


def test_a_bound_is_never_below_what_a_prompt_can_do_and_falls_with_its_tokens():
    costs = Costs()
    for number in range(FEWEST):
        costs.learn(pass_of(50 + 37 * number % 200, 20 + 13 * number % 60))
    for prompt in (50, 400, 3000):
        bound = costs.bound(prompt, 8)
        assert bound is not None
        most = max(2 * answer * 8 / pass_of(prompt, answer).seconds for answer in range(10, 78))
        assert bound >= most * 0.999
    assert costs.bound(3000, 8) < costs.bound(400, 8) < costs.bound(50, 8)


def search_with(shipped: list[Made], make, slices=(4, 4), config=CONFIG, aim=None, proposals=lambda _: []) -> Searcher:
    setting = Setting(simulate_search.space_of(), aim or objective(), config, slices, make, proposals)
    return Searcher(setting, shipped)


def made_of(recipe: Recipe, tokens: int = 20) -> Made:
    key = simulate_search.key_of(recipe.genes)
    return Made(key, key, recipe.genes, recipe.origin, recipe.parents, tokens, recipe.generation)


def shipped_one() -> Made:
    genes = simulate_search.Genes((("role", 0),))
    return Made(simulate_search.key_of(genes), "shipped", genes, "shipped", (), 20, 0)


def quality_of(key: str) -> float:
    return 0.3 + 0.1 * ("api" in key) + 0.1 * ("length', 1" in key) + sum(map(ord, key)) % 97 / 2000


def driven(searcher: Searcher, rounds: int) -> list[list[Asked]]:
    """What a search asks for when it is told made-up outcomes."""
    seen = []
    for asked in searcher.rounds():
        seen.append(asked)
        for one in asked:
            searcher.tell(one, outcome(quality_of(one.key), seconds=1 + 0.01 * len(one.key)))
        if len(seen) == rounds:
            break
    return seen


def test_a_search_that_is_told_the_same_asks_for_the_same():
    first, second = (driven(search_with([shipped_one()], made_of), 30) for _ in range(2))
    assert first == second
    other = replace(CONFIG, seed=1)
    assert driven(search_with([shipped_one()], made_of, config=other), 30) != first


def test_nothing_is_asked_twice_and_later_slices_are_for_the_better_half():
    rounds = driven(search_with([shipped_one()], made_of), 21)
    asked = [one for each in rounds for one in each]
    assert len(set(asked)) == len(asked)
    assert [one.slice for one in rounds[0]] == [0, 1]  # the shipped prompt answers all
    assert [[one.slice for one in each] for each in rounds[1:3]] == [[0] * 6, [1] * 3]
    best = sorted(rounds[1], key=lambda one: -quality_of(one.key))[:3]
    assert {one.key for one in rounds[2]} == {one.key for one in best}
    assert all([one.slice for one in each] == [1] * 3 + [0] * 6 for each in rounds[3:6]), "a generation waited for another"


def test_a_search_of_a_small_space_ends_when_all_of_it_was_asked():
    searcher = search_with([shipped_one()], lambda recipe: made_of(recipe) if len(recipe.genes.fragments) < 2 else None)
    driven(searcher, 10_000)
    assert set(searcher.complete()) == set(searcher.made)
    assert 20 <= len(searcher.made) <= 2 * (1 + sum(simulate_search.FRAGMENTS.values()))


def test_a_prompt_whose_tokens_cost_too_much_is_not_asked():
    def make(recipe: Recipe) -> Made:
        return made_of(recipe, tokens=100_000 if "api" in simulate_search.key_of(recipe.genes) else 20)

    searcher = search_with([shipped_one()], make, aim=objective(min_chars_per_s=50.0))
    priced = searcher.costs
    for number in range(FEWEST):
        priced.learn(pass_of(50 + 37 * number % 200, 20 + 13 * number % 60))
    driven(searcher, 12)
    assert searcher.pruned
    assert all("api" in key for key in searcher.pruned)
    assert not any(searcher.outcomes[key] for key in searcher.pruned)
    assert next(iter(searcher.pruned.values())).startswith("100000 tokens: at most ")


def test_a_bound_in_chars_per_s_speaks_against_a_prompt_by_what_is_counted_in_chars_per_s_alone():
    best = objective().score([outcome(0.5, 400)])
    tokens = PromptSearchConfig(minutes=1.0, against=Against.output_tokens)
    assert objective(Rule.fastest).hopeless(100.0, best)
    assert not objective(Rule.fastest, search=tokens).hopeless(100.0, best)
    assert objective(Rule.fastest, search=tokens, min_chars_per_s=200.0).hopeless(100.0, best)
    assert objective(least=200.0).hopeless(100.0, best)
    assert not objective(least=0.2, search=tokens).hopeless(0.1, best)
    assert not objective(Rule.best_quality).hopeless(100.0, best), "it may be the best, however slow it is"


def test_a_prompt_on_which_the_engine_breaks_is_left_out_and_the_search_goes_on():
    searcher = search_with([shipped_one()], made_of)
    rounds = searcher.rounds()
    for one in next(rounds):
        searcher.tell(one, outcome())
    broken = next(rounds)
    searcher.tell(broken[0], "the engine process died")
    for one in broken[1:]:
        searcher.tell(one, outcome(0.5))
    assert broken[0].key not in {one.key for one in next(rounds)}
    assert searcher.failed == {broken[0].key: "the engine process died"}


def test_the_least_speed_is_that_of_the_best_shipped_prompt():
    fast, good = shipped_one(), replace(shipped_one(), key="good", name="good")
    searcher = search_with([fast, good], made_of, config=replace(CONFIG, at_least_as_fast=True))
    rounds = searcher.rounds()
    for one in next(rounds):
        searcher.tell(one, outcome(0.6, 100, 1 + one.slice) if one.key == "good" else outcome(0.4, 300))
    next(rounds)
    assert searcher.reference == "good"
    assert searcher.aim(0).least_speed == pytest.approx(400.0)  # on the first slice
    assert searcher.aim().least_speed == pytest.approx(800 / 3)  # on both
    assert searcher.best(2)[0] == "good", "it keeps its own speed"


def test_a_limit_in_chars_per_s_counts_with_all_questions_only():
    searcher = search_with([shipped_one()], made_of, aim=objective(min_chars_per_s=500.0))
    assert (searcher.aim(0).rule.min_chars_per_s, searcher.aim(1).rule.min_chars_per_s) == (0.0, 500.0)


def test_a_proposal_is_the_first_of_its_generation():
    genes = simulate_search.Genes(written="Think first.")
    proposal = Recipe(genes, "proposer", (shipped_one().key,), 2)
    searcher = search_with([shipped_one()], made_of, proposals=lambda generation: [proposal] if generation == 2 else [])
    rounds = driven(searcher, 4)
    new = [one for one in rounds[3] if one.slice == 0]
    assert searcher.made[new[0].key].origin == "proposer"


def test_halves_that_did_not_choose_say_less_than_the_search_and_another_split_chooses_where_there_is_one():
    ended = simulate_search.Engine(simulate_search.WORLDS[4], 3)  # no effect at all
    searcher = search_with([], made_of, slices=(20, 20))
    for _, asked in zip(range(6), searcher.rounds(), strict=False):
        for one in asked:
            searcher.tell(one, ended.ask(searcher.made[one.key].genes, 20 * one.slice, 20 * one.slice + 20))
    choice = chosen(searcher, [str(place) for place in range(40)], 2)
    assert len(choice.keys) == 2
    assert choice.cross_validated is not None
    assert choice.cross_validated < choice.lead
    named = searcher.complete()[-1]
    selection = {key: outcome(0.9 if key == named else 0.1) for key in searcher.complete()}
    assert chosen(searcher, [], 1, selection).keys == [named]


@pytest.mark.slow
@pytest.mark.no_cover
def test_a_planted_best_is_found_with_a_quarter_of_the_full_grids_answers_where_the_grids_highest_mean_is_anothers():
    few_questions = simulate_search.WORLDS[2]
    ended = [simulate_search.search(few_questions, seed) for seed in (16, 30, 37)]  # those below 40 that the full grid misses
    assert not any(one.in_grid for one in ended)
    assert all(one.found for one in ended)
    assert max(one.share for one in ended) <= 0.25


@pytest.mark.slow
@pytest.mark.no_cover
def test_no_prompt_is_claimed_to_be_better_where_none_is():
    nothing = [simulate_search.search(simulate_search.WORLDS[5], seed) for seed in range(3)]
    assert not any(one.claimed for one in nothing)
    assert all(one.optimism > 0 for one in nothing)
