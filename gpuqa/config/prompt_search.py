"""What can be chosen of a search for prompts: its space, how it searches, and who may propose prompts to it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from gpuqa.config import check
from gpuqa.config.pipeline import PLACEHOLDER, PostprocessConfig


class Choice(Enum):
    """How worked examples are chosen. They are the same for every question, so that the engine computes them once."""

    fixed = "fixed"  # the first of their file
    similar = "similar"  # those whose questions are most like the ones that are searched with, by rapidfuzz
    diverse = "diverse"  # each as unlike those before it as possible


@dataclass
class SpaceConfig:
    """The prompts that a search may make: sentences of the system text, templates of the user's turn, worked examples."""

    name: str = MISSING
    fragments: dict[str, list[str]] = field(default_factory=dict)  # name -> variants; a prompt has one of them, or none
    reorder: bool = True  # false: the sentences stand in the order of `fragments`
    users: list[str] = field(default_factory=lambda: [PLACEHOLDER])  # templates of the user's turn
    examples: list[int] = field(default_factory=lambda: [0])  # how many worked examples a prompt may have
    chosen: list[Choice] = field(default_factory=lambda: [Choice.fixed])  # how they are chosen
    examples_from: str | None = None  # question file; questions like a measured one are left out of it
    max_system_chars: int = 600
    max_tokens: list[int] = field(default_factory=list)  # values of sampling.max_tokens; none: as sampling says
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)

    def __post_init__(self) -> None:
        for name, variants in self.fragments.items():
            sound = variants is not None and all(isinstance(text, str) and text.strip() for text in variants)
            check(bool(variants) and sound, f"space.fragments.{name}", variants, "a list of texts, none of them empty")
            check(len(set(variants)) == len(variants), f"space.fragments.{name}", variants, "a list that has each text once")
            with_question = [text for text in variants if PLACEHOLDER in text]
            allowed = f"text without {PLACEHOLDER}, which belongs into space.users"
            check(not with_question, f"space.fragments.{name}", with_question[0] if with_question else "", allowed)
        check(bool(self.users), "space.users", self.users, f"a list of templates, such as [{PLACEHOLDER!r}]")
        for user in self.users:
            once = f"a template that holds {PLACEHOLDER} exactly once"
            check(user.count(PLACEHOLDER) == 1, "space.users", user, once)
        counts = self.examples
        check(bool(counts) and min(counts) >= 0, "space.examples", counts, "a list of integers of at least 0, such as [0, 2]")
        check(bool(self.chosen), "space.chosen", self.chosen, f"a list of some of {', '.join(way.name for way in Choice)}")
        needs = not any(counts) or self.examples_from is not None
        check(needs, "space.examples_from", self.examples_from, "a question file where space.examples has more than 0")
        check(self.max_system_chars >= 1, "space.max_system_chars", self.max_system_chars, "an integer of at least 1")
        limits = self.max_tokens
        check(all(limit >= 1 for limit in limits), "space.max_tokens", limits, "a list of integers of at least 1")
        several = bool(self.fragments) or len(self.users) > 1 or len(set(counts)) > 1 or len(limits) > 1
        words = "more than one prompt: a line in space.fragments, or a second value in space.users, examples or max_tokens"
        check(several, "space", self.name, words)


class Quality(Enum):
    """The score that a search goes by."""

    rouge_l_f1 = "rouge_l_f1"
    rouge_l_f1_judge = "rouge_l_f1_judge"


class Against(Enum):
    """What a search weighs against quality."""

    chars_per_s = "chars_per_s"  # the more the better
    output_tokens = "output_tokens"  # of an answer, the fewer the better
    ttft_ms = "ttft_ms"  # mean time to the first token, the less the better


@dataclass
class PromptSearchConfig:
    """How long and by which numbers a search goes. What makes the best prompt is the rule of `selection`."""

    minutes: float = MISSING  # for the search itself, its engine's start included; the final study takes its own time
    seed: int = 0  # of the splits and of all that is drawn
    quality: Quality = Quality.rouge_l_f1
    against: Against = Against.chars_per_s
    at_least_as_fast: bool = False  # as the best of the shipped prompts by the rule; else a prompt comes after all that are
    first_slice: int = 8  # questions that every new prompt is asked
    growth: int = 2  # each slice makes so many times as many questions; one of so many prompts goes on to it
    children: int = 12  # new prompts of a generation
    final_share: float = 0.5  # of the different questions, kept for the end
    selection_share: float | None = None  # of those that choose among the best; null: 0.2 from 200 questions on, else 0
    found: int = 1  # prompts that go to the final study, beside the shipped ones

    def __post_init__(self) -> None:
        check(0 < self.minutes < math.inf, "search.minutes", self.minutes, "a number above 0")
        check(self.seed >= 0, "search.seed", self.seed, "an integer of at least 0")
        check(self.first_slice >= 2, "search.first_slice", self.first_slice, "an integer of at least 2")
        check(self.growth >= 2, "search.growth", self.growth, "an integer of at least 2")
        check(self.children >= 2, "search.children", self.children, "an integer of at least 2")
        check(0 < self.final_share < 1, "search.final_share", self.final_share, "a number between 0 and 1")
        share = self.selection_share
        sound = share is None or 0 <= share < 1 - self.final_share
        allowed = f"null, or a number from 0 to below {1 - self.final_share:g} (1 - search.final_share)"
        check(sound, "search.selection_share", share, allowed)
        check(self.found >= 1, "search.found", self.found, "an integer of at least 1")


@dataclass
class ProposerConfig:
    """A model that may rewrite the best prompts from their worst answers, over OpenAI's chat completions."""

    url: str | None = None  # http://HOST:PORT, without /v1; null: nobody is asked
    model: str | None = None  # null: the first that the server lists
    proposals: int = 8  # at most, over the whole search
    timeout_s: float = 60.0  # of one; the search does not wait for it
    worst: int = 4  # answers that it is shown
    max_tokens: int = 400  # of its answer
    key_variable: str = "GPUQA_PROPOSER_KEY"  # an environment variable that may hold its bearer key

    def __post_init__(self) -> None:
        known = self.url is None or self.url.startswith(("http://", "https://"))
        check(known, "proposer.url", self.url, "an http:// or https:// address, or null")
        check(self.proposals >= 1, "proposer.proposals", self.proposals, "an integer of at least 1")
        check(0 < self.timeout_s < math.inf, "proposer.timeout_s", self.timeout_s, "a number above 0")
        check(self.worst >= 1, "proposer.worst", self.worst, "an integer of at least 1")
        check(self.max_tokens >= 1, "proposer.max_tokens", self.max_tokens, "an integer of at least 1")
        check(bool(self.key_variable), "proposer.key_variable", self.key_variable, "the name of an environment variable")
