"""A frozen winner on many hosts: the server of `gpuqa.serve` as an application of Ray Serve.

    serve run gpuqa.ray_app:app frozen=experiments/mine/frozen.yaml http.replicas=2     # or a file: serve deploy FILE
    serve run gpuqa.ray_app:app frozen=experiments/mine/frozen.yaml http.replicas=auto autoscaling_config.max_replicas=8

Keys are those of `gpuqa.serve`. A front answers HTTP. Each engine is a replica of a deployment of its own, on a GPU of any
host. Ray Serve starts, watches and ends both, and its proxies hold the ports. docs/many_gpus.md has the rest.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import yaml
from prometheus_client import CollectorRegistry, disable_created_metrics

from gpuqa.config import UserError, did_you_mean, one_line
from gpuqa.config.app import USER_ERROR, compose_root
from gpuqa.config.commands import ServeConfig
from gpuqa.config.http import HttpConfig
from gpuqa.config.pipeline import PipelineConfig
from gpuqa.engines import BACKENDS, EngineFailed, gpus_of_engine
from gpuqa.machine.places import Part
from gpuqa.records import Completion, CompletionDelta
from gpuqa.serve import Started, overrides_of, prepared, read_winner
from gpuqa.serving.app import create_app
from gpuqa.serving.auth import read_keys
from gpuqa.serving.fleet import Fleet, Member
from gpuqa.serving.life import EngineLife, State, Winner
from gpuqa.serving.replica_process import Vitals
from gpuqa.serving.service import Service, has_started
from gpuqa.serving.telemetry import Telemetry, log_to_stderr

log = logging.getLogger("gpuqa.serve")
CALLS = 100_000  # that a replica may have at once: `http.max_waiting_questions` is the limit, and says so to clients
END_S = 30.0  # for an engine to end, after its last answer
HEALTH_EVERY_S = 2.0
ROUTING, SCALING = "gpuqa.serving.ray_routing", "autoscaling_config"
DECIDED_BY_RAY = {  # keys of `http` -> what to do instead
    **dict.fromkeys(("host", "port", "request_timeout_s"), "say it under http_options of the file for `serve deploy`"),
    **dict.fromkeys(("max_connections", "max_head_bytes"), "limit them in what stands in front of its proxies"),
    **dict.fromkeys(("restart_engine", "restart_attempts", "restart_backoff_s"), "it replaces a lost engine by itself"),
    "watch_frozen": "`serve deploy` with another frozen file serves that one",
}


def app(args: Mapping[str, Any]) -> Any:
    """The application, for `serve run` and `serve deploy`.

    Args:
        args: overrides of conf/serve.yaml, flat or nested; and `autoscaling_config` with keys of Ray's AutoscalingConfig.

    Raises:
        click.ClickException: Ray Serve is not installed, or what `gpuqa.serve` ends with exit code 2 for; Ray prints the line.
    """
    try:
        return application(args)
    except UserError as error:
        refuse(one_line(str(error)))


def refuse(message: str) -> NoReturn:
    """End Ray's command with one line and exit code 2; in a cluster it becomes the message of the application's status."""
    import click

    raise type("WrongInput", (click.ClickException,), {"exit_code": USER_ERROR})(message)


def application(args: Mapping[str, Any]) -> Any:
    """The same.

    Raises:
        UserError: Ray Serve is not installed, or the input is wrong.
    """
    try:
        import ray.serve as serve
    except ImportError:  # plain Ray has the module, without what it needs
        raise UserError("gpuqa.ray_app: Ray Serve is not installed; pip install 'gpuqa[ray-serve]'") from None
    config = composed(args)
    content, pipeline = read_winner(config)
    overrides_of(content, config.frozen)
    gpus = gpus_of_engine(pipeline.engine_args()) if content["driver"] else 0
    both = {
        "max_ongoing_requests": CALLS,
        "health_check_period_s": HEALTH_EVERY_S,
        "graceful_shutdown_timeout_s": config.http.shutdown_timeout_s + END_S,
        "graceful_shutdown_wait_loop_s": 0.5,
        "logging_config": {"enable_access_log": False},  # the front has its own
    }
    engines = serve.deployment(
        Engine,
        ray_actor_options={"num_gpus": gpus, "num_cpus": 1},
        request_router_config={"request_router_class": f"{ROUTING}.AskedReplica"},
        **number_of_replicas(config, pipeline, scaling(args)),
        **both,
    )
    front = serve.deployment(serve.ingress()(Front), **both)
    return front.bind(config.http, pipeline, engines.bind(config, content, pipeline))


def composed(args: Mapping[str, Any]) -> ServeConfig:
    """The config of `gpuqa.serve`.

    Raises:
        UserError: it is wrong, or says what Ray Serve decides.
    """
    words = [word for word in overrides(args) if not word.startswith(SCALING)]
    for key, _, _ in (word.partition("=") for word in words):
        if instead := DECIDED_BY_RAY.get(key.removeprefix("http.")):
            raise UserError(f"{key}: Ray Serve decides this, not gpuqa; {instead}")
    return compose_root("serve", words, ServeConfig)


def overrides(args: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """Arguments as a command line has them: {"http": {"port": 1}} is "http.port=1"."""
    for key, value in args.items():
        if isinstance(value, Mapping):
            yield from overrides(value, f"{place}{key}.")
        else:
            yield f"{place}{key}={PLAIN.get(value, value) if value is None or isinstance(value, bool) else value}"


PLAIN = {None: "null", True: "true", False: "false"}


def scaling(args: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked for under `autoscaling_config`."""
    words = [word.partition("=") for word in overrides(args) if word.startswith(SCALING)]
    return {key.removeprefix(SCALING).removeprefix("."): yaml.safe_load(value) for key, _, value in words}


