"""What a dataclass says of its fields: the comment beside each, as its author wrote it."""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
from dataclasses import fields


def comments_of(kind: type) -> dict[str, str]:
    """The comment of each field of a dataclass, also one of several lines; "" where it has none."""
    source = textwrap.dedent(inspect.getsource(kind))
    [node] = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    places = [(item.lineno, item.target.id) for item in node.body if isinstance(item, ast.AnnAssign)]  # type: ignore[union-attr]
    ends = [item.lineno for item in node.body if item.lineno > places[-1][0]] if places else []
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    borders = [*(line for line, _ in places), min(ends, default=source.count("\n") + 2)]
    said = {
        name: " ".join(text for place, text in comments.items() if line <= place < after)
        for (line, name), after in zip(places, borders[1:], strict=True)
    }
    inherited = [comments_of(base) for base in kind.__bases__ if base is not object]
    return {**{name: text for known in inherited for name, text in known.items()}, **said}


def docstring(kind: type) -> str:
    """The docstring of a class as Markdown."""
    return text_of(inspect.getdoc(kind) or "")


def text_of(text: str) -> str:
    """A comment or docstring as Markdown: what it quotes stays a quotation, and nothing becomes a tag or a column."""
    return text.replace("<", "&lt;").replace("|", "\\|")


def row(*cells: str) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def table(*headings: str) -> list[str]:
    """The head of a table."""
    return ["", row(*headings), row(*["---"] * len(headings))]


def field_names(kind: type) -> list[str]:
    """The fields of a dataclass in their order."""
    return [field.name for field in fields(kind)]
