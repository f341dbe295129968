"""The contract that every engine keeps, on the real engines with the embedded model; and how they fail and end."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpuqa.config import UserError
from gpuqa.config.app import compose_cell, vllm_on_this_machine
from gpuqa.config.commands import CellConfig
from gpuqa.config.paths import find
from gpuqa.config.pipeline import SamplingConfig
from gpuqa.engines import EngineFailed
from gpuqa.machine.captured_output import captured, root_cause
from gpuqa.pipeline import dataset
from gpuqa.pipeline.pipeline import Pipeline
from gpuqa.records import Completion, Generation, GenerationDelta

pytestmark = pytest.mark.engine

AT_ONCE = 4  # sequences that an engine computes together here; a batch of questions is larger, so some have to wait
VLLM = f"engine={vllm_on_this_machine()}"
ENGINES = {
    "vllm": (VLLM, "engine.scheduler=default", f"engine.args.max_num_seqs={AT_ONCE}"),
    "vllm_burst": (VLLM, "engine.scheduler=burst", f"engine.args.max_num_seqs={AT_ONCE}"),
    "transformers": ("engine=transformers", "engine.env.OMP_NUM_THREADS='1'", f"engine.args.batch_size={AT_ONCE}"),
}
needs_cpu = pytest.mark.skipif(vllm_on_this_machine() != "vllm_cpu", reason="a GPU runs fp8, so that start does not fail")

START_AND_LOOK_BACK = """
import asyncio, json, sys, time
import psutil
from gpuqa.engines.vllm.engine import VllmEngine

VllmEngine.check_args({"max_model_len": 64})
for stream in (sys.stdout, sys.stderr):
    print("imported", file=stream, flush=True)

from gpuqa.config.commands import from_plain
from gpuqa.config.pipeline import PipelineConfig
from gpuqa.pipeline.pipeline import Pipeline

async def start():
    try:
        await Pipeline.start(from_plain(json.load(sys.stdin), PipelineConfig, "stdin"))
    except Exception as error:
        print(type(error).__name__, error)
    await asyncio.get_running_loop().shutdown_default_executor()  # whoever still builds the engine has ended
    deadline = time.monotonic() + 15
    while (left := psutil.Process().children(recursive=True)) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    print("left behind:", [process.name() for process in left])

