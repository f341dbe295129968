"""Three sets of questions that share none: those that a search asks, those that choose among its best, and those of the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from gpuqa.config import UserError
from gpuqa.config.prompt_search import PromptSearchConfig
from gpuqa.prompt_search.leaks import letters
from gpuqa.records import Question

FEW = 200  # different questions; with fewer, the search's own questions choose, by cross-validation
USUAL_SHARE = 0.2  # of those that choose, where there are more
FEWEST_FINAL = 20  # a verdict needs so many, see `gpuqa.selection.ratios.FEWEST_QUESTIONS`


@dataclass(frozen=True, slots=True)
class Splits:
    """The questions of a search, each in one of three places; those of one text are in the same one."""

    search: list[Question]
    selection: list[Question]  # none: cross-validation over `search` chooses
    final: list[Question]

    def text(self) -> str:
        """How many there are of each."""
        chosen = (
            f"{len(self.selection)} that choose among the best" if self.selection else "cross-validation chooses among the best"
        )
        return (
            f"{len(self.search)} questions to search with, {chosen}, {len(self.final)} for the end, which the search never sees"
        )


def split(questions: Sequence[Question], config: PromptSearchConfig) -> Splits:
    """The same split for the same questions and seed, whatever their order.

    Raises:
        UserError: too few questions for a slice, or for a verdict in the end.
    """
    texts = sorted({letters(question.text) or question.text for question in questions})
    Random(f"splits {config.seed}").shuffle(texts)
    share = config.selection_share
    if share is None:
        share = USUAL_SHARE if len(texts) >= FEW else 0.0
    final, chosen = round(len(texts) * config.final_share), round(len(texts) * share)
    place = {text: 0 if number < final else 1 if number < final + chosen else 2 for number, text in enumerate(texts)}
    of = [place[letters(question.text) or question.text] for question in questions]
    rows: list[list[Question]] = [[], [], []]
    for where, question in zip(of, questions, strict=True):
        rows[where].append(question)
    searched = len(texts) - final - chosen
    if searched < config.first_slice or final < FEWEST_FINAL:
        raise UserError(
            f"dataset: {len(texts)} different questions are too few for a search: {searched} would search and {final} would be "
            f"kept for the end, but search.first_slice={config.first_slice} and a verdict's {FEWEST_FINAL} are needed; add "
            f"questions, or change search.final_share, search.selection_share or search.first_slice"
        )
    return Splits(rows[2], rows[1], rows[0])


def slices_of(questions: Sequence[Question], config: PromptSearchConfig) -> list[list[Question]]:
    """The questions to search with, in a drawn order, cut so that each slice makes `growth` times as many as those before."""
    shuffled = sorted(questions, key=lambda question: question.id)
    Random(f"slices {config.seed}").shuffle(shuffled)
    ends, size = [], config.first_slice
    while size * config.growth < len(shuffled):
        ends.append(size)
        size *= config.growth
    ends.append(len(shuffled))
    return [shuffled[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
