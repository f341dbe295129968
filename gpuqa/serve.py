"""Serve a frozen winner: the pipeline that was measured, behind HTTP.

    python -m gpuqa.serve                                            # experiments/embedded/frozen.yaml on port 8000
    python -m gpuqa.serve frozen=experiments/mine/frozen.yaml http=serial http.port=9000
    python -m gpuqa.serve model_path=/mnt/weights                    # the frozen weights lie elsewhere on this machine

SIGTERM or Ctrl-C drains: not ready at once, running requests finish, exit. A second one ends everything at once. SIGHUP reads
the file of keys and the frozen file again; another winner is served without a lost request (http.watch_frozen=true: by itself).
Exit codes: 0 after a signal, 128 + its number after a second one, 1 there is no engine, 2 the input is wrong.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, disable_created_metrics

from gpuqa import frozen
from gpuqa.config import UserError, check
from gpuqa.config.app import run_command
from gpuqa.config.commands import ServeConfig, resolve
from gpuqa.config.paths import find, find_model
from gpuqa.config.pipeline import PipelineConfig
from gpuqa.hubs.record import read as read_record
from gpuqa.machine.places import Part
from gpuqa.measure import fingerprint
from gpuqa.pipeline.pipeline import Pipeline, checked_tokenizer, encoder_for, start_engine, warmup_questions
from gpuqa.pipeline.sampling import stop_token_ids
from gpuqa.records import Override
from gpuqa.serving.address import check_port, has_route
from gpuqa.serving.auth import read_keys
from gpuqa.serving.life import StartPipeline, State, Winner
from gpuqa.serving.places import places_of
from gpuqa.serving.replica import Replica
from gpuqa.serving.room import has_room_beside
from gpuqa.serving.server import Server
from gpuqa.serving.service import Service
from gpuqa.serving.telemetry import Telemetry, log_to_stderr

log = logging.getLogger("gpuqa.serve")
FAILED = 1


def main() -> None:
    """Enter with conf/serve.yaml."""
    run_command(serve, "serve")


def serve(composed: Any) -> int:
    """Run until a signal ends it -> exit code."""
    config = resolve(composed, ServeConfig)
    log_to_stderr(config.http.logs)
    content, pipeline = read_winner(config)
    check_port(config.http)
    places = places_of(config.http.replicas, pipeline)
    keys = read_keys(config.http.keys_file, config.http.keys_variable)
    started = Started(config, places, dict(os.environ))
    winner = prepared(started, content, pipeline)
    log.info("network: %s", "there is a route to it" if has_route() else "cut off; nothing here needs it")
    failures: list[str] = []

    def give_up(reason: str) -> None:
        failures.append(reason)
        server.should_exit = True

    os.register_at_fork(after_in_child=os.setpgrp)  # else Ctrl-C would reach the engine, too, and cut its answers short
    disable_created_metrics()  # type: ignore[no-untyped-call]  # it would show the time of its creation beside every counter
    service = Service(winner, config.http, Telemetry(CollectorRegistry()), give_up)
    server = Server(service, keys, config.frozen, partial(follow, service, started, asyncio.Lock()))
    server.run()
    return FAILED if failures or not server.started else 0


@dataclass(frozen=True, slots=True)
class Started:
    """What holds for every winner of this process."""

    config: ServeConfig
    places: Sequence[Part]  # of the replicas; none for one engine in this process
    environment: Mapping[str, str]  # before an engine was started


def read_winner(config: ServeConfig) -> tuple[dict[str, Any], PipelineConfig]:
    """The frozen file, and the pipeline that it describes.

    Raises:
        UserError: it cannot be read, or is no frozen winner.
    """
    content = frozen.read(Path(config.frozen))
    pipeline = frozen.pipeline_config(content, Path(config.frozen), config.trust_frozen)
    if config.model_path is not None:
        pipeline = replace(pipeline, model=replace(pipeline.model, path=config.model_path))
    return content, pipeline


def prepared(started: Started, content: dict[str, Any], pipeline: PipelineConfig) -> Winner:
    """What the service serves, after everything was checked that needs no engine.

    Raises:
        UserError: it is not what was measured, see `verify`, or there are no questions to warm up with.
    """
    config = started.config
    warmup = warmup_questions(pipeline.model, config.warmup)
    measured = overrides_of(content, config.frozen)
    tokenizer = verify(config, content, pipeline)
    here = fingerprint.environment()
    warn_of_another_machine(content, here)
    introduce(config, content, started.places)
    starts = starters(started, pipeline, tokenizer, lambda: verify(config, content, pipeline))
    return Winner(starts, warmup, measured, facts(config, content, here), labels(content, here))


async def follow(service: Service, started: Started, one_at_a_time: asyncio.Lock) -> None:
    """Serve the winner that the frozen file holds now, if it is another one. One that is wrong is named, and the one before
    stays."""
    config = started.config
    async with one_at_a_time:
        while service.look() not in (State.ready, State.failed):
            await asyncio.sleep(0.2)
        try:
            content, pipeline = await asyncio.to_thread(read_winner, config)
            if content["digest"] == service.winner.labels["frozen_digest"]:
                log.info("%s holds the winner that is served", config.frozen)
                return
            refuse_other_places(started.places, places_of(config.http.replicas, pipeline))
            alone = replace(started, places=started.places or [Part("")])  # two engines in one process would share settings
            winner = await asyncio.to_thread(prepared, alone, content, pipeline)
        except UserError as error:
            log.error("the winner stays as it was: %s", error)
            return
        beside = not started.places and await asyncio.to_thread(has_room_beside, pipeline)
        log.info("another winner, digest %s: %s", content["digest"][:16], HOW[bool(started.places), beside])
        await service.swap(winner, beside)


HOW = {  # by whether there are replicas, and whether a second engine fits beside the only one
    (True, False): "it takes the place of the one before replica by replica",
    (False, True): "its engine starts while the one before answers",
    (False, False): "there is no memory for two engines, so that until it is warm questions are told to come back",
}


def refuse_other_places(before: Sequence[Part], now: Sequence[Part]) -> None:
    """Raise a UserError where another winner would need other GPUs than the running one."""
    if list(before) != list(now):
        names = [", ".join(place.name for place in places) or "one engine" for places in (before, now)]
        raise UserError(f"http.replicas: another winner would need other places ({names[1]} instead of {names[0]}); start anew")


def verify(config: ServeConfig, content: dict[str, Any], pipeline: PipelineConfig) -> Any:
    """Refuse to serve anything but what was measured, unless `allow_mismatch` says otherwise -> the tokenizer.

    The tokens of the prompt are compared after the files that they are made of: another version of transformers may make other
    tokens of the same files, and it takes seconds to load a tokenizer.

    Raises:
        UserError: a digest differs, or there is no such model.
    """
    folder = find_weights(config, pipeline)
    refuse_differences(config, frozen.mismatches(content, pipeline, folder))
    warn_of_another_revision(content, folder)
    tokenizer = checked_tokenizer(pipeline)
    tokens = frozen.digest_mismatches(content, {"prompt_tokens": encoder_for(tokenizer, pipeline).digest})
    refuse_differences(config, tokens + frozen.stop_mismatches(content, stop_token_ids(tokenizer, pipeline)))
    return tokenizer


def find_weights(config: ServeConfig, pipeline: PipelineConfig) -> Path:
    """The folder of the model that was measured.

    Raises:
        UserError: it is not there; where it was moved, `model_path` says so.
    """
    if config.model_path is not None:
        folder = find(config.model_path, "model_path")
        check(folder.is_dir(), "model_path", config.model_path, "the folder that holds the weights")
        return folder
    try:
        return find_model(pipeline.model)
    except UserError as error:
        moved = "if the weights that were measured lie elsewhere now, say where with model_path=FOLDER"
        raise UserError(f"{config.frozen}: {error}; {moved}") from error


def refuse_differences(config: ServeConfig, differences: list[str]) -> None:
    """Raise a UserError that lists them, or warn of them where `allow_mismatch` is set."""
    if not config.allow_mismatch:
        frozen.refuse(config.frozen, differences, "Measure again, or set allow_mismatch=true")
    for difference in differences:
        log.warning("allow_mismatch=true: %s", difference)


def warn_of_another_revision(content: dict[str, Any], folder: Path) -> None:
    """Say where the files, whose digests are right, came with another revision of their repository."""
    downloaded, measured = read_record(folder), content.get("revision")
    if downloaded is not None and (downloaded.commit or downloaded.revision) != measured:
        here = downloaded.commit or downloaded.revision
        log.warning("The winner was measured with revision %s of the model. %s holds revision %s.", measured, folder, here)


def warn_of_another_machine(content: dict[str, Any], here: dict[str, Any]) -> None:
    """Say which packages and which device are not those of the measurement."""
    for name, version in content["versions"].items():
        installed = here["versions"].get(name)
        if installed != version:
            now = f"{name} {installed} is installed" if installed else f"{name} is not installed"
            log.warning("The winner was measured with %s %s. Here %s, so speed and answers may differ.", name, version, now)
    if here["device"] != content["device"]:
        log.warning("The winner was measured on %s. This machine is %s, so the measured speed does not hold here.",
                    content["device"], here["device"])  # fmt: skip


def starters(
    started: Started, pipeline: PipelineConfig, verified: Any, verify_again: Callable[[], Any]
) -> dict[str, StartPipeline]:
    """What starts the winner, by the replica's name: in this process, or in one of its own at each of the places."""

    async def start_here(tokenizer: Any) -> Pipeline:
        return Pipeline(await start_engine(pipeline), tokenizer, pipeline)

    async def start_at(place: Part, _: Any) -> Replica:
        return await Replica.start(pipeline, place, started.environment, started.config.http.logs)

    if not started.places:
        return {"": starter(start_here, verified, verify_again)}
    return {place.name: starter(partial(start_at, place), verified, verify_again) for place in started.places}


