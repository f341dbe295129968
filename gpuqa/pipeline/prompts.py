"""Question -> chat messages -> token ids.

The chat template is rendered once for a prompt variant (`gpuqa.pipeline.chat_template`); a request only tokenises the
user's text. In that text `<|im_start|>` is made of plain characters and never a token that means something to the model, and so
is every other token that is special or that the chat template writes, such as Qwen3's `<think>`.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from gpuqa.config import UserError
from gpuqa.config.paths import find_model
from gpuqa.config.pipeline import PLACEHOLDER, ModelConfig, PromptConfig
from gpuqa.pipeline.chat_template import ChatTemplate
from gpuqa.pipeline.model_folder import check_tokenizer, present
from gpuqa.records import EncodedPrompt

GAP = "…"  # stands where the middle of an over-long question was
CACHED_WORDS = 256
CHARS_PER_TOKEN = 8  # more than text has on average: English has 4 to 5, source code with its indentation 3 to 4
SLICE_CHARS = 250_000  # the tokenizer needs some 100 bytes a character while it works, and half a second for these


def load_tokenizer(model: ModelConfig) -> Any:
    """The tokenizer in a model's folder.

    Raises:
        UserError: the folder is absent or holds no usable tokenizer; the message names it.
    """
    folder = find_model(model)
    check_tokenizer(folder)
    from transformers import AutoTokenizer  # seconds to import

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=model.trust_remote_code, local_files_only=True)
    except Exception as error:  # the Rust library raises bare ones, and what transformers raises depends on the damage
        reason = " ".join(str(error).split())
        raise UserError(f"model.path: {folder} holds no usable tokenizer ({present(folder)}): {reason}") from error
    if tokenizer.is_fast:
        bound_cache(tokenizer.backend_tokenizer)
    return tokenizer


def bound_cache(rust: Any) -> None:
    """Let the Rust tokenizer remember fewer words: it keeps the first 10,000 that it meets, for each thread that encodes, so
    that a server's memory grows for hours (experiments/LOG.md).

    To it, Chinese without a space or a comma is one word, some 3 KiB in the cache, and new in every question: what is kept is
    hardly ever asked for again. Models without a cache have no such method.
    """
    if hasattr(rust.model, "_resize_cache"):
        rust.model._resize_cache(CACHED_WORDS)


def decode_all(tokenizer: Any, token_ids: Sequence[list[int]]) -> list[str]:
    """Text without control tokens. transformers decodes one after the other; its Rust tokenizer, all of them in parallel."""
    if tokenizer.is_fast and not tokenizer.clean_up_tokenization_spaces:
        texts: list[str] = tokenizer.backend_tokenizer.decode_batch(token_ids, skip_special_tokens=True)
        return texts
    return [tokenizer.decode(answer, skip_special_tokens=True) for answer in token_ids]


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


class PromptEncoder:
    """Turns questions into token ids that leave room for the answer. The study, the server and the bounds all use this one."""

    def __init__(self, tokenizer: Any, prompt: PromptConfig, room: int, enable_thinking: bool, model: str) -> None:
        """`room`: how many tokens a prompt may take at most; `model`: the model's folder, for messages.

        Raises:
            UserError: the prompt variant alone takes all the room, or there is no chat template that can express it.
        """
        self.tokenizer, self.prompt, self.room = tokenizer, prompt, room
        template = ChatTemplate(tokenizer, prompt, model, enable_thinking)
        before, after = template.around_user_text()
        self.before: list[int] = tokenizer.encode(before, add_special_tokens=False)
        self.after: list[int] = tokenizer.encode(after, add_special_tokens=False)
        self.rust = for_questions(tokenizer, marks_of(tokenizer, template.template)) if tokenizer.is_fast else None
        self.in_thought = after.rfind("<think>") > after.rfind("</think>")  # the answer begins within a thought
        needed = len(self.before) + len(self._user(GAP)) + len(self.after)
        if needed > room:
            raise UserError(
                f"prompt={prompt.name} takes {needed} tokens without any question, but engine.args.max_model_len less "
                f"sampling.max_tokens leaves {room}: shorten the prompt or change one of them"
            )

    @property
    def digest(self) -> str:
        """sha256 over the token ids of all that surrounds a question: of the chat before the user's turn, of the words around
        the question within that turn, and of the chat after it. Two variants with one digest ask the model the same."""
        around = [self.before, *map(self._plain, self.prompt.user.split(PLACEHOLDER)), self.after]
        return hashlib.sha256(json.dumps(around).encode()).hexdigest()

    def encode(self, question: str) -> EncodedPrompt:
        """Token ids of one question; the middle of an over-long one is taken out, because its ends say the most."""
        return self.encode_all([question])[0]

    def encode_all(self, questions: Sequence[str]) -> list[EncodedPrompt]:
        """Token ids of many questions: one call of the tokenizer takes a third of the time of one call each.

        Time and memory are bounded: of a question that has more than `CHARS_PER_TOKEN` characters for each token of room, only
        so many are read, half of them at either end, and the tokenizer gets about `SLICE_CHARS` characters at a time.
        """
        bounded = ["" if self._is_huge(question) else question for question in questions]
        users = (user for part in slices(bounded) for user in self._all_plain([self._turn(text) for text in part]))
        return [self._fit(question, user) for question, user in zip(questions, users, strict=True)]

    def _is_huge(self, question: str) -> bool:
        """Whether a question has more characters than could fit in the room as tokens of any usual text."""
        return len(question) > CHARS_PER_TOKEN * self.room

    def _fit(self, question: str, user: list[int]) -> EncodedPrompt:
        """The whole prompt of a question whose turn is `user`, cut where it is too long."""
        limit = self.room - len(self.before) - len(self.after)
        was_cut = self._is_huge(question) or len(user) > limit
        if was_cut:
            reach = CHARS_PER_TOKEN * self.room // 2  # in characters, from either end
            ends = self._plain(question[:reach]), self._plain(question[-reach:])
            keep = limit - len(self._user("")) - len(self._plain(GAP))
            while len(user := self._user(self._ends(*ends, keep))) > limit and keep > 0:
                keep -= max(1, len(user) - limit)  # cutting inside a word can cost a few tokens more
        return EncodedPrompt(token_ids=[*self.before, *user, *self.after], question_was_cut=was_cut)

    def _ends(self, head: list[int], tail: list[int], keep: int) -> str:
        """The first tokens of `head` and the last ones of `tail`, `keep` of them together, as text with a gap between."""
        keep = max(keep, 0)
        halves = (head[: keep - keep // 2], tail[len(tail) - min(len(tail), keep // 2) :])
        return GAP.join(self.tokenizer.decode(half).strip("\ufffd") for half in halves)

    def _user(self, question: str) -> list[int]:
        return self._plain(self._turn(question))

    def _turn(self, question: str) -> str:
        return self.prompt.user.replace(PLACEHOLDER, question)

    def _plain(self, text: str) -> list[int]:
        return self._all_plain([text])[0]

    def _all_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts in which nothing is a control token."""
        sound = [text.encode(errors="replace").decode() for text in texts]  # JSON can hold half a surrogate pair: no text
        if self.rust is not None:  # transformers takes longer around it than it needs for a question
            return [encoding.ids for encoding in self.rust.encode_batch_fast(sound, add_special_tokens=False)]
        encoded = self.tokenizer(
            sound, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
        )
        token_ids: list[list[int]] = encoded["input_ids"]
        return token_ids


