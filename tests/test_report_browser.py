"""The page of a report as its readers use it, in a headless Chromium."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import DESKTOP, PHONE, Browser, browsing, contrast
from reported import answer, trial

from gpuqa.config.measurement import Rule, SelectionConfig
from gpuqa.measure.fingerprint import Stage, at_stage
from gpuqa.records import Answer, Dropped, Timing, Trial
from gpuqa.selection.decision import decide
from gpuqa.study import report
from gpuqa.study.event_log import SCORED, SCORING, STARTS, Moment
from gpuqa.study.page.result import Result

pytestmark = pytest.mark.slow

READY = "document.documentElement.dataset.ready"
RULE = SelectionConfig(name="fastest_above_floor", min_rouge_l_f1_judge=0.35, confidence=0.95)
NASTY = "</script><script>document.title = 'broken'</script><img src=x onerror=\"document.title = 'broken'\">"
BOXES = """return [...document.querySelectorAll(arguments[0])].map((one) => {
  const {left, right, top, bottom} = one.getBoundingClientRect(); return [left, right, top, bottom];
})"""
TOUCH = """const dot = document.querySelector('#chart .dot > :last-child'), {left, top} = dot.getBoundingClientRect();
dot.closest('svg').dispatchEvent(new PointerEvent('pointerdown', {clientX: left, clientY: top, pointerType: 'touch'}))"""
SCROLLED = """const table = document.querySelector('[data-group=first]'); table.parentElement.scrollLeft = arguments[0];
return table.querySelector('tbody th').getBoundingClientRect().left"""
COLOURS = """const ink = (one) => getComputedStyle(document.querySelector(one)).color;
return [...['body', '.note-text', '.outcome', 'nav a'].map(ink), getComputedStyle(document.body).backgroundColor]"""


def measured_trials() -> list[Trial]:
    """Eight cells: one failed, one dropped, one below the floor."""
    rows = []
    for place, values in enumerate(itertools.product(("bare", "long"), ("none", "fp8"), ("16", "64"))):
        axes = dict(zip(("prompt", "quantization", "engine.args.max_num_seqs"), values, strict=True))
        speed, score = 1000.0 + 300 * place, 0.5 - 0.012 * place
        numbers = {
            "chars_per_s": speed,
            "chars_per_s_repeats": [speed, speed * 1.02],
            "repeats_began_at": [1000.0 + 100 * place, 1040.0 + 100 * place],
        }
        rows.append(trial(axes, rouge_l_f1_judge=score, rouge_l_f1=score, e2e_latency_ms_p95=None, questions=24, **numbers))
    rows[1] = replace(rows[1], measurement=None, error=f"no room for the KV cache {NASTY}")
    rows[2] = replace(rows[2], measurement=None, dropped=Dropped("at least 12.0% slower", rows[2].measurement))
    rows[3] = replace(rows[3], measurement=replace(rows[3].measurement, rouge_l_f1_judge=0.2))
    return rows


def answers_of(one: Trial) -> list[Answer]:
    """24 answers in which the prompts differ by a word, one of them empty, one cut off, one nasty."""
    word = "thirty-two" if one.axes["prompt"] == "bare" else "32"
    rows = [
        replace(
            answer(f"q{place}", 0.4 if word == "32" else 0.5),
            answer=f"a warp has {word} threads",
            timings=[Timing(place / 10, 0.1, 5)],
        )
        for place in range(24)
    ]
    rows[3], rows[4] = replace(rows[3], answer=""), replace(rows[4], finish_reason="length")
    rows[5] = replace(rows[5], answer=NASTY, question="a nasty question")
    return rows


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report with two finalists that were measured again."""
    folder, first_round = tmp_path_factory.mktemp("study"), measured_trials()
    again = [replace(one, key=at_stage(one.key, Stage.finals)) for one in first_round[-2:]]
    again = [replace(one, measurement=replace(one.measurement, first_round_chars_per_s=1.0)) for one in again]
    trials = [*first_round[:-2], *again]
    answers = {one.key: answers_of(one) for one in [*first_round, *again] if one.error is None}
    commands = {"serve": "python -m gpuqa.serve frozen=experiments/s/frozen.yaml"}
    result = Result("Study s", decide(trials, RULE, answers), answers, rule=RULE, first_round=first_round, commands=commands)
    moments = [Moment(980.0, STARTS, first_round[0].key[:16]), Moment(1050.0, SCORING, "t"), Moment(1055.0, SCORED, "t")]
    report.write(replace(result, events=moments), folder)
    return f"file://{folder / 'report.html'}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing(READY) as opened:
        yield opened


