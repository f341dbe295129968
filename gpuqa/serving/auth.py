"""Who may call: bearer keys, several at a time so that one can be replaced without a gap. Without keys, every client may."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request

from gpuqa.config import UserError
from gpuqa.serving.telemetry import note, route_path

SHORTEST = 16  # characters


class Refusal(BaseModel):
    """Why there is no answer."""

    detail: str


DENIED = "this service needs a key: Authorization: Bearer KEY"
UNAUTHORIZED: dict[int | str, dict[str, Any]] = {  # for the OpenAPI document
    401: {"model": Refusal, "description": "keys are set, and the request came with none of them"}
}


class Keys:
    """The keys that are accepted. Only their digests are kept, so that no dump or log can show one."""

    def __init__(self, keys: Sequence[str], file: str | None = None) -> None:
        """`keys` hold as long as the process lives; those of `file` until they are read again.

        Raises:
            UserError: see `read_keys`.
        """
        self._file, self._lasting = file, [digest(key) for key in keys]
        self._digests = self._lasting
        self.read_again()

    def read_again(self) -> int:
        """Accept the keys that the file holds now, in place of those that it held -> how many keys there are.

        Raises:
            UserError: see `read_keys`; the keys that were accepted stay so.
        """
        self._digests = [*self._lasting, *map(digest, keys_of_file(self._file, "http.keys_file", SHORTEST))]
        return len(self)

    def __len__(self) -> int:
        return len(self._digests)

    def accepts(self, given: str) -> bool:
        """Whether it is one of the keys; takes as long for any wrong one, and looks at all of them."""
        return sum(hmac.compare_digest(digest(given), known) for known in self._digests) > 0


def digest(key: str) -> bytes:
    """Equal in length for all keys, which is what a constant time needs."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def read_keys(file: str | None, variable: str) -> Keys | None:
    """The keys that a server accepts: those of a file and of an environment variable; None where neither is set.

    Raises:
        UserError: the file cannot be read, is empty, or a key is too short; no message quotes a key.
    """
    keys = Keys(keys_of_variable(variable, SHORTEST), file)
    return keys if len(keys) else None


@dataclass(frozen=True, slots=True)
class ClientKey:
    """The key that a client sends, and where it is from; its text is in no dump of it."""

    text: str = field(repr=False)
    source: str


def read_client_key(file: str | None, variable: str) -> ClientKey | None:
    """The key that a client sends, out of what `read_keys` reads: the first of the file, or else of the variable.

    Raises:
        UserError: as `read_keys`; but a key may be short, since the server of another project may have such a one.
    """
    of_variable, of_file = keys_of_variable(variable, shortest=1), keys_of_file(file, "keys_file", shortest=1)
    if of_file:
        return ClientKey(of_file[0], file_source("keys_file", file))
    return ClientKey(of_variable[0], variable_source(variable)) if of_variable else None


def keys_of_variable(variable: str, shortest: int) -> list[str]:
    """The keys of an environment variable; none where it is not set.

    The variable is taken out of the environment, so that no program that is started later inherits it. The kernel still shows
    it to this user in /proc/PID/environ, of this process and of those that are forked from it: a file does not do that.

    Raises:
        UserError: see `keys_in`.
    """
    value = os.environ.pop(variable, None)
    return [] if value is None else keys_in(variable_source(variable), value, shortest)


def keys_of_file(file: str | None, key: str, shortest: int) -> list[str]:
    """The keys of a file; none for None.

    Raises:
        UserError: it cannot be read, or see `keys_in`.
    """
    if file is None:
        return []
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = type(error).__name__  # the message of a UnicodeDecodeError quotes the content
        raise UserError(f"{key}: {file!r} cannot be read: {reason}; it holds one key a line") from None
    return keys_in(file_source(key, file), text, shortest)


def variable_source(variable: str) -> str:
    """How messages call an environment variable."""
    return f"environment variable {variable}"


def file_source(key: str, file: str | None) -> str:
    """How messages call a file of keys."""
    return f"{key}={file!r}"


def keys_in(source: str, text: str, shortest: int) -> list[str]:
    """Keys, one a line or between commas.

    Raises:
        UserError: there is none, or one is too short or no plain text; the message quotes none.
    """
    keys = [key.strip() for key in text.replace(",", "\n").splitlines() if key.strip()]
    if not keys or min(map(len, keys)) < shortest or not all(key.isascii() and key.isprintable() for key in keys):
        allowed = f"one key or more, each of at least {shortest} printable ASCII characters, one a line or between commas"
        raise UserError(f"{source}: holds {len(keys)} keys, allowed is {allowed}; `openssl rand -hex 32` makes one")
    return keys


class RequireKey:
    """ASGI middleware: 401 for everything but the paths in `free`, the same for a wrong key and for none."""

    def __init__(self, app: Any, keys: Keys, free: Sequence[str], deny: Callable[..., Awaitable[Any]]) -> None:
        """`deny` makes the answer out of the request and the exception."""
        self.app, self.keys, self.free, self.deny = app, keys, free, deny

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or self._is_free(route_path(scope)) or self.keys.accepts(bearer(scope["headers"])):
            await self.app(scope, receive, send)
            return
        answer = await self.deny(Request(scope), HTTPException(401, DENIED, {"WWW-Authenticate": "Bearer"}))
        note(reason=f"the request has {'a wrong key' if bearer(scope['headers']) else 'no key'}")
        await answer(scope, receive, send)

    def _is_free(self, path: str) -> bool:
        return path in self.free or any(path.startswith(f"{free}/") for free in self.free if free != "/")


def bearer(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """The token of `Authorization: Bearer TOKEN`; empty where there is none."""
    value = next((value for name, value in headers if name == b"authorization"), b"").decode("latin-1")
    scheme, _, token = value.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
