"""Watch a running server: its state, speed, latencies, memory and errors, from /metrics, /info and /readyz.

    python -m gpuqa.watch url=http://127.0.0.1:8000                    # a live view; without a terminal a line each second
    python -m gpuqa.watch url=http://127.0.0.1:8000 once=true          # or --once: one snapshot
    GPUQA_KEYS=... python -m gpuqa.watch url=http://10.0.0.7:8000 json=true interval_s=5    # or --json: a JSON object a line

Percentiles are interpolated between the buckets of the server's histograms, so they are as exact as a bucket is narrow. Speeds
of "10 s" and "1 min" are of that time, or of what was watched of it. A server that never answered is shown as unreachable, and
one that goes away as gone, until it answers.
Exit codes: 0 the one snapshot is of a ready server, 1 of one that is not, 2 wrong input, no gpuqa server or a refused key, 130
ended by Ctrl-C or SIGTERM, which is how watching ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gpuqa.config import UserError, plain
from gpuqa.config.app import end_like_ctrl_c, run_command
from gpuqa.config.command_line import terminal
from gpuqa.config.commands import WatchConfig, resolve
from gpuqa.selection.wording import duration
from gpuqa.serving.client import Server, excerpt
from gpuqa.serving.life import State
from gpuqa.serving.scrapes import OURS, STARTED, History, Rates, Scrape, Snapshot, snapshot

NOT_READY = 1
TIMEOUT_S = 5.0
UNREACHABLE = "unreachable"  # it never answered
GONE = "gone"  # it did
SILENT = (UNREACHABLE, GONE)
COLUMNS = {"last_10_s": "10 s", "last_minute": "1 min", "since_start": "since the start"}
SPEEDS = {
    "questions_per_s": ("questions/s", ",.1f"),
    "chars_per_s": ("chars/s", ",.0f"),
    "output_tokens_per_s": ("tokens/s", ",.0f"),
}
TIMES = {
    "TTFT ms, p50 p95": ("ttft_ms_p50", "ttft_ms_p95"),
    "latency ms, p50 p95 p99": ("e2e_latency_ms_p50", "e2e_latency_ms_p95", "e2e_latency_ms_p99"),
}
STYLES = {"ready": "green", UNREACHABLE: "bold red", GONE: "bold red", "failed": "bold red"}


def main() -> None:
    """Enter with conf/watch.yaml."""
    sys.argv = [f"{word[2:]}=true" if word in ("--once", "--json") else word for word in sys.argv]
    signal.signal(signal.SIGTERM, end_like_ctrl_c)  # else the terminal's cursor would stay hidden
    run_command(watch, "watch")


def watch(composed: Any) -> int:
    """The composed config -> exit code."""
    config = resolve(composed, WatchConfig)
    watched = Watched(Server.of(config.url, config.keys_file, config.keys_variable))
    if config.once:
        seen = watched.look()
        print(as_json(seen) if config.json else "\n".join(lines(seen)))
        return 0 if seen.state == "ready" else NOT_READY
    try:
        with shown(config, terminal()) as show:
            while True:
                began = time.monotonic()
                show(watched.look())
                time.sleep(max(0.0, config.interval_s - (time.monotonic() - began)))
    except BrokenPipeError:  # as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains when it flushes at the end
        return 0


class Watched:
    """A server, and what it said before."""

    def __init__(self, server: Server) -> None:
        self.server, self.history = server, History()
        self.client = server.client(TIMEOUT_S)
        self.state = ""  # that was seen last
        self.info: dict[str, object] = {}  # read in this state of this process

    def look(self) -> Snapshot:
        """The server now; one that does not answer is unreachable, or gone if it answered before.

        Raises:
            UserError: it is no gpuqa server, or refuses the key.
        """
        try:
            state = state_of(self.client.get("/readyz"))
            scrape, before = self.scraped(), self.history.scrapes[-1:]
            if state != self.state or not before or before[0].get(STARTED) != scrape.get(STARTED):
                self.state, self.info = state, self.read_info()
            self.history.add(scrape)
            return snapshot(self.server.url, state, self.info, self.history)
        except httpx.HTTPError as error:
            state = GONE if self.history.scrapes else UNREACHABLE
            return Snapshot(self.server.url, state, str(error) or type(error).__name__)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if not self.history.scrapes:
                raise UserError(f"url: {self.server.url} is no gpuqa server ({error})") from error
            return Snapshot(self.server.url, GONE, f"something else answers ({error})")

    def scraped(self) -> Scrape:
        """Its metrics.

        Raises:
            ValueError: what answers has no such metrics.
        """
        reply = self.client.get("/metrics")
        if reply.status_code != httpx.codes.OK:
            raise ValueError(f"GET /metrics: {excerpt(reply)}")
        try:
            now = parsedate_to_datetime(reply.headers["Date"]).timestamp()
        except (KeyError, ValueError):
            now = time.time()
        scrape = Scrape.of(reply.text, time.monotonic(), now)
        if scrape.get(OURS) is None:
            raise ValueError(f"GET /metrics has no {OURS}")
        return scrape

    def read_info(self) -> dict[str, object]:
        """What `GET /info` says of the winner."""
        said = self.client.get("/info").json()
        measured = said.get("frozen", {}).get("measurement", {}).get("chars_per_s")
        parts = [f"{part['part']}={part['ran']}" for part in said["here"]["overrides"]]
        return {"overrides": parts, "frozen_chars_per_s": measured}


def state_of(reply: httpx.Response) -> str:
    """What `GET /readyz` says.

    Raises:
        httpx.RemoteProtocolError: a proxy says that nobody is behind it.
        ValueError: this is no gpuqa server.
    """
    try:
        return State[reply.json()["status"]].name
    except (ValueError, KeyError, TypeError) as error:
        if reply.is_server_error:
            raise httpx.RemoteProtocolError(f"GET /readyz: {excerpt(reply)}") from error
        raise ValueError(f"GET /readyz: {excerpt(reply)}") from error


@contextmanager
def shown(config: WatchConfig, console: Console) -> Iterator[Callable[[Snapshot], None]]:
    """What shows a snapshot: as JSON, in place on a terminal, or as a line."""
    if config.json:
        yield lambda seen: print(as_json(seen), flush=True)
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda seen: live.update(view(seen), refresh=True)
    else:
        yield lambda seen: print(line(seen), flush=True)


def as_json(seen: Snapshot) -> str:
    """One line."""
    return json.dumps({"time": time.time(), **plain(asdict(seen))}, ensure_ascii=False)


def view(seen: Snapshot) -> Group:
    """A snapshot for a terminal of 80 columns."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("", *COLUMNS.values()):
        table.add_column(name, justify="right" if name else "left")
    for name, cells in numbers(seen).items():
        table.add_row(name, *cells)
    head, *rest = about(seen)
    return Group(Text(head, STYLES.get(seen.state, "yellow")), *([table] if seen.state not in SILENT else []), *map(Text, rest))