def marks_of(tokenizer: Any, template: str) -> tuple[str, ...]:
    """The added tokens that the chat template writes although they are not special.

    A publisher need not call the marks of a chat special: Qwen3 does not for `<think>`, others do not even for the mark between
    two turns. Other added tokens are words, such as runs of blanks, and stay in a question what they are.
    """
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if not token.special]
    return tuple(text for text in added if text.strip() and text in template)


@functools.lru_cache(maxsize=8)
def for_questions(tokenizer: Any, marks: tuple[str, ...]) -> Any:
    """The Rust tokenizer that finds neither a special token nor one of `marks` in a text.

    Where there are marks it is a copy, since the tokenizer itself says which tokens an answer shows. A copy of Qwen3's size
    takes 0.7 s, so all cells of a study share it. It cuts and pads nothing: `encode` was called before.
    """
    rust = tokenizer.backend_tokenizer
    if marks:
        rust = type(rust).from_str(rust.to_str())
        rust.add_special_tokens(list(marks))
        bound_cache(rust)
    rust.encode_special_tokens = True
    return rust


def slices(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in their order, as many at a time as have `SLICE_CHARS` characters together, at least one."""
    begin, size = 0, 0
    for place, text in enumerate(texts):
        if place > begin and size + len(text) > SLICE_CHARS:
            yield texts[begin:place]
            begin, size = place, 0
        size += len(text)
    yield texts[begin:]
