"""Question -> chat messages -> token ids.

The chat template is rendered once for a prompt variant, around a marker where the user's text goes; a request only
tokenises the user's text. That text is encoded with special tokens split into plain characters, so `<|im_start|>`
inside a question is text and never a control token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuqa.config import UserError
from gpuqa.config.model_files import VOCABULARY_FILES
from gpuqa.config.paths import find
from gpuqa.config.pipeline import PLACEHOLDER, ModelConfig, PromptConfig
from gpuqa.records import EncodedPrompt

MARKER = "GPUQA-USER-TEXT"
GAP = "…"  # stands where the middle of an over-long question was
CACHED_WORDS = 256


def load_tokenizer(model: ModelConfig) -> Any:
    """The tokenizer in a model's folder.

    Raises:
        UserError: the folder is absent, holds no tokenizer or no chat template; the message names it.
    """
    from transformers import AutoTokenizer  # seconds to import

    folder = find(model.path, "model.path")
    try:
        if not any((folder / name).is_file() for name in VOCABULARY_FILES):  # transformers would make an empty one up
            raise ValueError(f"none of {', '.join(VOCABULARY_FILES)}")
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=model.trust_remote_code, local_files_only=True)
    except (OSError, ValueError) as error:
        present = ", ".join(sorted(path.name for path in folder.glob("*"))[:12]) or "nothing"
        raise UserError(f"model.path: {folder} holds no usable tokenizer (there is: {present}): {error}") from error
    if not tokenizer.chat_template:
        raise UserError(f"model.path: the tokenizer in {folder} has no chat template, so prompts cannot be built")
    bound_cache(tokenizer)
    return tokenizer


def bound_cache(tokenizer: Any) -> None:
    """Let the Rust tokenizer remember fewer words: it keeps the first 10,000 that it meets, for each thread that encodes, so
    that a server's memory grows for hours (experiments/LOG.md).

    To it, Chinese without a space or a comma is one word, some 3 KiB in the cache, and new in every question: what is kept is
    hardly ever asked for again. Models without a cache have no such method.
    """
    if tokenizer.is_fast and hasattr(tokenizer.backend_tokenizer.model, "_resize_cache"):
        tokenizer.backend_tokenizer.model._resize_cache(CACHED_WORDS)


def decode_all(tokenizer: Any, token_ids: Sequence[list[int]]) -> list[str]:
    """Text without control tokens. transformers decodes one after the other; its Rust tokenizer, all of them in parallel."""
    if tokenizer.is_fast and not tokenizer.clean_up_tokenization_spaces:
        texts: list[str] = tokenizer.backend_tokenizer.decode_batch(token_ids, skip_special_tokens=True)
        return texts
    return [tokenizer.decode(one, skip_special_tokens=True) for one in token_ids]


class TextStream:
    """Text of one answer whose tokens come in pieces: whole characters only, which add up to what `decode_all` makes of all
    tokens. A character may be spread over several tokens; it is handed on with the last of them."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.steady = tokenizer.is_fast and not tokenizer.clean_up_tokenization_spaces  # else later tokens change earlier text
        self.context: list[int] = []  # tokens of what was handed on last: some tokenizers look back at them
        self.pending: list[int] = []  # tokens whose characters are not whole yet

    def feed(self, token_ids: Sequence[int]) -> str:
        """The characters that these tokens complete."""
        self.pending += token_ids
        text = self.finish() if self.steady else ""
        if not text or text.endswith("\ufffd"):
            return ""
        self.context, self.pending = self.pending, []
        return text

    def finish(self) -> str:
        """The rest, broken characters and all."""
        before, all_of_it = decode_all(self.tokenizer, [self.context, [*self.context, *self.pending]])
        return all_of_it[len(before) :]