def texts(browser: Browser, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText ?? one.textContent)"
    return browser.run(script, selector)  # type: ignore[no-any-return]


def choose(browser: Browser, section: str, place: int, value: str) -> None:
    """Take a value of one of the lists of a section."""
    find = "const select = document.querySelectorAll(arguments[0])[arguments[1]]; select.value = arguments[2];"
    browser.run(f"{find} select.dispatchEvent(new Event('change'))", f"{section} select", place, value)


def press(browser: Browser, key: str) -> None:
    browser.run("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], bubbles: true}))", key)


@pytest.mark.parametrize(
    ("language", "tag", "heading"), [("zh-CN", "zh-CN", "质量与速度"), ("en", "en", "Quality against speed")]
)
def test_it_speaks_the_readers_language_and_the_other_one(
    browser: Browser, page: str, language: str, tag: str, heading: str
) -> None:
    browser.show(page, language=language)
    assert (browser.run("return document.documentElement.lang"), texts(browser, "h2")[0]) == (tag, heading)
    sections = len(texts(browser, "h2"))
    browser.click("#language")
    assert texts(browser, "h2")[0] != heading
    assert len(texts(browser, "h2")) == sections
    assert "undefined" not in browser.text("main")
    assert browser.complaints() == []


def test_the_verdict_is_one_sentence_with_what_could_not_be_told_and_the_command_that_serves(
    browser: Browser, page: str
) -> None:
    browser.show(page)
    assert browser.text(".sentence").startswith("long · fp8 · 64 ")
    assert "3,100 characters a second" in browser.text(".sentence")
    assert "Cells that failed, of which nothing is known: 1." in browser.text("#verdict")
    assert "python -m gpuqa.serve frozen=experiments/s/frozen.yaml" in browser.text("#verdict .command")


def test_what_models_and_errors_wrote_is_read_and_never_run(browser: Browser, page: str) -> None:
    browser.show(page)
    assert browser.run("return document.title") == "Study s"
    assert NASTY in browser.text("#questions")
    assert NASTY in browser.text("#chart")
    assert browser.run("return document.querySelectorAll('img').length") == 0


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_the_dots_fill_the_chart_and_no_name_covers_another_or_a_dot(
    browser: Browser, page: str, size: tuple[int, int]
) -> None:
    browser.show(page, size=size)
    dots = browser.run(BOXES, "#chart .dot > :last-child")
    assert len(dots) == 7, "all but the failed one, which stands below"
    assert "long · fp8 · 16" in " ".join(texts(browser, "#chart .label")) or size is PHONE
    [[left, right, _, bottom]] = browser.run(BOXES, "#chart > svg")
    spread = [max(box[side] for box in dots) - min(box[side] for box in dots) for side in (0, 2)]
    assert spread[0] > 0.6 * (right - left)
    assert spread[1] > 0.6 * (bottom - min(box[2] for box in dots))
    names = browser.run(BOXES, "#chart .label")
    assert names
    for one, other in [*itertools.combinations(names, 2), *itertools.product(names, dots)]:
        apart = one[0] >= other[1] - 3 or other[0] >= one[1] - 3 or one[2] >= other[3] - 3 or other[2] >= one[3] - 3
        assert apart, (one, other)


def test_a_dot_tells_its_numbers_to_a_pointer_a_finger_and_the_keyboard(browser: Browser, page: str) -> None:
    browser.show(page)
    assert browser.run("return document.querySelector('#tip').hidden")
    browser.run("document.querySelector('#chart .dot').focus()")
    first = browser.text("#tip")
    press(browser, "ArrowRight")
    second = browser.text("#tip")
    assert first != second
    assert all("characters a second" in told for told in (first, second))
    browser.run("document.activeElement.blur()")
    assert browser.run("return document.querySelector('#tip').hidden")
    browser.run(TOUCH)
    assert "characters a second" in browser.text("#tip")
    labels = browser.run("return [...document.querySelectorAll('#chart .dot')].map((one) => one.ariaLabel)")
    assert all("characters a second" in label for label in labels), "and to a screen reader"


