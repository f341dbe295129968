"""Prompt + engine: question in, completion out. The object that is measured is the object that is served."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any, Self, TypeVar

from gpuqa.config.paths import find, find_model
from gpuqa.config.pipeline import ModelConfig, PipelineConfig
from gpuqa.engines import BACKENDS, Engine, EngineFailed, width_of_engine
from gpuqa.pipeline.dataset import read_questions
from gpuqa.pipeline.model_folder import check_length, check_weights
from gpuqa.pipeline.postprocess import Postprocessor, postprocess
from gpuqa.pipeline.prompts import PromptEncoder, TextStream, decode_all, load_tokenizer
from gpuqa.pipeline.sampling import stop_token_ids
from gpuqa.records import Completion, CompletionDelta, EncodedPrompt, Generation

WARMUP_TOKENS = 32  # of each warm-up answer at most; see `warm_up`
WORTH_A_THREAD = 2_000  # characters or tokens; below, the tokenizer needs less than a millisecond
Item = TypeVar("Item")
Made = TypeVar("Made")
BUILTIN_WARMUP = (
    "你好，请介绍一下你自己。",
    "请用一句话说明什么是并行计算。",
    "What does a compiler do?",
    "列出三种常见的编程语言，并说明它们各自适合的场景。",
)


class Pipeline:
    """Answers questions with one prompt variant, one engine and one way of sampling."""

    def __init__(self, engine: Engine, tokenizer: Any, config: PipelineConfig) -> None:
        self.engine, self.tokenizer, self.config = engine, tokenizer, config
        self.encoder = encoder_for(tokenizer, config)
        self.stop = stop_token_ids(tokenizer, config)
        self.postprocessing = config.prompt.postprocess, self.encoder.in_thought, config.sampling.stop_strings
        self._tokenizing = asyncio.Lock()  # one call at a time: tokenizers are not re-entrant

    @classmethod
    async def start(cls, config: PipelineConfig) -> Self:
        """Check the configuration, then load the model.

        Raises:
            UserError: something is wrong that the user can mend; no engine was started.
            EngineFailed: the engine did not start.
        """
        with collector_off():
            tokenizer = await asyncio.to_thread(checked_tokenizer, config)  # off the event loop: a server answers meanwhile
            return cls(await start_engine(config), tokenizer, config)

    async def answer(self, questions: Sequence[str]) -> list[Completion]:
        """One completion for each question, in their order. A question that fails is an empty answer with an error.

        The study measures this. It calls what the server calls, `answer_in_time`, with a clock that never runs out.

        Raises:
            EngineFailed: the whole engine is gone, even if some answers were done.
        """
        completions = await self.answer_in_time(questions, asyncio.timeout(None))
        lost = [completion.error for completion in completions if completion.finish_reason == "lost"]
        if lost:
            raise EngineFailed(lost[0])
        return completions

    async def answer_in_time(self, questions: Sequence[str], clock: asyncio.Timeout) -> list[Completion]:
        """As `answer`, but when the clock runs out or the engine dies, the answers that are done are returned and the
        others are empty: `finish_reason` "late" or "lost". The caller, who made the clock, may move it meanwhile.

        Raises:
            EngineFailed: the whole engine is gone, and no answer was done.
        """
        if not questions:
            return []
        prompts: list[EncodedPrompt] = [EncodedPrompt([], False)] * len(questions)
        finished: dict[int, Generation] = {}
        missing = Generation(finish_reason="late", error="the deadline came before the answer")
        try:
            async with clock:
                prompts = await self._tokenize(self._encode, questions, sum(map(len, questions)))
                token_ids = [prompt.token_ids for prompt in prompts]
                await self.engine.generate(token_ids, self.config.sampling, self.stop, finished)
        except TimeoutError:
            pass
        except EngineFailed as error:
            if not finished:
                raise
            missing = Generation(finish_reason="lost", error=str(error))
        generations = [finished.get(place, missing) for place in range(len(questions))]
        texts = await self._tokenize(self._decode, generations, sum(len(generation.token_ids) for generation in generations))
        return [completion_of(*parts) for parts in zip(prompts, generations, texts, strict=True)]

    async def stream(self, question: str) -> AsyncGenerator[CompletionDelta]:
        """The answer to one question as it comes: the deltas' texts add up to the text that `answer` gives.

        Every delta but the last has some text; the last one has the completion. Closing the generator ends the request.
        A question that fails is a completion with an error.

        Raises:
            EngineFailed: the whole engine is gone.
        """
        called, times = time.perf_counter(), list[float]()
        [prompt] = await self._tokenize(self._encode, [question], len(question))
        characters, cleaner = TextStream(self.tokenizer), Postprocessor(*self.postprocessing)
        token_ids, text = list[int](), ""
        async with aclosing(self.engine.stream(prompt.token_ids, self.config.sampling, self.stop)) as deltas:
            async for delta in deltas:
                times += [time.perf_counter() - called] * len(delta.token_ids)
                token_ids += delta.token_ids
                async with self._tokenizing:
                    piece = cleaner.feed(characters.feed(delta.token_ids))
                    if delta.finish_reason is not None:
                        piece += cleaner.feed(characters.finish()) + cleaner.finish()
                text += piece
                if delta.finish_reason is not None:
                    break
                if piece:
                    yield CompletionDelta(piece)
        reason = delta.finish_reason or "error"
        first, last = (times[0], times[-1]) if times else (None, None)
        generation = Generation(token_ids, reason, delta.cached_tokens, first, last, error=delta.error, token_times_s=times)
        yield CompletionDelta(piece, completion_of(prompt, generation, text))

    async def close(self) -> None:
        """Release the engine."""
        await self.engine.close()

    async def _tokenize(self, function: Callable[[Sequence[Item]], list[Made]], items: Sequence[Item], size: int) -> list[Made]:
        """Call the tokenizer; off the event loop where `size` (characters or tokens) makes it slower than a thread."""
        async with self._tokenizing:
            if size < WORTH_A_THREAD:
                return function(items)
            working = asyncio.ensure_future(asyncio.to_thread(function, items))
            try:
                return await asyncio.shield(working)
            except asyncio.CancelledError:
                await asyncio.wait((working,))  # a thread cannot be cancelled, and the tokenizer takes one call at a time
                raise

    def _encode(self, questions: Sequence[str]) -> list[EncodedPrompt]:
        return self.encoder.encode_all(questions)

    def _decode(self, generations: Sequence[Generation]) -> list[str]:
        texts = decode_all(self.tokenizer, [generation.token_ids for generation in generations])
        return [postprocess(text, *self.postprocessing) for text in texts]


def completion_of(prompt: EncodedPrompt, generation: Generation, text: str) -> Completion:
    """The answer `text` with what it took."""
    return Completion(
        text=text,
        finish_reason=generation.finish_reason,
        prompt_tokens=len(prompt.token_ids),
        output_tokens=len(generation.token_ids),
        cached_tokens=generation.cached_tokens,
        question_was_cut=prompt.question_was_cut,
        first_token_s=generation.first_token_s,
        last_token_s=generation.last_token_s,
        queue_s=generation.queue_s,
        error=generation.error,
        token_times_s=generation.token_times_s,
    )


async def warm_up(pipeline: Pipeline, questions: Sequence[str], batch: int | None) -> int:
    """Make the engine do once what it does later: answer one question alone, then `batch` questions at once -> answers made.

    Study and server warm up with this function, so that the first measured and the first served answer meet the same engine.

    What it brings about: the first prefill and the first decode step at width 1 and at the full width. They compile what is
    compiled at its first use (Triton kernels of attention and sampling, PyTorch's own kernels), start the threads of engine and
    tokenizer, and make the allocators hold as much memory as the widest step needs. Answers end after 32 tokens: a later step
    runs the same kernels at the same or a smaller width, on a KV cache that was allocated and CUDA graphs that were captured
    when the engine started. On an H200, 513 whole answers instead of short ones took 1.7 s more and made nothing faster
    (experiments/LOG.md).

    Args:
        questions: to be answered; where there are fewer than `batch`, they are asked again with a number before them, because
            an engine with a prefix cache would not compute a prompt that it has just computed.
        batch: None means as many as the engine answers at once, `width_of_engine`.

    Raises:
        EngineFailed: no question was answered, or the engine is gone.
    """
    width = batch or width_of_engine(pipeline.config.engine.backend, pipeline.config.engine_args()) or len(questions)
    places = range(max(width, len(questions)))
    wide = [f"{place // len(questions) or ''}{questions[place % len(questions)]}" for place in places]
    limits = pipeline.config.sampling.max_tokens, pipeline.config.sampling.min_tokens
    upper, lower = (min(limit, WARMUP_TOKENS) for limit in limits)
    sampling = replace(pipeline.config.sampling, max_tokens=upper, min_tokens=lower)
    short = Pipeline(pipeline.engine, pipeline.tokenizer, replace(pipeline.config, sampling=sampling))
    completions = [*await short.answer(questions[:1]), *await short.answer(wide)]
    failed = [completion.error for completion in completions if completion.error]
    if len(failed) == len(completions):
        raise EngineFailed(f"every warm-up question failed, the first with {failed[0]}")
    return len(completions) - len(failed)


def checked_tokenizer(config: PipelineConfig) -> Any:
    """The pipeline's tokenizer, after everything was checked that needs no engine, the files of the weights first.

    Raises:
        UserError: a model that no engine could load, or a pipeline that `checked_encoder` refuses.
    """
    check_weights(find_model(config.model))
    tokenizer = load_tokenizer(config.model)
    checked_encoder(tokenizer, config)
    return tokenizer


def checked_encoder(tokenizer: Any, config: PipelineConfig) -> PromptEncoder:
    """The pipeline's encoder, after everything was checked that may differ between pipelines of one model.

    Raises:
        UserError: a context longer than the model's, a way of drawing tokens that the backend does not have, no end token or
            an unknown one, a prompt that the chat template cannot express or that leaves no room for a question.
    """
    check_length(find_model(config.model), config.engine)
    BACKENDS[config.engine.backend].load().check_sampling(config.sampling)
    stop_token_ids(tokenizer, config)
    return encoder_for(tokenizer, config)


async def start_engine(config: PipelineConfig) -> Engine:
    """The engine of a pipeline; pipelines with equal engine keys may share it."""
    args = config.engine_args()
    backend = BACKENDS[config.engine.backend].load()
    with collector_off():
        await asyncio.to_thread(backend.check_args, args)  # its first call imports the backend: seconds
        return await backend.start(find_model(config.model), config.model.trust_remote_code, config.engine, args)


@contextmanager
def collector_off() -> Iterator[None]:
    """Importing and building make a million objects that stay: a tenth of the time would be looking for garbage."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def encoder_for(tokenizer: Any, config: PipelineConfig) -> PromptEncoder:
    """The encoder that leaves `sampling.max_tokens` of the context for the answer."""
    room = config.engine.max_model_len - config.sampling.max_tokens
    return PromptEncoder(tokenizer, config.prompt, room, config.sampling.enable_thinking, config.model.path)


def warmup_questions(model: ModelConfig, path: str | None = None, never: Collection[str] = ()) -> list[str]:
    """Texts to warm up with: the given file's, else the model's, else the built-in ones.

    `never` holds texts that must not be used, because they will be measured: answering them would fill the prefix
    cache. The built-in ones step in where nothing else is left.

    Raises:
        UserError: a file is configured and absent or unreadable.
    """
    key, file = ("warmup", path) if path else ("model.warmup", model.warmup)
    texts = [question.text for question in read_questions(find(file, key))] if file else []
    chosen = [text for text in texts if text not in never] or [text for text in BUILTIN_WARMUP if text not in never]
    return chosen or list(BUILTIN_WARMUP)