def messages(prompt: PromptConfig, user_text: str) -> list[dict[str, str]]:
    """The chat of one question: system text, worked examples, the user's turn."""
    chat = [{"role": "system", "content": prompt.system}] if prompt.system else []
    for example in prompt.examples:
        chat.append({"role": "user", "content": prompt.user.replace(PLACEHOLDER, example.question)})
        chat.append({"role": "assistant", "content": example.answer})
    return [*chat, {"role": "user", "content": user_text}]


class PromptEncoder:
    """Turns questions into token ids that leave room for the answer."""

    def __init__(self, tokenizer: Any, prompt: PromptConfig, room: int, enable_thinking: bool) -> None:
        """`room`: the most tokens that a prompt may take.

        Raises:
            UserError: the prompt variant alone takes all the room.
        """
        self.tokenizer, self.prompt, self.room = tokenizer, prompt, room
        rendered = tokenizer.apply_chat_template(
            messages(prompt, MARKER), tokenize=False, add_generation_prompt=True, enable_thinking=enable_thinking
        )
        before, marker, after = rendered.partition(MARKER)
        assert marker, "the chat template dropped the user's turn"
        self.before: list[int] = tokenizer.encode(before, add_special_tokens=False)
        self.after: list[int] = tokenizer.encode(after, add_special_tokens=False)
        self.in_thought = after.rfind("<think>") > after.rfind("</think>")  # the answer begins within a thought
        needed = len(self.before) + len(self._user(GAP)) + len(self.after)
        if needed > room:
            raise UserError(
                f"prompt={prompt.name} takes {needed} tokens without any question, but engine.args.max_model_len less "
                f"sampling.max_tokens leaves {room}: shorten the prompt or change one of them"
            )

    def encode(self, question: str) -> EncodedPrompt:
        """Token ids of one question; the middle of an over-long one is taken out, its ends say most."""
        return self.encode_all([question])[0]

    def encode_all(self, questions: Sequence[str]) -> list[EncodedPrompt]:
        """Token ids of many questions: one call of the tokenizer takes a third of the time of one call each."""
        users = self._all_plain([self.prompt.user.replace(PLACEHOLDER, question) for question in questions])
        return [self._fit(question, user) for question, user in zip(questions, users, strict=True)]

    def _fit(self, question: str, user: list[int]) -> EncodedPrompt:
        """The whole prompt of a question whose turn is `user`, cut where it is too long."""
        limit = self.room - len(self.before) - len(self.after)
        was_cut = len(user) > limit
        if was_cut:
            plain = self._plain(question)
            keep = limit - len(self._user("")) - len(self._plain(GAP))
            while len(user := self._user(self._cut(plain, keep))) > limit and keep > 0:
                keep -= max(1, len(user) - limit)  # cutting inside a word can cost a few tokens more
        return EncodedPrompt(token_ids=[*self.before, *user, *self.after], question_was_cut=was_cut)

    def _cut(self, token_ids: list[int], keep: int) -> str:
        """The first and last tokens of a text, `keep` of them together."""
        keep = max(keep, 0)
        head, tail = token_ids[: keep - keep // 2], token_ids[len(token_ids) - keep // 2 :]
        halves = (self.tokenizer.decode(half).strip("\ufffd") for half in (head, tail))
        return GAP.join(halves)

    def _user(self, question: str) -> list[int]:
        return self._plain(self.prompt.user.replace(PLACEHOLDER, question))

    def _plain(self, text: str) -> list[int]:
        return self._all_plain([text])[0]

    def _all_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts in which nothing is a control token."""
        sound = [text.encode(errors="replace").decode() for text in texts]  # JSON can hold half a surrogate pair: no text
        if self.tokenizer.is_fast:  # transformers takes longer around the Rust tokenizer than that needs for a question
            rust = self.tokenizer.backend_tokenizer  # cuts and pads nothing since `encode` was called above
            rust.encode_special_tokens = True
            return [encoding.ids for encoding in rust.encode_batch_fast(sound, add_special_tokens=False)]
        found = self.tokenizer(
            sound, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
        )
        token_ids: list[list[int]] = found["input_ids"]
        return token_ids