asyncio.run(start())
"""


def composed(*overrides: str) -> CellConfig:
    """One cell, composed from conf/ as the sweep does it."""
    return compose_cell("experiment=none", "prompt=bare", *overrides)


def processes() -> set[psutil.Process]:
    """All living processes below this one."""
    below = psutil.Process().children(recursive=True)
    return {process for process in below if process.status() != psutil.STATUS_ZOMBIE}


def gone(before: set[psutil.Process], patience_s: float = 10.0) -> bool:
    """Whether no process is left that was not there `before`."""
    deadline = time.monotonic() + patience_s
    while processes() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    return not processes() - before


@dataclass(frozen=True)
class Running:
    """A pipeline with its engine, on an event loop of its own."""

    runner: asyncio.Runner
    pipeline: Pipeline
    questions: list[str]  # the model memorised their answers: they end with a stop token and differ in length

    def answer(self, questions: Sequence[str]) -> list[Completion]:
        return self.runner.run(self.pipeline.answer(questions))

    def generate(self, prompts: Sequence[list[int]], stop: Sequence[int] | None = None, **sampling: Any) -> list[Generation]:
        return self.runner.run(self.generating(prompts, stop, **sampling))

    def generating(
        self, prompts: Sequence[list[int]], stop: Sequence[int] | None = None, **sampling: Any
    ) -> Coroutine[Any, Any, list[Generation]]:
        changed: SamplingConfig = replace(self.pipeline.config.sampling, **sampling)
        return self.pipeline.engine.generate(prompts, changed, self.pipeline.stop if stop is None else stop)

    def stream(self, prompts: Sequence[list[int]], **sampling: Any) -> list[list[GenerationDelta]]:
        """All streams at once, each to its end."""

        async def one(prompt: list[int]) -> list[GenerationDelta]:
            return [delta async for delta in self.streaming(prompt, **sampling)]

        async def all_of_them() -> list[list[GenerationDelta]]:
            return list(await asyncio.gather(*map(one, prompts)))

        return self.runner.run(all_of_them())

    def streaming(self, prompt: list[int], **sampling: Any) -> AsyncGenerator[GenerationDelta, None]:
        return self.pipeline.engine.stream(prompt, replace(self.pipeline.config.sampling, **sampling), self.pipeline.stop)

    def prompts(self, questions: Sequence[str]) -> list[list[int]]:
        return [self.pipeline.encoder.encode(question).token_ids for question in questions]


@contextmanager
def running(*overrides: str) -> Iterator[Running]:
    """A started pipeline; closed with the block."""
    config = composed("dataset=embedded_train", *overrides)
    by_length = sorted(dataset.load(config.dataset), key=lambda question: len(question.reference))
    questions = [question.text for question in random.Random(0).sample(by_length[: 10 * 6 : 6], 10)]  # the short ones
    with asyncio.Runner() as runner:
        pipeline = runner.run(Pipeline.start(config))
        try:
            yield Running(runner, pipeline, questions)
        finally:
            runner.run(pipeline.close())


@pytest.fixture(scope="module", autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where engines may leave files. Its path is short because that of a Unix socket is limited. The environment, which
    starting an engine changes, is put back."""
    folder = tmp_path_factory.mktemp("t")
    before = dict(os.environ)
    caches = {"VLLM_CACHE_ROOT": str(folder / "cache"), "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache" / "inductor")}
    os.environ.update(caches, VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    usual, tempfile.tempdir = tempfile.tempdir, str(folder)
    yield folder
    tempfile.tempdir = usual
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def started() -> Iterator[Callable[[str], Running]]:
    """`started("vllm")` is that engine, ready; each starts once and is closed after the last test here."""
    contexts: dict[str, Any] = {}
    ready: dict[str, Running] = {}

    def start(name: str) -> Running:
        if name not in ready:
            contexts[name] = running(*ENGINES[name])
            ready[name] = contexts[name].__enter__()
        return ready[name]

    yield start
    for context in contexts.values():
        context.__exit__(None, None, None)


@pytest.fixture(params=ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engine(name: str, started: Callable[[str], Running]) -> Running:
    return started(name)


class TestEveryEngine:
    def test_answers_keep_the_order_of_the_questions(self, engine: Running) -> None:
        straight = engine.answer(engine.questions)
        shuffled = random.Random(1).sample(engine.questions, len(engine.questions))
        assert shuffled != engine.questions
        by_question = {question: completion.text for question, completion in zip(engine.questions, straight, strict=True)}
        assert [completion.text for completion in engine.answer(shuffled)] == [by_question[question] for question in shuffled]
        assert len(set(by_question.values())) == len(engine.questions) > 2 * AT_ONCE
        assert len({completion.output_tokens for completion in straight}) > AT_ONCE  # so they did not end in their order

    def test_two_batches_at_once_get_their_own_answers(self, engine: Running) -> None:
        odd, even = engine.prompts(engine.questions[1:6:2]), engine.prompts(engine.questions[0:6:2])

        async def both() -> list[list[Generation]]:
            return list(await asyncio.gather(*(engine.generating(batch, max_tokens=32) for batch in (odd, even))))

        alone = [[one.token_ids for one in engine.generate(batch, max_tokens=32)] for batch in (odd, even)]
        assert [[one.token_ids for one in batch] for batch in engine.runner.run(both())] == alone

    def test_a_prompt_that_cannot_be_answered_fails_alone(self, engine: Running) -> None:
        first, last = engine.prompts(engine.questions[:2])
        context = engine.pipeline.config.engine.max_model_len
        alone = [engine.generate([prompt], max_tokens=32)[0].token_ids for prompt in (first, last)]
        got = engine.generate([first, [], [5] * context, [5] * (2 * context), last], max_tokens=32)
        assert [got[0].token_ids, got[-1].token_ids] == alone
        assert got[0].error is got[-1].error is None
        for failed in got[1:-1]:
            assert failed.error
            assert failed == Generation(error=failed.error)  # no token, no time, finish_reason "error"

    def test_an_over_long_question_is_cut_and_never_fails_the_others(self, engine: Running) -> None:
        first, last = engine.questions[:2]
        usual = engine.answer([first, last])
        config = engine.pipeline.config
        got = engine.answer([first, "为什么 " * config.engine.max_model_len, last])
        assert [one.text for one in (got[0], got[2])] == [one.text for one in usual]
        assert [one.question_was_cut for one in got] == [False, True, False]
        assert [one.error for one in got] == [None] * 3
        assert got[1].output_tokens > 0
        assert got[1].prompt_tokens <= config.engine.max_model_len - config.sampling.max_tokens

    def test_nothing_asked_is_nothing_answered(self, engine: Running) -> None:
        assert engine.generate([]) == []

    def test_the_stop_token_ends_an_answer_and_is_counted_but_not_read(self, engine: Running) -> None:
        [completion] = engine.answer(engine.questions[:1])
        [generation] = engine.generate(engine.prompts(engine.questions[:1]))
        stop, tokenizer = engine.pipeline.stop, engine.pipeline.tokenizer
        assert [place for place, token in enumerate(generation.token_ids) if token in stop] == [len(generation.token_ids) - 1]
        assert completion.finish_reason == generation.finish_reason == "stop"
        assert completion.output_tokens == len(generation.token_ids)
        assert completion.prompt_tokens == len(engine.prompts(engine.questions[:1])[0])
        assert completion.text == tokenizer.decode(generation.token_ids[:-1]).strip()

    def test_max_tokens_ends_an_answer_with_length_unless_its_last_token_is_a_stop(self, engine: Running) -> None:
        prompts = engine.prompts(engine.questions[:1])
        [whole] = engine.generate(prompts)
        size = len(whole.token_ids)
        for limit, reason in ((1, "length"), (size - 1, "length"), (size, "stop"), (size + 1, "stop")):
            [got] = engine.generate(prompts, max_tokens=limit)
            assert (got.finish_reason, got.token_ids) == (reason, whole.token_ids[:limit])

    def test_ignore_eos_runs_to_max_tokens_whatever_the_model_says(self, engine: Running) -> None:
        prompts = engine.prompts(engine.questions[:1])
        [whole] = engine.generate(prompts)
        limit = len(whole.token_ids) + 8
        [got] = engine.generate(prompts, max_tokens=limit, ignore_eos=True)
        assert (got.finish_reason, len(got.token_ids)) == ("length", limit)

    def test_no_end_token_comes_before_min_tokens(self, engine: Running) -> None:
        prompts = engine.prompts(engine.questions[:2])
        size = max(len(one.token_ids) for one in engine.generate(prompts))
        for one in engine.generate(prompts, min_tokens=size + 8):
            assert len(one.token_ids) > size + 8
            assert not set(one.token_ids[: size + 8]) & set(engine.pipeline.stop)

    def test_min_p_of_1_leaves_only_the_most_likely_token(self, engine: Running) -> None:
        prompts = engine.prompts(engine.questions[:2])
        greedy, drawn = (engine.generate(prompts, temperature=drawn, min_p=1.0) for drawn in (0.0, 2.0))
        assert [one.token_ids for one in drawn] == [one.token_ids for one in greedy]

    @pytest.mark.parametrize("drawn", [{}, {"temperature": 1.0, "seed": 3}, {"max_tokens": 12}], ids=["greedy", "drawn", "cut"])
    def test_a_stream_adds_up_to_what_generate_gives(self, engine: Running, name: str, drawn: dict[str, Any]) -> None:
        prompts = engine.prompts(engine.questions[: 1 if name == "transformers" and drawn else AT_ONCE])
        streams = engine.stream(prompts, **drawn)  # (transformers draws from one generator that all its threads share)
        whole = [engine.generate([prompt], **drawn)[0] for prompt in prompts]
        for deltas, generation in zip(streams, whole, strict=True):
            assert [token for delta in deltas for token in delta.token_ids] == generation.token_ids
            assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + [generation.finish_reason]
            assert len(deltas) > 1, "they come one by one, or a few at once where nobody took them in time"

    def test_a_prompt_that_cannot_be_answered_is_a_stream_of_one_error(self, engine: Running) -> None:
        context = engine.pipeline.config.engine.max_model_len
        for deltas in engine.stream([[], [5] * context]):
            [delta] = deltas
            assert delta.error
            assert delta == GenerationDelta(finish_reason="error", error=delta.error)

    def test_a_closed_or_cancelled_stream_gives_its_place_to_others(self, engine: Running) -> None:
        prompts, endless = engine.prompts(engine.questions[:AT_ONCE]), {"max_tokens": 400, "ignore_eos": True}

        async def until_the_first_token(prompt: list[int]) -> None:
            async with aclosing(engine.streaming(prompt, **endless)) as deltas:
                await anext(deltas)

        async def until_cancelled(prompt: list[int]) -> None:
            async for _ in engine.streaming(prompt, **endless):
                pass

        async def timed() -> list[float]:
            times = [time.perf_counter()]
            await engine.generating(prompts, **endless)
            times.append(time.perf_counter())
            await asyncio.gather(*map(until_the_first_token, prompts))
            await engine.generating(prompts, max_tokens=1)
            times.append(time.perf_counter())
            tasks = [asyncio.create_task(until_cancelled(prompt)) for prompt in prompts]
            await asyncio.sleep((times[1] - times[0]) / 10)
            assert not any(task.done() for task in tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await engine.generating(prompts, max_tokens=1)
            return [*times, time.perf_counter()]

        began, whole, closed, cancelled = engine.runner.run(timed())
        assert closed - whole < (whole - began) / 2
        assert cancelled - closed < (whole - began) / 2

    def test_streams_and_whole_answers_run_side_by_side(self, engine: Running) -> None:
        streamed, batch = engine.prompts(engine.questions[:2]), engine.prompts(engine.questions[2:])
        alone = [engine.generate([prompt], max_tokens=48)[0].token_ids for prompt in (*streamed, *batch)]

        async def tokens(prompt: list[int]) -> list[int]:
            return [token async for delta in engine.streaming(prompt, max_tokens=48) for token in delta.token_ids]

        async def both() -> list[list[int]]:
            *streams, whole = await asyncio.gather(*map(tokens, streamed), engine.generating(batch, max_tokens=48))
            return [*streams, *(one.token_ids for one in whole)]

        got = engine.runner.run(both())
        assert sum(one == other for one, other in zip(got, alone, strict=True)) >= len(got) - 1  # bfloat16: batches round

    def test_times_run_from_the_call_over_the_first_token_to_the_last(self, engine: Running) -> None:
        began = time.perf_counter()
        got = engine.generate(engine.prompts(engine.questions))
        elapsed = time.perf_counter() - began
        for one in got:
            assert one.first_token_s is not None
            assert one.last_token_s is not None
            assert 0 < one.first_token_s < one.last_token_s <= elapsed
        assert max(one.last_token_s or 0 for one in got) > elapsed / 2
        one_of_the_first_ended = min(one.last_token_s or 0 for one in got[:AT_ONCE])
        assert all((one.first_token_s or 0) > one_of_the_first_ended for one in got[2 * AT_ONCE :])  # waiting counts
        [single] = engine.generate(engine.prompts(engine.questions[:1]), max_tokens=1)
        assert single.first_token_s == pytest.approx(single.last_token_s)

    def test_the_prefix_cache_helps_an_identical_batch_until_it_is_reset(self, engine: Running, name: str) -> None:
        questions = [f"{number} {question * 3}" for number, question in enumerate(engine.questions[:3])]  # no common block
        engine.runner.run(engine.pipeline.engine.reset_prefix_cache())
        cold, warm = engine.answer(questions), engine.answer(questions)
        engine.runner.run(engine.pipeline.engine.reset_prefix_cache())
        again = engine.answer(questions)
        assert [one.cached_tokens for one in (*cold, *again)] == [0] * 6
        assert all((0 < one.cached_tokens < one.prompt_tokens) == (name != "transformers") for one in warm)
        assert [one.text for one in warm] == [one.text for one in cold] == [one.text for one in again]

    def test_sampling_repeats_with_its_seed_and_differs_with_another(self, engine: Running) -> None:
        prompts = engine.prompts(["今天晚饭吃什么？", "讲一个关于海的故事。", "dogs"])  # unknown to it, so much is likely
        drawn = {"temperature": 2.0, "max_tokens": 24}
        first, same, other = ([one.token_ids for one in engine.generate(prompts, seed=seed, **drawn)] for seed in (1, 1, 2))
        assert first == same
        assert first != other

    def test_the_event_loop_runs_while_a_batch_is_answered(self, engine: Running) -> None:
        gaps: list[float] = []

        async def tick() -> None:
            while True:
                began = time.perf_counter()
                await asyncio.sleep(0.01)
                gaps.append(time.perf_counter() - began)

        async def both() -> None:
            ticking = asyncio.create_task(tick())
            await engine.generating(engine.prompts(engine.questions * 3))
            ticking.cancel()

        engine.runner.run(both())
        assert len(gaps) > 20
        assert max(gaps) < 0.5


def test_both_engines_give_the_same_greedy_answer_to_nearly_all_questions(started: Callable[[str], Running]) -> None:
    ours, theirs = (started(name).answer(started(name).questions) for name in ("vllm", "transformers"))
    alike = sum(one.text == other.text for one, other in zip(ours, theirs, strict=True))
    assert alike >= 0.9 * len(ours)  # two implementations round differently


@pytest.mark.parametrize(
    "drawn",
    [{}, {"temperature": 1.0, "seed": 3}, {"temperature": 1.0, "seed": 3, "min_p": 0.05}, {"ignore_eos": True}],
    ids=["greedy", "drawn", "min_p", "endless"],
)
def test_bursts_change_no_token_and_no_reason(drawn: dict[str, Any], started: Callable[[str], Running]) -> None:
    plain, burst = started("vllm"), started("vllm_burst")
    known = sorted(dataset.load(composed("dataset=embedded_train").dataset), key=lambda question: len(question.reference))
    prompts = plain.prompts([question.text for question in known[:60:2]])
    theirs, ours = (engine.generate(prompts, max_tokens=48, **drawn) for engine in (plain, burst))
    assert [(one.token_ids, one.finish_reason) for one in ours] == [(one.token_ids, one.finish_reason) for one in theirs]
    assert len({tuple(one.token_ids) for one in ours}) > 10


def test_bursts_change_no_token_of_streams_and_send_each_when_it_is_there(started: Callable[[str], Running]) -> None:
    plain, burst = started("vllm"), started("vllm_burst")
    known = sorted(dataset.load(composed("dataset=embedded_train").dataset), key=lambda question: len(question.reference))
    prompts = plain.prompts([question.text for question in known[:30:2]])
    theirs, ours = (engine.stream(prompts, max_tokens=48) for engine in (plain, burst))
    read = [
        [([token for delta in deltas for token in delta.token_ids], deltas[-1].finish_reason) for deltas in streams]
        for streams in (theirs, ours)
    ]
    assert read[0] == read[1]
    assert len({tuple(tokens) for tokens, _ in read[1]}) > 10
    tokens, pieces = sum(len(tokens) for tokens, _ in read[1]), sum(map(len, ours))
    assert pieces > 0.8 * tokens, "vLLM puts two into one where the reader is slower than the engine"
    assert "streaming" not in str(burst.pipeline.engine.overrides()[0].reason)


def test_bursts_change_no_token_and_no_reason_where_a_stop_string_ends_answers(started: Callable[[str], Running]) -> None:
    plain, burst = started("vllm"), started("vllm_burst")
    known = sorted(dataset.load(composed("dataset=embedded_train").dataset), key=lambda question: len(question.reference))
    prompts, reads = plain.prompts([question.text for question in known[60:120:2]]), plain.pipeline.tokenizer.decode
    usual = plain.generate(prompts, max_tokens=48)
    stop_strings = [reads(one.token_ids[place : place + 2]) for one, place in zip(usual, (3, 17, 20, 31, 40), strict=False)]
    theirs, ours = (engine.generate(prompts, max_tokens=48, stop_strings=stop_strings) for engine in (plain, burst))
    assert [(one.token_ids, one.finish_reason) for one in ours] == [(one.token_ids, one.finish_reason) for one in theirs]
    shorter = [len(one.token_ids) for one, whole in zip(ours, usual, strict=True) if len(one.token_ids) < len(whole.token_ids)]
    assert 5 <= len(shorter) < len(prompts)
    assert max(shorter) > 20, "some are found by a later look"
    assert "stop strings" not in str(burst.pipeline.engine.overrides()[0].reason)


PENALTIES = {"repetition_penalty": 5.0, "frequency_penalty": 2.0, "presence_penalty": 2.0}
UNKNOWN = (
    "今天晚饭吃什么？",
    "讲一个关于海的故事。",
    "dogs",
    "cats",
)  # to the embedded model, so it is not sure of its answers


@pytest.mark.parametrize("key", [*PENALTIES, "min_tokens"])
def test_what_depends_on_earlier_tokens_changes_vllms_answers_and_those_of_bursts_alike(
    key: str, started: Callable[[str], Running]
) -> None:
    plain, burst = started("vllm"), started("vllm_burst")
    prompts = plain.prompts(plain.questions if key == "min_tokens" else UNKNOWN)
    changed = {key: {**PENALTIES, "min_tokens": 60}[key]}
    usual, theirs, ours = (
        engine.generate(prompts, temperature=2.0, seed=3, max_tokens=64, **how)
        for engine, how in ((plain, {}), (plain, changed), (burst, changed))
    )
    assert [one.token_ids for one in theirs] != [one.token_ids for one in usual]
    assert [one.token_ids for one in ours] == [one.token_ids for one in theirs]
    [scheduler, _] = burst.pipeline.engine.overrides()
    assert scheduler.ran == "burst"
    assert "vLLM's own scheduling" not in str(scheduler.reason)


def limited(engine: Running, prompts: Sequence[list[int]], **limits: Any) -> list[list[int]]:
    """Greedy answers of 48 tokens by vLLM's own `SamplingParams`, which can do more than ours."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    from gpuqa.engines.vllm.engine import tokenizer_of

    llm: Any = engine.pipeline.engine.llm  # type: ignore[attr-defined]
    params = SamplingParams(temperature=0, max_tokens=48, output_kind=RequestOutputKind.FINAL_ONLY, detokenize=False, **limits)
    params.update_from_tokenizer(tokenizer_of(llm.model_config))

    async def one(place: int, prompt: list[int]) -> list[int]:
        request = {"type": "token", "prompt_token_ids": prompt}
        [output] = [output async for output in llm.generate(request, params, f"{sorted(limits)}-{place}")]
        return list(output.outputs[0].token_ids)

    async def all_of_them() -> list[list[int]]:
        return list(await asyncio.gather(*(one(place, prompt) for place, prompt in enumerate(prompts))))

    return engine.runner.run(all_of_them())


@pytest.mark.parametrize("key", ["bad_words", "logit_bias", "allowed_token_ids"])
def test_a_limit_to_some_tokens_changes_vllms_answers_and_those_of_bursts_alike(
    key: str, started: Callable[[str], Running]
) -> None:
    plain, burst = started("vllm"), started("vllm_burst")
    prompts = plain.prompts(UNKNOWN)
    usual = limited(plain, prompts)
    seen = sorted({token for tokens in usual for token in tokens})
    pairs = [
        plain.pipeline.tokenizer.decode(tokens[9:11]) for tokens in usual
    ]  # a bad word of several tokens needs the last ones
    limits = {"bad_words": pairs, "logit_bias": dict.fromkeys(seen[::2], -4.0), "allowed_token_ids": seen[::2]}
    theirs, ours = (limited(engine, prompts, **{key: limits[key]}) for engine in (plain, burst))
    assert theirs != usual
    assert ours == theirs


@pytest.mark.parametrize("name", ["vllm", "vllm_burst"])
def test_a_stop_string_ends_an_answer_of_vllm_whole_or_streamed(name: str, started: Callable[[str], Running]) -> None:
    engine = started(name)
    question = engine.questions[0]
    [usual] = engine.answer([question])
    stop = usual.text[len(usual.text) // 2 :][:3]
    sampling = replace(engine.pipeline.config.sampling, stop_strings=["no such text", stop])
    config = replace(engine.pipeline.config, sampling=sampling)
    stopping = Pipeline(engine.pipeline.engine, engine.pipeline.tokenizer, config)

    async def streamed() -> Completion | None:
        return [delta async for delta in stopping.stream(question)][-1].completion

    [whole], piecewise = engine.runner.run(stopping.answer([question])), engine.runner.run(streamed())
    assert piecewise is not None
    for one in (whole, piecewise):
        assert one.text == usual.text.partition(stop)[0].strip()
        assert one.finish_reason == "stop"
        assert 0 < one.output_tokens < usual.output_tokens, "the engine does not go on to the end"
    assert engine.answer([question])[0].text == usual.text, "other requests go on to their end"


@needs_cpu
def test_a_seeded_batch_of_more_prompt_tokens_than_a_step_takes_does_not_end_the_engine() -> None:
    with running(VLLM, "engine.args.max_num_seqs=64", "+engine.args.max_num_batched_tokens=1024") as engine:
        prompts = engine.prompts([f"{question} {number}" for number in range(6) for question in engine.questions])
        assert sum(map(len, prompts)) > 1024
        drawn = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "seed": 0, "max_tokens": 8}
        first, again = ([one.token_ids for one in engine.generate(prompts, **drawn)] for _ in range(2))
        assert all(first)
        assert first == again


def test_both_engines_let_the_models_own_end_token_end_an_answer_where_no_stop_is_configured(
    started: Callable[[str], Running],
) -> None:
    for name in ENGINES:
        engine = started(name)
        prompts = engine.prompts(engine.questions[:1])
        [own], [configured] = engine.generate(prompts, stop=[]), engine.generate(prompts)
        assert (own.finish_reason, own.token_ids) == ("stop", configured.token_ids), name


@pytest.mark.parametrize(("wrong", "right"), [("max_modellen", "max_model_len"), ("d_type", "dtype")])
def test_an_unknown_argument_is_refused_with_the_nearest_names(name: str, wrong: str, right: str) -> None:
    before = processes()
    with pytest.raises(UserError) as refused:
        asyncio.run(Pipeline.start(composed(*ENGINES[name], f"+engine.args.{wrong}=1")))
    said, nearest = str(refused.value).split("nearest: ")
    assert f"engine.args.{wrong}" in said
    assert name.removesuffix("_burst") in said.lower()
    assert right in nearest.split(", ")
    assert processes() == before


def test_a_refused_value_is_an_engine_failure_that_quotes_it_on_one_line(name: str) -> None:
    before = processes()
    with pytest.raises(EngineFailed, match="float99") as failed:
        asyncio.run(Pipeline.start(composed(*ENGINES[name], "engine.args.dtype=float99")))
    assert "\n" not in str(failed.value)
    assert processes() == before


def test_what_a_models_generation_config_recommends_changes_no_token_of_transformers(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(find(composed().model.path, "model.path"), folder)
    file = folder / "generation_config.json"
    advice = {"do_sample": True, "temperature": 2.0, "top_k": 3, "repetition_penalty": 9.0, "min_new_tokens": 99}
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **advice}), encoding="utf-8")
    with running(*ENGINES["transformers"]) as usual, running(*ENGINES["transformers"], f"model.path={folder}") as advised:
        prompts = usual.prompts(usual.questions[:3])
        for drawn in ({}, {"temperature": 1.0, "seed": 3}):
            got, expected = (engine.generate(prompts, **drawn) for engine in (advised, usual))
            assert [one.token_ids for one in got] == [one.token_ids for one in expected]


@needs_cpu
def test_a_failing_start_names_the_root_cause_and_leaves_no_process_and_no_file(
    tmp_path: Path, temporary: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before, files = processes(), {path.name for path in temporary.iterdir()}
    outputs = [os.fstat(number) for number in (1, 2)]
    with capfd.disabled(), captured(tmp_path / "engine.log"), pytest.raises(EngineFailed) as failed:
        asyncio.run(Pipeline.start(composed(VLLM, "quantization=fp8")))
    cause = root_cause((tmp_path / "engine.log").read_text(), str(failed.value))
    assert "fp8" in cause.lower()
    assert "initialization failed" not in cause
    assert gone(before)
    assert [os.fstat(number).st_ino for number in (1, 2)] == [output.st_ino for output in outputs]
    left = {path.name for path in temporary.iterdir()} - files
    assert not [name for name in left if name.startswith("gpuqa-")], "ours; vLLM and PyTorch leave some of their own"


@needs_cpu
def test_a_cpu_is_not_given_a_kv_cache_that_it_would_misread() -> None:
    reads = (
        "kv_cache_dtype=int8_per_token_head is not supported by vLLM's attention on a CPU, which reads auto, bfloat16, float16"
    )
    with pytest.raises(EngineFailed, match=reads):
        asyncio.run(Pipeline.start(composed(VLLM, "+engine.args.kv_cache_dtype=int8_per_token_head")))


def test_closing_vllm_ends_its_processes_removes_its_sockets_and_gives_its_objects_to_the_collector(temporary: Path) -> None:
    before, files = processes(), {path.name for path in temporary.iterdir()}
    frozen = gc.get_freeze_count()
    with running(*ENGINES["vllm"]) as engine:
        assert engine.answer(engine.questions[:1])[0].text
        assert processes() - before  # else the next lines prove nothing
        assert gc.get_freeze_count() > frozen
    assert (gc.get_freeze_count(), gc.isenabled()) == (0, True)
    assert gone(before)
    assert {path.name for path in temporary.iterdir()} - files <= {"cache"}


def test_vllm_is_not_asked_about_a_model_of_its_own_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.model_executor.models import registry

    from gpuqa.engines.vllm.build import import_model

    def refuse(_: object) -> None:
        raise AssertionError("a process was started to look at the model")

    name, folder = "Qwen3ForCausalLM", find(composed().model.path, "model.path")
    unknown = registry._LazyRegisteredModel(f"{registry.__package__}.qwen3", name)
    monkeypatch.setitem(registry.ModelRegistry.models, name, unknown)
    monkeypatch.setattr(registry._LazyRegisteredModel, "_load_modelinfo_from_cache", lambda *_: None)
    monkeypatch.setattr(registry, "_run_in_subprocess", refuse)
    import_model(folder)
    config = AsyncEngineArgs(model=str(folder), skip_tokenizer_init=True).create_engine_config()
    assert config.model_config.architecture == name


def test_closing_transformers_releases_the_weights() -> None:
    with running(*ENGINES["transformers"]) as engine:
        assert engine.answer(engine.questions[:1])[0].text
        weights = weakref.ref(next(engine.pipeline.engine.model.parameters()))  # type: ignore[attr-defined]
        assert weights() is not None
    gc.collect()
    assert weights() is None


def test_a_killed_engine_process_fails_what_runs_and_what_follows(tmp_path: Path) -> None:
    before = processes()

    async def ends_of(engine: Running) -> list[BaseException | None]:
        tasks = [asyncio.ensure_future(engine.generating(engine.prompts(engine.questions), max_tokens=900, ignore_eos=True))]
        await asyncio.sleep(0.5)
        assert not tasks[0].done()
        for process in processes() - before:
            process.send_signal(signal.SIGKILL)
        await asyncio.wait(tasks, timeout=30)
        tasks.append(asyncio.ensure_future(engine.generating(engine.prompts(engine.questions[:1]))))
        tasks.append(asyncio.ensure_future(engine.pipeline.engine.reset_prefix_cache()))  # type: ignore[arg-type]
        await asyncio.wait(tasks, timeout=30)
        return [task.exception() if task.done() else None for task in tasks]

    with captured(tmp_path / "engine.log"), running(*ENGINES["vllm"]) as engine:
        ends = engine.runner.run(ends_of(engine))
    assert gone(before)
    assert [type(end).__name__ for end in ends] == ["EngineFailed"] * 3
    assert "died" in str(ends[0])


@pytest.fixture(scope="module")
def too_long(tmp_path_factory: pytest.TempPathFactory, temporary: Path) -> tuple[subprocess.CompletedProcess[str], set[Path]]:
    """What a Python that imports vLLM and gives it no time to start says, and the sockets that it leaves. It is a process of
    its own: a start that takes too long ends every process below the one that started it."""
    sockets = set(temporary.glob("gpuqa-*"))  # of engines that this module keeps for its tests
    config = composed(VLLM, "engine.start_timeout_s=0.2")
    config.model.path = str(find(config.model.path, "model.path").resolve())
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", START_AND_LOOK_BACK],
        input=json.dumps(config.as_dict()),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path_factory.mktemp("too_long"),
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(temporary), "VLLM_LOGGING_LEVEL": "WARNING"},
        check=True,
    )
    return done, set(temporary.glob("gpuqa-*")) - sockets


def test_vllm_is_imported_without_a_word_about_a_triton_that_it_does_not_need(too_long: Any) -> None:
    done, _ = too_long
    assert [said.partition("imported\n")[:2] for said in (done.stdout, done.stderr)] == [("", "imported\n")] * 2


def test_a_start_that_takes_too_long_fails_and_leaves_no_process_and_no_sockets(too_long: Any) -> None:
    done, sockets = too_long
    assert "EngineFailed vLLM did not start within engine.start_timeout_s=0.2 s" in done.stdout
    assert "left behind: []" in done.stdout
    assert sockets == set()


def test_vllm_starts_in_a_process_that_computed_with_transformers() -> None:
    """An engine that is forked from a thread with OpenMP workers hangs; with one worker thread it surely is."""
    with asyncio.Runner() as runner:
        runner.get_loop().set_default_executor(ThreadPoolExecutor(1))
        for overrides in (("engine=transformers", "engine.env.OMP_NUM_THREADS='2'"), (VLLM, "engine.start_timeout_s=60")):
            pipeline = runner.run(Pipeline.start(composed(*overrides, "prompt=structured", "sampling.max_tokens=8")))
            answers = runner.run(pipeline.answer(["什么是 warp？"] * 16))
            runner.run(pipeline.close())
            assert all(answer.text for answer in answers)
