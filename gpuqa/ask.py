"""Ask one question: a frozen winner, any cell, or a running server; the answer is streamed, then come its numbers.

    python -m gpuqa.ask "什么是 warp？" frozen=experiments/embedded/frozen.yaml
    python -m gpuqa.ask "What is a warp?" prompt=expert sampling.max_tokens=64    # a cell, composed as gpuqa.sweep composes one
    GPUQA_KEYS=... python -m gpuqa.ask "什么是 warp？" url=http://127.0.0.1:8000    # or keys_file=FILE
    python -m gpuqa.ask - json=true                          # the question from standard input, one JSON object

A frozen winner is checked as gpuqa.serve checks it. The engine answers a question of the warm-up first, so that the numbers are
those of an engine that has answered before. What it prints goes to a file that is kept, and named, if there is no answer.
In a pipe the answer goes to standard output, its numbers to standard error. A question like KEY=VALUE goes in by `-`.
Exit codes: 0 answered, 1 no answer, 2 wrong input or no server that is ready, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from gpuqa import frozen
from gpuqa.config import UserError, check
from gpuqa.config.app import run_command
from gpuqa.config.commands import AskConfig, ServeConfig, resolve
from gpuqa.config.pipeline import PipelineConfig
from gpuqa.engines import EngineFailed
from gpuqa.machine.captured_output import captured, root_cause
from gpuqa.measure import fingerprint
from gpuqa.pipeline.chat_template import with_template_text
from gpuqa.pipeline.pipeline import Pipeline, checked_tokenizer, start_engine, warm_up, warmup_questions
from gpuqa.records import Completion
from gpuqa.serving.client import Heard, NoAnswer, Server, chat
from gpuqa.study.cell_checks import CellChecks

FAILED = 1
STDIN = "-"
OVERRIDE = re.compile(r"~|[+]{0,2}[A-Za-z_][A-Za-z0-9_./@]*=(?!=)")
WITH_FOLDER = ("--config-dir", "-cd", "--cfg", "-c")  # flags whose next word is theirs
OF_FROZEN = {"frozen", "allow_mismatch", "trust_frozen", "model_path"}
OF_URL = {"url", "keys_file", "keys_variable", "timeout_s"}


def main() -> None:
    """Enter with conf/ask.yaml, and the words that are no overrides."""
    words, overrides = split(sys.argv[1:])
    sys.argv[1:] = overrides
    os.register_at_fork(after_in_child=os.setpgrp)  # else Ctrl-C would reach an engine before it is closed
    run_command(partial(ask, words), "ask")


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of the question, and all others."""
    words, others = list[str](), list[str]()
    for before, word in pairwise(["", *argv]):
        is_other = before in WITH_FOLDER or OVERRIDE.match(word) or (word.startswith("-") and word != STDIN)
        (others if is_other else words).append("json=true" if word == "--json" else word)
    return words, others


@dataclass(frozen=True, slots=True)
class Numbers:
    """What an answer took; None where a server does not tell."""

    ttft_ms: float | None  # from the question to the first token; of a server, to the first text that came
    e2e_latency_ms: float  # to the end
    output_tokens: int | None
    output_tokens_per_s: float | None  # output_tokens / end-to-end latency
    chars: int
    chars_per_s: float  # chars / end-to-end latency
    prompt_tokens: int | None
    cached_tokens: int | None  # of them, out of the prefix cache
    finish_reason: str
    question_was_cut: bool

    @property
    def line(self) -> str:
        """All of it, for people."""
        ttft = "n/a" if self.ttft_ms is None else f"{self.ttft_ms:,.0f} ms"
        speed = "n/a" if self.output_tokens_per_s is None else f"{self.output_tokens_per_s:,.0f}"
        tokens, prompt, cached = (
            "n/a" if count is None else f"{count:,}" for count in (self.output_tokens, self.prompt_tokens, self.cached_tokens)
        )
        end = "length: TRUNCATED at the most tokens of an answer" if self.finish_reason == "length" else self.finish_reason
        cut = "; the question was too long and its middle was left out" if self.question_was_cut else ""
        line = f"TTFT {ttft}, {tokens} tokens, {speed} tokens/s, {self.chars_per_s:,.0f} chars/s"
        line += f", {self.e2e_latency_ms / 1000:.2f} s in all, {prompt} prompt tokens ({cached} cached)"
        return f"{line}, finish reason {end}{cut}"


