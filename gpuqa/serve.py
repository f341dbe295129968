"""Serve a frozen winner: the pipeline that was measured, behind HTTP.

    python -m gpuqa.serve                                            # experiments/embedded/frozen.yaml on port 8000
    python -m gpuqa.serve frozen=experiments/mine/frozen.yaml http=serial http.port=9000

Exit codes: 0 after SIGTERM or Ctrl-C, 1 the engine did not start, 2 the input is wrong.
"""

from __future__ import annotations

import logging
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn

from gpuqa import frozen, identity
from gpuqa.config import PipelineConfig, UserError
from gpuqa.door import enter
from gpuqa.http_config import HttpConfig
from gpuqa.pipeline import Pipeline, warmup_questions
from gpuqa.places import find
from gpuqa.roots import ServeConfig, resolve
from gpuqa.server import create_app
from gpuqa.service import Service

log = logging.getLogger("gpuqa.serve")
FAILED = 1
NOWHERE = ("192.0.2.1", 9)  # RFC 5737: an address for documentation; a UDP connect sends nothing


def main() -> None:
    """Enter with conf/serve.yaml."""
    enter(serve, "serve")


def serve(composed: Any) -> int:
    """Run until a signal ends it -> exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    config = resolve(composed, ServeConfig)
    content = frozen.read(Path(config.frozen))
    pipeline = frozen.pipeline_config(content, Path(config.frozen))
    if config.model_path is not None:
        pipeline = replace(pipeline, model=replace(pipeline.model, path=config.model_path))
    verify(config, content, pipeline)
    warmup = warmup_questions(pipeline.model, config.warmup)
    check_port(config.http)
    introduce(config, content)
    failures: list[str] = []

    def give_up(reason: str) -> None:
        failures.append(reason)
        server.should_exit = True

    app = create_app(Service(lambda: Pipeline.start(pipeline), warmup, config.http, give_up))
    limits = {"timeout_graceful_shutdown": config.http.shutdown_timeout_s, "access_log": False}
    server = uvicorn.Server(uvicorn.Config(app, host=config.http.host, port=config.http.port, log_config=None, **limits))  # type: ignore[arg-type]
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again when it is done; that must not kill us
        signal.signal(number, lambda *_: None)
    server.run()
    return FAILED if failures or not server.started else 0


def check_port(http: HttpConfig) -> None:
    """Refuse an address that cannot be had before minutes go into an engine."""
    family = socket.AF_INET6 if ":" in http.host else socket.AF_INET
    try:
        socket.create_server((http.host, http.port), family=family).close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(
            f"http.port: cannot listen on {http.host}:{http.port}: {reason}; choose another port or host"
        ) from error


def verify(config: ServeConfig, content: dict[str, Any], pipeline: PipelineConfig) -> None:
    """Refuse to serve anything but what was measured, unless `allow_mismatch` says otherwise."""
    differences = frozen.mismatches(
        content, pipeline, find(pipeline.model.path, "model_path" if config.model_path else "model.path")
    )
    if differences and not config.allow_mismatch:
        listed = "; ".join(differences)
        raise UserError(
            f"{config.frozen}: what is here is not what was measured: {listed}. Measure again, or set allow_mismatch=true"
        )
    for difference in differences:
        log.warning("allow_mismatch=true: %s", difference)
    here = identity.environment()
    for name, version in content["versions"].items():
        if here["versions"].get(name) != version:
            log.warning("measured with %s %s, serving with %s", name, version, here["versions"].get(name))
    if here["device"] != content["device"]:
        log.warning("measured on %s, serving on %s: the numbers do not carry over", content["device"], here["device"])


def introduce(config: ServeConfig, content: dict[str, Any]) -> None:
    """Say what will be served, from where, and whether there is a network; nothing depends on it."""
    log.info("serving %s, digest %s: %s", config.frozen, content["digest"][:16], content["reason"])
    if content.get("note"):
        log.warning("%s", content["note"])
    log.info("network: %s", "there is a route to it" if has_route() else "cut off; nothing here needs it")


def has_route() -> bool:
    """Whether the kernel knows a way out of this machine. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(NOWHERE)
        except OSError:
            return False
    return True


if __name__ == "__main__":
    main()
