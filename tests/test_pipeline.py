"""Question in, completion out: prompt, engine and clean-up together, and what is checked before an engine starts."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuqa.config import UserError
from gpuqa.config.app import compose_cell
from gpuqa.config.commands import CellConfig
from gpuqa.config.paths import find
from gpuqa.config.pipeline import ModelConfig, PostprocessConfig, SamplingConfig
from gpuqa.engines import EngineFailed
from gpuqa.pipeline import dataset
from gpuqa.pipeline.pipeline import BUILTIN_WARMUP, Pipeline, warm_up, warmup_questions
from gpuqa.pipeline.prompts import load_tokenizer
from gpuqa.records import CompletionDelta, Generation, GenerationDelta

pytestmark = pytest.mark.engine


def composed(*overrides: str) -> CellConfig:
    """One cell on the transformers backend, which starts in a second."""
    return compose_cell("experiment=none", "engine=transformers", "prompt=bare", *overrides)


class ScriptedEngine:
    """A fake, because the model does not write thoughts, headings or failures on demand: it says what it was told to say."""

    start_s = 0.0

    def __init__(self, *generations: Generation) -> None:
        self.generations = generations
        self.closed = False

    async def generate(
        self, prompts: Sequence[list[int]], sampling: SamplingConfig, stop: Sequence[int], finished: dict[int, Generation]
    ) -> list[Generation]:
        finished.update((place, self.generations[place]) for place, _ in enumerate(prompts))
        return list(finished.values())

    async def stream(
        self, prompt: list[int], sampling: SamplingConfig, stop: Sequence[int]
    ) -> AsyncGenerator[GenerationDelta, None]:
        """The first generation, a token at a time."""
        said = self.generations[0]
        for token in said.token_ids:
            yield GenerationDelta([token])
        yield GenerationDelta(finish_reason=said.finish_reason, error=said.error)

    async def reset_prefix_cache(self) -> None:
        """Nothing is cached."""

    async def close(self) -> None:
        self.closed = True


def scripted(*generations: Generation, postprocess: PostprocessConfig | None = None) -> Pipeline:
    config = composed()
    prompt = replace(config.prompt, postprocess=postprocess or config.prompt.postprocess)
    return Pipeline(ScriptedEngine(*generations), load_tokenizer(config.model), replace(config, prompt=prompt))  # type: ignore[arg-type]


def written(text: str) -> Generation:
    """A generation that spells the text; control tokens in it are control tokens."""
    token_ids: list[int] = load_tokenizer(composed().model).encode(text, add_special_tokens=False)
    return Generation(token_ids, "stop", first_token_s=0.1, last_token_s=0.2)


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    """The real transformers engine with the embedded model."""
    started = asyncio.run(Pipeline.start(composed("sampling.max_tokens=64")))
    yield started
    asyncio.run(started.close())


@pytest.fixture(scope="module")
def questions() -> list[str]:
    """Some that the model memorised with an answer of several lines, and some with one line."""
    loaded = sorted(dataset.load(composed("dataset=embedded_train").dataset), key=lambda one: "\n" in one.reference)
    return [one.text for one in (*loaded[:2], *loaded[-2:])]


def write_questions(file: Path, *texts: str) -> str:
    file.write_text(json.dumps([{"question": text, "answer": "-"} for text in texts], ensure_ascii=False), encoding="utf-8")
    return str(file)


def with_another_shape(folder: Path) -> str:
    """A model folder that no engine can start from although its files are sound, to see that a mistake is found before one
    tries."""
    shutil.copytree(find(composed().model.path, "model.path"), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no_such_type"}), encoding="utf-8")
    return str(folder)


# ------------------------------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize(
    ("postprocess", "text"),
    [
        (PostprocessConfig(strip_thinking=True, strip_headings=True, one_line=True), "标题 第一行 第二行"),
        (PostprocessConfig(strip_thinking=True, strip_headings=True, one_line=False), "标题\n第一行\n第二行"),
        (PostprocessConfig(strip_thinking=True, strip_headings=False, one_line=True), "## 标题 第一行 第二行"),
        (PostprocessConfig(strip_thinking=False, strip_headings=False, one_line=False), None),
    ],
)
def test_the_clean_up_of_the_prompt_variant_is_applied(postprocess: PostprocessConfig, text: str | None) -> None:
    said = "<think>想一想\n</think>\n\n## 标题\n第一行\n第二行"
    [completion] = asyncio.run(scripted(written(said + "<|im_end|>"), postprocess=postprocess).answer(["?"]))
    assert completion.text == (said if text is None else text)


def test_line_breaks_of_real_answers_go_or_stay_as_the_prompt_says(pipeline: Pipeline, questions: list[str]) -> None:
    texts = {}
    for one_line in (False, True):
        prompt = replace(pipeline.config.prompt, postprocess=PostprocessConfig(one_line=one_line))
        sharing = Pipeline(pipeline.engine, pipeline.tokenizer, replace(pipeline.config, prompt=prompt))
        texts[one_line] = [completion.text for completion in asyncio.run(sharing.answer(questions))]
    assert ["\n" in text for text in texts[False]] == [False, False, True, True]
    assert texts[True] == [re.sub(r"\s*\n\s*", " ", text) for text in texts[False]]


def test_a_completion_counts_the_tokens_of_prompt_and_answer(pipeline: Pipeline, questions: list[str]) -> None:
    completions = asyncio.run(pipeline.answer(questions))
    prompts = [pipeline.encoder.encode(question).token_ids for question in questions]
    generations = asyncio.run(pipeline.engine.generate(prompts, pipeline.config.sampling, pipeline.stop))
    assert [completion.prompt_tokens for completion in completions] == [len(prompt) for prompt in prompts]
    assert [completion.output_tokens for completion in completions] == [len(one.token_ids) for one in generations]
    assert [completion.finish_reason for completion in completions] == [one.finish_reason for one in generations]
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}  # else the line above is weak
    assert [completion.cached_tokens for completion in completions] == [0] * len(questions)


def test_a_failed_question_is_an_empty_answer_that_tells_its_error_beside_the_others() -> None:
    got = asyncio.run(scripted(written("一"), Generation(error="ValueError: no"), written("三")).answer(["1", "2", "3"]))
    assert [completion.text for completion in got] == ["一", "", "三"]
    assert [completion.error for completion in got] == [None, "ValueError: no", None]
    assert got[1].finish_reason == "error"
    assert (got[1].output_tokens, got[1].first_token_s, got[1].last_token_s) == (0, None, None)


def test_an_answer_of_only_a_thought_that_never_ends_is_empty_and_no_error() -> None:
    [completion] = asyncio.run(scripted(written("<think>第一步")).answer(["?"]))
    assert (completion.text, completion.error) == ("", None)
    assert completion.output_tokens > 0


def test_no_questions_are_no_answers(pipeline: Pipeline) -> None:
    assert asyncio.run(pipeline.answer([])) == []


@pytest.mark.parametrize(
    "odd",
    [
        "",
        " \n",
        "\x00",
        "\ud800",
        "<|im_end|><|im_start|>assistant",
        "</think>",
        "为什么？" * 5000,
        "👩‍👩‍👧‍👦" * 50,
        "\u202eabc",
    ],
    ids=["empty", "blank", "nul", "half a surrogate", "control tokens", "end of a thought", "20,000", "emoji", "right to left"],
)
def test_an_odd_question_leaves_the_others_alone(pipeline: Pipeline, questions: list[str], odd: str) -> None:
    usual = asyncio.run(pipeline.answer(questions[:2]))
    got = asyncio.run(pipeline.answer([questions[0], odd, questions[1]]))
    assert [got[0].text, got[2].text] == [completion.text for completion in usual]
    assert got[1].prompt_tokens <= pipeline.config.engine.max_model_len - pipeline.config.sampling.max_tokens
    got[1].text.encode()  # something that can be sent


def test_pipelines_with_different_prompts_share_an_engine(pipeline: Pipeline, questions: list[str]) -> None:
    other = composed("prompt=structured", "sampling.max_tokens=64")
    sharing = Pipeline(pipeline.engine, pipeline.tokenizer, other)
    plain, structured = (asyncio.run(one.answer(questions[:1]))[0] for one in (pipeline, sharing))
    assert structured.prompt_tokens > plain.prompt_tokens
    assert asyncio.run(pipeline.answer(questions[:1]))[0].text == plain.text


# ----------------------------------------------------------------------------------------------------- answers in pieces


def streamed(pipeline: Pipeline, question: str) -> list[CompletionDelta]:
    async def collect() -> list[CompletionDelta]:
        return [delta async for delta in pipeline.stream(question)]

    return asyncio.run(collect())


def check_stream(pipeline: Pipeline, question: str) -> list[CompletionDelta]:
    """The deltas, after they were held against the whole answer."""
    deltas = streamed(pipeline, question)
    [whole] = asyncio.run(pipeline.answer([question]))
    last = deltas[-1].completion
    assert "".join(delta.text for delta in deltas) == whole.text
    assert [delta.completion for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert all(delta.text for delta in deltas[:-1])
    assert last is not None
    without_times = {"first_token_s": 0.1, "last_token_s": 0.2, "token_times_s": []}
    assert replace(last, **without_times) == replace(whole, **without_times)
    return deltas


@pytest.mark.parametrize(
    "postprocess", [PostprocessConfig(), PostprocessConfig(False, False, False)], ids=["cleaned", "as it is"]
)
def test_a_streamed_answer_adds_up_to_the_whole_one(
    pipeline: Pipeline, questions: list[str], postprocess: PostprocessConfig
) -> None:
    config = replace(pipeline.config, prompt=replace(pipeline.config.prompt, postprocess=postprocess))
    sharing = Pipeline(pipeline.engine, pipeline.tokenizer, config)
    for question in (*questions, "", "\ud800", "<|im_end|><|im_start|>", "为什么？" * 5000):
        deltas = check_stream(sharing, question)
        assert deltas[-1].completion
        assert len(deltas) > deltas[-1].completion.output_tokens / 3, "it comes in many pieces"


def test_a_streamed_answer_tells_when_its_tokens_came(pipeline: Pipeline, questions: list[str]) -> None:
    began = time.perf_counter()
    completion = streamed(pipeline, questions[0])[-1].completion
    elapsed = time.perf_counter() - began
    assert completion is not None
    assert 0 < (completion.first_token_s or 0) < (completion.last_token_s or 0) < elapsed
    times = completion.token_times_s
    assert len(times) == completion.output_tokens
    assert times == sorted(times)
    assert (times[0], times[-1]) == (completion.first_token_s, completion.last_token_s)
    assert asyncio.run(pipeline.answer(questions[:1]))[0].token_times_s == [], "an answer that is wanted whole has none"


CONFIG = composed()
TOKENIZER = load_tokenizer(CONFIG.model)
PIECES = ["<think>", "</think>", "<", "#", "## ", " ", "\n", "\n\n", "\r\n", "\u2028", "答案", "warp", "🦩", "<|im_end|>"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=12), st.booleans(), st.booleans())
def test_any_text_may_be_streamed(pieces: list[str], thinking: bool, one_line: bool) -> None:
    tokens = TOKENIZER.encode("".join(pieces).encode(errors="replace").decode(), add_special_tokens=False)
    prompt = replace(CONFIG.prompt, postprocess=PostprocessConfig(strip_thinking=thinking, one_line=one_line))
    engine = ScriptedEngine(Generation(tokens, "stop", first_token_s=0.1, last_token_s=0.2))
    check_stream(Pipeline(engine, TOKENIZER, replace(CONFIG, prompt=prompt)), "?")  # type: ignore[arg-type]


def test_a_streamed_question_that_fails_is_an_empty_answer_that_tells_its_error() -> None:
    [delta] = check_stream(scripted(Generation(error="ValueError: no")), "?")
    assert delta.completion
    assert (delta.completion.text, delta.completion.error) == ("", "ValueError: no")


def with_stops(*strings: str, said: str) -> Pipeline:
    """A pipeline whose engine says this, with stop strings."""
    made = scripted(written(said), postprocess=PostprocessConfig())
    return Pipeline(
        made.engine, made.tokenizer, replace(made.config, sampling=replace(made.config.sampling, stop_strings=list(strings)))
    )


def test_an_answer_ends_before_its_stop_string_streamed_or_whole() -> None:
    for said, text in (("答案。\n问题：下一个", "答案。"), ("答案。\n问", "答案。 问"), ("问题：", "")):
        pipeline = with_stops("\n问题：", "问题：", said=said)
        [whole] = asyncio.run(pipeline.answer(["?"]))
        check_stream(pipeline, "?")
        assert whole.text == text


def test_a_warm_up_of_short_answers_asks_for_no_more_tokens_than_it_allows(pipeline: Pipeline) -> None:
    long = replace(pipeline.config, sampling=replace(pipeline.config.sampling, min_tokens=60, max_tokens=64))
    assert asyncio.run(warm_up(Pipeline(pipeline.engine, pipeline.tokenizer, long), ["你好"], 1)) == 2


def test_closing_a_pipeline_closes_its_engine() -> None:
    pipeline = scripted()
    asyncio.run(pipeline.close())
    assert pipeline.engine.closed  # type: ignore[attr-defined]


# ----------------------------------------------------------------------------------------------------------- the start


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("sampling.stop=['</answer>']", r"sampling\.stop: got '</answer>'.*<\|endoftext\|>.*<\|im_end\|>"),
        ('sampling.stop=["<|im_end|>","\\n\\n"]', r"sampling\.stop: got"),
        ("engine.args.max_model_len=272", r"prompt=bare takes \d+ tokens.*max_model_len.*max_tokens leaves 16"),
        ("+engine.args.gpu_memory=1", r"engine\.args\.gpu_memory"),
        ("quantization=fp8", r"quantization"),
        ("engine.args.max_model_len=2049", r"engine\.args\.max_model_len: got 2049, allowed is at most 2048, .*/model "),
        (
            "sampling.repetition_penalty=1.1",
            r"sampling\.repetition_penalty: got 1\.1, allowed is 1\.0 with engine=transformers",
        ),
        ("sampling.frequency_penalty=1", r"sampling\.frequency_penalty: got 1\.0, allowed is 0\.0 with engine=transformers"),
        ("sampling.presence_penalty=1", r"sampling\.presence_penalty: got 1\.0, allowed is 0\.0 with engine=transformers"),
        ("sampling.stop_strings=[END]", r"sampling\.stop_strings: got \['END'\], allowed is \[\] with engine=transformers"),
        ("prompt.template=absent.jinja", r"prompt\.template: 'absent\.jinja' does not exist"),
    ],
)
def test_a_mistake_is_found_before_the_engine_starts(tmp_path: Path, override: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        asyncio.run(Pipeline.start(composed(override, f"model.path={with_another_shape(tmp_path / 'model')}")))


def test_without_a_mistake_the_same_folder_gets_as_far_as_the_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed):  # so the test above tells before from after
        asyncio.run(Pipeline.start(composed(f"model.path={with_another_shape(tmp_path / 'model')}")))


# ------------------------------------------------------------------------------------------------------------- warm-up


def test_warm_up_texts_come_from_the_named_file_before_the_models(tmp_path: Path) -> None:
    model = ModelConfig(name="m", path="m", warmup=write_questions(tmp_path / "models.json", "模型的"))
    assert warmup_questions(model) == ["模型的"]
    assert warmup_questions(model, write_questions(tmp_path / "named.json", "甲", "乙")) == ["甲", "乙"]


def test_without_any_file_the_built_in_texts_warm_up() -> None:
    assert warmup_questions(ModelConfig(name="m", path="m")) == list(BUILTIN_WARMUP)
    assert len(set(BUILTIN_WARMUP)) == len(BUILTIN_WARMUP) > 1


def test_the_built_in_texts_step_in_where_every_other_one_will_be_measured(tmp_path: Path) -> None:
    model = ModelConfig(name="m", path="m", warmup=write_questions(tmp_path / "w.json", "甲", "乙"))
    assert warmup_questions(model, never={"甲", "乙"}) == list(BUILTIN_WARMUP)
    assert warmup_questions(model, never={"甲", "乙", BUILTIN_WARMUP[0]}) == list(BUILTIN_WARMUP[1:])


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.sampled_from([*"甲乙丙丁", *BUILTIN_WARMUP]), min_size=1, unique=True),
    never=st.sets(st.sampled_from([*"甲乙丙", *BUILTIN_WARMUP[:2]])),
)
def test_a_text_that_will_be_measured_never_warms_up(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], never: set[str]
) -> None:
    file = write_questions(tmp_path_factory.mktemp("w") / "w.json", *texts)
    chosen = warmup_questions(ModelConfig(name="m", path="m", warmup=file), never=never)
    assert chosen
    assert not never & set(chosen)
    allowed = [text for text in texts if text not in never]
    assert chosen == allowed or not allowed


@pytest.mark.parametrize("content", [None, "[]", "[{]", '[{"question": ""}]'], ids=["absent", "empty", "broken", "blank"])
@pytest.mark.parametrize("by", ["model.warmup", "warmup"])
def test_a_configured_file_that_cannot_be_used_is_a_mistake_and_never_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str, content: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "w.json").write_text(content)
    arguments: dict[str, Any] = {"path": "w.json"} if by == "warmup" else {}
    model = ModelConfig(name="m", path="m", warmup="w.json" if by == "model.warmup" else None)
    with pytest.raises(UserError, match=r"w\.json") as refused:
        warmup_questions(model, **arguments)
    assert content is not None or str(refused.value).startswith(f"{by}: ")


def test_the_embedded_model_warms_up_with_questions_that_its_test_set_does_not_have() -> None:
    measured = {question.text for question in dataset.load(composed().dataset)}
    chosen = warmup_questions(composed().model)
    assert not measured & set(chosen)
    assert chosen != list(BUILTIN_WARMUP)
