"""Tests of the proposer against real HTTP servers: a good one, one that writes nonsense, one that is slow, one that is gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from test_search import SPACE, WORDS, table

from gpuqa.config.commands import StudyConfig
from gpuqa.config.prompt_search import ProposerConfig
from gpuqa.prompt_search.journal import SearchJournal
from gpuqa.prompt_search.proposer import MOST_FAILURES, Proposer
from gpuqa.prompt_search.searcher import Made
from gpuqa.prompt_search.space import Genes
from gpuqa.records import Answer

PARENT = Made("parent", "made_1", Genes(), "drawn", (), 10, 1)
ANSWERS = [
    Answer(f"q{number}", f"question {number}", f"reference {number}", f"answer {number}", 0.1, number / 10, "stop", 9, 0.1)
    for number in range(9)
]


def completion(text: object) -> dict:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


@contextlib.contextmanager
def server(answer: Callable[[dict], tuple[int, object]], delay_s: float = 0.0) -> Iterator[tuple[str, list[dict]]]:
    """A server of OpenAI's API with one model; yields its address and the requests that it gets."""
    asked: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(200, {"data": [{"id": "the-model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({**body, "path": self.path, "key": self.headers.get("Authorization")})
            time.sleep(delay_s)
            self.reply(*answer(body))

        def reply(self, status: int, content: object) -> None:
            data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}", asked
    finally:
        running.shutdown()
        running.server_close()


class Desk:
    """A proposer with a journal, and what it says to the user."""

    def __init__(self, folder: Path, why_not: Callable[[Genes], str] = lambda _: "", **config) -> None:
        self.said: list[str] = []
        self.journal = SearchJournal(StudyConfig("s", str(folder)))
        self.journal.open({"a": 1})
        self.proposer = Proposer(ProposerConfig(**config), self.journal, why_not, self.said.append)

    async def round(self, generation: int, patience_s: float = 5.0):
        """Ask, wait for what comes, and take it for the next generation."""
        self.proposer.ask(PARENT, "你是专家。", ANSWERS, 300, generation)
        if self.proposer.request is not None:
            await asyncio.wait([self.proposer.request.task], timeout=patience_s)
        return self.proposer.proposals(generation + 1)


def test_a_model_is_shown_the_prompt_with_its_worst_answers_and_its_text_becomes_a_prompt(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUQA_PROPOSER_KEY", "the-key")
    with server(lambda _: (200, completion(" 先给出结论。 "))) as (url, asked):
        desk = Desk(tmp_path, url=url, worst=2)
        [recipe] = asyncio.run(desk.round(1))
    assert (recipe.genes, recipe.origin, recipe.parents) == (Genes(written="先给出结论。"), "proposer", ("parent",))
    [request] = asked
    assert (request["path"], request["model"], request["key"]) == ("/v1/chat/completions", "the-model", "Bearer the-key")
    shown = request["messages"][0]["content"]
    assert "你是专家。" in shown
    assert re.findall(r"- question: (.*)\n  answer: (.*)\n  reference: (.*)\n  score: (.*)", shown) == [
        ("question 0", "answer 0", "reference 0", "0.00"),
        ("question 1", "answer 1", "reference 1", "0.10"),
    ]
    [kept] = desk.journal.proposals
    assert (kept.generation, kept.text, kept.refused) == (2, "先给出结论。", "")
    assert desk.said == []


def test_a_search_that_goes_on_takes_the_proposals_of_before_and_asks_for_no_others(tmp_path):
    with server(lambda _: (200, completion("先给出结论。"))) as (url, asked):
        first = asyncio.run(Desk(tmp_path, url=url).round(1))
        again = Desk(tmp_path, url=url, proposals=1)
        again.proposer.replayed = 2
        assert again.proposer.proposals(2) == first
        assert again.proposer.proposals(1) == []
        asyncio.run(again.round(3))
    assert len(asked) == 1, "the budget of one proposal was spent before the kill"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((200, completion("")), "it wrote nothing"),
        ((200, completion(None)), "it does not answer as OpenAI's chat completions do"),
        ((200, "no JSON"), "it does not answer as OpenAI's chat completions do"),
        ((200, {"choices": []}), "it does not answer as OpenAI's chat completions do"),
        ((200, ["a list"]), "it does not answer as OpenAI's chat completions do"),
        ((500, {}), "it answers HTTP 500"),
    ],
)
def test_nonsense_is_not_used_and_the_journal_says_why(tmp_path, answer, reason):
    with server(lambda _: answer) as (url, _):
        desk = Desk(tmp_path, url=url)
        assert asyncio.run(desk.round(1)) == []
    assert [kept.refused for kept in desk.journal.proposals] == [reason]
    assert desk.said == [f"proposer.url={url}: a proposal is not used: {reason}; the search goes on without it"]


def test_a_text_that_makes_no_prompt_is_not_used(tmp_path):
    with server(lambda _: (200, completion("<|im_end|>"))) as (url, _):
        desk = Desk(tmp_path, lambda genes: f"it holds {genes.written}", url=url)
        assert asyncio.run(desk.round(1)) == []
    assert desk.journal.proposals[0].refused == "it holds <|im_end|>"


def test_a_text_that_was_written_before_is_not_used_again(tmp_path):
    with server(lambda _: (200, completion("先给出结论。"))) as (url, _):
        desk = Desk(tmp_path, url=url)

        async def searched() -> list[int]:
            return [len(await desk.round(generation)) for generation in (1, 2)]

        assert asyncio.run(searched()) == [1, 0]
    assert [kept.refused for kept in desk.journal.proposals] == ["", "it wrote the same before"]


def test_a_slow_model_is_not_waited_for(tmp_path):
    with server(lambda _: (200, completion("spät")), delay_s=1.0) as (url, _):
        desk = Desk(tmp_path, url=url, timeout_s=0.3)

        async def searched() -> None:
            began = time.monotonic()
            assert await desk.round(1, patience_s=0.0) == []
            assert time.monotonic() - began < 0.3, "a generation waited for the proposer"
            assert desk.journal.proposals == []
            await asyncio.wait([desk.proposer.request.task], timeout=5)
            assert desk.proposer.proposals(3) == []

        asyncio.run(searched())
    assert desk.journal.proposals[0].refused == "it did not answer within proposer.timeout_s=0.3"


def test_a_model_that_is_gone_is_asked_three_times_and_then_left_alone(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        desk = Desk(tmp_path, url=url)

        async def searched() -> None:
            for generation in range(1, 8):
                assert await desk.round(generation) == []

        asyncio.run(searched())
    assert len(desk.journal.proposals) == MOST_FAILURES
    assert desk.said[0].startswith(f"proposer.url={url}: a proposal is not used: it cannot be reached (")
    assert desk.said[-1] == f"proposer.url={url}: 3 proposals in a row were of no use; it is not asked any more"


def test_a_request_that_is_under_way_ends_with_the_search(tmp_path):
    with server(lambda _: (200, completion("spät")), delay_s=2.0) as (url, _):
        desk = Desk(tmp_path, url=url)

        async def searched() -> float:
            await desk.round(1, patience_s=0.1)
            began = time.monotonic()
            await desk.proposer.close()
            return time.monotonic() - began

        assert asyncio.run(searched()) < 1.0
    assert desk.journal.proposals == []


@pytest.mark.engine
def test_a_search_asks_the_prompt_that_a_model_wrote_and_says_where_it_is_from(command, tmp_path):
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "small.yaml").write_text(SPACE, encoding="utf-8")
    with server(lambda _: (200, completion("结论写在最前面。"))) as (url, _):
        words = ("--config-dir", str(tmp_path), *WORDS, f"proposer.url={url}", "search.children=2", "proposer.proposals=1")
        run = command("search", *words, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    folder = tmp_path / "experiments" / "embedded_search"
    rows = [json.loads(line) for line in (folder / "search" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    written = [row for row in rows if row["origin"] == "proposer"]
    assert len(written) == 1
    assert written[0]["system"] == "结论写在最前面。"
    assert written[0]["parents"][0] in {row["key"] for row in rows}
    kept = [json.loads(line) for line in (folder / "search" / "proposals.jsonl").read_text(encoding="utf-8").splitlines()]
    assert kept[0]["text"] == "结论写在最前面。"
    [made] = [row for row in table(folder / "search" / "front.csv") if row["origin"] == "proposer"]
    assert "text: 结论写在最前面。" in made["changes"]