def number_of_replicas(config: ServeConfig, pipeline: PipelineConfig, asked: Mapping[str, Any]) -> dict[str, Any]:
    """How many engines: `http.replicas`, or so many that none has more questions than it answers at once.

    What is asked for under `autoscaling_config` goes over that. In the file for `serve deploy` it may not stand under
    `deployments`: Ray would take that in place of all of this, and would count calls, of which a batch is one.

    Raises:
        UserError: Ray has no such key, or not this value.
    """
    from pydantic import ValidationError
    from ray.serve.config import AutoscalingConfig

    known = sorted(AutoscalingConfig.model_fields.keys() - {"policy"})
    for key in asked:
        if key not in known:
            raise UserError(f"{SCALING}: got {key!r}, allowed is {', '.join(known)}{did_you_mean(key, known)}")
    if config.http.replicas != "auto":
        if asked:
            raise UserError(f"{SCALING}: http.replicas is {config.http.replicas}, and does not change; say http.replicas=auto")
        return {"num_replicas": config.http.replicas}
    width = pipeline.engine_args().get(BACKENDS[pipeline.engine.backend].width_argument) or 1
    ours = {"min_replicas": 1, "max_replicas": 100, "metrics_interval_s": 1.0, "look_back_period_s": 5.0}
    policy = {"policy": {"policy_function": f"{ROUTING}.by_questions"}}
    try:
        return {"autoscaling_config": AutoscalingConfig(**{**ours, "target_ongoing_requests": width, **asked, **policy})}
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join([SCALING, *map(str, first['loc'])])}: got {first['input']!r}: {first['msg']}") from error


