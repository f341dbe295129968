"""A chat of one question and its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuqa.pipeline.dataset.files import Row
from gpuqa.pipeline.dataset.refusals import described, refuse, refuse_unsent, says_something

TURNS = (("role", "content"), ("from", "value"))  # what a turn's fields are called; the second is ShareGPT's
ROLES = {  # as rows write them -> in the words of `messages`
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}

NamedText = tuple[str, Any]  # where a text stands in its row, and the text, unchecked


def last_turns(row: Row, name: str, turns: Any, ignore: Sequence[str]) -> tuple[NamedText, NamedText]:
    """The question and the answer of a chat.

    Args:
        name: of the field that holds the turns.
        ignore: "system" and "history" if a system text and earlier turns are left out knowingly.

    Raises:
        UserError: the last two turns are not a user's and the assistant's, or something else would not be sent.
    """
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        refuse(row, f"{name} is {described(turns)}; it must be a list of turns, each with a role and a text")
    keys = next((keys for keys in TURNS if any(keys[0] in turn for turn in turns)), TURNS[0])
    roles = [role_of(row, f"{name}[{place}].{keys[0]}", turn.get(keys[0])) for place, turn in enumerate(turns)]
    texts = [(f"{name}[{place}].{keys[1]}", turn.get(keys[1])) for place, turn in enumerate(turns)]
    if roles[-2:] != ["user", "assistant"]:
        ends = ", ".join(roles[-2:]) or "nothing"
        refuse(row, f"{name} must end with a user's turn and the assistant's answer, and ends with {ends}")
    for role, (place, text) in zip(roles, texts, strict=True):
        if role == "system" and says_something(text):
            refuse_unsent(row, "system", f"{place} is {described(text)}", ignore)
    if earlier := len(roles) - roles.count("system") - 2:
        refuse_unsent(row, "history", f"{name} holds {earlier} turns before the last question", ignore)
    return texts[-2], texts[-1]


def role_of(row: Row, name: str, role: Any) -> str:
    """Whose turn it is."""
    if not isinstance(role, str) or role.strip().lower() not in ROLES:
        refuse(row, f"{name} is {described(role)}; it must be one of {', '.join(ROLES)}")
    return ROLES[role.strip().lower()]
