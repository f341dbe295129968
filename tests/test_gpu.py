"""The overrides on a real GPU: kernels against the formula, bursts against vLLM's own scheduler, steps that are repeated.

    python -m pytest -m gpu

needs a CUDA device and vLLM, takes a few minutes, and uses the embedded model only. CI has no GPU and never runs it.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gpuqa.config.app import compose_cell
from gpuqa.engines.vllm.compat import TABLES, unsupported_vllm
from gpuqa.engines.vllm.overrides import choose_attention
from gpuqa.pipeline import dataset
from gpuqa.pipeline.pipeline import Pipeline
from gpuqa.records import Generation, Override

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

ALIKE = 0.95  # share of greedy answers that must be the same: another batch rounds otherwise, and some tokens are a tie
ENGINE = (
    "engine=vllm",
    "dataset=embedded_train",
    "prompt=bare",
    "engine.args.gpu_memory_utilization=0.05",  # looked at before the start; the next line is what the cache takes
    "+engine.args.kv_cache_memory_bytes=2147483648",  # vLLM then measures no free memory, which other processes change
    "engine.args.max_num_seqs=128",
    "sampling.max_tokens=64",
)


# ---------------------------------------------------------------- engines


@pytest.fixture(scope="module", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """vLLM's compiled files in a folder of this run, and temporary files at a path that is short enough for sockets."""
    folder = tmp_path_factory.mktemp("caches")
    before, usual = dict(os.environ), tempfile.tempdir
    os.environ.update(VLLM_CACHE_ROOT=str(folder), VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1")
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as short:
        tempfile.tempdir = short
        yield folder
        tempfile.tempdir = usual
    os.environ.clear()
    os.environ.update(before)


@dataclass(frozen=True)
class Run:
    """What one engine answered, and which overrides ran."""

    generations: list[Generation]
    overrides: dict[str, Override]

    @property
    def tokens(self) -> list[list[int]]:
        return [generation.token_ids for generation in self.generations]


def answered(*overrides: str, questions: int = 128) -> Run:
    """So many questions in one batch, greedy, to their own ends."""

    async def live() -> Run:
        config = compose_cell("experiment=none", *ENGINE, *overrides)
        texts = [question.text for question in dataset.load(config.dataset)]
        numbered = [f"{texts[place % len(texts)]} {place // len(texts) or ''}".strip() for place in range(questions)]
        pipeline = await Pipeline.start(config)
        try:
            prompts = [prompt.token_ids for prompt in pipeline.encoder.encode_all(numbered)]
            generations = await pipeline.engine.generate(prompts, config.sampling, pipeline.stop)
            return Run(generations, {override.part: override for override in pipeline.engine.overrides()})
        finally:
            await pipeline.close()

    return asyncio.run(live())


def alike(run: Run, other: Run) -> float:
    """The share of answers with the same tokens."""
    return sum(tokens == others for tokens, others in zip(run.tokens, other.tokens, strict=True)) / len(run.tokens)


@pytest.fixture(scope="module")
def plain(caches: Path) -> Run:
    """vLLM as it comes."""
    return answered("engine.scheduler=default")


@pytest.fixture(scope="module")
def burst(caches: Path) -> Run:
    return answered("engine.scheduler=burst")


@pytest.fixture(scope="module")
def shared_prefix(caches: Path) -> Run:
    return answered("engine.scheduler=default", "engine.attention=shared_prefix", "prompt=structured")


@pytest.fixture(scope="module")
def structured(caches: Path) -> Run:
    """vLLM as it comes, with the prompt of `shared_prefix`."""
    return answered("engine.scheduler=default", "prompt=structured")


def test_this_vllm_has_every_name_that_is_used() -> None:
    assert {table: unsupported_vllm(table) for table in TABLES} == dict.fromkeys(TABLES)


def test_vllm_as_it_comes_runs_nothing_of_this_project(plain: Run) -> None:
    assert [override.ran for override in plain.overrides.values()] == ["default", "default"]
    assert all(generation.error is None for generation in plain.generations)


def test_bursts_run_and_repeat_steps_and_their_answers_are_vllms_own(plain: Run, burst: Run) -> None:
    scheduler = burst.overrides["scheduler"]
    assert (scheduler.ran, scheduler.reason) == ("burst", None), (
        "a reason says that steps are prepared in full, or not recorded"
    )
    assert alike(plain, burst) >= ALIKE
    assert len({tuple(tokens) for tokens in burst.tokens}) > 20


LIMITS = {
    "penalties": ("sampling.repetition_penalty=5.0", "sampling.frequency_penalty=2.0", "sampling.presence_penalty=2.0"),
    "min_tokens": ("sampling.min_tokens=48",),
    "stop_strings": ("sampling.stop_strings=['，', 'the']",),
}


@pytest.mark.parametrize("name", LIMITS)
def test_bursts_with_what_looks_at_earlier_tokens_give_vllms_own_answers(name: str, plain: Run) -> None:
    theirs, ours = (answered(f"engine.scheduler={scheduler}", *LIMITS[name]) for scheduler in ("default", "burst"))
    assert (ours.overrides["scheduler"].ran, ours.overrides["scheduler"].reason) == ("burst", None)
    assert alike(theirs, ours) >= ALIKE
    assert alike(theirs, plain) < ALIKE, "else it changed nothing"


def test_attention_over_a_shared_prefix_runs_and_gives_vllms_answers(shared_prefix: Run, structured: Run) -> None:
    attention = shared_prefix.overrides["attention"]
    assert (attention.ran, attention.reason) == ("shared_prefix", None)
    assert alike(structured, shared_prefix) >= ALIKE


def test_attention_over_a_shared_prefix_reads_a_cache_of_float8(structured: Run) -> None:
    """vLLM's own attention over such a cache gives 66 of 80 answers of bf16 on an H200 (docs/formats.md)."""
    run = answered("engine.scheduler=default", "engine.attention=shared_prefix", "prompt=structured", "quantization=fp8_kv")
    attention = run.overrides["attention"]
    assert (attention.ran, attention.reason) == ("shared_prefix", None)
    assert alike(structured, run) >= 0.7


# ---------------------------------------------------------------- the runner, in the engine's process

COUNTED = "GPUQA_TEST_COUNTED"  # environment variable with a file that the engine's process adds a letter to for each step


def counting(name: str, letter: str, monkeypatch: pytest.MonkeyPatch, owner: type[Any]) -> None:
    """Have a method write a letter when it is called; the engine's process is forked from this one and has it, too."""
    own = getattr(owner, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        with open(os.environ[COUNTED], "a", encoding="utf-8") as file:
            file.write(letter)
        return own(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)


SAMPLINGS = {"greedy": (), "drawn": ("sampling.temperature=0.7", "sampling.top_p=0.8"), "min_tokens": LIMITS["min_tokens"]}


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=list(SAMPLINGS))
def test_the_runner_repeats_most_steps_and_replays_the_sampler_as_a_cuda_graph(
    sampling: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caches: Path
) -> None:
    from gpuqa.engines.vllm.burst.runner import RepeatedSteps, SamplingGraph

    file = tmp_path / "counted"
    file.touch()
    monkeypatch.setenv(COUNTED, str(file))
    counting("execute_model", "s", monkeypatch, RepeatedSteps)
    counting("_move_on", "m", monkeypatch, RepeatedSteps)
    counting("_record", "r", monkeypatch, SamplingGraph)
    counting("sampled_from", "g", monkeypatch, SamplingGraph)
    run = answered("engine.scheduler=burst", "sampling.ignore_eos=true", *sampling, questions=64)
    letters = file.read_text()
    steps, moved, recorded, graphed = (letters.count(letter) for letter in "smrg")
    assert moved > 0.8 * 64, f"of {steps} steps"
    assert graphed == moved, "every repeated step samples by the graph"
    assert 0 < recorded < moved / 4
    assert {len(tokens) for tokens in run.tokens} == {64}


def test_drawn_tokens_differ_from_step_to_step_although_the_graph_is_the_same(caches: Path) -> None:
    run = answered("engine.scheduler=burst", "sampling.temperature=2.0", "sampling.ignore_eos=true", questions=16)
    assert all(len(set(tokens)) > len(tokens) / 4 for tokens in run.tokens)


# ---------------------------------------------------------------- shared_prefix: the kernels
# They stand behind the engines' tests: once this process has used CUDA, vLLM spawns an engine instead of forking it.


@dataclass(frozen=True)
class Shape:
    """One decoding step of many sequences."""

    sequences: int
    prefix_blocks: int  # that all sequences share
    own_tokens: int  # at most so many more; each sequence has another number of them
    heads: int = 16
    key_heads: int = 8
    size: int = 128
    block: int = 16
    padding: int = 0  # rows at the end that are no sequences


SHAPES = {
    "qwen3_0.6b": Shape(sequences=128, prefix_blocks=32, own_tokens=300),
    "qwen3_0.6b_wide": Shape(sequences=358, prefix_blocks=16, own_tokens=256, block=32),
    "nothing_shared": Shape(sequences=48, prefix_blocks=0, own_tokens=200),
    "one_shared_block": Shape(sequences=64, prefix_blocks=1, own_tokens=40),
    "padded": Shape(sequences=60, prefix_blocks=8, own_tokens=64, padding=4),
    "one_query_a_key": Shape(sequences=64, prefix_blocks=4, own_tokens=100, heads=8),
    "three_queries_a_key": Shape(sequences=50, prefix_blocks=4, own_tokens=100, heads=6, key_heads=2, size=64, block=32),
    "eight_queries_a_key": Shape(sequences=64, prefix_blocks=4, own_tokens=100, heads=8, key_heads=1, block=32),
    "one_sequence": Shape(sequences=1, prefix_blocks=8, own_tokens=16),
    "embedded_model": Shape(sequences=128, prefix_blocks=3, own_tokens=64, heads=2, key_heads=1, size=64),
}


def step_of(shape: Shape, dtype: Any, cache_dtype: Any = None) -> tuple[Any, Any, Any, Any]:
    """Queries [sequences, heads, size], a cache [blocks, tokens in a block, key heads, 2 * size], a block table
    [sequences, blocks] and lengths [sequences] in tokens. What no sequence may read is NaN."""
    random = torch.Generator(device="cuda").manual_seed(0)
    rows = shape.sequences + shape.padding
    own_blocks = -(-shape.own_tokens // shape.block)
    blocks = shape.prefix_blocks + rows * own_blocks + 1
    order = torch.randperm(blocks - 1, generator=random, device="cuda").int() + 1  # block 0 is nobody's
    table = torch.zeros(rows, shape.prefix_blocks + own_blocks, dtype=torch.int32, device="cuda")
    table[:, : shape.prefix_blocks] = order[: shape.prefix_blocks]
    table[:, shape.prefix_blocks :] = order[shape.prefix_blocks :].reshape(rows, own_blocks)
    own = torch.randint(1, shape.own_tokens + 1, (rows,), generator=random, device="cuda").int()
    lengths = own + shape.prefix_blocks * shape.block
    lengths[shape.sequences :] = 0
    table[shape.sequences :] = 0
    query = torch.randn(rows, shape.heads, shape.size, generator=random, device="cuda").to(dtype)
    cache = torch.randn(blocks, shape.block, shape.key_heads, 2 * shape.size, generator=random, device="cuda")
    cache[0] = float("nan")
    for row, length in enumerate(lengths.tolist()):  # behind the last token of each sequence
        if length % shape.block:
            cache[table[row, length // shape.block].long(), length % shape.block :] = float("nan")
    return query, cache.to(cache_dtype or dtype), table, lengths


def by_the_formula(query: Any, cache: Any, table: Any, lengths: Any, scales: tuple[float, float] = (1.0, 1.0)) -> Any:
    """softmax(q k / sqrt(size)) v for every sequence by itself, in float64; `scales` of keys and values."""
    group = query.shape[1] // cache.shape[2]
    out = torch.zeros(query.shape, dtype=torch.float64, device="cuda")
    for row, length in enumerate(lengths.tolist()):
        tokens = cache[table[row].long()].flatten(0, 1)[:length].double().repeat_interleave(group, dim=1)
        keys, values = (part * scale for part, scale in zip(tokens.chunk(2, dim=-1), scales, strict=True))
        scores = torch.einsum("hd,thd->ht", query[row].double(), keys) / query.shape[-1] ** 0.5
        out[row] = torch.einsum("ht,thd->hd", scores.softmax(-1), values)
    return out


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_kernels_give_what_the_formula_gives(name: str, dtype: Any) -> None:
    from gpuqa.engines.vllm.shared_prefix import kernels

    shape = SHAPES[name]
    query, cache, table, lengths = step_of(shape, dtype)
    out = torch.full_like(query, float("nan"))  # what is not written stays NaN
    keys, values = cache.split(shape.size, dim=-1)
    shared = kernels.shared_tokens(table, lengths, shape.block)
    assert shared.item() == shape.prefix_blocks * shape.block
    kernels.attend(query, kernels.Cache(keys, values, table, lengths), shared, shape.size**-0.5, out)
    torch.cuda.synchronize()
    assert not out.isnan().any(), "a row that was not written, or a token that is no part of the sequence"
    real = slice(0, shape.sequences)
    expected = by_the_formula(query, cache, table, lengths)[real]
    torch.testing.assert_close(out[real].double(), expected, atol=2e-2, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_kernels_give_what_the_formula_gives_over_a_cache_of_float8(name: str, dtype: Any) -> None:
    from gpuqa.engines.vllm.shared_prefix import kernels

    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this card has no float8")
    shape, scales = SHAPES[name], (0.5, 3.0)
    query, cache, table, lengths = step_of(shape, dtype, torch.float8_e4m3fn)
    out = torch.full_like(query, float("nan"))
    shared = kernels.shared_tokens(table, lengths, shape.block)
    on_the_card = (torch.tensor(scale, device="cuda") for scale in scales)
    read = kernels.Cache(*cache.split(shape.size, dim=-1), table, lengths, *on_the_card)
    kernels.attend(query, read, shared, shape.size**-0.5, out)
    torch.cuda.synchronize()
    assert not out.isnan().any(), "a row that was not written, or a token that is no part of the sequence"
    real = slice(0, shape.sequences)
    expected = by_the_formula(query, cache, table, lengths, scales)[real]
    torch.testing.assert_close(out[real].double(), expected, atol=2e-2, rtol=2**-8)  # bfloat16 has eight bits


def test_the_kernels_give_the_same_inside_a_cuda_graph_with_other_values() -> None:
    from gpuqa.engines.vllm.shared_prefix import kernels

    shape = SHAPES["embedded_model"]
    query, cache, table, lengths = step_of(shape, torch.bfloat16)
    keys, values = cache.split(shape.size, dim=-1)
    out = torch.empty_like(query)

    def attend() -> None:
        shared = kernels.shared_tokens(table, lengths, shape.block)
        kernels.attend(query, kernels.Cache(keys, values, table, lengths), shared, shape.size**-0.5, out)

    attend()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        attend()
    lengths.clamp_(max=shape.prefix_blocks * shape.block + 1)  # other lengths, and less that is shared
    table[1, 0] = table[0, 1]
    out.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(out.double(), by_the_formula(query, cache, table, lengths), atol=2e-2, rtol=0)


def test_a_process_that_has_used_cuda_is_told_that_the_attention_is_off() -> None:
    torch.zeros(1, device="cuda")
    config = compose_cell("experiment=none", *ENGINE, "engine.attention=shared_prefix")
    reason = choose_attention(config.engine, config.engine_args()).reason
    assert reason == "this process has used CUDA, so vLLM spawns the engine's process instead of forking it"
