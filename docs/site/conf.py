"""How Sphinx makes the site; `build.py` calls it on a copy of docs/ with the generated pages."""

from __future__ import annotations

import logging
import re

import jieba
from sphinx import search
from sphinx.search.en import SearchEnglish

jieba.setLogLevel(logging.WARNING)


class EnglishAndChinese(SearchEnglish):
    """The words of the search: English ones by their stems, and Chinese ones as jieba cuts them."""

    def split(self, input: str) -> list[str]:  # noqa: A002  (Sphinx calls it so)
        """The words of a text."""
        runs = re.findall(r"[\u4e00-\u9fff]+", input)
        return [
            *super().split(re.sub(r"[\u4e00-\u9fff]+", " ", input)),
            *(word for run in runs for word in jieba.cut_for_search(run)),
        ]


search.languages["en"] = EnglishAndChinese

project = "gpuqa"
copyright = "the gpuqa authors, Apache-2.0"  # noqa: A001  (Sphinx reads this name)
extensions = ["myst_parser"]
exclude_patterns = ["examples/*.ipynb"]
myst_heading_anchors = 4  # anchors as a code host makes them, so that one link works on both
html_theme = "furo"  # loads nothing from a network
html_title = "gpuqa"
html_show_sourcelink = html_copy_source = False
html_permalinks_icon = "#"
html_static_path, html_css_files = ["static"], ["site.css"]
