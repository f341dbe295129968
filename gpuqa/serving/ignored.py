"""What a client sent and what has no effect: fields that nobody reads, and empty questions. Both are named in headers."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from gpuqa.serving.telemetry import note, plain

HEADER, EMPTY_HEADER = "X-Gpuqa-Ignored", "X-Gpuqa-Empty"
MOST = 20  # names in a header
MOST_LOGGED = 200  # warnings in the life of a server: a client may make up names for ever

log = logging.getLogger("gpuqa.serve")


class Ignored:
    """The fields that this server has ignored so far; each is in the log once."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def headers(self, path: str, names: Sequence[str], questions: Sequence[str]) -> dict[str, str]:
        """The headers that name a request's ignored fields, and its empty questions by their places from 0; none for none."""
        headers = {}
        if names:
            shown = [plain(name.encode("ascii", "backslashreplace").decode())[:60] for name in names[:MOST]]
            headers[HEADER] = listed(shown, len(names))
            note(ignored=headers[HEADER])
            self._warn(path, shown)
        if empty := [str(place) for place, question in enumerate(questions) if not question.strip()]:
            headers[EMPTY_HEADER] = listed(empty[:MOST], len(empty))
        return headers

    def _warn(self, path: str, names: Sequence[str]) -> None:
        for name in names:
            key = f"{path} {name}"
            if key not in self._logged and len(self._logged) < MOST_LOGGED:
                self._logged.add(key)
                log.warning("%s: the field %s has no effect here (said once; %s names it in each answer)", path, name, HEADER)


def listed(shown: Sequence[str], count: int) -> str:
    """The names between commas, and how many there are beside them."""
    return ", ".join(shown) + (f" and {count - len(shown)} more" if count > len(shown) else "")
