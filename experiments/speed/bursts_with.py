"""What do bursts bring to answers with penalties, with stop strings, and to streamed ones, over vLLM's own scheduler?

    PYTHONPATH=.:$PYTHONPATH python experiments/speed/bursts_with.py out=/tmp/bursts_with model=/tmp/bench_model
    PYTHONPATH=. python experiments/speed/bursts_with.py out=/tmp/bursts_with model=gpuqa/embedded/model --questions 8

Two engines that differ in `engine.scheduler` alone answer the same questions in turn, and no question twice but for the
control: the first questions of a row are asked of vLLM's scheduler once more. On a GPU a batch of another size rounds
otherwise, so some answers differ in the control, too; that share is the measure for the bursts'. Tokens and the reason
for the end are compared.

`ends early` has a stop string that some half of the warm-up's answers hold, `never ends` one that none holds; each costs
vLLM the text of every token. Of streamed answers the gaps between two pieces are shown, in milliseconds, over all rounds.
`client s` are seconds of CPU in this process, with each scheduler, where vLLM turns messages of the engine into answers.
Seconds are medians; a ratio above 1 says that bursts are faster, with the 95 % interval of the mean of its logarithm over the
rounds. `bursts_with.json` has all seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from questions import question_texts, system_prompt
from tokenizers import Tokenizer
from yardstick import pair, write_model

from gpuqa.config.app import compose_cell, vllm_on_this_machine
from gpuqa.config.pipeline import SamplingConfig
from gpuqa.engines.vllm.engine import VllmEngine
from gpuqa.measure.statistics import mean_estimate
from gpuqa.pipeline.pipeline import start_engine

SCHEDULERS = ("default", "burst")
PENALTIES = {"repetition_penalty": 1.1, "frequency_penalty": 0.2, "presence_penalty": 0.2}
NEVER = "\n\nno model says this\n\n"
Answer = tuple[list[int], str]  # its tokens, and why it ended


@dataclass
class Row:
    """One way of asking, and what came of it."""

    sampling: SamplingConfig
    streamed: bool = False
    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SCHEDULERS})
    tokens: int = 0  # of the first round's answers, by vLLM's scheduler
    differ: dict[str, float] = field(default_factory=dict)  # share of answers: burst, and control
    client: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SCHEDULERS})  # seconds of CPU here
    gaps_ms: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SCHEDULERS})


def main() -> None:
    """Start both engines, measure in turn until the budget ends, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs=2, type=pair, metavar="out=FOLDER model=FOLDER")
    parser.add_argument("--questions", type=int, default=358)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--prefix", type=int, default=500, help="tokens that all questions share")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=225.0, help="seconds; no round begins that would not end in it")
    parser.add_argument("--set", nargs="*", default=[], help="overrides of both engines, as gpuqa.sweep takes them")
    parser.add_argument("--tiny", action="store_true", help="write a two-layer model if the folder holds none")
    arguments, places = parser.parse_args(), dict(parser.parse_args().places)
    arguments.model, out = Path(places["model"]).absolute(), Path(places["out"]).absolute()
    out.mkdir(parents=True, exist_ok=True)
    write_model(arguments)
    rows, ran = asyncio.run(measured(arguments, time.monotonic() + arguments.budget))
    values = {name: {key: getattr(row, key) for key in ("seconds", "client", "tokens", "differ")} for name, row in rows.items()}
    (out / "bursts_with.json").write_text(json.dumps({"ran": ran, "rows": values}, indent=1) + "\n")
    print("\nwhat ran:", json.dumps(ran))
    report(rows)


async def measured(arguments: Any, deadline: float) -> tuple[dict[str, Row], dict[str, Any]]:
    """The rows with their values, and which overrides each engine ran."""
    engines = {name: await started(name, arguments) for name in SCHEDULERS}
    try:
        texts = Texts(arguments)
        warm = [await answers(engine, texts.prompts("warm", -1), fixed(arguments)) for engine in engines.values()]
        rows, rounds, longest = rows_of(arguments, common_text(texts.tokenizer, warm[0])), 0, 0.0
        while rounds < arguments.rounds and time.monotonic() + longest < deadline:
            began = time.monotonic()
            for place, (name, row) in enumerate(rows.items()):
                await turn(engines, row, texts.prompts(name, rounds), first=rounds == 0, swap=bool((rounds + place) % 2))
                print(
                    f"round {rounds + 1}, {name}:", {key: round(value[-1], 3) for key, value in row.seconds.items()}, flush=True
                )
            longest, rounds = max(longest, time.monotonic() - began), rounds + 1
        return rows, {name: [asdict(override) for override in engine.overrides()] for name, engine in engines.items()}
    finally:
        for engine in engines.values():
            await engine.close()


async def started(scheduler: str, arguments: Any) -> VllmEngine:
    """One engine; the shipped one for this machine, with room in the GPU's memory for the other."""
    on_a_cpu = vllm_on_this_machine() == "vllm_cpu"
    room = [] if on_a_cpu else ["engine.args.gpu_memory_utilization=0.05", "+engine.args.kv_cache_memory_bytes=27917287424"]
    name = "engine=vllm_cpu" if on_a_cpu else "engine=vllm_hopper"
    words = [name, f"model.path={arguments.model}", f"engine.scheduler={scheduler}", *room, *arguments.set]
    engine = await start_engine(compose_cell("experiment=none", *words))
    assert isinstance(engine, VllmEngine)
    print(f"{scheduler}: engine started in {engine.start_s:.1f} s", flush=True)
    return engine


