"""A served application for tests: uvicorn in a thread on a real socket, http.client, and an engine that is told what to do."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry

from gpuqa.config.app import compose_cell
from gpuqa.config.commands import CellConfig
from gpuqa.config.http import HttpConfig
from gpuqa.config.pipeline import SamplingConfig
from gpuqa.pipeline.pipeline import BUILTIN_WARMUP, Pipeline
from gpuqa.pipeline.prompts import load_tokenizer
from gpuqa.records import Generation, GenerationDelta, Override
from gpuqa.serving.app import create_app
from gpuqa.serving.auth import Keys
from gpuqa.serving.connections import Connections
from gpuqa.serving.life import StartPipeline, Winner
from gpuqa.serving.service import Service
from gpuqa.serving.telemetry import Telemetry

PATIENCE_S = 120.0
STARTING = (503, {"status": "starting"})
Start = Callable[[], Awaitable[Pipeline]]
Reply = tuple[int, Any]


def composed(*overrides: str) -> CellConfig:
    """One cell on the transformers backend; in float32 an answer does not depend on what else is in its batch."""
    fixed = ["experiment=none", "engine=transformers", "engine.args.dtype=float32", "prompt=bare", "sampling.max_tokens=24"]
    return compose_cell(*fixed, *overrides)


@dataclass
class Served:
    """An application behind a port of the loopback, until its context ends."""

    port: int
    gave_up: list[str] = field(default_factory=list)
    service: Service | None = None

    def ask(self, method: str, path: str, body: Any = None, **more: str) -> tuple[int, dict[str, str], str]:
        """Status, headers (in lower case) and text of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            headers = {"Connection": "close"} | ({} if body is None else {"Content-Type": "application/json"})
            connection.request(method, path, body, {**headers, **more})
            reply = connection.getresponse()
            return reply.status, {key.lower(): value for key, value in reply.getheaders()}, reply.read().decode("utf-8")
        finally:
            connection.close()

    def call(self, method: str, path: str, body: bytes | None = None) -> Reply:
        """Status and JSON."""
        status, _, text = self.ask(method, path, body)
        return status, json.loads(text)

    def metric(self, name: str) -> float:
        """The value of one sample, named as /metrics shows it, labels and all."""
        lines = self.ask("GET", "/metrics")[2].splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name)

    def status(self) -> Reply:
        return self.call("GET", "/")

    def predict(self, prompt: Any) -> Reply:
        return self.call("POST", "/predict", json.dumps({"prompt": prompt}).encode())

    def wait_for(self, reply: Reply) -> None:
        until(lambda: self.status() == reply)


@contextmanager
def another_server(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server that is none of ours, in a thread; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


@contextmanager
def serving(
    start: Start | dict[str, StartPipeline],
    config: HttpConfig | None = None,
    warmup: Sequence[str] = BUILTIN_WARMUP[:2],
    keys: Keys | None = None,
    port: int = 0,
) -> Iterator[Served]:
    """uvicorn in a thread, on a free port, or on one that was free before. Its end is a clean shutdown, or the test fails."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        served = Served(listening.getsockname()[1])
        telemetry = Telemetry(CollectorRegistry())
        starts = start if isinstance(start, dict) else {"": start}
        served.service = Service(
            Winner(starts, warmup, facts={"a": "fact"}), config or HttpConfig(), telemetry, served.gave_up.append
        )
        connections = Connections(served.service.http)
        app = create_app(served.service, keys, connections)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", **connections.uvicorn_settings()))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            until(lambda: server.started)
            yield served
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


class ScriptedEngine:
    """A fake, because the real engine neither fails nor waits on demand: it answers a prompt with the prompt, or as `script`
    says, and not before `open` is set."""

    start_s = 0.0

    def __init__(self, script: Callable[[int], Generation] | None = None) -> None:
        self.script = script
        self.open = threading.Event()
        self.asked: list[int] = []  # number of prompts of each call
        self.prompts: list[list[int]] | None = None  # of all calls, where a test wants them kept
        self.most: list[int] = []  # tokens that an answer of each call may have
        self.held: set[int] = set()  # places in a call that are never answered
        self.cancelled = self.closed = 0
        self.dead = False
        self.starts = 0
        self.loop: asyncio.AbstractEventLoop | None = None  # of the server's thread

    async def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: SamplingConfig,
        stop: Sequence[int],
        finished: dict[int, Generation] | None = None,
    ) -> list[Generation]:
        self.asked.append(len(prompts))
        if self.prompts is not None:
            self.prompts += prompts
        self.most.append(sampling.max_tokens)
        done = {} if finished is None else finished
        try:
            for place in sorted(range(len(prompts)), key=self.held.__contains__):
                while not self.open.is_set() or place in self.held:
                    await asyncio.sleep(0.01)
                done[place] = self.script(place) if self.script else Generation(prompts[place], "stop")
            return [done[place] for place in range(len(prompts))]
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def stream(
        self, prompt: list[int], sampling: SamplingConfig, stop: Sequence[int]
    ) -> AsyncGenerator[GenerationDelta, None]:
        """What `generate` says, a token at a time."""
        [said] = await self.generate([prompt], sampling, stop)
        for token in said.token_ids:
            yield GenerationDelta([token])
        yield GenerationDelta(finish_reason=said.finish_reason, error=said.error)

    def alive(self) -> bool:
        return not self.dead

    def overrides(self) -> list[Override]:
        return [Override("scheduler", "burst", "default", "this vLLM is unknown")]

    def numbers(self) -> dict[str, float]:
        return {"vllm:num_requests_running": 7.0}

    async def reset_prefix_cache(self) -> None:
        """Nothing is cached."""

    async def close(self) -> None:
        self.closed += 1


def scripted(engine: ScriptedEngine) -> Start:
    async def start() -> Pipeline:
        engine.starts += 1
        engine.loop = asyncio.get_running_loop()
        engine.dead = False
        config = composed()
        return Pipeline(engine, load_tokenizer(config.model), config)  # type: ignore[arg-type]

    return start


def real() -> Awaitable[Pipeline]:
    return Pipeline.start(composed())
