"""A model that rewrites the best prompt from its worst answers. It is asked beside the search, which never waits for it.

Any server that speaks OpenAI's chat completions will do, our own as well. What it writes is one text, the system text of a new
prompt. It may be slow, gone, or write nonsense: then its proposal is not used, the journal says why, and the search goes on.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from gpuqa.config.prompt_search import ProposerConfig
from gpuqa.prompt_search.journal import Proposal, SearchJournal
from gpuqa.prompt_search.searcher import Made, Recipe
from gpuqa.prompt_search.space import Genes
from gpuqa.records import Answer

BROKEN = (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, KeyError, IndexError, TypeError, AttributeError)
MOST_FAILURES = 3  # in a row; then the proposer is not asked any more
SHOWN_CHARS = 400  # of a question, an answer or a reference
TASK = """A small language model answers questions about GPU programming. Its answers are compared with references
(ROUGE-L, 0 to 1). Its present system prompt:
{system}

Its worst answers:
{answers}

Write a better system prompt, in the language of the present one, of at most {chars} characters. Do not repeat any of the
questions or references. Write the prompt alone, without quotes or explanations."""


@dataclass(frozen=True, slots=True)
class Request:
    """A rewrite that is under way."""

    parent: Made
    task: asyncio.Task[str]
    since: float


class Proposer:
    """One proposer over one search."""

    def __init__(
        self, config: ProposerConfig, journal: SearchJournal, why_not: Callable[[Genes], str], say: Callable[[str], None]
    ) -> None:
        """
        Args:
            why_not: why genes make no prompt; "" where they do.
            say: tells the user what is wrong with the proposer.
        """
        self.config, self.journal, self.why_not, self.say = config, journal, why_not, say
        self.request: Request | None = None
        self.failures, self.left = 0, config.proposals - len(journal.proposals)
        self.replayed = journal.last_generation  # up to there an earlier run has decided

    def proposals(self, generation: int) -> list[Recipe]:
        """The recipes for a generation: those of an earlier run, or what has come meanwhile."""
        if generation > self.replayed and self.request is not None and self.request.task.done():
            self.note(generation, self.request)
            self.request = None
        taken = [one for one in self.journal.proposals if one.generation == generation and not one.refused]
        return [self.recipe(one) for one in taken]

    def recipe(self, proposal: Proposal) -> Recipe:
        """How a proposal's prompt is made: its text and nothing else."""
        return Recipe(Genes(written=proposal.text), "proposer", (proposal.parent,), proposal.generation)

    def ask(self, parent: Made, system: str, answers: Sequence[Answer], most_chars: int, generation: int) -> None:
        """Ask for a rewrite, unless one is under way, none is left, or an earlier run has decided what comes next."""
        if self.config.url is None or self.request is not None or self.left <= 0 or generation < self.replayed:
            return
        self.left -= 1
        worst = sorted(answers, key=lambda answer: answer.rouge_l_f1 or 0.0)[: self.config.worst]
        text = TASK.format(system=system or "(none)", answers="\n".join(map(shown, worst)), chars=most_chars)
        self.request = Request(parent, asyncio.create_task(written(self.config, text)), time.monotonic())

    def note(self, generation: int, request: Request) -> None:
        """Write down what came of a request; say what is wrong."""
        text, refused = "", ""
        try:
            text = request.task.result().strip()
            refused = self.why_not(Genes(written=text)) if text else "it wrote nothing"
            if text in [one.text for one in self.journal.proposals]:
                refused = "it wrote the same before"
        except BROKEN as error:
            refused = reason_of(error, self.config)
        seconds = time.monotonic() - request.since
        self.journal.write_proposal(Proposal(generation, request.parent.key, text, refused, round(seconds, 3)))
        self.failures = self.failures + 1 if refused else 0
        if refused:
            self.say(f"proposer.url={self.config.url}: a proposal is not used: {refused}; the search goes on without it")
        if self.failures >= MOST_FAILURES:
            self.left = 0
            self.say(
                f"proposer.url={self.config.url}: {self.failures} proposals in a row were of no use; it is not asked any more"
            )

    async def close(self) -> None:
        """End a request that is under way."""
        if self.request is not None:
            self.request.task.cancel()
            await asyncio.gather(self.request.task, return_exceptions=True)


def shown(answer: Answer) -> str:
    """An answer as the proposer sees it."""
    question, said, reference = (text[:SHOWN_CHARS] for text in (answer.question, answer.answer, answer.reference))
    return f"- question: {question}\n  answer: {said}\n  reference: {reference}\n  score: {answer.rouge_l_f1 or 0.0:.2f}"


def reason_of(error: Exception, config: ProposerConfig) -> str:
    """What is wrong with a server, in words."""
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return f"it did not answer within proposer.timeout_s={config.timeout_s:g}"
    if isinstance(error, httpx.HTTPStatusError):
        return f"it answers HTTP {error.response.status_code}"
    if isinstance(error, httpx.HTTPError | httpx.InvalidURL):
        return f"it cannot be reached ({' '.join(str(error).split()) or type(error).__name__})"
    return "it does not answer as OpenAI's chat completions do"


async def written(config: ProposerConfig, text: str) -> str:
    """What the server writes.

    Raises:
        httpx.HTTPError: it is gone, slow, or refuses.
        ValueError, KeyError, IndexError, TypeError, AttributeError: its answer is none of OpenAI's.
    """
    key = os.environ.get(config.key_variable)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    assert config.url is not None, "it is asked only where there is one"
    async with (
        asyncio.timeout(config.timeout_s + 1),
        httpx.AsyncClient(base_url=config.url, headers=headers, timeout=config.timeout_s, trust_env=False) as client,
    ):
        model = config.model or (await reply_of(client.get("/v1/models")))["data"][0]["id"]
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": config.max_tokens}
        answer: str = (await reply_of(client.post("/v1/chat/completions", json=body)))["choices"][0]["message"]["content"]
        return answer


async def reply_of(call: Any) -> Any:
    """The JSON of a reply."""
    reply: httpx.Response = await call
    reply.raise_for_status()
    return reply.json()
