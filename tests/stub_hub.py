"""A hub on the loopback that speaks as much of Hugging Face's and ModelScope's protocols as their clients need to download.

A fake, because the real hubs are out of reach and cannot be told to fail; the clients and the sockets are real.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

REPOSITORY = "tester/tiny"
FILES = {
    "config.json": b'{"model_type": "qwen3"}',
    "model.safetensors": bytes(range(256)) * 4096,  # 1 MiB
    "tokenizer/vocab.json": b"{}",
}
LARGE = ("model.safetensors",)  # what Hugging Face keeps with a sha256; the others have git's digest


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    token: str | None
    range: str | None

    @property
    def is_for_a_file(self) -> bool:
        """Whether it asks for the content of a file."""
        return self.method == "GET" and ("/resolve/" in self.path or "FilePath=" in self.path)


@dataclass
class StubHub:
    """What the hub has, and what it does wrong."""

    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))  # of the default branch
    unlisted: tuple[str, ...] = ()  # files whose digest ModelScope's listing lacks
    status: int = 200  # of every answer
    file_status: int = 200  # of the files' contents
    cut: str = ""  # this file's connection breaks in its middle
    swapped: str = ""  # this file comes with as many other bytes
    silent: str = ""  # this file never comes; "*": nothing does
    empty_listing: bool = False
    asked: list[Asked] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    @property
    def commit(self) -> str:
        """Of what the branch is now."""
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()

    def huggingface_tree(self) -> list[dict[str, Any]]:
        """Its listing of the files."""
        entries: list[dict[str, Any]] = [{"type": "directory", "path": "tokenizer", "oid": "0" * 40, "size": 0}]
        for path, content in {} if self.empty_listing else self.files.items():  # type: ignore[attr-defined]
            entry = {"type": "file", "path": path, "size": len(content), "oid": git_sha1(content)}
            lfs = {"lfs": {"oid": sha256(content), "size": len(content), "pointerSize": 134}}
            entries.append({**entry, **(lfs if path in LARGE else {})})
        return entries

    def modelscope_listing(self, revision: str) -> dict[str, Any]:
        """Its answer to a request for a listing: an unknown revision has no files, and is no error."""
        if revision not in ("master", self.commit) or self.empty_listing:
            return {"Code": 200, "Success": False, "Message": "no such revision", "Data": {"Files": None}}
        entries: list[dict[str, Any]] = [{"Path": "tokenizer", "Type": "tree", "Size": 0}]
        for path, content in self.files.items():
            entry = {"Path": path, "Type": "blob", "Size": len(content)}
            entries.append(entry if path in self.unlisted else {**entry, "Sha256": sha256(content).upper()})
        return {"Code": 200, "Success": True, "Data": {"Files": entries, "LatestCommitter": {"Id": self.commit}}}


def handler_of(hub: StubHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.asked.append(Asked(self.command, self.path, self.headers.get("Authorization"), self.headers.get("Range")))
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            if hub.silent == "*":
                hub.over.wait(60)
            elif hub.status != 200:
                refusal = {"error": "the hub says no", "Message": "the hub says no"}
                self.reply(json.dumps(refusal).encode(), hub.status, {"X-Error-Message": "the hub says no"})
            elif url.path == f"/api/models/{REPOSITORY}/revision/main":
                self.reply(json.dumps({"id": REPOSITORY, "sha": hub.commit, "siblings": []}).encode())
            elif url.path == f"/api/models/{REPOSITORY}/tree/{hub.commit}":
                self.reply(json.dumps(hub.huggingface_tree()).encode())
            elif url.path.startswith(f"/{REPOSITORY}/resolve/"):
                self.file(unquote(url.path.split("/", 5)[5]), hub.commit)
            elif url.path == f"/api/v1/models/{REPOSITORY}/repo/files":
                self.reply(json.dumps(hub.modelscope_listing(query["Revision"])).encode())
            elif url.path == f"/api/v1/models/{REPOSITORY}/repo":
                self.file(query["FilePath"], query["Revision"])
            else:
                self.reply(b"", 404)

        do_HEAD = do_GET  # noqa: N815

        def file(self, path: str, revision: str) -> None:
            """The content of a file, or what goes wrong with it."""
            content = hub.files.get(path)
            if content is None or hub.file_status != 200:
                self.reply(b"", 404 if content is None else hub.file_status)
                return
            digest = sha256(content) if path in LARGE else git_sha1(content)
            headers = {"ETag": f'"{digest}"', "X-Repo-Commit": revision, "Accept-Ranges": "bytes"}
            content = content[::-1] if path == hub.swapped else content
            begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            if self.headers.get("Range"):
                headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            if path == hub.silent and self.command == "GET":
                hub.over.wait(60)
                self.close_connection = True
                return
            self.reply(content[begin:], 206 if self.headers.get("Range") else 200, headers, cut=path == hub.cut)

        def reply(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None, cut: bool = False) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content[: len(content) // 2] if cut else content)
            self.close_connection = cut

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    return Handler


@contextmanager
def serving() -> Iterator[StubHub]:
    """A hub that delivers, until a test tells it otherwise."""
    hub = StubHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield hub
    hub.over.set()
    server.shutdown()
    server.server_close()
    thread.join()
