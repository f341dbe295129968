"""How much of a batch's wall time do the kernels themselves need? The rest is what the host makes the GPU wait.

    python experiments/speed/profile_kernels.py out=/tmp/kernels model=/tmp/bench_model [--only a.text,c,d.64]

For the offline `LLM` and for ours, as a batch or under many clients: the median wall seconds of three times without the
profiler, then once more under vLLM's torch profiler, of whose trace only the kernels' own intervals count. Takes the
yardstick's options; the table is printed and kernels.json written to `out`. Exit codes: 0 measured, 1 somebody failed, 2
there is no CUDA device.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from processes import PeerFailed
from rows import Row, chosen
from run import Run
from yardstick import parse, write_model

from gpuqa.machine import hardware

MOST = 12  # kernels that are listed
BATCHES = 3
PATIENCE_S = 600.0
Interval = tuple[float, float, str]  # begin and duration in microseconds, name


def main() -> int:
    """Measure one contestant after the other, each alone on the GPU."""
    arguments = parse(sys.argv[1:])
    if not hardware.nvidia_smi("name"):
        print("profile_kernels: there is no CUDA device here, and so there are no kernels to measure", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_model(arguments)
    results: list[dict[str, Any]] = []
    failed = False
    for contestant, rows in by_contestant(chosen(arguments.only or "a.text,c,d.64")).items():
        try:
            for result in profiled(contestant, rows, arguments):
                results.append(result)
                print(shown(result), flush=True)
                (arguments.out / "kernels.json").write_text(json.dumps(results, indent=1) + "\n")
        except PeerFailed as error:
            failed = True
            print(f"{contestant}: {error}", file=sys.stderr)
    return 1 if failed else 0


def by_contestant(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of those contestants that switch vLLM's profiler on and off when they are told to."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.contestant.startswith(("ours", "offline")):
            found[row.contestant].append(row)
    return found


def profiled(contestant: str, rows: list[Row], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Wall and kernel seconds of one contestant's rows at every prefix."""
    traces = arguments.out / f"traces_{contestant}"
    profiler = ("profiler_config", profiler_config(traces))
    mine = {"rows": rows, "engine_args": [*arguments.engine_args, profiler], "budget": math.inf}  # traces take minutes to write
    run = Run(argparse.Namespace(**{**vars(arguments), **mine}))
    try:
        run.start()
        if contestant not in run.started:
            raise PeerFailed(run.errors[contestant])
        for row, prefix in itertools.product(rows, arguments.prefixes):
            walls = [run.ask(row, prefix, repeat, run.count(row), run.client)["seconds"] for repeat in range(BATCHES)]
            known = set(traces.glob("*.json*"))
            run.peers[contestant].ask({"profile": True}, PATIENCE_S)
            seconds = run.ask(row, prefix, BATCHES, run.count(row), run.client)["seconds"]
            run.peers[contestant].ask({"profile": False}, PATIENCE_S)
            found = [one for file in set(traces.glob("*.json*")) - known for one in kernels(read_trace(file))]
            if not found:
                raise PeerFailed(f"the profiler wrote no kernels to {traces}")
            known_s = {"profiled_wall_s": seconds, "idle_s": idle_s(found, seconds)}
            yield {"row": row.key, "what": row.what, "prefix": prefix, **known_s, **figures(found, walls)}
    finally:
        run.end()


def profiler_config(folder: Path) -> dict[str, Any]:
    """vLLM's profiler with everything off that costs time and that nobody reads here; known to 0.32 and 0.33."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "profiler": "torch",
        "torch_profiler_dir": str(folder),
        "torch_profiler_with_stack": False,
        "torch_profiler_dump_cuda_time_total": False,
        "ignore_frontend": True,
    }


def read_trace(file: Path) -> dict[str, Any]:
    """A Chrome trace, gzipped or not."""
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    trace: dict[str, Any] = json.loads(content)
    return trace


def kernels(trace: dict[str, Any]) -> list[Interval]:
    """The GPU kernels of a trace; copies and annotations are none."""
    events = trace["traceEvents"]
    return [(event["ts"], event["dur"], event["name"]) for event in events if event.get("cat") == "kernel"]


def figures(found: list[Interval], walls: list[float]) -> dict[str, Any]:
    """What the table shows; a kernel's seconds are its sum, all kernels' are the union of their intervals."""
    total: dict[str, list[float]] = defaultdict(list)
    for _, duration, name in found:
        total[name].append(duration)
    most = sorted(total.items(), key=lambda item: -sum(item[1]))[:MOST]
    span, gaps = span_and_gaps(found)
    wall, busy = statistics.median(walls), span - sum(gaps)
    return {
        "wall_s": wall,
        "walls_s": walls,
        "kernel_s": busy,
        "kernel_fraction": busy / wall,
        "kernels": [{"name": name, "seconds": sum(took) / 1e6, "calls": len(took)} for name, took in most],
    }


def idle_s(found: Iterable[Interval], wall_s: float) -> dict[str, float]:
    """Seconds of a profiled batch without a kernel: before the first and after the last, and between two by their gap."""
    span, gaps = span_and_gaps(found)
    idle = {"outside": wall_s - span, "over 1 ms": 0.0, "0.1 to 1 ms": 0.0, "under 0.1 ms": 0.0}
    for gap in gaps:
        idle["over 1 ms" if gap > 1e-3 else "0.1 to 1 ms" if gap > 1e-4 else "under 0.1 ms"] += gap
    return idle


def span_and_gaps(found: Iterable[Interval]) -> tuple[float, list[float]]:
    """Seconds from the first kernel's begin to the last one's end, and those of each gap in which none ran."""
    ordered = sorted(found)
    begun = end = ordered[0][0]
    gaps = []
    for begin, duration, _ in ordered:
        gaps.append(max(0.0, begin - end) / 1e6)
        end = max(end, begin + duration)
    return (end - begun) / 1e6, gaps


def shown(result: dict[str, Any]) -> str:
    """One contestant at one prefix, for a terminal."""
    head = (
        f"{result['row']} ({result['what']}), prefix {result['prefix']}: kernels {result['kernel_s']:.3f} s of "
        f"{result['wall_s']:.3f} s wall without the profiler = {result['kernel_fraction']:.0%} "
        f"(wall under the profiler {result['profiled_wall_s']:.3f} s, of it idle: "
        f"{', '.join(f'{seconds:.3f} s {where}' for where, seconds in result['idle_s'].items())})"
    )
    lines = [f"  {one['seconds']:7.3f} s {one['calls']:7d} x {one['name'][:110]}" for one in result["kernels"]]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    sys.exit(main())
