"""Requests that no client should send, and some that it may: bytes on a connection, drawn by a seeded generator.

A request that is complete must be answered. One that is not (half a body, no HTTP) may be, and its client leaves.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PATHS = (
    "/", "/predict", "/livez", "/readyz", "/health", "/info", "/metrics", "/docs", "/openapi.json", "/ui", "/ui/", "/ui/x",
    "/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/embedded", "/v1/models/other", "/v1", "/v1/x", "/x",
)  # fmt: skip
ASKED = ("/predict", "/v1/chat/completions", "/v1/completions")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get", "NONE", "")
TYPES = (
    "application/json", "application/json; charset=utf-8", "application/json; charset=utf-16", "APPLICATION/JSON", "text/json",
    "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/x+json", "json", ";", "",
)  # fmt: skip
FIELDS = (
    "prompt", "model", "messages", "stream", "stream_options", "temperature", "top_p", "top_k", "min_p", "seed", "max_tokens",
    "max_completion_tokens", "n", "best_of", "stop", "echo", "suffix", "logprobs", "top_logprobs", "logit_bias", "tools",
    "response_format", "chat_template_kwargs", "ignore_eos", "user", "metadata", "", "\x00", "问", "\ud800", "a b", "x" * 99,
)  # fmt: skip
HEADERS = (
    "Host: a\r\nHost: b", "X-Request-ID: ", "X-Request-ID: \x1b[31m", "X-Request-ID: " + "i" * 300, "Authorization: Bearer",
    "Authorization: Basic eDp5", "Accept: nothing/at-all", "Accept-Encoding: gzip", "Content-Encoding: gzip", "Origin: null",
    "Content-Encoding: identity", "Expect: 100-continue", "Expect: nothing", "Upgrade: websocket\r\nSec-WebSocket-Version: 13",
    "Upgrade: h2c", "Cookie: " + "c" * 4000, "X-Forwarded-For: ,,,", "Range: bytes=9-1", "If-None-Match: *", "Te: trailers",
    "X: " + "x" * 60000, "X-Empty:", "X-Umlaut: \xfc", "Access-Control-Request-Method: POST\r\nOrigin: https://x", "A: b\r\n c",
)  # fmt: skip
TEXTS = (
    "",
    " ",
    "什么是 warp？",
    "a",
    "\x00",
    "\ud83d",
    "<|im_end|>",
    "<think>",
    "\u202e",
    "\n" * 50,
    "x" * 5000,
    "😀" * 40,
    "1e5",
)
NUMBERS = ("0", "-0", "-1", "1", "1.5", "1e400", "-1e-400", "9" * 40, "9" * 5000, "NaN", "Infinity", "0x1", "01", "1.", "2e308")


@dataclass(frozen=True, slots=True)
class Wild:
    """What is sent on one connection, and whether an answer must come before the end of it."""

    kind: str
    sent: bytes
    complete: bool = True
    requests: int = 1  # that are answered one after the other


def draw(seed: int, number: int) -> Wild:
    """The request of that number; the same for the same seed."""
    rng = random.Random(f"{seed} {number}")
    kind = rng.choices(list(KINDS), [share for share, _ in KINDS.values()])[0]
    return KINDS[kind][1](rng)


def request(
    path: str, body: bytes = b"", method: str = "POST", headers: list[str] | None = None, length: str | None = None
) -> bytes:
    """Head and body of a request after which the server closes the connection."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *(headers or ())]
    if body or length is not None:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body


def any_route(rng: random.Random) -> Wild:
    """A path, known or not, by any method."""
    path = rng.choice(PATHS) + rng.choice(
        ("", "", "", "?", "?a=b&a=c", "?%", "/", "//", "/../x", "%2f..", "%00", "%ff", "#x", "\xff")
    )
    body = rng.choice((b"", b"", b"{}", b"x"))
    return Wild("route", request(path, body, rng.choice(METHODS), headers_of(rng)))


def question(rng: random.Random) -> Wild:
    """A question, or something in its place."""
    body = text_of(rng, {"prompt": rng.choice((any_value(rng, 3), rng.choice(TEXTS), [rng.choice(TEXTS)] * rng.randrange(5)))})
    return Wild("question", request("/predict", body, headers=[f"Content-Type: {rng.choice(TYPES)}"]))


def openai(rng: random.Random) -> Wild:
    """A request of OpenAI's with fields of any kind, near enough to a right one to come far."""
    chat = rng.random() < 0.6
    messages = [
        {
            "role": rng.choice(("user", "user", "system", "tool", 1)),
            "content": rng.choice((rng.choice(TEXTS), any_value(rng, 2))),
        }
    ]
    body: dict[str, Any] = {"model": rng.choice(("embedded", "embedded", "embedded", "other", 1, None))}
    body |= (
        {"messages": messages}
        if chat
        else {"prompt": rng.choice((rng.choice(TEXTS), [rng.choice(TEXTS)] * 2, any_value(rng, 2)))}
    )
    body |= {rng.choice(FIELDS): any_value(rng, 2) for _ in range(rng.choice((0, 0, 1, 2)))}
    body |= {"stream": rng.choice((True, False, None))} if rng.random() < 0.5 else {}
    return Wild("openai", request("/v1/chat/completions" if chat else "/v1/completions", text_of(rng, body)))


