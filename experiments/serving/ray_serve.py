"""What does Ray Serve cost a question? `gpuqa.ray_app` beside the plain server, each with two stub replicas, in turn.

    PYTHONPATH=.:tests:experiments/serving python experiments/serving/ray_serve.py [--rounds 10]

Both have the same front, and the same processes below it, which answer at once (stub_replica.py), so that what is left is the
way there and back: HTTP and a Unix socket, or Ray's proxy, its front, its engine's replica, and the same socket. The rows:

    one at a time    100 questions from one client
    64 clients       640 single questions
    one POST         358 questions in one

Prints the median milliseconds a question (of the POST: in all), the ratio of each round's two with its quartiles, and the CPU
time a question of all processes of each server, which other work on the machine changes less; then for Ray by process. Needs
ray[serve]; variables such as RAY_SERVE_THROUGHPUT_OPTIMIZED=1 are handed on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from unittest import mock

import psutil
import stub_replica
from made_winner import made_winner
from stub_replicas import cpu_s, fronted

sys.path.append(str(Path(__file__).resolve().parents[1] / "speed"))
from client import ask

from gpuqa import ray_app
from gpuqa.config.pipeline import PipelineConfig
from gpuqa.machine.places import Part
from gpuqa.serving.life import Winner

QUESTION = "请解释 warp divergence 是什么，怎样避免它，并且给出一个例子？"
SINGLE = json.dumps({"prompt": QUESTION})
ROWS = {  # name: bodies, clients, questions
    "one at a time": ([SINGLE] * 100, 1, 100),
    "64 clients": ([SINGLE] * 640, 64, 640),
    "one POST": ([json.dumps({"prompt": [QUESTION] * 358})], 1, 1),
}


class StubEngine(ray_app.Engine):
    """The deployment of engines, with stub replicas."""

    async def __init__(self, config: Any, _: Any, pipeline: PipelineConfig) -> None:
        starts = {"": partial(stub_replica.start, pipeline, Part(""), dict(os.environ))}
        await self.start(Winner(starts, ["一"], facts={"stub": True}, labels={"stub": "1"}), config.http)


def main() -> None:
    """Measure in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    seconds: dict[tuple[str, str], list[float]] = {}
    spent: dict[tuple[str, str], list[float]] = {}
    by_name: dict[str, Counter[str]] = {row: Counter() for row in ROWS}
    with fronted(2, at_once=True) as (front, plain_port, _), on_ray() as ray_port:
        ports = {"plain": (plain_port, [front]), "ray": (ray_port, [])}
        for number in range(rounds + 1):
            for row, (bodies, clients, questions) in ROWS.items():
                for server, (port, top) in ports.items():
                    processes = [*top, *front.children()] if server == "plain" else processes_of_ray(front)
                    before = {process: cpu_s(process) for process in processes}
                    reply = asyncio.run(ask(port, "/predict", bodies, clients))
                    assert not reply["empty"], reply
                    if number:  # the first is to warm up
                        seconds.setdefault((row, server), []).append(reply["seconds"] / questions)
                        took = {process: (cpu_s(process) - was) / questions for process, was in before.items()}
                        spent.setdefault((row, server), []).append(sum(took.values()))
                        if server == "ray":
                            by_name[row] += Counter({name_of(process): each / rounds for process, each in took.items()})
    print(
        "| | plain: ms | Ray Serve: ms | ratio (quartiles) | CPU ms: plain | Ray Serve |\n| --- | --- | --- | --- | --- | --- |"
    )
    for row in ROWS:
        plain, ray = seconds[row, "plain"], seconds[row, "ray"]
        low, _, high = quantiles([slow / fast for fast, slow in zip(plain, ray, strict=True)], n=4)
        ratio = median(slow / fast for fast, slow in zip(plain, ray, strict=True))
        cpu = " | ".join(f"{1000 * median(spent[row, server]):.2f}" for server in ports)
        print(
            f"| {row} | {1000 * median(plain):.2f} | {1000 * median(ray):.2f} | {ratio:.2f} ({low:.2f} to {high:.2f}) | {cpu} |"
        )
    for row, names in by_name.items():
        print(f"{row}: {', '.join(f'{name} {1000 * each:.2f} ms' for name, each in names.most_common(7))}")


def name_of(process: psutil.Process) -> str:
    """What Ray calls it."""
    words = process.cmdline() or [process.name()]
    return (
        words[0].rpartition("/")[2] if "python" not in words[0] else words[-1][:40] if "work()" not in words[2] else "replica"
    )


@contextlib.contextmanager
def on_ray() -> Iterator[int]:
    """The application on a cluster of this machine; the port of its proxy."""
    import ray
    from ray import serve

    os.environ |= {"STUB_AT_ONCE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    ray.init(address="local", num_cpus=8, include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(ray_app, "Engine", StubEngine):
        winner = made_winner(Path(folder), "engine=transformers")
        application = ray_app.application({"frozen": str(winner), "http.replicas": "2", "http.logs": "text"})
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application)
    try:
        yield port
    finally:
        serve.shutdown()
        ray.shutdown()


def processes_of_ray(front: psutil.Process) -> list[psutil.Process]:
    """All that Ray has started below this process."""
    plain = {front.pid, *(child.pid for child in front.children())}
    return [child for child in psutil.Process().children(recursive=True) if child.pid not in plain]


if __name__ == "__main__":
    main()