class Screen:
    """Where the answer goes: to the terminal or the pipe that this process began with, whatever an engine prints meanwhile."""

    def __init__(self, as_json: bool) -> None:
        self.as_json, self.text = as_json, ""
        self.out, self.err = (os.fdopen(os.dup(number), "w", encoding="utf-8", errors="replace") for number in (1, 2))
        self.terminal = self.out.isatty()

    def note(self, text: str) -> None:
        """Something beside the answer."""
        print(text, file=self.err, flush=True)

    def say(self, piece: str) -> None:
        """A piece of the answer, at once. What a model writes must not steer a terminal."""
        self.text += piece
        if not self.as_json:
            plain = (sign if sign.isprintable() or sign in "\n\t" else "\ufffd" for sign in piece)
            print("".join(plain) if self.terminal else piece, end="", file=self.out, flush=True)

    def end(self, question: str, source: str, numbers: Numbers) -> None:
        """The numbers of the answer."""
        if self.as_json:
            values = {"question": question, "answer": self.text, "source": source, **asdict(numbers)}
            values["truncated"] = numbers.finish_reason == "length"
            print(json.dumps(values, ensure_ascii=False), file=self.out, flush=True)
            return
        print(file=self.out, flush=True)
        print(numbers.line, file=self.out if self.terminal else self.err, flush=True)


def ask(words: Sequence[str], composed: Any) -> int:
    """The words of the question and the composed config -> exit code."""
    config = resolve(composed, AskConfig)
    refuse_beside(config, [str(word) for word in composed.hydra.overrides.task])
    question, screen = question_of(words), Screen(config.json)
    try:
        if config.url is not None:
            numbers = asked_server(config, question, screen)
        else:
            pipeline = cell(config) if config.frozen is None else winner(config)
            numbers = asked_pipeline(*pipeline, question, screen)
    except (NoAnswer, EngineFailed) as error:
        print(f"{chr(10) * bool(screen.text)}error: {error}", file=sys.stderr)
        return FAILED
    screen.end(question, config.url or config.frozen or "cell", numbers)
    return 0


def refuse_beside(config: AskConfig, overrides: Sequence[str]) -> None:
    """Raise a UserError for an override that would be without effect, since a frozen file or a server decides that."""
    sources = {"frozen": (config.frozen, OF_FROZEN), "url": (config.url, OF_URL)}
    given = {name: own for name, (value, own) in sources.items() if value is not None}
    for key, word in ((re.split(r"[=@.]", word.lstrip("+~"))[0], word) for word in overrides):
        for name, own in given.items():
            if key not in {*own, "json"}:
                raise UserError(f"{key}: {name}=... decides what answers, and {word} would change nothing; leave one out")
        needed = next((name for name, (value, own) in sources.items() if value is None and key in own - {name}), None)
        if needed:
            raise UserError(f"{key}: belongs to {needed}=..., which is not given")


def question_of(words: Sequence[str]) -> str:
    """The question in the words of the command line, or in standard input.

    Raises:
        UserError: there is none.
    """
    if STDIN in words:
        check(len(words) == 1, "question", " ".join(words), f"{STDIN!r} alone, or the question's words")
        text = sys.stdin.buffer.read().decode("utf-8", errors="replace")
    else:
        text = " ".join(words)
    if not text.strip():
        where = "standard input is empty" if STDIN in words else "there is none" if not words else "it is empty"
        raise UserError(f"""question: {where}; write python -m gpuqa.ask "..." or pipe one into python -m gpuqa.ask {STDIN}""")
    return text.strip()


