"""How fast is a model in each number format? Engines side by side on one GPU, which measure in turn.

    python experiments/formats/speeds.py out=/tmp/speeds model=/tmp/random_model --starts 3 --batches 4 \\
        --each "none=quantization=none" --each "fp8=quantization=fp8"

Every `--each` is NAME=OVERRIDE [OVERRIDE ...] of gpuqa.sweep. All engines of a start come up at once, in processes of their
own; one that does not start is a result with its reason. Then, batch by batch, one after the other answers the same 256
questions from an empty prefix cache, 256 new tokens each. `speeds.json` has every value. The table has, over the first name,
the geometric mean of the starts' ratios with its 95 % interval (t), and the standard deviation between starts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import re
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SAID = {  # what vLLM prints of itself
    "attention": re.compile(r"Using (?:AttentionBackendEnum\.)?(\w+) (?:attention )?backend"),
    "weights_gib": re.compile(r"Model loading took ([\d.]+) GiB"),
    "kv_tokens": re.compile(r"GPU KV cache size: ([\d,]+) tokens"),
    "kernel": re.compile(r"(?:Using|Selected) (\w+(?:Kernel|LinearKernel)\w*)"),
}


def main() -> None:
    """All starts, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", metavar="out=FOLDER model=FOLDER")
    parser.add_argument("--each", action="append", default=[])
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--batches", type=int, default=4, help="timed ones of each start")
    parser.add_argument("--questions", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--kv-gib", type=float, default=10.5, help="of each engine")
    parser.add_argument("--engine", default="vllm_hopper")
    parser.add_argument("--budget", type=float, default=500.0, help="seconds; no start begins that would last longer")
    parser.add_argument("--patience", type=float, default=240.0, help="seconds; an engine that is not up by then is out")
    parser.add_argument("--one", help="used by the script itself: the overrides of one engine")
    arguments = parser.parse_args()
    places = dict(place.split("=", 1) for place in arguments.places)
    if arguments.one is not None:
        asyncio.run(one(arguments, places["model"]))
        return
    out = Path(places["out"])
    out.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    began = last = time.monotonic()
    for start in range(arguments.starts):
        now = time.monotonic()
        if start and now - began + (now - last) > arguments.budget:
            break
        last = now
        found += asyncio.run(one_start(start, arguments, places["model"], out))
        (out / "speeds.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(table(found))


async def one_start(start: int, arguments: argparse.Namespace, model: str, out: Path) -> list[dict[str, Any]]:
    """All engines once: up together, measured in turn, ended together."""
    engines = {}
    for each in arguments.each:
        name, _, overrides = each.partition("=")
        engines[name] = await launch(overrides, arguments, model, out / f"{name}_{start}.log")
    deadline = time.monotonic() + arguments.patience
    up = [reply(engine, deadline - time.monotonic()) for engine in engines.values()]
    rows = {
        name: {"name": name, "start": start, **ready} for name, ready in zip(engines, await asyncio.gather(*up), strict=True)
    }
    batches: dict[str, list[dict[str, Any]]] = {name: [] for name in rows}
    for _ in range(arguments.batches):
        for name, engine in engines.items():
            if "error" not in rows[name]:
                engine.stdin.write(b"go\n")
                batches[name].append(answer := await reply(engine, 90.0))
                rows[name] |= {"error": answer["error"]} if "error" in answer else {}
    for name, engine in engines.items():
        end(engine)
        await engine.wait()
        log = (out / f"{name}_{start}.log").read_text(errors="replace")
        rows[name] |= {key: sorted(set(pattern.findall(log))) for key, pattern in SAID.items()}
        rows[name]["batches"] = batches[name]
        print(name, start, rows[name].get("error") or [round(batch["s"], 3) for batch in batches[name]], flush=True)
    return list(rows.values())


async def launch(overrides: str, arguments: argparse.Namespace, model: str, log: Path) -> Any:
    """One engine's process, the leader of a session of its own, so that its children end with it."""
    sizes = [f"--{key}={getattr(arguments, key.replace('-', '_'))}" for key in ("questions", "tokens", "kv-gib", "engine")]
    words = [sys.executable, __file__, f"model={model}", "--one", overrides, *sizes]
    pipe, path = asyncio.subprocess.PIPE, os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with log.open("wb") as file:
        env = {**os.environ, "PYTHONPATH": path, "VLLM_LOGGING_LEVEL": "INFO"}
        return await asyncio.create_subprocess_exec(
            *words, stdin=pipe, stdout=pipe, stderr=file, env=env, start_new_session=True, limit=2**20
        )


async def reply(engine: Any, seconds: float) -> dict[str, Any]:
    """The next line of an engine's process; an error where none comes."""
    try:
        line = await asyncio.wait_for(engine.stdout.readline(), max(seconds, 1.0))
        return dict(json.loads(line))
    except TimeoutError:
        return {"error": f"no answer within {seconds:.0f} s"}
    except ValueError:
        return {"error": "the process ended"}


def end(engine: Any) -> None:
    """A process and what it started."""
    try:
        os.killpg(engine.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


async def one(arguments: argparse.Namespace, model: str) -> None:
    """Start, answer a batch that is not timed, then one for each line that comes in; a line of JSON goes out for each."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what engines print goes where errors go

    def say(**values: Any) -> None:
        out.write(json.dumps(values) + "\n")
        out.flush()

    from gpuqa.config.app import compose_cell
    from gpuqa.machine import hardware
    from gpuqa.machine.captured_output import root_cause
    from gpuqa.pipeline import dataset
    from gpuqa.pipeline.pipeline import Pipeline

    words = [f"engine={arguments.engine}", f"++engine.args.kv_cache_memory_bytes={int(arguments.kv_gib * 2**30)}"]
    if arguments.engine != "vllm_cpu":  # looked at before the start; the cache has its size already
        words += ["engine.args.gpu_memory_utilization=0.05"]
    words += ["sampling=fixed_length", f"sampling.max_tokens={arguments.tokens}", "dataset=embedded_train", "prompt=structured"]
    words += ["model=random_qwen3_0_6b", f"model.path={model}"]
    log = Path(os.readlink("/proc/self/fd/2"))
    began = time.monotonic()
    try:
        config = compose_cell("experiment=none", *words, *arguments.one.split())
        texts = [question.text for question in dataset.load(config.dataset)][: arguments.questions]
        pipeline = await Pipeline.start(config)
        await pipeline.answer(texts)
        ran = {override.part: override.ran for override in pipeline.engine.overrides()}
        say(ready_s=time.monotonic() - began, ran=ran, questions=len(texts))
        while await asyncio.to_thread(sys.stdin.readline):
            await pipeline.engine.reset_prefix_cache()
            joules, begun = hardware.energy_j(1), time.perf_counter()
            completions = await pipeline.answer(texts)
            seconds, used = time.perf_counter() - begun, hardware.energy_j(1)
            tokens = sum(completion.output_tokens for completion in completions)
            say(s=seconds, tokens=tokens, j=None if joules is None or used is None else used - joules)
    except Exception as error:  # of the engine, whatever it is: one that does not run is what this script wants to know
        sys.stderr.flush()
        say(error=" ".join(root_cause(log.read_text(errors="replace"), f"{type(error).__name__}: {error}").split())[:600])


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: a line for each name, in the order of the first start."""
    heads = ("name", "median s of each start", "speed over the first", "sd between, within starts, %", "J a token")
    heads += ("weights GiB", "KV tokens", "attention")
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    names = list(dict.fromkeys(row["name"] for row in found))
    rows = {name: [row for row in found if row["name"] == name] for name in names}
    for name, starts in rows.items():
        said = " | ".join(", ".join(map(str, starts[0][key])) or "n/a" for key in ("weights_gib", "kv_tokens", "attention"))
        if errors := [row["error"] for row in starts if "error" in row]:
            lines.append(f"| {name} | {errors[0]} | | | | {said} |")
            continue
        medians = [statistics.median(batch["s"] for batch in row["batches"]) for row in starts]
        first = {row["start"]: row for row in rows[names[0]] if "error" not in row}
        ratios = [over(first[row["start"]], row) for row in starts if row["start"] in first]
        joules = [batch["j"] / batch["tokens"] for row in starts for batch in row["batches"] if batch["j"]]
        energy = f"{statistics.median(joules):.4f}" if joules else "n/a"
        seconds = ", ".join(f"{median:.3f}" for median in medians)
        lines.append(f"| {name} | {seconds} | {with_interval(ratios)} | {spread(starts)} | {energy} | {said} |")
    return "\n".join(lines)


def over(first: dict[str, Any], row: dict[str, Any]) -> float:
    """How many times as fast as the first a start is, its batches paired by their turn; the logarithm."""
    return statistics.fmean(math.log(one["s"] / two["s"]) for one, two in zip(first["batches"], row["batches"], strict=True))


def with_interval(logs: list[float]) -> str:
    """The geometric mean of ratios, and its 95 % interval where there are several."""
    if len(logs) < 2:
        return ", ".join(f"{math.exp(log):.3f}" for log in logs)
    from gpuqa.measure.statistics import t_quantile

    half = t_quantile(0.95, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    mean = statistics.fmean(logs)
    return f"{math.exp(mean):.3f} ({math.exp(mean - half):.3f} to {math.exp(mean + half):.3f})"


def spread(starts: list[dict[str, Any]]) -> str:
    """Standard deviations of the logarithms of the seconds, percent: between starts, within a start."""
    logs = [[math.log(batch["s"]) for batch in row["batches"]] for row in starts]
    if len(logs) < 2 or len(logs[0]) < 2:
        return "n/a"
    within = statistics.fmean(statistics.variance(each) for each in logs)
    between = max(statistics.variance([statistics.fmean(each) for each in logs]) - within / len(logs[0]), 0.0)
    return f"{100 * between**0.5:.2f}, {100 * within**0.5:.2f}"


if __name__ == "__main__":
    main()
