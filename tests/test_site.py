"""The site: it is built without a warning, loads nothing from a network, and its generated parts are those of the code."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import ROOT


class Addresses(HTMLParser):
    """The addresses of a page: what it loads, and where it leads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                (self.linked if tag == "a" else self.loaded).append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning, such as a link that leads nowhere or a page that no contents list, fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, str(ROOT / "docs" / "site" / "build.py"), str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "html"


@pytest.mark.slow
def test_the_site_loads_nothing_from_a_network_and_its_links_to_others_are_addresses(site):
    pages = {page: Addresses(page.read_text(encoding="utf-8")) for page in site.rglob("*.html")}
    assert len(pages) > 30
    for page, addresses in pages.items():
        assert not [address for address in addresses.loaded if urlsplit(address).netloc], page.name
        outside = [urlsplit(address) for address in addresses.linked if ":" in address.partition("/")[0]]
        assert not [parts for parts in outside if parts.scheme not in ("http", "https") or not parts.hostname], page.name
    styles = [file.read_text(encoding="utf-8") for file in site.rglob("*.css")]
    assert not [rule for style in styles for rule in re.findall(r"url\([\"']?(?:https?:)?//[^)]*|@import[^;]*//[^;]*", style)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "texts"),
    [
        ("metrics_reference", ["itl_ms_p99", "(latency - time to first token) / (output tokens - 1)", "NVML"]),
        ("tables_reference", ["question_id", "rouge_l_f1_interval_low", "datetime64"]),
        ("configuration_reference", ["workload.slo.ttft_ms", "selection=knee", "in flight, over all requests; beyond: 429"]),
        ("http_reference", ["POST /predict", "GET /readyz", "Request body", "prompt"]),
        ("findings", ["bash findings/hydra_float_range_includes_its_stop.sh", "Behaviour"]),
        ("your_own", ["你是 CUDA 专家", "finalists: 0"]),
        ("contributing", ["One noun, one file"]),
        ("zh/first_study", ["五分钟"]),
    ],
)
def test_a_page_holds_what_the_code_or_file_behind_it_says(site, page, texts):
    text = re.sub(r"<[^>]+>", "", (site / f"{page}.html").read_text(encoding="utf-8")).replace("&#39;", "'")
    assert not [words for words in texts if words not in text]


@pytest.mark.slow
def test_the_search_knows_chinese_words_of_a_sentence(site):
    index = (site / "searchindex.js").read_text(encoding="utf-8").encode().decode("unicode_escape", "ignore")
    assert {"量化", "胜者", "goodput"} <= set(re.findall(r"\w+", index))


def test_the_committed_pictures_are_those_that_the_script_draws(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "site")
    pictures: Any = importlib.import_module("pictures")
    committed = {file.name: file.read_text(encoding="utf-8") for file in pictures.FOLDER.glob("*.svg")}
    changed = {name for name, text in pictures.pictures().items() if committed.get(name) != text}
    assert not changed, "look at what changed, then run: python docs/site/pictures.py"
    assert set(committed) == set(pictures.pictures())
