"""Build the site from docs/; a link that leads nowhere, or a page that the contents do not list, fails the build.

    python docs/site/build.py                # to .cache/site/html; open index.html, no server and no network is needed
    python docs/site/build.py /tmp/site      # to /tmp/site/html

The pages of docs/ are copied, with some of the repository's other pages and those that are generated from the code. A link to
a file of the repository that is no page becomes its path.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT)]

import configuration_reference
import findings_list
import http_reference
import metrics_reference
import tables_reference
from sphinx.cmd.build import build_main

GENERATED: dict[str, Callable[[], str]] = {  # page -> what writes it
    "metrics_reference.md": metrics_reference.page,
    "tables_reference.md": tables_reference.page,
    "configuration_reference.md": configuration_reference.page,
    "http_reference.md": http_reference.page,
    "findings.md": findings_list.page,
}
TAKEN = {  # a page of the repository -> its name on the site
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "experiments/LOG.md": "log.md",
    "experiments/speed/README.md": "speed_scripts.md",
    "experiments/h200/README.md": "h200.md",
}
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"(?ms)(^ *```.*?^ *```$)")
SHOWN = re.compile(r"<!-- show (\S+) -->")  # a file of docs/ that stands on the page


def main() -> int:
    """Build -> exit code of Sphinx; every warning is an error."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".cache" / "site"
    source, html = folder / "source", folder / "html"
    for stale in (source, html):
        shutil.rmtree(stale, ignore_errors=True)
    write_pages(source)
    code: int = build_main(
        ["-q", "-W", "--keep-going", "-c", str(HERE), "-d", str(folder / "doctrees"), str(source), str(html)]
    )
    if code == 0:
        print(f"{html / 'index.html'}")
    return code


def write_pages(source: Path) -> None:
    """All pages of the site, with their links as they are there."""
    shutil.copytree(ROOT / "docs", source, ignore=shutil.ignore_patterns("site", "__pycache__"))
    pages = {path.relative_to(source): path.read_text(encoding="utf-8") for path in source.rglob("*.md")}
    pages |= {Path(page): (ROOT / origin).read_text(encoding="utf-8") for origin, page in TAKEN.items()}
    pages |= {Path(page): write() for page, write in GENERATED.items()}
    origins = {Path(page): Path(origin) for origin, page in TAKEN.items()}
    for page, text in pages.items():
        origin = origins.get(page, "docs" / page)
        (source / page).write_text(relinked(with_files(text), origin, page), encoding="utf-8")


def with_files(text: str) -> str:
    """A page with the files that it shows."""
    return SHOWN.sub(lambda found: f"```{found[1].rpartition('.')[2]}\n{(ROOT / 'docs' / found[1]).read_text()}```", text)


def relinked(text: str, origin: Path, page: Path) -> str:
    """A text whose relative links are those of its file `origin` in the repository, with those that `page` on the site has."""

    def link(found: re.Match[str]) -> str:
        words, (path, _, anchor) = found[1], found[2].partition("#")
        if re.match(r"\w+:", path) or not path:
            return found[0]
        target = Path(os.path.normpath(origin.parent / path))
        on_site = TAKEN.get(str(target)) or (target.relative_to("docs") if target.is_relative_to("docs") else None)
        if on_site is None:
            name = f"`{target}`"
            return name if words.strip("`") == str(target) else f"{words} ({name})"
        return f"[{words}]({os.path.relpath(on_site, page.parent)}{'#' + anchor if anchor else ''})"

    parts = FENCE.split(text)
    return "".join(part if place % 2 else LINK.sub(link, part) for place, part in enumerate(parts))


if __name__ == "__main__":
    sys.exit(main())
