"""Tests of the space of prompts: what can be drawn from it, how prompts are said, split and kept free of what is measured."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from random import Random

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir

from gpuqa.config import UserError, app
from gpuqa.config.commands import SearchCommandConfig, resolve
from gpuqa.config.paths import conf_folder
from gpuqa.config.pipeline import ExampleConfig, PromptConfig
from gpuqa.config.prompt_search import Choice, PromptSearchConfig, SpaceConfig
from gpuqa.pipeline import dataset
from gpuqa.prompt_search.examples import pool_of
from gpuqa.prompt_search.leaks import Leaks
from gpuqa.prompt_search.space import Genes, Pool, Space, difference
from gpuqa.prompt_search.splits import slices_of, split
from gpuqa.records import Question

FRAGMENTS = {"role": ["你是专家。", "You are an expert."], "short": ["Be short."], "line": ["一行。"]}
EMBEDDED = dataset.read_questions(ROOT / "gpuqa/embedded/questions/test.json")


def space(**changes) -> Space:
    values = {"fragments": FRAGMENTS, "users": ["{question}", "问题：{question}"], "reorder": True, **changes}
    return Space(SpaceConfig("test", **values), Pool({}))


def questions(count: int) -> list[Question]:
    return [Question(f"q{number:03}", f"What is number {number}?", f"It is {number} times one.") for number in range(count)]


def settings(**changes) -> PromptSearchConfig:
    return PromptSearchConfig(minutes=1.0, **changes)


@pytest.mark.parametrize("reorder", [True, False])
def test_a_space_counts_the_prompts_that_can_be_drawn_from_it(reorder):
    texts = set()
    for on in product(*([None, *range(len(variants))] for variants in FRAGMENTS.values())):
        fragments = [(name, variant) for name, variant in zip(FRAGMENTS, on, strict=True) if variant is not None]
        texts |= set(permutations(fragments)) if reorder else {tuple(fragments)}
    small, random = space(reorder=reorder), Random(1)
    assert small.size == 2 * len(texts)
    assert len({small.draw(random) for _ in range(8000)}) == small.size


def test_every_change_and_every_mixture_is_a_prompt_of_the_space():
    whole, random = space(examples=[0, 2], examples_from="file", chosen=list(Choice), max_tokens=[64, 128]), Random(2)
    genes = [whole.draw(random) for _ in range(40)]
    made = [whole.mutate(one, random) for one in genes] + [whole.cross(*random.sample(genes, 2), random) for _ in genes]
    for one in made:
        names = [name for name, _ in one.fragments]
        assert len(set(names)) == len(names)
        assert all(variant < len(FRAGMENTS[name]) for name, variant in one.fragments)
        assert one.user in whole.config.users
        assert one.max_tokens in (64, 128)
        assert one.examples or one.chosen is Choice.fixed


def test_a_prompt_is_its_sentences_with_a_blank_only_between_latin_words():
    genes = Genes((("role", 1), ("short", 0), ("line", 0)), "问题：{question}", written="先想。")
    assert space().prompt_of(genes, "p") == PromptConfig(
        "p", system="先想。You are an expert. Be short.一行。", user="问题：{question}"
    )
    assert space().prompt_of(Genes(), "p").system is None


def test_what_tells_a_prompt_from_its_parent_is_said_change_by_change():
    parent = Genes((("role", 0), ("short", 0), ("line", 0)))
    child = Genes((("line", 0), ("role", 1)), "问题：{question}", 2, Choice.diverse, 64)
    assert difference(parent, child, space().config) == [
        "- short",
        "role: You are an expert.",
        "order: line, role",
        "user: 问题：{question}",
        "2 examples, diverse",
        "max_tokens 64",
    ]
    assert difference(child, child, space().config) == []
    assert difference(Genes(), Genes((("line", 0),)), space().config) == ["+ line: 一行。"]


def composed(*overrides: str) -> SearchCommandConfig:
    app.introduce_to_hydra()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return resolve(compose("search", list(overrides)), SearchCommandConfig)


def test_a_user_adds_a_sentence_by_one_line(tmp_path: Path):
    option = tmp_path / "space" / "mine.yaml"
    option.parent.mkdir()
    option.write_text("defaults: [default]\nfragments: {example: [给出一行示例代码。]}\n", encoding="utf-8")
    added = composed(f"hydra.searchpath=[file://{tmp_path}]", "space=mine").space
    assert added.fragments["example"] == ["给出一行示例代码。"]
    assert {"role", "restate", "numbering", "api", "length", "one_line", "language"} < set(added.fragments)
    typed = composed('+space.fragments.example=["给出一行示例代码。"]').space
    assert typed.fragments == added.fragments


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"fragments": {}, "users": ["{question}"]},
            "space: got 'test', allowed is more than one prompt: a line in space.frag",
        ),
        ({"fragments": {"role": []}}, "space.fragments.role: got [], allowed is a list of texts"),
        ({"fragments": {"role": [" "]}}, "space.fragments.role: got [' '], allowed is a list of texts, none of them empty"),
        (
            {"fragments": {"role": ["{question}?"]}},
            "space.fragments.role: got '{question}?', allowed is text without {question}",
        ),
        ({"users": ["Answer."]}, "space.users: got 'Answer.', allowed is a template that holds {question} exactly once"),
        ({"examples": [1]}, "space.examples_from: got None, allowed is a question file where space.examples has more than 0"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused_with_its_key(changes, message):
    with pytest.raises(UserError) as refused:
        space(**changes)
    assert str(refused.value).startswith(message)


def test_a_prompt_that_holds_a_measured_question_or_its_answer_is_found():
    leaks = Leaks(EMBEDDED)
    question = EMBEDDED[0]
    quoted = PromptConfig("p", system=f"例如：{question.text}")
    part = question.reference[-60:].replace("，", " ").replace("warp", "WARP")
    shown = PromptConfig("p", examples=[ExampleConfig("别的问题是什么？", question.reference)])
    assert leaks.of_prompt(quoted) == f"the system text holds the question of {question.id!r}"
    assert (
        leaks.of_prompt(PromptConfig("p", system=part))
        == f"the system text holds a part of the reference answer of {question.id!r}"
    )
    assert leaks.of_prompt(shown).startswith("example 1 is like the reference answer of ")
    assert leaks.of_prompt(PromptConfig("p", system="你是 CUDA 专家，用一行话作答，重述术语并写出 API 名称，只说要点。")) == ""


def test_examples_that_are_like_a_measured_question_are_left_out_and_the_rest_is_chosen_in_three_ways():
    config = SpaceConfig("s", examples=[0, 3], chosen=list(Choice), examples_from="gpuqa/embedded/questions/train.json")
    asked = [*EMBEDDED, Question("copied", "什么是合并访存?（coalesced access）", "别的")]
    pool, left_out = pool_of(config, Leaks(asked), EMBEDDED[:40])
    assert left_out >= 1
    chosen = {way: [example.question for example in pool.take(3, way)] for way in Choice}
    assert all(len(set(texts)) == 3 for texts in chosen.values())
    assert len({tuple(texts) for texts in chosen.values()}) == 3
    assert "什么是合并访存（coalesced access）？" not in chosen[Choice.fixed]
    assert all(Leaks(asked).of_example(example) == "" for way in Choice for example in pool.take(3, way))


def test_a_file_with_too_few_clean_examples_is_refused(tmp_path: Path):
    file = tmp_path / "two.jsonl"
    file.write_text(f'{{"question": "{EMBEDDED[0].text}", "answer": "x"}}\n{{"question": "Why?", "answer": "So."}}\n')
    with pytest.raises(UserError, match=r"two.jsonl has 1 examples that are unlike .*space.examples asks for 2"):
        pool_of(SpaceConfig("s", examples=[2, 0], examples_from=str(file)), Leaks(EMBEDDED), EMBEDDED)


def test_the_embedded_questions_are_cut_into_40_to_search_with_and_40_for_the_end():
    parts = split(EMBEDDED, settings())
    assert (len(parts.search), len(parts.selection), len(parts.final)) == (40, 0, 40)
    assert parts.text() == (
        "40 questions to search with, cross-validation chooses among the best, 40 for the end, which the search never sees"
    )
    assert not {question.id for question in parts.search} & {question.id for question in parts.final}


def test_from_200_different_questions_on_a_fifth_chooses():
    parts = split(questions(200), settings())
    assert (len(parts.search), len(parts.selection), len(parts.final)) == (60, 40, 100)


def test_repeated_questions_stay_in_one_split_whatever_their_spelling_and_the_order_of_the_file():
    rows = [
        *questions(80),
        *(Question(f"again {one.id}", one.text.upper().replace("?", " ？"), one.reference) for one in questions(80)),
    ]
    parts = split(rows, settings())
    assert len(parts.search) == len(parts.final) == 80
    places = {question.id: name for name in ("search", "final") for question in getattr(parts, name)}
    assert all(places[f"again {one.id}"] == places[one.id] for one in questions(80))
    turned = split(rows[::-1], settings())
    assert {question.id for question in turned.final} == {question.id for question in parts.final}
    assert {question.id for question in split(rows, settings(seed=1)).final} != {question.id for question in parts.final}


def test_slices_grow_and_hold_every_question_once():
    parts = slices_of(questions(40), settings(first_slice=8))
    assert [len(part) for part in parts] == [8, 8, 24]
    assert [len(part) for part in slices_of(questions(40), settings(first_slice=16))] == [16, 24]
    assert [len(part) for part in slices_of(questions(9), settings(first_slice=8))] == [9]
    assert sorted(question.id for part in parts for question in part) == [question.id for question in questions(40)]


def test_too_few_questions_for_a_search_are_refused_with_what_can_be_changed():
    with pytest.raises(
        UserError, match=r"dataset: 30 different questions are too few for a search: 15 would search and 15 .* add"
    ):
        split(questions(30), settings())
