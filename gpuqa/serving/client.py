"""A server as its clients see it: the key that our commands send, what its refusals mean, an answer as it comes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from gpuqa.config import UserError
from gpuqa.serving.auth import ClientKey, read_client_key

KEY_REFUSED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
CONNECT_S = 10.0
CHAT = "/v1/chat/completions"


class NoAnswer(Exception):
    """The server is there, and this question was not answered; the message says why."""


@dataclass(frozen=True, slots=True)
class Server:
    """The address of a service, and the key for it."""

    url: str
    key: ClientKey | None
    keys_variable: str  # the environment variable that may hold a key, for messages

    @classmethod
    def of(cls, url: str, keys_file: str | None, keys_variable: str) -> Server:
        """With the key of the file, or else of the variable; see `read_client_key`."""
        return cls(url, read_client_key(keys_file, keys_variable), keys_variable)

    def client(self, timeout_s: float) -> httpx.Client:
        """Connections to it, which raise a UserError where it refuses the key. No proxy of the environment is used."""
        headers = {} if self.key is None else {"Authorization": f"Bearer {self.key.text}"}
        hooks, timeout = {"response": [self.refuse_key]}, httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S))
        return httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=False, event_hooks=hooks)

    def refuse_key(self, reply: httpx.Response) -> None:
        """Raise a UserError where the service wants a key, or another one."""
        if reply.status_code not in KEY_REFUSED:
            return
        answer = f"{self.url} answers HTTP {reply.status_code}"
        if self.key is not None:
            raise UserError(f"{self.key.source}: {answer} to the key in it; give the key of this service")
        raise UserError(f"keys_file: {answer} without a key; name a file with keys_file=FILE, or set {self.keys_variable}")

    def without_key(self, text: str) -> str:
        """What may be printed of a text that the service wrote: a rude one quotes the key."""
        return text if self.key is None else text.replace(self.key.text, "(the key)")


def excerpt(reply: httpx.Response) -> str:
    """Status and beginning of a body in one line; what a service sends must not steer the terminal."""
    seen = "".join(character if character.isprintable() else " " for character in reply.text[:1000])
    return f"HTTP {reply.status_code} {' '.join(seen.split())[:200]}"


@dataclass(slots=True)
class Heard:
    """What a stream of events has told so far; None where it told nothing."""

    first_s: float | None = None  # from the request to the first piece of text
    end_s: float = 0.0  # from the request to the end of the stream
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None


def chat(server: Server, question: str, timeout_s: float, heard: Heard) -> Iterator[str]:
    """The answer of any server that speaks OpenAI's chat completions, piece by piece; `heard` gets the rest.

    Closing the iterator ends the connection, and with it the question at the server.

    Raises:
        UserError: nobody listens at this address, the service does not speak OpenAI's API, is not ready, or refuses the key.
        NoAnswer: it refuses the question, or broke off.
    """
    try:
        with server.client(timeout_s) as client:
            asked = {"model": model_of(client, server), "messages": [{"role": "user", "content": question}]}
            body = {**asked, "stream": True, "stream_options": {"include_usage": True}}
            began = time.perf_counter()
            with client.stream("POST", CHAT, json=body) as reply:
                refuse(reply, server)
                for piece in pieces(reply, heard):
                    heard.first_s = heard.first_s or time.perf_counter() - began
                    yield piece
                heard.end_s = time.perf_counter() - began
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise UserError(
            f"url: nobody answers at {server.url} ({error}); start a server there, or name another address"
        ) from error
    except httpx.TimeoutException as error:
        raise NoAnswer(f"{server.url} sent nothing for {timeout_s:g} s (timeout_s)") from error
    except httpx.HTTPError as error:
        raise NoAnswer(f"{server.url} broke off: {server.without_key(str(error)) or type(error).__name__}") from error
    if heard.finish_reason is None:
        raise NoAnswer(f"{server.url} broke off: the stream has no end")


def model_of(client: httpx.Client, server: Server) -> str:
    """The name of the model that it serves."""
    reply = client.get("/v1/models")
    refuse(reply, server)
    try:
        return str(reply.json()["data"][0]["id"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"url: {server.url} does not speak OpenAI's API: GET /v1/models answers {excerpt(reply)}") from error


def refuse(reply: httpx.Response, server: Server) -> None:
    """Raise what an answer that is none means; see `chat`."""
    if reply.status_code == httpx.codes.OK:
        return
    reply.read()
    said = server.without_key(excerpt(reply))
    if reply.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        raise UserError(f"url: {server.url} is not ready: {said}; wait until GET /readyz answers 200")
    if reply.status_code in (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED):
        raise UserError(
            f"url: {server.url} does not speak OpenAI's API: {reply.request.method} {reply.request.url.path}: {said}"
        )
    raise NoAnswer(f"{server.url} refuses the question: {said}")


def pieces(reply: httpx.Response, heard: Heard) -> Iterator[str]:
    """The texts in server-sent events, none of them empty."""
    for line in reply.iter_lines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        try:
            event = json.loads(data)
            if "error" in event:
                raise NoAnswer(f"the answer broke off: {' '.join(str(event['error'].get('message')).split())[:200]}")
            heard.usage = event.get("usage") or heard.usage
            choices = event.get("choices") or [{}]
            heard.finish_reason = choices[0].get("finish_reason") or heard.finish_reason
            text = (choices[0].get("delta") or {}).get("content")
        except (ValueError, AttributeError, KeyError, IndexError, TypeError) as error:
            raise NoAnswer(f"the server sent an event that is none of OpenAI's: {data!r:.200}") from error
        if text:
            yield str(text)
