"""The page for people, in a headless Chromium: chromedriver speaks WebDriver, which is JSON over HTTP. Skipped where it is not
(`apt-get install chromium chromium-driver`)."""

from __future__ import annotations

import base64
import itertools
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import PATIENCE_S

from gpuqa.config.paths import PACKAGE

pytestmark = pytest.mark.engine

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's id, by the WebDriver standard
QUESTION = "什么是 warp？"
PHONE, DESKTOP = (390, 844), (1280, 900)


class Browser:
    """One window."""

    def __init__(self, driver: httpx.Client) -> None:
        self.driver = driver
        options = {"args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server"]}
        capabilities = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = ""
        self.session = "/session/" + self.command("/session", capabilities={"alwaysMatch": capabilities})["sessionId"]

    def command(self, path: str, **body: Any) -> Any:
        reply = self.driver.post(f"{self.session}{path}", json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()["value"]

    def devtools(self, name: str, **parameters: Any) -> Any:
        return self.command("/goog/cdp/execute", cmd=name, params=parameters)

    def show(self, url: str, language: str = "en", size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
        """Open a page as somebody with this language, window and taste."""
        agent = self.devtools("Browser.getVersion")["userAgent"]
        self.devtools("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=language)
        screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 2, "mobile": size is PHONE}
        self.devtools("Emulation.setDeviceMetricsOverride", **screen)
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.command("/url", url=url)
        self.wait(lambda: self.text("#state") in ("ready", "就绪"))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.command("/execute/sync", script=script, args=list(arguments))

    def element(self, selector: str) -> str:
        return f"/element/{self.command('/element', using='css selector', value=selector)[ELEMENT]}"

    def click(self, selector: str) -> None:
        self.command(f"{self.element(selector)}/click")

    def write(self, selector: str, text: str) -> None:
        self.command(f"{self.element(selector)}/value", text=text)

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).innerText", selector))

    def ask(self, question: str) -> None:
        """Type a question, press the button, wait for the end."""
        self.write("#question", question)
        self.click("#ask")
        self.wait(lambda: self.run("return document.querySelector('#result').ariaBusy") == "false")

    def wait(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, self.text("body")
            time.sleep(0.05)

    def screenshot(self, file: Path) -> None:
        height = self.run("return document.documentElement.scrollHeight")
        width = self.run("return innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """What the browser's console says of errors since the last call."""
        return [line["message"] for line in self.command("/se/log", type="browser") if line["level"] == "SEVERE"]


@contextmanager
def browsing() -> Iterator[Browser]:
    """A Chromium; ended with the block."""
    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("there is no chromedriver here: apt-get install chromium chromium-driver")
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        told = next(found for line in process.stdout if (found := re.search(r"started successfully on port (\d+)", line)))
        with httpx.Client(base_url=f"http://127.0.0.1:{told[1]}", timeout=PATIENCE_S, trust_env=False) as http:
            browser = Browser(http)
            yield browser
            http.delete(browser.session)
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as opened:
        yield opened


def test_a_question_is_asked_and_its_answer_watched_and_read(browser: Browser, service: Any) -> None:
    browser.show(f"{service.url}/ui")
    browser.run(
        "window.seen = []; new MutationObserver(() => seen.push(document.querySelector('#answer').textContent))"
        ".observe(document.querySelector('#answer'), {childList: true, characterData: true, subtree: true})"
    )
    browser.ask(QUESTION)
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
        browser.ask("")
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
    browser.ask(QUESTION)
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


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two CSS colours."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_it_needs_nothing_from_elsewhere(browser: Browser, service: Any) -> None:
    browser.show(f"{service.url}/ui")
    browser.ask(QUESTION)
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
        browser.ask(QUESTION)
        assert browser.text("#problem") == "This server needs a key."
        assert browser.text("#facts") == ""
        browser.write("#key", "a wrong key")
        browser.ask("")
        assert browser.text("#problem") == "This key is not accepted."
        browser.run("document.querySelector('#key').value = ''")
        browser.write("#key", "a key of this test alone")
        browser.ask("")
        assert browser.text("#problem") == ""
        assert browser.text("#answer")
        assert browser.text("#facts")
