"""The HTTP side of `serve`, under `http` in its config; free to change without touching what was frozen."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gpuqa.config import check


class Status(Enum):
    """What `GET /` says once the service is ready; it tells the evaluator how to send its questions."""

    batch = "batch"
    ok = "ok"


@dataclass
class HttpConfig:
    """Address, shape of the answers, and the limits."""

    host: str = "0.0.0.0"
    port: int = 8000
    status: Status = Status.batch
    batch_str_as_list: bool = True  # in batch mode a str prompt is answered by a list of one
    shutdown_timeout_s: int = 330

    def __post_init__(self) -> None:
        check(0 <= self.port <= 65535, "http.port", self.port, "an integer from 0 (any free port) to 65535")
        check(self.shutdown_timeout_s >= 1, "http.shutdown_timeout_s", self.shutdown_timeout_s, "at least 1 second")