def starter(
    start: Callable[[Any], Awaitable[Pipeline | Replica]], verified: Any, verify_again: Callable[[], Any]
) -> StartPipeline:
    """Starts with the tokenizer that was `verified` before there was a server, the first time.

    A pipeline that takes the place of a dead one reads the model's files anew. They may have changed meanwhile, so they are
    verified again. It gets a tokenizer of its own: a thread may still be in the old one, and tokenizers take one call at a
    time.
    """
    loaded = [verified]

    async def start_verified() -> Pipeline | Replica:
        return await start(loaded.pop() if loaded else await asyncio.to_thread(verify_again))  # health checks are answered

    return start_verified


def introduce(config: ServeConfig, content: dict[str, Any], places: Sequence[Part]) -> None:
    """Say what will be served, and where; nothing depends on it."""
    log.info("serving %s, digest %s: %s", config.frozen, content["digest"][:16], content["reason"])
    if content.get("note"):
        log.warning("%s", content["note"])
    if len(places) > 1:
        log.info("%d replicas, each in a process of its own: %s", len(places), "; ".join(place.name for place in places))


def overrides_of(content: dict[str, Any], path: str) -> list[Override]:
    """The overrides that ran when the winner was measured.

    Raises:
        UserError: what the file says of them has another shape; allow_mismatch=true lets an edited file come so far.
    """
    try:
        return [Override(**override) for override in content["overrides"]]
    except TypeError as error:
        raise UserError(
            f"frozen: {path}: overrides: got {content['overrides']!r:.80}, allowed is what `gpuqa.sweep` wrote; measure again"
        ) from error


