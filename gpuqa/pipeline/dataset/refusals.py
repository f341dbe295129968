"""What is said about a row that cannot be used: which field, what is in it, which name may be meant."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any, NoReturn

from gpuqa.config import UserError
from gpuqa.pipeline.dataset.files import Row

MOST_LISTED = 20  # fields in one message

UNSENT = {  # what belongs to a question and has no place in a prompt, as `dataset.ignore` calls it -> what to do
    "system": "write it into a prompt file (prompt.system), which is the same for all rows",
    "history": "write the earlier turns into the question",
    "context": "write it into the question",
    "options": "write it into the question",
}


def refuse(row: Row, why: str) -> NoReturn:
    """Raise the UserError about a row."""
    raise UserError(f"{row.place} {why}" if why.startswith(("is ", "has ", "can ")) else f"{row.place}: {why}")


def refuse_unsent(row: Row, kind: str, what: str, ignore: Sequence[str]) -> None:
    """Raise a UserError for something of a question that no prompt has a place for, unless `dataset.ignore` names its kind."""
    if kind not in ignore:
        refuse(row, f"{what}, which would not be sent; {UNSENT[kind]}, or leave it out: 'dataset.ignore=[{kind}]'")


def listed(names: Collection[str], known: Sequence[str]) -> str:
    """Names of fields, each that is unknown with the known one that may be meant; of very many the first."""
    texts = []
    for name in islice(names, MOST_LISTED):
        near = [] if name in known else get_close_matches(name, known, 1)
        texts.append(f"{name!r} (did you mean {near[0]!r}?)" if near else repr(name))
    more = [f"... ({len(names)} in all)"] if len(names) > MOST_LISTED else []
    return ", ".join([*texts, *more]) or "none"


def is_blank(value: Any) -> bool:
    """Whether a field is as good as absent."""
    return value is None or (isinstance(value, str) and not value.strip())


def says_something(value: Any) -> bool:
    """Whether a field holds anything."""
    return bool(value.strip() if isinstance(value, str) else value)


def described(value: Any) -> str:
    """A value and what it is, for messages."""
    match value:
        case None:
            return "null"
        case bool():
            return f"{str(value).lower()}, a truth value"
        case int() | float():
            return f"{value!r:.40}, a number"
        case str():
            return f"{value!r:.40}, text" if value.strip() else "blank"
        case list():
            return f"a list of {len(value)}" if value else "an empty list"
        case dict():
            return "an object"
        case _:
            return f"a {type(value).__name__}"