def test_the_chart_is_coloured_by_the_axis_that_the_reader_chooses(browser: Browser, page: str) -> None:
    browser.show(page)
    for axis, values in (("quantization", {"none", "fp8"}), ("engine.args.max_num_seqs", {"16", "64"})):
        choose(browser, "#chart", 1, axis)
        keys = texts(browser, "#chart .legend li:not(.state)")
        assert values <= set(keys)


def test_the_leaderboard_sorts_by_any_column_and_says_why_a_cell_was_refused_when_it_is_asked(
    browser: Browser, page: str
) -> None:
    browser.show(page)
    cells = "[data-group=first] tbody th"
    before = texts(browser, cells)
    browser.click("[data-group=first] [data-key=chars_per_s]")
    speeds = [
        float(text.strip("()").replace(",", ""))
        for text in texts(browser, "[data-group=first] tbody td:nth-child(3)")
        if text != "–"
    ]
    assert speeds == sorted(speeds, reverse=True)
    assert browser.run("return document.querySelector('[data-group=first] th[aria-sort=descending]').innerText").startswith(
        "chars/s"
    )
    assert sorted(texts(browser, cells)) == sorted(before)
    assert "✕" in texts(browser, cells)[-1], "what has no number comes last"
    assert "is below the floor" not in browser.text("#leaderboard")
    browser.click("button.chip.refused")
    assert "rouge_l_f1_judge 0.2000 is below the floor 0.35" in browser.text("#leaderboard")
    assert browser.run("return document.querySelector('button.chip.refused').ariaExpanded") == "true"
    assert {"long · fp8 · 16", "long · fp8 · 64"} == {text[2:] for text in texts(browser, "[data-group=again] tbody th")}


def test_columns_are_chosen_and_the_first_stays_in_sight(browser: Browser, page: str) -> None:
    browser.show(page, size=PHONE)
    heads = texts(browser, "[data-group=first] thead th")
    assert [head for head in heads if head] == ["Cell", "State", "chars/s", "judge", "ROUGE-L", "kept"], "few on a phone"
    browser.click(".pick summary")
    browser.run("[...document.querySelectorAll('.pick label')].find((one) => one.innerText === 'p95 ms').click()")
    assert "p95 ms" in texts(browser, "[data-group=first] thead th")
    assert "n/a (needs 20)" in browser.text("[data-group=first]")
    assert browser.run(SCROLLED, 0) == browser.run(SCROLLED, 120)


def test_a_table_that_is_wider_than_the_page_says_so_and_no_other(browser: Browser, page: str) -> None:
    hints = (
        "return [...document.querySelectorAll('.more-columns')].filter((hint) => !hint.hidden).map((hint) => hint.innerText)"
    )
    for language, told in (("en", "More columns to the right →"), ("zh-CN", "向左滑动可看到更多列 →")):
        browser.show(page, language=language, size=PHONE)
        assert browser.run(hints) == [told, told]
    browser.show(page)
    browser.run("for (let one; (one = document.querySelector('.pick input:checked')); ) one.click()")  # each draws all anew
    assert browser.run(hints) == [], "without columns of numbers it fits"


def test_two_answers_stand_side_by_side_with_their_differing_words_marked(browser: Browser, page: str) -> None:
    browser.show(page)
    assert texts(browser, ".question:first-child mark") == ["32", "thirty-two"]
    assert texts(browser, ".question:first-child .reference p") == ["参考"]
    assert [text.partition("characters")[0] for text in texts(browser, ".question:first-child .answer .dim")] == ["21 ", "29 "]
    choose(browser, "#answers", 3, "rouge_l_f1")
    filters = {"won": 0, "lost": 24, "empty": 1, "truncated": 1, "differ": 22, "all": 24}
    for name, count in filters.items():
        choose(browser, "#answers", 2, name)
        assert browser.text("#shown-count").startswith(f"{count} of 24 questions"), name
    browser.write("#answers input[type=search]", "a nasty")
    assert browser.text("#shown-count").startswith("1 of 24 questions")


