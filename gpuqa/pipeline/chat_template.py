"""A chat template, rendered once for a prompt variant: the text before and after the user's turn.

A template is a Jinja program, mostly of the model's publisher. Some have no place for a system text, some keep only the last
turn, some write today's date. Each of these would silently change what is measured and is refused before an engine starts.
"""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

from gpuqa.config import UserError
from gpuqa.config.paths import find
from gpuqa.config.pipeline import PLACEHOLDER, PromptConfig, SystemIn

MARKER = "GPUQA-TEXT-{}-"  # stands for one message of the chat; no template writes it by itself
DATES = (  # they differ in year, month, day, weekday, hour, minute and second
    datetime.datetime(2001, 2, 3, 4, 5, 6),
    datetime.datetime(2026, 6, 21, 17, 48, 59),
    datetime.datetime(2077, 11, 30, 23, 31, 20),
)
JINJA = ("{{", "{%")  # how an expression and a statement begin
OURS = {  # prompt.template -> Jinja; `begin` is the token that the tokenizer puts before any text, "" for none
    "plain": "{{ begin }}{% for message in messages %}{{ message.content }}\n\n{% endfor %}",
    "chatml": (
        "{{ begin }}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{{ '<|im_start|>assistant\n' }}"  # Jinja takes a line break off the end of a template
    ),
}
CHATML_TOKENS = CHATML_BEGIN, CHATML_END = "<|im_start|>", "<|im_end|>"
ANOTHER = f"prompt.template={'|'.join(OURS)}|FILE"
REMEDY = f"use a prompt that this template can express, correct the template, or set {ANOTHER}"
SYSTEM_IN_USER = "prompt.system_in=user puts the system text into the first user turn"


def messages(prompt: PromptConfig, user_text: str) -> list[dict[str, str]]:
    """The chat of one question: system text, worked examples, the user's turn."""
    chat = []
    for example in prompt.examples:
        chat.append({"role": "user", "content": prompt.user.replace(PLACEHOLDER, example.question)})
        chat.append({"role": "assistant", "content": example.answer})
    chat.append({"role": "user", "content": user_text})
    if prompt.system and prompt.system_in is SystemIn.user:
        chat[0]["content"] = f"{prompt.system}\n\n{chat[0]['content']}"
        return chat
    return [{"role": "system", "content": prompt.system}, *chat] if prompt.system else chat


def with_template_text(prompt: PromptConfig) -> PromptConfig:
    """The prompt with the text of its template in place of the file's name, so that what is frozen needs no file.

    Raises:
        UserError: the file is absent, cannot be read, or holds no template.
    """
    if prompt.template is None or prompt.template in OURS or is_jinja(prompt.template):
        return prompt
    text = text_of_file(prompt.template)
    if not is_jinja(text):
        raise UserError(
            f"prompt.template: {prompt.template} is no Jinja template, since it has neither {' nor '.join(JINJA)}; "
            f"allowed: {ANOTHER}"
        )
    return replace(prompt, template=text)


def is_jinja(text: str) -> bool:
    """Whether a text is a template rather than the name of a file: without these marks, it could write no message."""
    return any(mark in text for mark in JINJA)


def text_of_file(name: str) -> str:
    """What a template's file holds.

    Raises:
        UserError: it is absent or cannot be read.
    """
    file = find(name, "prompt.template")
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"prompt.template: {file} cannot be read: {error}; allowed: {ANOTHER}") from error


def shown(template: str) -> str:
    """A value of `prompt.template` for a message: of a template's text, the beginning."""
    return quoted(template, 40) if is_jinja(template) else template


