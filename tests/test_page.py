"""The page for people, in a headless Chromium."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import PHONE, Browser, browsing, contrast

from gpuqa.config.paths import PACKAGE

pytestmark = pytest.mark.engine

QUESTION = "什么是 warp？"
READY = "['ready', '就绪'].includes(document.querySelector('#state')?.innerText)"


def ask(browser: Browser, question: str) -> None:
    """Type a question, press the button, wait for the end."""
    browser.write("#question", question)
    browser.click("#ask")
    browser.wait(lambda: browser.run("return document.querySelector('#result').ariaBusy") == "false")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing(READY) as opened:
        yield opened


def test_a_question_is_asked_and_its_answer_watched_and_read(browser: Browser, service: Any) -> None:
    browser.show(f"{service.url}/ui")
    browser.run(
        "window.seen = []; new MutationObserver(() => seen.push(document.querySelector('#answer').textContent))"
        ".observe(document.querySelector('#answer'), {childList: true, characterData: true, subtree: true})"
    )
    ask(browser, QUESTION)
    [answer] = service.predict(QUESTION)
    assert browser.text("#answer") == answer
    seen = [text for text in browser.run("return seen") if text]
    assert len(seen) > 5, "it came in pieces"
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(seen)), "nothing was taken back"
    assert browser.text("#problem") == ""
    for number in ("#ttft", "#speed", "#total", "#tokens", "#prompt-tokens"):
        assert re.match(r"[\d.,]+( ms| s)?$", browser.text(number)), number
    assert browser.text("#end") in ("the model", "the limit")
    assert browser.complaints() == []


def test_it_shows_what_is_served(browser: Browser, service: Any) -> None:
    browser.show(f"{service.url}/ui")
    browser.wait(lambda: browser.text("#facts") != "")
    frozen = httpx.get(f"{service.url}/info", trust_env=False, timeout=60).json()["frozen"]
    model, prompt = (frozen["pipeline"][group]["name"] for group in ("model", "prompt"))
    for value in (model, prompt, frozen["digest"][:16], frozen["device"]):
        assert value in browser.text("#facts")
    assert "DEMONSTRATION" in browser.text("#note")
    speed = f"{frozen['measurement']['chars_per_s']:,.0f} characters/s, 6 questions all at once"
    assert speed in browser.text("#facts"), "a speed of a batch is not that of one answer"
    above = (
        "const box = (id) => document.querySelector(id).getBoundingClientRect(); return box('#note').bottom < box('#form').top"
    )
    assert browser.run(above), "it is read before the first question is asked"


def test_a_question_that_was_cut_says_so_and_the_next_one_does_not(browser: Browser, service: Any) -> None:
    browser.show(f"{service.url}/ui")
    told = []
    for question in ("warp " * 2000, QUESTION):
        browser.run("document.querySelector('#question').value = arguments[0]", question)
        ask(browser, "")
        told.append(browser.text("#cut") if not browser.run("return document.querySelector('#cut').hidden") else None)
    assert told == ["The question was too long; its middle was left out.", None]


def test_what_is_served_on_another_device_or_in_spite_of_a_mismatch_says_so(browser: Browser, service: Any) -> None:
    browser.show(f"{service.url}/ui")
    browser.wait(lambda: browser.text("#facts") != "")
    assert "served on" not in browser.text("#facts")
    browser.run("info.here = {allow_mismatch: true, device: 'another card'}; show()")  # as GET /info would tell it
    assert re.search(r"served on\s+another card", browser.text("#facts"))
    assert "What is served may not be what was measured" in browser.text("#note")


@pytest.mark.parametrize(
    ("language", "tag", "ask"), [("zh-CN", "zh-CN", "提问"), ("en-GB,zh", "en", "Ask"), ("fr", "en", "Ask")]
)
def test_it_speaks_the_browsers_language_and_the_other_one(
    browser: Browser, service: Any, language: str, tag: str, ask: str
) -> None:
    browser.show(f"{service.url}/ui", language=language)
    told = []
    for _ in range(3):
        told.append((browser.run("return document.documentElement.lang"), browser.text("#ask")))
        browser.click("#language")
    other = ("en", "Ask") if tag == "zh-CN" else ("zh-CN", "提问")
    assert told == [(tag, ask), other, (tag, ask)]


def test_both_languages_say_the_same_things() -> None:
    page = (PACKAGE / "serving" / "page.html").read_text(encoding="utf-8")
    keys = [set(re.findall(r"(\w+): ", part)) for part in re.findall(r"\n  (?:en|zh): \{(.*?)\n  \},", page, re.S)]
    assert len(keys) == 2
    assert keys[0] == keys[1]
    assert set(re.findall(r'data-text="(\w+)"', page)) <= keys[0]


@pytest.mark.parametrize("language", ["zh-CN", "en"])
def test_it_fits_a_phone(browser: Browser, service: Any, language: str) -> None:
    browser.show(f"{service.url}/ui", language=language, size=PHONE)
    ask(browser, QUESTION)
    assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [PHONE[0], PHONE[0]]
    heights = browser.run("return [...document.querySelectorAll('button')].map((one) => one.getBoundingClientRect().height)")
    assert all(height == 0 or height >= 40 for height in heights), "a thumb finds every button that is shown"


def test_dark_and_light_are_different_and_readable(browser: Browser, service: Any) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        browser.show(f"{service.url}/ui", scheme=scheme)
        script = "const {color, backgroundColor} = getComputedStyle(document.body); return [color, backgroundColor]"
        colours[scheme] = browser.run(script)
    assert colours["light"] != colours["dark"]
    for ink, paper in colours.values():
        assert contrast(ink, paper) > 7, "WCAG's AAA"


def test_it_needs_nothing_from_elsewhere(browser: Browser, service: Any) -> None:
    browser.show(f"{service.url}/ui")
    ask(browser, QUESTION)
    loaded = browser.run("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert len(loaded) >= 3
    assert not [name for name in loaded if not name.startswith(service.url)]
    reply = httpx.get(f"{service.url}/ui", trust_env=False)
    assert "default-src 'none'" in reply.headers["content-security-policy"], "and would not get it"
    assert not re.findall(r"https?://", reply.text)


def test_an_answer_can_be_stopped(browser: Browser, service: Any) -> None:
    browser.show(f"{service.url}/ui")
    browser.run(  # answers come too fast to be stopped: this one never does
        "const real = fetch, wait = (signal) => new Promise((_, fail) => signal.addEventListener('abort', fail));"
        "window.fetch = (url, options = {}) => url.startsWith('v1') ? wait(options.signal) : real(url, options)"
    )
    browser.write("#question", QUESTION)
    browser.click("#ask")
    browser.click("#stop")
    browser.wait(lambda: browser.run("return document.querySelector('#result').ariaBusy") == "false")
    assert browser.text("#end") == "you"
    assert browser.text("#problem") == ""


def test_a_key_is_asked_for_where_the_server_wants_one(
    browser: Browser, study_folder: Path, serve: Any, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("a key of this test alone\n", encoding="utf-8")
    with serve(study_folder / "frozen.yaml", f"http.keys_file={tmp_path / 'keys'}", cwd=tmp_path) as locked:
        browser.show(f"{locked.url}/ui")
        browser.wait(lambda: browser.run("return !document.querySelector('#key-row').hidden"))
        ask(browser, QUESTION)
        assert browser.text("#problem") == "This server needs a key."
        assert browser.text("#facts") == ""
        browser.write("#key", "a wrong key")
        ask(browser, "")
        assert browser.text("#problem") == "This key is not accepted."
        browser.run("document.querySelector('#key').value = ''")
        browser.write("#key", "a key of this test alone")
        ask(browser, "")
        assert browser.text("#problem") == ""
        assert browser.text("#answer")
        assert browser.text("#facts")
