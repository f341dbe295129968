"""What a file is that is not what it is taken for: seen by how it begins, so that a refusal can name it."""

from __future__ import annotations

import re

BEGINNING = 1024  # bytes that are enough to tell
POINTER, ZIP = "a git-LFS pointer", "a zip archive"
KINDS = {  # how a file begins -> what it is
    rb"version https://git-lfs\.github\.com/": POINTER,
    rb"(?i)(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)*<(?:!doctype html|html|head|body)\b": "an HTML page",
    rb"(?:\xef\xbb\xbf)?\s*<\?xml": "an XML file",
    rb"PK\x03\x04.{26}(?:\[Content_Types\]\.xml|_rels/|docProps/|xl/|mimetype)": "an Excel workbook or another Office file",
    rb"PK\x03\x04": ZIP,
    rb"\xd0\xcf\x11\xe0": "an Excel workbook or another file of old Office",
    rb"\x1f\x8b": "a gzip archive",
    rb"BZh[1-9]1AY": "a bzip2 archive",
    rb"\xfd7zXZ": "an xz archive",
    rb"7z\xbc\xaf": "a 7z archive",
    rb"Rar!": "a RAR archive",
    rb"%PDF-": "a PDF",
    rb"PAR1": "a Parquet file",
    rb"SQLite format 3": "an SQLite database",
}


def kind_of(beginning: bytes) -> str | None:
    """What a file is, with its article, by its first bytes (`BEGINNING` of them, or fewer if it is shorter); None for text and
    for everything that is not in the table."""
    return next((kind for pattern, kind in KINDS.items() if re.match(pattern, beginning, re.S)), None)
