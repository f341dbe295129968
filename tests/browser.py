"""One window of a headless Chromium: chromedriver speaks WebDriver, which is JSON over HTTP. Tests are skipped where it is not
(`apt-get install chromium chromium-driver`)."""

from __future__ import annotations

import base64
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

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's id, by the WebDriver standard
PHONE, DESKTOP = (390, 844), (1280, 900)


class Browser:
    """One window."""

    def __init__(self, driver: httpx.Client, ready: str) -> None:
        """`ready`: a script's expression that holds as soon as a page can be looked at."""
        self.driver, self.ready = driver, ready
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
        self.wait(lambda: bool(self.run(f"return {self.ready}")))

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
def browsing(ready: str) -> Iterator[Browser]:
    """A Chromium; ended with the block. `ready`: as in `Browser`."""
    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("there is no chromedriver here: apt-get install chromium chromium-driver")
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        told = next(found for line in process.stdout if (found := re.search(r"started successfully on port (\d+)", line)))
        with httpx.Client(base_url=f"http://127.0.0.1:{told[1]}", timeout=PATIENCE_S, trust_env=False) as http:
            browser = Browser(http, ready)
            yield browser
            http.delete(browser.session)
    finally:
        process.terminate()
        process.wait(30)


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two CSS colours."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