def broken_json(rng: random.Random) -> Wild:
    """A right body with some of its bytes lost, doubled or changed."""
    body = bytearray(text_of(rng, {"model": "embedded", "prompt": [rng.choice(TEXTS)] * 2, "stream": True}))
    for _ in range(rng.randrange(1, 5)):
        place = rng.randrange(len(body))
        body[place : place + rng.randrange(3)] = bytes(rng.randrange(256) for _ in range(rng.randrange(3)))
    body += rng.choice((b"", b"", b"}", b"\x00", b"\xef\xbb\xbf"))
    return Wild("broken json", request(rng.choice(ASKED), bytes(body)))


def nested(rng: random.Random) -> Wild:
    """A body as deep as it is long."""
    depth = rng.choice((10, 500, 5000))
    start, end = rng.choice((("[", "]"), ('{"prompt":', "}"), ('[{"a":', "}]")))
    body = start * depth + "1" + end * (depth if rng.random() < 0.8 else 0)
    wrapped = rng.choice(('{"prompt": %s}', '{"model": "embedded", "prompt": "?", "metadata": %s}', "%s")) % body
    return Wild("nested", request(rng.choice(ASKED), wrapped.encode()))


def half(rng: random.Random) -> Wild:
    """A request of which a part is missing."""
    body = text_of(rng, {"prompt": rng.choice(TEXTS)})
    whole = request(rng.choice(ASKED), body, length=str(len(body) + rng.choice((1, 100))))
    return Wild("half", whole[: rng.randrange(len(whole))] if rng.random() < 0.5 else whole, complete=False)


def chunked(rng: random.Random) -> Wild:
    """A body in chunks, whose sizes may be wrong."""
    body = text_of(rng, {"prompt": rng.choice(TEXTS)})
    sizes = rng.choice((None, None, None, "0", "zz", "-1", "", "fffffffffffffffff"))
    size = f"{len(body):x}" if sizes is None else sizes
    chunks = f"{size}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    return Wild("chunked", request("/predict", headers=["Transfer-Encoding: chunked"]) + chunks, complete=sizes is None)


def odd_head(rng: random.Random) -> Wild:
    """A right question under an odd head."""
    body = text_of(rng, {"prompt": "?"})
    length = rng.choice((None, None, None, "-1", "1e3", "+2", "", "9" * 30, "0"))
    sent = request(rng.choice(ASKED), body, headers=headers_of(rng), length=length)
    sent = sent.replace(b" HTTP/1.1", rng.choice((b" HTTP/1.1", b" HTTP/1.0", b" HTTP/1.9", b" HTTP/2", b"", b" http/1.1")), 1)
    sent = sent.replace(b"\r\n", rng.choice((b"\r\n", b"\r\n", b"\r\n", b"\n")))
    return Wild("odd head", sent, complete=False)


def several(rng: random.Random) -> Wild:
    """Requests behind one another on one connection."""
    body = text_of(rng, {"prompt": rng.choice(TEXTS)})
    kept = request("/predict", body).replace(b"Connection: close", b"Connection: keep-alive")
    questions = rng.randrange(1, 6)
    return Wild("several", kept * questions + request("/livez", method="GET"), requests=questions + 1)


def no_http(rng: random.Random) -> Wild:
    """Bytes of something else."""
    start = rng.choice(
        (b"", b"\x16\x03\x01\x02\x00\x01", b"SSH-2.0-x\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\r\n\r\n", b"GET", b"\x00")
    )
    return Wild("no http", start + rng.randbytes(rng.choice((0, 3, 300))), complete=False)


def headers_of(rng: random.Random) -> list[str]:
    """Some odd headers."""
    return rng.sample(HEADERS, rng.choice((0, 0, 1, 1, 2)))


def any_value(rng: random.Random, depth: int) -> Any:
    """A value of JSON of any kind."""
    kind = rng.randrange(8 if depth else 5)
    if kind < 2:
        return rng.choice((None, True, False, 0, 1, -1, 0.5, 10**30, [], {}, ""))
    if kind == 2:
        return Number(rng.choice(NUMBERS))
    if kind < 5:
        return rng.choice(TEXTS)
    if kind < 7:
        return [any_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice(FIELDS): any_value(rng, depth - 1) for _ in range(rng.randrange(3))}


class Number(str):
    """The text of a number that Python could not hold, or would write in another way."""


def text_of(rng: random.Random, value: Any) -> bytes:
    """JSON, in one of the ways in which it can be written; a lone surrogate stays one where the encoding allows it."""
    marked = json.dumps(value, ensure_ascii=rng.random() < 0.5, default=str)
    for number in NUMBERS:
        marked = marked.replace(f'"{number}"', number) if rng.random() < 0.7 else marked
    return marked.encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-16", "latin-1")), "replace")


KINDS: dict[str, tuple[int, Callable[[random.Random], Wild]]] = {  # kind -> how often, of 100, and what makes it
    "route": (18, any_route),
    "question": (16, question),
    "openai": (22, openai),
    "broken json": (12, broken_json),
    "nested": (4, nested),
    "half": (6, half),
    "chunked": (6, chunked),
    "odd head": (8, odd_head),
    "several": (4, several),
    "no http": (4, no_http),
}
