"""A model's chat template, rendered once for a prompt variant: the text before and after the user's turn.

A template is a Jinja program of the model's publisher. Some have no place for a system text, some keep only the last turn,
some write today's date. Each of these would silently change what is measured, so they are refused before an engine starts.
"""

from __future__ import annotations

import datetime
from typing import Any

from gpuqa.config import UserError
from gpuqa.config.pipeline import PLACEHOLDER, PromptConfig

MARKER = "GPUQA-TEXT-{}-"  # stands for one message of the chat; no template writes it by itself
DATES = (  # they differ in year, month, day, weekday, hour, minute and second
    datetime.datetime(2001, 2, 3, 4, 5, 6),
    datetime.datetime(2026, 6, 21, 17, 48, 59),
    datetime.datetime(2077, 11, 30, 23, 31, 20),
)

REMEDY = "use a prompt that this template can express, or correct the chat template in the model's folder"


def messages(prompt: PromptConfig, user_text: str) -> list[dict[str, str]]:
    """The chat of one question: system text, worked examples, the user's turn."""
    chat = [{"role": "system", "content": prompt.system}] if prompt.system else []
    for example in prompt.examples:
        chat.append({"role": "user", "content": prompt.user.replace(PLACEHOLDER, example.question)})
        chat.append({"role": "assistant", "content": example.answer})
    return [*chat, {"role": "user", "content": user_text}]


class ChatTemplate:
    """The chat template of one model, as one prompt variant uses it."""

    def __init__(self, tokenizer: Any, prompt: PromptConfig, model: str, enable_thinking: bool) -> None:
        """`model` is the model's name, for messages."""
        self.tokenizer, self.prompt, self.enable_thinking = tokenizer, prompt, enable_thinking
        self.where = f"prompt={prompt.name}: the chat template of model={model}"
        self.names = names_of_messages(prompt)

    def around_user_text(self) -> tuple[str, str]:
        """The rendered text before and after the user's turn.

        Raises:
            UserError: the template fails, drops, changes or repeats a message, or comes out differently at another date.
        """
        self._refuse_lost_messages()
        marker = MARKER.format("user")
        chat = messages(self.prompt, marker)
        by_date = [{self._render(chat, date) for _ in range(2)} for date in DATES]
        if any(len(texts) > 1 for texts in by_date):
            raise UserError(f"{self.where} comes out differently each time, so no two runs would ask the same; {REMEDY}")
        if len(set.union(*by_date)) > 1:
            raise UserError(
                f"{self.where} writes the date (strftime_now), so the prompt that is served would not be the one that was "
                f"measured; write a fixed date into the chat template in the model's folder"
            )
        before, _, after = by_date[0].pop().partition(marker)
        return before, after

    def _refuse_lost_messages(self) -> None:
        """Raise a UserError unless every message of the chat is in what the template makes of it, once and unchanged."""
        chat = messages(self.prompt, MARKER.format("user"))
        markers = [MARKER.format(place) for place in range(len(chat))]
        marked = self._render([{**message, "content": marker} for message, marker in zip(chat, markers, strict=True)], DATES[0])
        rendered = self._render(chat, DATES[0])
        for name, marker, message in zip(self.names, markers, chat, strict=True):
            if marker not in marked:
                raise UserError(f"{self.where} drops {name}: {message['content']!r:.80}; {REMEDY}")
            if marked.count(marker) > 1:
                raise UserError(f"{self.where} repeats {name}: {message['content']!r:.80}; {REMEDY}")
            if message["content"].strip() not in rendered:  # templates may strip; Qwen3's takes a thought out of an answer
                raise UserError(f"{self.where} drops a part of {name}: {message['content']!r:.80}; {REMEDY}")

    def _render(self, chat: list[dict[str, str]], now: datetime.datetime) -> str:
        """What the template makes of a chat at a date and time: an argument stands before transformers' own function."""
        try:
            text: str = self.tokenizer.apply_chat_template(
                chat,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=self.enable_thinking,
                strftime_now=now.strftime,
            )
        except Exception as error:  # a template is a program: it raises whatever it likes, for example for a system role
            reason = " ".join(str(error).split())
            raise UserError(f"{self.where} refuses this chat ({', '.join(self.names)}): {reason}; {REMEDY}") from error
        return text


def names_of_messages(prompt: PromptConfig) -> list[str]:
    """What each of `messages` is, in words."""
    system = ["the system text"] if prompt.system else []
    numbers = range(1, len(prompt.examples) + 1)
    examples = [name for number in numbers for name in (f"the question of example {number}", f"the answer of example {number}")]
    return [*system, *examples, "the user's turn"]
