"""What a search says when it has ended: what it took, what it found, and by how much its own number was too good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpuqa.config.commands import SearchCommandConfig
from gpuqa.config.prompt_search import Quality
from gpuqa.machine.files import write_atomically
from gpuqa.prompt_search import outcome
from gpuqa.prompt_search.choosing import Chosen
from gpuqa.prompt_search.journal import SearchJournal
from gpuqa.prompt_search.page import FoundPrompt, page_of
from gpuqa.prompt_search.searcher import Searcher
from gpuqa.records import Trial
from gpuqa.selection.pairing import Answers
from gpuqa.selection.wording import counted
from gpuqa.study import finalists
from gpuqa.study.journal import Journal
from gpuqa.study.output import Output


@dataclass
class Found:
    """What a search has come to."""

    searcher: Searcher
    choice: Chosen


def told_of(found: Found, journal: SearchJournal, places: int) -> str:
    """What the search took and saw, in sentences."""
    passes, spent = list(journal.passes.values()), max(journal.spent_s, 1e-9)
    answers, engines = sum(len(one.measured.questions) for one in passes), {one.measured.engine_id for one in passes}
    busy = sum(one.measured.answered.seconds for one in passes) / max(1, places) / spent
    asked, searcher, choice = len({one.cell for one in passes}), found.searcher, found.choice
    pruned = f", {len(searcher.pruned)} not asked because of their tokens" if searcher.pruned else ""
    failed = f", {len(searcher.failed)} failed" if searcher.failed else ""
    text = f"Searched {spent / 60:.1f} min: {counted(asked, 'prompt')} ({asked / spent * 60:.0f} a minute), "
    text += f"{answers:,} answers{pruned}{failed}; {counted(len(engines), 'engine start')}, "
    text += f"engines answered {busy:.0%} of the time. "
    text += f"The found prompt leads the best shipped one by {choice.lead:+.4f} on the questions that searched"
    if choice.cross_validated is not None:
        text += f", and by {choice.cross_validated:+.4f} on halves of them that did not choose"
    return text


def tell_end(
    config: SearchCommandConfig, found: Found, ends: Mapping[str, dict[str, str]], journal: SearchJournal, output: Output
) -> None:
    """Say how the found prompt stands in the end, and write search.html and the table of all prompts.

    Args:
        ends: the axes of the found prompts in the end, by their keys.
    """
    study, searcher, folder = Journal(config.study.folder), found.searcher, config.study.folder
    judged = finalists.judge(study.read_study(), config.selection, study)
    trials = [standing.trial for standing in judged.verdict.standings if standing.trial.measurement]
    said = honest(config, found, ends, trials, judged.answers)
    for sentence in said:
        output.say(sentence, "bold", "honest")
    rows = outcome.rows_of(searcher)
    write_atomically(journal.folder / "front.csv", outcome.table_of(rows))
    prompts = {}
    for key, name in journal.found.items():
        text = (folder / "conf" / "prompt" / f"{name}.yaml").read_text(encoding="utf-8")
        prompts[searcher.made[key].name] = FoundPrompt(name, text, outcome.family_of(searcher, key))
    places = len({one.measured.place for one in journal.passes.values()})
    sentences = [f"{told_of(found, journal, places)}.", *said, judged.verdict.reason]
    page = folder / "search.html"
    write_atomically(page, page_of(f"Search {config.study.name}", sentences, rows, prompts, config.search.against))
    output.say(f"Search: {page}", event="files", facts={"page": str(page)})


def honest(
    config: SearchCommandConfig, found: Found, ends: Mapping[str, dict[str, str]], trials: Sequence[Trial], answers: Answers
) -> list[str]:
    """The found prompt beside the best shipped one on unseen questions, and by how much the search's number was too good."""
    name = config.search.quality.name
    ours = [trial for trial in trials if found.choice.keys and trial.axes == ends[found.choice.keys[0]]]
    shipped = [trial for trial in trials if trial.axes not in ends.values()]
    if not ours or not shipped:
        return ["The end has no numbers of the found prompt or of a shipped one, so the search's cannot be compared."]
    best = max(shipped, key=lambda trial: score_of(trial, config.search.quality))
    lead = outcome.lead_of(ours[0], best, config, answers)
    number, in_the_end = found.searcher.score(found.choice.keys[0]).quality, score_of(ours[0], config.search.quality)
    sure = f"{config.selection.confidence:.0%} interval"
    quality = f" ({sure} {lead.quality_interval:+.4f}, p {lead.quality_p:.3g})" if lead.quality_interval else ""
    speed = f" ({sure} {lead.speed_interval:+.1%})" if lead.speed_interval else ""
    asked = ours[0].measurement.questions if ours[0].measurement else 0
    return [
        f"On {asked} questions that the search never saw, {lead.found} has {lead.quality:+.4f} {name}{quality} and "
        f"{lead.speed_share:+.1%} chars/s{speed} beside {lead.shipped}, the best shipped one there.",
        f"The search's own lead was {found.choice.lead:+.4f}, {found.choice.lead - lead.quality:+.4f} too good; the prompt's "
        f"score was {number:.4f} in the search and is {in_the_end:.4f} in the end, on other questions.",
    ]


def score_of(trial: Trial, quality: Quality) -> float:
    """The score that the search went by, of a trial of the end."""
    return float(getattr(trial.measurement, quality.name, None) or 0.0)