def lines(seen: Snapshot) -> list[str]:
    """A snapshot as plain text; its one scrape has numbers since the start alone."""
    head, *rest = about(seen)
    since = (
        [f"{name} since the start: {cells[-1]}" for name, cells in numbers(seen).items()] if seen.state not in SILENT else []
    )
    return [head, *since, *rest]


def line(seen: Snapshot) -> str:
    """A snapshot in one line, with the numbers of the last ten seconds."""
    now = f"{time.strftime('%H:%M:%S')} {seen.state}"
    if seen.state in SILENT:
        return f"{now}: {seen.why}"
    shown = "; ".join(f"{name} {cells[0]}" for name, cells in numbers(seen).items())
    return f"{now}; {shown}; {load(seen)}; errors {sum(seen.errors.values()):.0f}; restarts {seen.restarts:.0f}"


def about(seen: Snapshot) -> list[str]:
    """What is not a speed, a line each, the state first."""
    if seen.state in SILENT:
        return [f"{seen.url} is {seen.state}: {seen.why}"]
    up = "" if seen.uptime_s is None else f", up {duration(seen.uptime_s)}"
    names = ", ".join(
        f"{name} {seen.serves[name]}" for name in ("prompt", "quantization", "engine", "model") if name in seen.serves
    )
    digest = f" (frozen {seen.serves['frozen_digest']:.16})" if "frozen_digest" in seen.serves else ""
    chosen = f"; chosen for {seen.frozen_chars_per_s:,.0f} chars/s" if seen.frozen_chars_per_s else ""
    parts = ", ".join(seen.overrides) or "no override is known"
    errors = ", ".join(f"{what} {count:.0f}" for what, count in seen.errors.items()) or "none"
    said = [
        f"{seen.url} is {seen.state}{up}",
        f"serves {names or 'what it does not name'}{digest}{chosen}",
        load(seen),
        f"errors since the start: {errors}",
        f"engine restarts {seen.restarts:.0f}, failed starts {seen.failed_starts:.0f}; {parts}",
    ]
    return ["".join(sign if sign.isprintable() else "?" for sign in text) for text in said]  # names come from the server


def load(seen: Snapshot) -> str:
    """How much the server has to do."""
    kv = "n/a" if seen.kv_cache_usage is None else f"{seen.kv_cache_usage:.0%}"
    return f"in flight {count(seen.in_flight)} of {count(seen.in_flight_limit)}, waiting {count(seen.waiting)}, KV cache {kv}"


def count(value: float | None) -> str:
    """A number of things."""
    return "n/a" if value is None else f"{value:,.0f}"


def numbers(seen: Snapshot) -> dict[str, list[str]]:
    """Name of a row -> its text for each of the `COLUMNS`."""
    windows: list[Rates | None] = [getattr(seen, name) for name in COLUMNS]
    rows = {name: [of(window, key, form) for window in windows] for key, (name, form) in SPEEDS.items()}
    rows |= {name: [" ".join(of(window, key, ",.0f") for key in keys) for window in windows] for name, keys in TIMES.items()}
    return {**rows, "prefix cache hits": [of(window, "prefix_cache_hit_rate", ".0%") for window in windows]}


def of(window: Rates | None, key: str, form: str) -> str:
    """A number of a time."""
    value = None if window is None else getattr(window, key)
    return "n/a" if value is None else f"{value:{form}}"


if __name__ == "__main__":
    main()
