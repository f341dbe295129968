"""What do the limits of connections and bodies cost 64 clients? CPU time, which a busy machine does not change much.

    PYTHONPATH=.:tests python experiments/serving/limits_cost.py

The application on a real socket, twice in this process, with a stand-in engine that answers at once: once with the protocol
and middleware of `gpuqa.serving.connections` and the look at a body's values, once with uvicorn's and FastAPI's own.
64 clients with a question each, over kept connections, ask both in turn; the clients' share is in both numbers. Prints the CPU
time a request, median and median absolute deviation of the rounds, and the ratio with the 95 % interval of its rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import uvicorn
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from stand_in_service import ScriptedEngine, scripted, until

from gpuqa.config.http import HttpConfig
from gpuqa.measure.statistics import median_and_mad, t_quantile
from gpuqa.records import Generation
from gpuqa.serving.app import create_app
from gpuqa.serving.connections import Connections
from gpuqa.serving.life import State, Winner
from gpuqa.serving.routes import contract, openai
from gpuqa.serving.service import Service
from gpuqa.serving.telemetry import Telemetry

sys.path.append(str(Path(__file__).resolve().parents[1] / "speed"))
from client import ask

CLIENTS, REQUESTS = 64, 320  # requests of a round


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    bodies = [json.dumps({"prompt": f"{place} 什么是 warp divergence？"}) for place in range(REQUESTS)]
    milliseconds: dict[str, list[float]] = {"with": [], "without": []}
    with served(limits=True) as one, served(limits=False) as other:
        for name, port in [("with", one), ("without", other)] * (rounds + 2):
            began = time.process_time()
            asyncio.run(ask(port, "/predict", bodies, CLIENTS))
            milliseconds[name].append(1000 * (time.process_time() - began) / REQUESTS)
    kept = {name: values[2:] for name, values in milliseconds.items()}  # the first two rounds warm up
    for name, values in kept.items():
        middle, mad = median_and_mad(values)
        print(f"{name} limits: {middle:.3f} ms of CPU a request (MAD {mad:.3f})")
    ratios = [one / other for one, other in zip(kept["with"], kept["without"], strict=True)]
    mean = sum(ratios) / len(ratios)
    error = (sum((ratio - mean) ** 2 for ratio in ratios) / (len(ratios) - 1) / len(ratios)) ** 0.5
    width = t_quantile(0.95, len(ratios) - 1) * error
    print(f"with / without: {mean:.3f} ({mean - width:.3f} to {mean + width:.3f})")


@contextmanager
def served(limits: bool) -> Iterator[int]:
    """The port of a server that is ready."""
    engine = ScriptedEngine(lambda _: Generation([100, 200, 300], "stop"))
    engine.open.set()
    http, ended = HttpConfig(), []
    service = Service(Winner({"": scripted(engine)}, ("?",)), http, Telemetry(CollectorRegistry()), ended.append)
    if limits:
        connections = Connections(http)
        config = uvicorn.Config(create_app(service, connections=connections), log_config=None, **connections.uvicorn_settings())
    else:
        plain = {"bounded_route": lambda _: APIRoute}
        with mock.patch.multiple(contract, **plain), mock.patch.multiple(openai, **plain):
            config = uvicorn.Config(create_app(service), log_config=None, timeout_keep_alive=75)
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        until(lambda: service.state is State.ready)
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main()