class Texts:
    """Questions as token ids, behind the prefix that all share."""

    def __init__(self, arguments: Any) -> None:
        self.tokenizer: Any = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
        self.count, self.prefix = arguments.questions, arguments.prefix
        self.system = self.ids(system_prompt(self.tokenizer, self.prefix))

    def prompts(self, row: str, repeat: int) -> list[list[int]]:
        return [self.system + self.ids(text) for text in question_texts(self.tokenizer, row, self.prefix, repeat, self.count)]

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)


def fixed(arguments: Any) -> SamplingConfig:
    """Greedy answers of all tokens."""
    return SamplingConfig(name="bursts_with", max_tokens=arguments.tokens, ignore_eos=True)


def rows_of(arguments: Any, common: str) -> dict[str, Row]:
    """The ways of asking. vLLM ends an answer by its end token beside stop strings: a random model hardly says one."""
    usual = fixed(arguments)
    stopping = replace(usual, ignore_eos=False)
    return {
        "plain": Row(usual),
        "penalties": Row(replace(usual, **PENALTIES)),
        "stop string, never ends": Row(replace(stopping, stop_strings=[NEVER])),
        f"stop string {common!r}, ends early": Row(replace(stopping, stop_strings=[common])),
        "streamed": Row(usual, streamed=True),
    }


def common_text(tokenizer: Any, known: Sequence[Answer]) -> str:
    """Two characters that nearest to half of the answers have."""
    texts = [tokenizer.decode(tokens) for tokens, _ in known]
    having = Counter(pair for text in texts for pair in {text[place : place + 2] for place in range(len(text) - 1)})
    return min(sorted(having), key=lambda pair: abs(having[pair] - len(texts) / 2))


async def turn(engines: dict[str, VllmEngine], row: Row, prompts: list[list[int]], first: bool, swap: bool) -> None:
    """Both engines answer the same; the first time, the answers are compared."""
    given: dict[str, list[Answer]] = {}
    for name in sorted(engines, reverse=swap):
        began, cpu = time.perf_counter(), time.process_time()
        if row.streamed:
            given[name] = await streams(engines[name], prompts, row.sampling, row.gaps_ms[name])
        else:
            given[name] = await answers(engines[name], prompts, row.sampling)
        row.seconds[name].append(time.perf_counter() - began)
        row.client[name].append(time.process_time() - cpu)
    if first:
        again = await answers(engines["default"], prompts, row.sampling)
        row.tokens = sum(len(tokens) for tokens, _ in given["default"])
        row.differ = {"burst": unlike(given["burst"], given["default"]), "control": unlike(again, given["default"])}


async def answers(engine: VllmEngine, prompts: list[list[int]], sampling: SamplingConfig) -> list[Answer]:
    """Whole answers."""
    given = await engine.generate(prompts, sampling, [])
    if errors := [one.error for one in given if one.error]:
        raise RuntimeError(f"{len(errors)} answers failed, the first with {errors[0]}")
    return [(one.token_ids, one.finish_reason) for one in given]


async def streams(engine: VllmEngine, prompts: list[list[int]], sampling: SamplingConfig, gaps_ms: list[float]) -> list[Answer]:
    """Answers piece by piece; the gaps between an answer's pieces go into `gaps_ms`."""

    async def one(prompt: list[int]) -> Answer:
        tokens: list[int] = []
        reason, moments = "", []
        async for delta in engine.stream(prompt, sampling, []):
            if delta.error:
                raise RuntimeError(delta.error)
            tokens += delta.token_ids
            reason = delta.finish_reason or reason
            moments.append(time.perf_counter())
        gaps_ms.extend(1000 * (after - before) for before, after in itertools.pairwise(moments))
        return tokens, reason

    return list(await asyncio.gather(*map(one, prompts)))


def unlike(given: list[Answer], others: list[Answer]) -> float:
    """The share of answers that differ."""
    return sum(one != other for one, other in zip(given, others, strict=True)) / len(given)


def report(rows: dict[str, Row]) -> None:
    """The tables."""
    for name, row in rows.items():
        for scheduler, gaps in row.gaps_ms.items():
            if gaps:
                cuts = statistics.quantiles(gaps, n=1000)
                shown = ", ".join(f"p{place / 10:g} {cuts[place - 1]:.2f}" for place in (500, 950, 990, 999))
                print(f"{name}, {scheduler}: gaps in ms: mean {statistics.mean(gaps):.2f}, {shown}, longest {max(gaps):.1f}")
    columns = ("row", "rounds", "tokens", "default s", "burst s", "client s", "default/burst (95 %)", "differ", "control")
    lines = [columns, *(cells(name, row) for name, row in rows.items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print()
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


def cells(name: str, row: Row) -> tuple[str, ...]:
    """A line of the table."""
    seconds = [f"{statistics.median(row.seconds[scheduler]):.3f}" for scheduler in SCHEDULERS]
    shares = [f"{row.differ[name]:.1%}" for name in ("burst", "control")]
    client = ", ".join(f"{statistics.median(row.client[scheduler]):.2f}" for scheduler in SCHEDULERS)
    return (name, str(len(row.seconds["burst"])), str(row.tokens), *seconds, client, ratio(row), *shares)


def ratio(row: Row) -> str:
    """The geometric mean of the rounds' ratios, with its interval where there are two rounds."""
    logs = [math.log(default / burst) for default, burst in zip(*(row.seconds[name] for name in SCHEDULERS), strict=True)]
    mean = f"{math.exp(statistics.mean(logs)):.3f}"
    if (estimate := mean_estimate(logs, list(map(str, range(len(logs)))))) is None:
        return mean
    interval = estimate.interval()
    return f"{mean} ({math.exp(interval.low):.3f} to {math.exp(interval.high):.3f})"


if __name__ == "__main__":
    main()
