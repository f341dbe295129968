"""The HTTP side of `serve`, under `http` in its config; free to change without touching what was frozen."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from gpuqa.config import check
from gpuqa.machine.log_lines import Logs


class Status(Enum):
    """What `GET /` says once the service is ready; it tells the evaluator how to send its questions."""

    batch = "batch"
    ok = "ok"


class OpenAI(Enum):
    """What happens to a field of a request to /v1 that would change an answer: it is refused, or ignored and named."""

    strict = "strict"
    lenient = "lenient"


@dataclass
class HttpConfig:
    """Address, shape of the answers, limits, and what happens when the engine dies."""

    host: str = "0.0.0.0"
    port: int = 8000
    status: Status = Status.batch
    batch_str_as_list: bool = True  # in batch mode a str prompt is answered by a list of one
    openai: OpenAI = OpenAI.strict
    logs: Logs = Logs.json

    replicas: Any = 1  # engines side by side, each on GPUs or cores of its own; "auto": as many as the GPUs hold
    watch_frozen: bool = False  # another winner in the frozen file is served as soon as it is there, as after SIGHUP

    root_path: str = ""  # where a reverse proxy shows this server, such as "/gpuqa"
    cors_origins: list[str] = field(default_factory=list)  # pages of other servers whose scripts may ask, or ["*"]

    max_waiting_questions: int = 4096  # in flight, over all requests; beyond: 429. At most deadline_s x answers a second
    max_questions_per_request: int = 4096  # beyond: 422
    max_body_bytes: int = 8 * 2**20  # beyond: 413; a body is read at once, and the others wait meanwhile
    max_connections: int = 4096  # beyond, the one that waits longest for a request is closed
    max_head_bytes: int = 65536  # of a request line and its headers; beyond: 431
    request_timeout_s: float = 60.0  # until a request, its body too, is complete; then 408
    deadline_s: float = 330.0  # then the answers that are done are returned, the others empty
    shutdown_timeout_s: float = 330.0  # after the first signal; then the same

    keys_file: str | None = None  # bearer keys, one a line; without keys every client may ask
    keys_variable: str = "GPUQA_KEYS"  # an environment variable that may hold keys, too

    warmup_batch: int | None = None  # questions of the warm-up's batch; None: as many as the engine answers at once
    warmup_must_succeed: bool = True  # else a service whose warm-up fails becomes ready with a warning
    restart_engine: bool = True  # a dead engine is started again; else the process ends with exit code 1
    restart_attempts: int = 5  # in a row, without an hour of health between them
    restart_backoff_s: float = 1.0  # before the first attempt; doubles, a minute at most

    def __post_init__(self) -> None:
        check(0 <= self.port <= 65535, "http.port", self.port, "an integer from 0 (any free port) to 65535")
        for name in (each.name for each in fields(self)):
            value = getattr(self, name)
            if name.startswith("max_") or name == "warmup_batch":
                check(value is None or value >= 1, f"http.{name}", value, "an integer of at least 1")
            if name.endswith("_s"):
                check(0 < value < math.inf, f"http.{name}", value, "a number of seconds above 0")
        check(self.restart_attempts >= 1, "http.restart_attempts", self.restart_attempts, "an integer of at least 1")
        counted = type(self.replicas) is int and self.replicas >= 1
        check(counted or self.replicas == "auto", "http.replicas", self.replicas, "auto, or an integer of at least 1")
        rooted = self.root_path == "" or (self.root_path.startswith("/") and not self.root_path.endswith("/"))
        check(rooted, "http.root_path", self.root_path, "an empty text, or a path that begins with / and does not end with it")
        for origin in self.cors_origins:
            known = origin == "*" or re.fullmatch(r"https?://[^/\s]+", origin)
            check(bool(known), "http.cors_origins", origin, 'origins such as "https://example.com", or "*"')
        check(bool(self.keys_variable), "http.keys_variable", self.keys_variable, "the name of an environment variable")
