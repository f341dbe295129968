"""A log line for programs: one JSON object, of the same shape whoever writes it."""

from __future__ import annotations

import json
import time
from enum import Enum
from typing import Any


class Logs(Enum):
    """How log lines look: one JSON object each, or text for people."""

    json = "json"
    text = "text"


def json_line(created: float, level: str, logger: str, message: str, fields: dict[str, Any]) -> str:
    """Time (UTC), level, logger and message, then the fields. `created`: seconds since the epoch."""
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))
    line = {"time": f"{at}.{int(created % 1 * 1000):03d}Z", "level": level, "logger": logger, "message": message}
    return json.dumps({**line, **fields}, ensure_ascii=False, default=str)
