"""The one HTTP client of the yardstick: a process of its own, so that asking costs every server the same.

Reads one JSON command a line on stdin and answers with one JSON line on stdout:
{"port", "path", "bodies": [str], "clients"} -> {"seconds", "latencies", "answers", "empty", "output_tokens"}
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import urllib.request
from typing import Any

HEAD = "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"


def main() -> None:
    """Obey until stdin ends."""
    for line in sys.stdin:
        try:
            reply = asyncio.run(ask(**json.loads(line)))
        except Exception as error:  # whatever a server does wrong is a result of that server
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


async def ask(port: int, path: str, bodies: list[str], clients: int) -> dict[str, Any]:
    """A closed loop: each client takes the next body as soon as its last answer is complete.

    Connections are open and requests are bytes before the clock starts; answers are parsed after it has stopped.
    """
    requests = [request_bytes(path, body) for body in bodies]
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(min(clients, len(bodies)))]
    latencies, replies = [0.0] * len(bodies), [b""] * len(bodies)
    waiting = iter(range(len(bodies)))

    async def be_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for place in waiting:
            asked = time.perf_counter()
            writer.write(requests[place])
            replies[place] = await read_reply(reader)
            latencies[place] = time.perf_counter() - asked

    began = time.perf_counter()
    await asyncio.gather(*(be_client(*connection) for connection in connections))
    seconds = time.perf_counter() - began
    for _, writer in connections:
        writer.close()
    return {"seconds": seconds, "latencies": latencies, **tally([json.loads(reply) for reply in replies])}


def request_bytes(path: str, body: str) -> bytes:
    """Head and body together: one write, one segment where it fits."""
    content = body.encode()
    return HEAD.format(path=path, length=len(content)).encode() + content


async def read_reply(reader: asyncio.StreamReader) -> bytes:
    """The body of one reply, which leaves the connection ready for the next.

    Raises:
        RuntimeError: the server refused, or sent a body without saying how long it is.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    if "content-length" not in fields:
        raise RuntimeError(f"no content-length in the reply: {head[:200]!r}")
    body = await reader.readexactly(int(fields["content-length"]))
    if not head.startswith("http/1.1 200"):
        raise RuntimeError(f"{head.splitlines()[0]}: {body[:300]!r}")
    return body


def tally(replies: list[dict[str, Any]]) -> dict[str, Any]:
    """How many answers came, how many of them are empty, and the tokens where the server tells (else None)."""
    answers: list[str] = []
    tokens: list[int] = []
    for reply in replies:
        if "choices" in reply:
            answers.append(reply["choices"][0]["message"]["content"] or "")
            tokens.append(reply["usage"]["completion_tokens"])
        else:
            response = reply["response"]
            answers += response if isinstance(response, list) else [response]
    return {"answers": len(answers), "empty": answers.count(""), "output_tokens": sum(tokens) if tokens else None}


def answers(port: int, path: str) -> bool:
    """Whether a server says 200 to a GET, which is how all of them say that they are ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    main()