def asked_server(config: AskConfig, question: str, screen: Screen) -> Numbers:
    """The answer of a running server."""
    server, heard = Server.of(str(config.url), config.keys_file, config.keys_variable), Heard()
    for piece in chat(server, question, config.timeout_s, heard):
        screen.say(piece)
    usage = heard.usage or {}
    details = usage.get("prompt_tokens_details") or {}
    output = usage.get("completion_tokens")
    return Numbers(
        ttft_ms=heard.first_s and heard.first_s * 1000,
        e2e_latency_ms=heard.end_s * 1000,
        output_tokens=output,
        output_tokens_per_s=None if output is None else output / heard.end_s,
        chars=len(screen.text),
        chars_per_s=len(screen.text) / heard.end_s,
        prompt_tokens=usage.get("prompt_tokens"),
        cached_tokens=details.get("cached_tokens"),
        finish_reason=str(heard.finish_reason),
        question_was_cut=bool(details.get("question_was_cut")),
    )


def winner(config: AskConfig) -> tuple[PipelineConfig, Any]:
    """The frozen pipeline and its tokenizer, after the checks of `gpuqa.serve`.

    Raises:
        UserError: what `gpuqa.serve` would say.
    """
    from gpuqa.serve import verify, warn_of_another_machine  # with a web server: half a second

    path = Path(str(config.frozen))
    content = frozen.read(path)
    pipeline = frozen.pipeline_config(content, path, config.trust_frozen)
    if config.model_path is not None:
        pipeline = replace(pipeline, model=replace(pipeline.model, path=config.model_path))
    settings = ServeConfig(str(path), allow_mismatch=config.allow_mismatch, model_path=config.model_path)
    tokenizer = verify(settings, content, pipeline)
    warn_of_another_machine(content, fingerprint.environment())
    return pipeline, tokenizer


def cell(config: AskConfig) -> tuple[PipelineConfig, Any]:
    """The pipeline of a cell and its tokenizer, after the checks of `gpuqa.sweep` that need no questions."""
    checks = CellChecks()
    config = replace(config, prompt=with_template_text(config.prompt))
    checks.model(config.model)
    checks.check_engine(config)
    return config, checked_tokenizer(config)


def asked_pipeline(config: PipelineConfig, tokenizer: Any, question: str, screen: Screen) -> Numbers:
    """The answer of an engine that is started for it; what that prints is kept if there is none."""
    if config.model.note:
        screen.note(config.model.note)
    descriptor, name = tempfile.mkstemp(prefix="gpuqa-ask-", suffix=".log")
    os.close(descriptor)
    log = Path(name)
    if not screen.as_json:
        screen.note(f"starting {config.engine.name}; what it prints goes to {log}")
    try:
        with captured(log):
            completion, seconds = asyncio.run(streamed(config, tokenizer, question, screen))
    except EngineFailed as error:
        cause = root_cause(log.read_text(encoding="utf-8", errors="replace"), str(error))
        raise EngineFailed(f"{cause}; what the engine printed: {log}") from error
    except BaseException:
        log.unlink()
        raise
    log.unlink()
    if completion.error:
        raise NoAnswer(completion.error)
    return numbers_of(completion, seconds)


async def streamed(config: PipelineConfig, tokenizer: Any, question: str, screen: Screen) -> tuple[Completion, float]:
    """The answer, shown as it comes, and how long it took, s."""
    pipeline = Pipeline(await start_engine(config), tokenizer, config)
    try:
        await warm_up(pipeline, warmup_questions(config.model, never={question})[:1], batch=1)
        began = time.perf_counter()
        async with aclosing(pipeline.stream(question)) as deltas:
            async for delta in deltas:
                screen.say(delta.text)
        assert delta.completion is not None
        return delta.completion, time.perf_counter() - began
    finally:
        await pipeline.close()


def numbers_of(completion: Completion, seconds: float) -> Numbers:
    """What an answer of a pipeline took."""
    return Numbers(
        ttft_ms=None if completion.first_token_s is None else completion.first_token_s * 1000,
        e2e_latency_ms=seconds * 1000,
        output_tokens=completion.output_tokens,
        output_tokens_per_s=completion.output_tokens / seconds,
        chars=len(completion.text),
        chars_per_s=len(completion.text) / seconds,
        prompt_tokens=completion.prompt_tokens,
        cached_tokens=completion.cached_tokens,
        finish_reason=completion.finish_reason,
        question_was_cut=completion.question_was_cut,
    )


if __name__ == "__main__":
    main()