def labels(content: dict[str, Any], here: dict[str, Any]) -> dict[str, str]:
    """What is served, for `gpuqa_build_info`."""
    groups = {group: str(content["pipeline"][group]["name"]) for group in ("model", "prompt", "quantization", "engine")}
    versions = {"version": here["versions"]["gpuqa"], "code": here["code"][:16], "commit": fingerprint.git_commit() or ""}
    return {**versions, "frozen_digest": content["digest"], **groups, "device": here["device"]}


def facts(config: ServeConfig, content: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
    """What `GET /info` shows, which holds as long as the process lives. The engine's environment may hold a secret and is left
    out."""
    engine = {key: value for key, value in content["pipeline"]["engine"].items() if key != "env"}
    optional = ("study", "axes", "setting", "note", "selection", "git_commit", "frozen_at", "trial")
    return {
        "frozen": {
            "file": config.frozen,
            **{
                key: content[key]
                for key in ("digest", "digests", "overrides", "versions", "device", "driver", "reason", "measurement")
            },
            **{key: content.get(key) for key in optional},
            "pipeline": {**content["pipeline"], "engine": engine},
        },
        "here": {**here, "git_commit": fingerprint.git_commit(), "allow_mismatch": config.allow_mismatch},
    }


if __name__ == "__main__":
    main()
