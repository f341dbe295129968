"""One run of the yardstick: the contestants that live, the values so far, and the files that keep them."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from processes import Peer, PeerFailed
from questions import question_texts, system_prompt
from rows import Row, plan, summarise, table
from settings import ROOT, child_env, task_of

from gpuqa.measure import fingerprint

HERE = Path(__file__).resolve().parent
WARMUP_REPEAT, WARMUP_QUESTIONS = -1, 4
PATIENCE_S = 120.0  # for one measurement; then the contestant is out
SLACK_S = 5.0  # what one more measurement may take beyond its last duration


class Run:
    """The contestants that live, and what was measured so far."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from tokenizers import Tokenizer

        self.arguments, self.began = arguments, time.monotonic()
        self.tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
        self.systems = {prefix: system_prompt(self.tokenizer, prefix) for prefix in arguments.prefixes}
        self.client = Peer([str(HERE / "client.py")], arguments.out / "client.log", child_env(arguments))
        self.peers: dict[str, Peer] = {}
        self.started: dict[str, dict[str, Any]] = {}
        self.records: list[dict[str, Any]] = []
        self.errors: dict[str, str] = {}
        self.lasted: dict[tuple[str, int], float] = {}  # row and prefix -> seconds of its last measurement

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        return float(self.arguments.budget) - (time.monotonic() - self.began)

    def start(self) -> None:
        """Every contestant that a row needs, side by side; each warms up as soon as it has started."""
        names = list(dict.fromkeys(row.contestant for row in self.arguments.rows))
        for name in names:
            task = json.dumps(task_of(name, self.arguments, self.systems))
            checkout = self.arguments.before if name == "ours_before" else ROOT
            known = "ours" if name == "ours_before" else name  # another checkout knows of no other
            command = [str(checkout / "experiments" / "speed" / "contestants.py"), known, task]
            self.peers[name] = Peer(command, self.arguments.out / f"{name}.log", child_env(self.arguments, checkout))
        with ThreadPoolExecutor(len(names)) as threads:
            list(threads.map(self.start_one, names))
        print(f"[{time.monotonic() - self.began:.0f} s] started and warm: {', '.join(self.started)}", flush=True)

    def start_one(self, name: str) -> None:
        """Wait for a contestant, then ask every row of it a few questions and its first row all of them."""
        client = Peer([str(HERE / "client.py")], self.arguments.out / f"client_{name}.log", child_env(self.arguments))
        try:
            self.started[name] = self.peers[name].reply(max(min(self.left_s, self.arguments.start_timeout), 1))
            rows = [row for row in self.arguments.rows if row.contestant == name]
            for prefix in self.arguments.prefixes:
                for row in rows:
                    self.ask(row, prefix, WARMUP_REPEAT, WARMUP_QUESTIONS, client)
            if rows[0].questions is None:
                self.ask(rows[0], self.arguments.prefixes[0], WARMUP_REPEAT - 1, self.arguments.questions, client)
        except PeerFailed as error:
            self.give_up(name, error)
        finally:
            client.kill()

    def measure_all(self) -> None:
        """Everybody in turn until the plan or the budget is at its end."""
        written = 0
        for repeat, prefix, row in plan(self.arguments.rows, self.arguments.prefixes, self.arguments.repeats):
            if repeat != written:
                self.save()
                written = repeat
            if row.contestant not in self.started:
                continue
            if self.left_s < self.lasted.get((row.key, prefix), 0.0) + SLACK_S:
                self.errors.setdefault("budget", f"of {self.arguments.budget:.0f} s spent in repeat {repeat + 1}")
                continue
            self.measure(row, prefix, repeat)

    def measure(self, row: Row, prefix: int, repeat: int) -> None:
        """One value of one row."""
        began = time.monotonic()
        try:
            record = self.ask(row, prefix, repeat, self.count(row), self.client)
        except PeerFailed as error:
            if row.over_http and self.client.process.poll() is not None:
                self.client = Peer([str(HERE / "client.py")], self.arguments.out / "client.log", child_env(self.arguments))
            self.give_up(row.contestant, error)
            return
        self.lasted[row.key, prefix] = time.monotonic() - began
        self.records.append(record)
        rate = record["output_tokens"] / record["seconds"]
        print(f"[{time.monotonic() - self.began:.0f} s] repeat {repeat + 1} prefix {prefix} {row.key}: "
              f"{record['seconds']:.3f} s, {rate:,.0f} output tokens/s", flush=True)  # fmt: skip

    def count(self, row: Row) -> int:
        """The questions of one value of a row."""
        return min(row.questions or self.arguments.questions, self.arguments.questions)

    def ask(self, row: Row, prefix: int, repeat: int, count: int, client: Peer) -> dict[str, Any]:
        """Have fresh questions answered, and refuse an answer that is not whole."""
        texts = question_texts(self.tokenizer, row.key, prefix, repeat, count)
        patience_s = max(min(self.left_s, PATIENCE_S), 1)
        if row.over_http:
            port, path = self.started[row.contestant]["addresses"][str(prefix)]
            bodies = self.bodies(row, prefix, texts, chat="chat" in path)
            command = {"port": port, "path": path, "bodies": bodies, "clients": self.arguments.clients}
            reply = client.ask(command, patience_s)
        else:
            command = {"measure": {"how": row.how, "prefix": str(prefix), "questions": texts}}
            reply = self.peers[row.contestant].ask(command, patience_s)
        whole = count * self.arguments.tokens
        if reply.get("answers", count) != count or (reply.get("output_tokens") or whole) != whole:
            raise PeerFailed(f"{row.key}: {count} answers of {self.arguments.tokens} tokens were asked for, got {said(reply)}")
        if reply.get("empty", 0) == count:
            raise PeerFailed(f"{row.key}: all {count} answers are empty; see the log")
        known = {"row": row.key, "prefix": prefix, "repeat": repeat, "questions": count}
        return {**reply, **known, "output_tokens": whole}  # where a server does not tell, ignore_eos does

    def bodies(self, row: Row, prefix: int, texts: list[str], chat: bool) -> list[str]:
        """What goes over HTTP: one body, or one for each question."""
        if row.how == "post":
            return [json.dumps({"prompt": texts}, ensure_ascii=False)]
        if not chat:
            return [json.dumps({"prompt": text}, ensure_ascii=False) for text in texts]
        system = {"role": "system", "content": self.systems[prefix]}
        fixed = {"model": "speed", "temperature": 0, "max_tokens": self.arguments.tokens, "ignore_eos": True}
        fixed["chat_template_kwargs"] = {"enable_thinking": False}
        return [
            json.dumps({**fixed, "messages": [system, {"role": "user", "content": text}]}, ensure_ascii=False) for text in texts
        ]

    def give_up(self, name: str, error: PeerFailed) -> None:
        """A contestant that failed is out; what it did before stays."""
        self.errors[name] = str(error)
        self.started.pop(name, None)
        self.peers[name].kill()
        print(f"[{time.monotonic() - self.began:.0f} s] {name} is out: {error}", flush=True)

    def end(self) -> None:
        """End every process that was started."""
        for peer in (self.client, *self.peers.values()):
            peer.kill()

    def save(self) -> str:
        """Write yardstick.json and table.md -> the table."""
        arguments = {key: str(value) for key, value in vars(self.arguments).items() if key not in ("rows", "places")}
        summaries = summarise(self.records, self.arguments.rows, self.arguments.prefixes)
        content = {
            "machine": {**fingerprint.environment(), "cores": os.cpu_count(), "commit": fingerprint.git_commit()},
            "arguments": arguments,
            "prompt_tokens": self.prompt_tokens(),
            "contestants": {name: without_addresses(reply) for name, reply in self.started.items()},
            "errors": self.errors,
            "rows": [asdict(summary) for summary in summaries],
            "records": self.records,
        }
        (self.arguments.out / "yardstick.json").write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        text = f"{content['machine']['device']}\n\n{table(summaries, self.errors)}"  # type: ignore[index]
        (self.arguments.out / "table.md").write_text(text)
        return text

    def prompt_tokens(self) -> dict[str, float]:
        """Tokens of the parts of a prompt, without the chat template around them."""
        count = {f"system_{prefix}": len(self.tokenizer.encode(text).ids) for prefix, text in self.systems.items()}
        texts = question_texts(self.tokenizer, "c", 0, 0, self.arguments.questions)
        return {**count, "question_mean": statistics.mean(len(self.tokenizer.encode(text).ids) for text in texts)}


def said(reply: dict[str, Any]) -> dict[str, Any]:
    """A reply without its long parts."""
    return {key: value for key, value in reply.items() if key != "latencies"}


def without_addresses(started: dict[str, Any]) -> dict[str, Any]:
    """What a contestant said when it started; its ports mean nothing afterwards."""
    return {key: value for key, value in started.items() if key != "addresses"}