class ChatTemplate:
    """The chat template of one model, as one prompt variant uses it."""

    def __init__(self, tokenizer: Any, prompt: PromptConfig, model: str, enable_thinking: bool) -> None:
        """`model` is the model's folder, for messages.

        Raises:
            UserError: there is no template, or none that could be used.
        """
        self.tokenizer, self.prompt, self.enable_thinking = tokenizer, prompt, enable_thinking
        own, chosen = f"the chat template of model.path={model}", prompt.template
        self.where = f"prompt={prompt.name}: {own if chosen is None else f'prompt.template={shown(chosen)}'}"
        self.template = self._own(model) if prompt.template is None else self._chosen(prompt.template)
        if not self.template.strip():
            raise UserError(f"{self.where} is empty; set {ANOTHER}")
        self.names = names_of_messages(prompt)

    def _own(self, model: str) -> str:
        """The model's own template; of several, its default."""
        own = self.tokenizer.chat_template
        if own is None:
            raise UserError(
                f"prompt={self.prompt.name}: the tokenizer in model.path={model} has no chat template (a base model?); "
                f"set {ANOTHER}"
            )
        if isinstance(own, str):
            return own
        if "default" not in own:
            raise UserError(
                f"{self.where} is one of {', '.join(sorted(own))}, and none is the default; write the one that you want "
                f"into a file and set prompt.template=FILE"
            )
        return str(own["default"])

    def _chosen(self, name: str) -> str:
        """The template that the prompt names: one of ours, a file's, or the text itself."""
        if name not in OURS:
            return name if is_jinja(name) else text_of_file(name)
        absent = [token for token in CHATML_TOKENS if token not in self.tokenizer.get_vocab()]
        if name == "chatml" and absent:
            raise UserError(
                f"{self.where}: the tokenizer has no {' and no '.join(absent)}; set prompt.template=plain or a FILE"
            )
        return OURS[name]

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
                f"measured; write a fixed date into the template, or set {ANOTHER}"
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
            said, remedy = (
                quoted(message["content"]),
                f"{SYSTEM_IN_USER}; or {REMEDY}" if message["role"] == "system" else REMEDY,
            )
            if marker not in marked:
                raise UserError(f"{self.where} drops {name}: {said}; {remedy}")
            if marked.count(marker) > 1:
                raise UserError(f"{self.where} repeats {name}: {said}; {remedy}")
            if message["content"].strip() not in rendered:  # templates may strip; Qwen3's takes a thought out of an answer
                raise UserError(f"{self.where} drops a part of {name}: {said}; {remedy}")

    def _render(self, chat: list[dict[str, str]], now: datetime.datetime) -> str:
        """What the template makes of a chat at a date and time: an argument stands before transformers' own function."""
        from jinja2 import TemplateSyntaxError

        try:
            text: str = self.tokenizer.apply_chat_template(
                chat,
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=self.enable_thinking,
                strftime_now=now.strftime,
                begin=begin_of_text(self.tokenizer),
            )
        except TemplateSyntaxError as error:
            raise UserError(
                f"{self.where} is not valid Jinja: line {error.lineno}: {error.message}; correct it or set {ANOTHER}"
            ) from error
        except Exception as error:  # a template is a program: it raises whatever it likes, for example for a system role
            reason, has_system = " ".join(str(error).split()), chat[0]["role"] == "system"
            remedy = f"{SYSTEM_IN_USER}; or {REMEDY}" if has_system else REMEDY
            raise UserError(f"{self.where} refuses this chat ({', '.join(self.names)}): {reason}; {remedy}") from error
        return text


def begin_of_text(tokenizer: Any) -> str:
    """The token that the tokenizer puts before any text by itself, for the templates that are not the model's own."""
    begins = tokenizer.bos_token_id is not None and tokenizer.encode("")[:1] == [tokenizer.bos_token_id]
    return str(tokenizer.bos_token) if begins else ""


def names_of_messages(prompt: PromptConfig) -> list[str]:
    """What each of `messages` is, in words."""
    numbers = range(1, len(prompt.examples) + 1)
    examples = [name for number in numbers for name in (f"the question of example {number}", f"the answer of example {number}")]
    named = [*examples, "the user's turn"]
    if prompt.system and prompt.system_in is SystemIn.user:
        return [f"the system text with {named[0]}", *named[1:]]
    return ["the system text", *named] if prompt.system else named


def quoted(text: str, limit: int = 80) -> str:
    """A text for a message: where it is longer than `limit` characters, its beginning and an ellipsis."""
    return repr(text) if len(text) <= limit else f"{text[:limit]!r}…"