class Engine:
    """The deployment of engines: one in each replica, in a process of its own below it (`gpuqa.serving.replica`)."""

    living: asyncio.Task[str] | None = None  # of the engine, from when on it is being started

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, config: ServeConfig, content: dict[str, Any], pipeline: PipelineConfig
    ) -> None:
        """Returns when the engine is warm.

        Raises:
            UserError: the weights of this host are not the measured ones.
            EngineFailed: it does not start.
        """
        log_to_stderr(config.http.logs)
        environment = dict(os.environ)
        if content["driver"]:
            environment.pop("OMP_NUM_THREADS", None)  # Ray sets it; an engine on a GPU was measured without
        started = Started(config, [Part("", {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})], environment)
        await self.start(await asyncio.to_thread(prepared, started, content, pipeline), config.http)

    async def start(self, winner: Winner, http: HttpConfig) -> None:
        """Start the engine; it is warm on return.

        Raises:
            EngineFailed: it does not start.
        """
        from ray import serve

        self.id, self.winner = serve.get_replica_context().replica_id.unique_id, winner
        self.clocks: dict[str, asyncio.Timeout] = {}
        alone = replace(http, restart_engine=False)  # Ray Serve replaces the whole replica
        self.life = EngineLife("", winner, alone, Telemetry(CollectorRegistry()))
        self.living = asyncio.create_task(self.life.live())
        if not await has_started(self.life):
            raise EngineFailed(await self.living)

    async def __del__(self) -> None:
        if self.living is None:
            return
        self.life.is_ending = True
        self.living.cancel()
        await asyncio.gather(self.living, return_exceptions=True)
        await self.life.close()

    def check_health(self) -> None:
        """Raise where there is no engine any more; Ray Serve then replaces this replica."""
        if self.life.look() is not State.ready:
            raise EngineFailed("the engine died")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """How many questions are here, waiting or being answered; see `gpuqa.serving.ray_routing.by_questions`."""
        return {"questions": float(self.life.questions)}

    async def member(self) -> Member:
        """What the front has to know of this replica."""
        vitals = Vitals(self.life.look() is State.ready, self.life.overrides(), self.life.numbers())
        return Member(f"{platform.node()} {self.id}", self.id, vitals, len(self.winner.warmup))

    async def introduce(self, _: str) -> Winner:
        """What is served, for people."""
        return replace(self.winner, starts={}, warmup=())

    async def answer(self, _: str, number: str, questions: Sequence[str]) -> list[Completion]:
        """As `Replica.answer_in_time`; `expire` ends it. The first argument is this replica, for Ray's router."""
        self.clocks[number] = clock = asyncio.timeout(None)
        try:
            with self.life.answering(len(questions), 0) as pipeline:
                return await pipeline.answer_in_time(questions, clock)
        finally:
            del self.clocks[number]

    async def expire(self, _: str, number: str) -> None:
        """Return what is done of an answer."""
        if clock := self.clocks.get(number):
            clock.reschedule(asyncio.get_running_loop().time())

    async def stream(self, _: str, question: str) -> AsyncGenerator[CompletionDelta]:
        """As `Pipeline.stream`."""
        with self.life.answering(1, 0) as pipeline:
            async for delta in pipeline.stream(question):
                yield delta


class Front:
    """The deployment that answers HTTP: the application of `gpuqa.serve`, in front of the replicas of the other one."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, http: HttpConfig, pipeline: PipelineConfig, engines: Any
    ) -> None:
        """`engines`: a handle of their deployment.

        Raises:
            UserError: the keys of clients cannot be read.
        """
        log_to_stderr(http.logs)
        disable_created_metrics()  # type: ignore[no-untyped-call]  # as in `gpuqa.serve`
        self.keys = read_keys(http.keys_file, http.keys_variable)
        self.service = Service(Winner({}, ()), http, Telemetry(CollectorRegistry()), log.error)
        self.following = asyncio.create_task(Fleet(self.service, pipeline, engines).follow())

    def __serve_build_asgi_app__(self) -> Any:  # Ray Serve's name for it
        application = create_app(self.service, self.keys)
        application.add_middleware(NamedByRay)
        return application

    async def __del__(self) -> None:
        self.following.cancel()


class NamedByRay:
    """ASGI middleware: without X-Request-ID, since Ray writes it into each answer: the client's own, or the one in our log."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_unnamed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
            await send(message)

        await self.app(scope, receive, send_unnamed)