def test_times_tell_distributions_passes_and_the_course_of_the_study(browser: Browser, page: str) -> None:
    browser.show(page)
    rows = browser.run("return [...document.querySelectorAll('#history .strip')].map((one) => one.ariaLabel)")
    assert any("50 %: 1,150.0 ms" in row for row in rows), "a distribution"
    assert any("First round: 3,100, 3,162; again: 3,100, 3,162" in row for row in rows), "the passes of a finalist"
    [start] = [row for row in rows if "engine start" in row]
    assert "engine start 20.0 s; warm-up 0.0 s; passes" in start, "it began when the study noted it"
    assert rows[-1] == "scoring; 1: 5.0 s"
    assert "1 engine starts, 18 passes" in browser.text("#history")


@pytest.mark.parametrize("language", ["zh-CN", "en"])
def test_it_fits_a_phone(browser: Browser, page: str, language: str) -> None:
    browser.show(page, language=language, size=PHONE)
    assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [PHONE[0], PHONE[0]]


def test_light_and_dark_are_different_and_readable(browser: Browser, page: str) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        browser.show(page, scheme=scheme)
        colours[scheme] = browser.run(COLOURS)
    assert colours["light"][0] != colours["dark"][0]
    for *inks, paper in colours.values():
        assert all(contrast(ink, paper) > 4.5 for ink in inks), "WCAG's AA"


def test_what_is_folded_away_is_printed_and_so_is_every_question(browser: Browser, page: str) -> None:
    browser.show(page)
    closed = "return document.querySelectorAll('details:not([open]):not(.pick), tr.why[hidden]').length"
    before, questions = browser.run(closed), "return document.querySelectorAll('.question').length"
    assert browser.run(questions) == 20
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert (before > 3, browser.run(closed), browser.run(questions)) == (True, 0, 24)
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert (browser.run(closed), browser.run(questions)) == (before, 20)


def test_a_study_that_was_not_scored_and_one_that_ranks_by_quality_say_so(browser: Browser, tmp_path: Path) -> None:
    unscored = trial({"n": "1"}, rouge_l_f1=None, rouge_l_f1_judge=None)
    anything = SelectionConfig(name="fastest", rule=Rule.fastest, min_rouge_l_f1_judge=0.0, min_rouge_l_f1_of_best=0.0)
    report.write(Result("Study s", decide([unscored], anything), rule=anything), tmp_path)
    browser.show(f"file://{tmp_path / 'report.html'}")
    assert browser.text("#chart") == "No answer was scored, so there is no quality to plot; the speeds are in the leaderboard."
    best = SelectionConfig(name="best_quality", rule=Rule.best_quality, min_rouge_l_f1_judge=0.0, min_rouge_l_f1_of_best=0.0)
    trials = [trial({"n": str(place)}, rouge_l_f1=0.5 - 0.1 * place, chars_per_s=7.0) for place in range(2)]
    report.write(Result("Study s", decide(trials, best), rule=best), tmp_path)
    browser.show(f"file://{tmp_path / 'report.html'}")
    assert browser.text(".sentence").startswith("0 came out best in ROUGE-L with ROUGE-L 0.5000 at 7 characters a second")
    assert browser.complaints() == []


def test_a_study_of_one_cell_and_one_without_numbers_are_drawn_without_complaint(browser: Browser, tmp_path: Path) -> None:
    one, dead = trial({}, chars_per_s=7.0), trial({"prompt": "a"}, error="died")
    said: list[Any] = []
    for place, trials in enumerate(([one], [dead], [])):
        folder = tmp_path / str(place)
        report.write(Result("Study s", decide(trials, RULE), rule=RULE), folder)
        browser.show(f"file://{folder / 'report.html'}")
        said.append((browser.text(".outcome"), browser.complaints()))
    assert said == [("Only one eligible", []), ("No winner", []), ("No winner", [])]
    assert "no trial was measured, so there is no winner" in browser.text("#verdict"), "why is not folded away then"
