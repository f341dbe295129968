"""Tests of what a search hands over: the front, the family of a prompt, the page, the prompt's file."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import pytest
import yaml
from test_prompt_searcher import made_of, outcome, search_with, shipped_one, simulate_search

from gpuqa.config.commands import from_plain
from gpuqa.config.pipeline import ExampleConfig, PromptConfig, SystemIn
from gpuqa.config.prompt_search import Against
from gpuqa.prompt_search.outcome import family_of, rows_of, table_of, write_prompt
from gpuqa.prompt_search.page import FoundPrompt, page_of
from gpuqa.prompt_search.searcher import Recipe, Searcher
from gpuqa.prompt_search.space import Genes


def child_of(searcher: Searcher, parent: str, genes: Genes, quality: float, chars: int = 100) -> str:
    """A prompt with a parent that answered all questions."""
    made = made_of(Recipe(genes, "mutation", (parent,), searcher.generation + 1))
    searcher.made[made.key] = replace(made, name=f"made_{len(searcher.made)}")
    searcher.outcomes[made.key] = {part: outcome(quality, chars) for part in (0, 1)}
    return made.key


@pytest.fixture
def ended() -> tuple[Searcher, str]:
    """A family of three, and a prompt that is faster."""
    searcher = search_with([shipped_one()], made_of)
    first = shipped_one().key
    searcher.outcomes[first] = {part: outcome(0.4, 100) for part in (0, 1)}
    second = child_of(searcher, first, simulate_search.Genes((("role", 0), ("api", 1))), 0.5)
    third = child_of(searcher, second, simulate_search.Genes((("role", 0), ("api", 1)), "Q: {question}"), 0.6, 80)
    child_of(searcher, first, simulate_search.Genes(), 0.3, 300)
    child_of(searcher, first, simulate_search.Genes((("length", 0),)), 0.2, 90)
    return searcher, third


def test_a_family_says_what_each_change_brought(ended):
    searcher, found = ended
    steps = family_of(searcher, found)
    assert [(step.prompt, step.origin, step.changes) for step in steps] == [
        ("shipped", "shipped", ["+ role: role 0"]),
        ("made_1", "mutation", ["+ api: api 1"]),
        ("made_2", "mutation", ["user: Q: {question}"]),
    ]
    assert [step.quality_brought for step in steps] == [None, pytest.approx(0.1), pytest.approx(0.1)]
    assert steps[0].quality_interval is None
    assert (steps[1].quality_interval.low, steps[1].quality_interval.high) == (pytest.approx(0.1), pytest.approx(0.1))
    assert [step.speed_brought for step in steps] == [None, pytest.approx(0.0), pytest.approx(-0.2)]


def test_the_front_holds_the_prompts_that_none_is_better_than_in_both(ended):
    rows = rows_of(ended[0])
    assert [row.prompt for row in rows] == ["made_2", "made_1", "shipped", "made_3", "made_4"]
    assert {row.prompt for row in rows if row.on_front} == {"made_2", "made_1", "made_3"}
    assert [row.expected for row in rows] == [row.quality for row in rows], "nothing was learnt yet"
    read = list(csv.DictReader(io.StringIO(table_of(rows))))
    assert [row["changes"] for row in read][:2] == ["user: Q: {question}", "+ api: api 1"]


def test_the_table_has_what_the_search_went_by_beside_what_was_measured(ended):
    searcher, _ = ended
    searcher.learn()
    quality = searcher.effects["quality"].quality
    rows = {row.prompt: row for row in rows_of(searcher)}
    assert [row.expected for row in rows.values()] == sorted((row.expected for row in rows.values()), reverse=True)
    for key, prompt in searcher.made.items():
        assert rows[prompt.name].expected == pytest.approx(quality[key], abs=1e-5)


@pytest.mark.parametrize("against", list(Against))
def test_the_page_shows_every_prompt_as_a_point_and_text_of_others_as_text(ended, against):
    searcher, found = ended
    family = family_of(searcher, found)
    prompts = {"made_2": FoundPrompt("found_1", "system: <script>alert(1)</script>", family)}
    page = page_of("Search of <b>", ["A sentence & more."], rows_of(searcher), prompts, against)
    assert page.count("<circle") == 5
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "A sentence &amp; more." in page
    assert page.count("found_1") >= 2  # its heading and its point
    points = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', page)]
    assert all(60 <= x <= 700 and 20 <= y <= 340 for x, y in points)


def test_a_prompt_file_gives_the_same_prompt_back(tmp_path):
    prompt = PromptConfig(
        "found_1", "第一行：$ # 'x'\n第二行", SystemIn.system, "问题：{question}", examples=[ExampleConfig("什么？", "这个。")]
    )
    file = write_prompt(tmp_path, prompt, "Found by a search.")
    assert file == tmp_path / "prompt" / "found_1.yaml"
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# Found by a search.\n")
    assert from_plain(yaml.safe_load(text), PromptConfig, "the file") == prompt
