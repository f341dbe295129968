"""Search for a better prompt, and prove it on questions that the search never saw.

    python -m gpuqa.search experiment=embedded_search search.minutes=10
    python -m gpuqa.search prompt=bare,structured space=default search.at_least_as_fast=true
    python -m gpuqa.search '+space.fragments.example=["给出一行示例代码。"]'      # one more sentence that prompts may have
    python -m gpuqa.search proposer.url=http://127.0.0.1:8000                  # a model that rewrites prompts, too

The values of `prompt` are the shipped prompts that a found one has to beat. The end is a study, as `gpuqa.sweep` makes it.
Exit codes: 0 a winner is frozen, 1 no trial is eligible or an engine failed, 2 the input is wrong, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from gpuqa.config import plain
from gpuqa.config.app import INTERRUPTED, end_like_ctrl_c, run_command
from gpuqa.config.cells import Cells
from gpuqa.config.command_line import command_line
from gpuqa.config.commands import SearchCommandConfig, resolve
from gpuqa.engines import EngineFailed
from gpuqa.measure import fingerprint
from gpuqa.measure.cell import Cell
from gpuqa.prompt_search import outcome
from gpuqa.prompt_search.choosing import Chosen, chosen
from gpuqa.prompt_search.engine_run import Bench, SearchRun, scorers
from gpuqa.prompt_search.examples import pool_of
from gpuqa.prompt_search.journal import BornPrompt, SearchJournal
from gpuqa.prompt_search.leaks import Leaks
from gpuqa.prompt_search.maker import PromptMaker
from gpuqa.prompt_search.objective import Objective, Outcome
from gpuqa.prompt_search.proposer import Proposer
from gpuqa.prompt_search.refusals import digests_of, identity, refuse_other_questions, refuse_what_does_not_search, too_little
from gpuqa.prompt_search.searcher import Searcher, Setting
from gpuqa.prompt_search.space import Space
from gpuqa.prompt_search.splits import Splits, slices_of, split
from gpuqa.prompt_search.telling import Found, tell_end, told_of
from gpuqa.records import Question
from gpuqa.selection.wording import counted
from gpuqa.study import executors, study
from gpuqa.study.cell_checks import CellChecks
from gpuqa.study.executors.places import Place
from gpuqa.study.journal import Journal
from gpuqa.study.output import Output, output_of
from gpuqa.study.run_file import RunFile
from gpuqa.study.scoring import Scoring
from gpuqa.sweep import measure, one_study

FAILED = 1


def main() -> None:
    """Enter with conf/search.yaml."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    signal.signal(signal.SIGTERM, end_like_ctrl_c)
    run_command(search, "search")


@dataclass
class Prepared:
    """A search before it begins."""

    config: SearchCommandConfig
    cells: list[Cell]  # of the shipped prompts
    splits: Splits
    slices: list[list[Question]]
    maker: PromptMaker
    places: Sequence[Place]
    output: Output
    journal: SearchJournal

    @property
    def environment(self) -> Mapping[str, Any]:
        """Of the places' machines; empty for this one."""
        return self.places[0].environment if self.places else {}


def search(composed: Cells) -> int:
    """The shipped prompts' cells (the study sweeper hands them over at once) -> exit code."""
    checks = CellChecks()
    configs = composed.each(lambda config: checks.checked(resolve(config, SearchCommandConfig)))
    where = one_study(configs)
    output = output_of(where, "gpuqa.search")
    refuse_what_does_not_search(configs)
    with executors.opened(configs, output.say) as places:
        return run(prepare(configs, composed.axes, checks, places, output))


def run(prepared: Prepared) -> int:
    """Search, and prove what was found -> exit code."""
    config, output = prepared.config, prepared.output
    journal = Journal(config.study.folder)
    with journal.locked():
        refuse_other_questions(prepared.cells[0], prepared.splits.final, journal)
        prepared.journal.open(identity(prepared.cells, config.space, config.search))
        for problem in prepared.journal.problems:
            output.say(problem, style="yellow")
        try:
            found = asyncio.run(searched(prepared))
        except KeyboardInterrupt:
            kept = counted(len(prepared.journal.passes), "pass", "passes")
            output.say(
                f"Interrupted: {kept} of the search are kept. The same command goes on from here.", "bold", "interrupted"
            )
            return INTERRUPTED
        except EngineFailed as error:
            output.say(f"the search ended: {error}; what was measured is kept", "yellow", "failed")
            return FAILED
        return prove(prepared, found)


def prepare(
    configs: Sequence[SearchCommandConfig],
    axes: Sequence[dict[str, str]],
    checks: CellChecks,
    places: Sequence[Place],
    output: Output,
) -> Prepared:
    """Check all that can be wrong before an engine starts, and say what is searched."""
    config = configs[0]
    questions = checks.questions(config.dataset).questions
    splits = split(questions, config.search)
    leaks = Leaks(questions)
    pool, left_out = pool_of(config.space, leaks, splits.search)
    space = Space(config.space, pool)
    names = [axis or {"prompt": one.prompt.name} for one, axis in zip(configs, axes, strict=True)]
    output.say(f"checking {counted(len(configs), 'shipped prompt')} and the space before an engine starts")
    cells = study.prepare(list(zip(configs, names, strict=True)), checks, places[0].environment if places else {})
    maker = PromptMaker(space, leaks, cells)
    maker.check_space()
    slices = slices_of(splits.search, config.search)
    told = f"{config.study.name}: a space of {space.size:,} prompts beside {counted(len(cells), 'shipped one')}"
    output.say(
        f"{told}; {splits.text()}", event="search", facts={"space": space.size, "slices": [len(part) for part in slices]}
    )
    if left_out:
        output.say(f"space.examples_from: {counted(left_out, 'example')} left out, too much like a measured question", "yellow")
    if config.model.note:
        output.say(config.model.note, style="yellow")
    return Prepared(config, cells, splits, slices, maker, places, output, SearchJournal(config.study))


async def searched(prepared: Prepared) -> Found:
    """Search until the time is up or no prompt is left, then choose.

    Raises:
        UserError: the time was up before a prompt of the space had answered all questions.
        EngineFailed: no engine can be used.
    """
    config, maker, output = prepared.config, prepared.maker, prepared.output
    proposer = Proposer(config.proposer, prepared.journal, maker.why_not, lambda text: output.say(text, "yellow", "proposer"))
    objective = Objective(config.selection, config.search)
    sizes = [len(part) for part in prepared.slices]
    setting = Setting(maker.space, objective, config.search, sizes, maker.make, proposer.proposals)
    searcher = Searcher(setting, maker.shipped)
    chooses = [prepared.splits.selection] if prepared.splits.selection else []
    with ExitStack() as opened:
        scoring = [opened.enter_context(Scoring()) for _ in range(scorers(os.cpu_count() or 1))]
        bench = Bench(
            *(maker.cells, prepared.cells[0], [*prepared.slices, *chooses], prepared.journal),
            *(Journal(config.study.folder).engine_log, prepared.places, config.search.minutes, config.proposer.url is not None),
            lambda: output.say(f"starting {config.engine.name} ({config.quantization.name})", "dim", "engine_starts"),
        )
        search_run = SearchRun(bench, scoring)
        try:
            selection = await search_run.search(searcher, lambda one: each_round(prepared, one, search_run, proposer))
        finally:
            await proposer.close()
    if not [key for key in searcher.complete() if searcher.made[key].origin != "shipped"]:
        raise too_little(config.search, prepared.slices, prepared.journal)
    return Found(searcher, choose(prepared, searcher, selection))


def each_round(prepared: Prepared, searcher: Searcher, run: SearchRun, proposer: Proposer) -> None:
    """Keep the prompts that were made, ask the proposer, and say once a generation how far the search is."""
    config, new = prepared.config, [made for made in searcher.made.values() if made.key not in prepared.journal.born]
    if not new:
        return
    for made in new:
        prompt = prepared.maker.cells[made.key].config.prompt
        changes, texts = outcome.changes_of(searcher, made), (prompt.system, prompt.user, len(prompt.examples))
        born = BornPrompt(made.key, made.name, made.generation, made.origin, list(made.parents), changes, *texts)
        prepared.journal.write_prompt(born)
    if not (best := searcher.best(1)):
        return
    made, score = searcher.made[best[0]], searcher.score(best[0])
    prompts, spent = len(searcher.complete()), run.spent_s / 60
    facts = {"generation": searcher.generation, "prompt": made.name, "quality": score.quality, "chars_per_s": score.chars_per_s}
    text = f"generation {searcher.generation}, {spent:.1f} of {config.search.minutes:g} min: "
    text += f"{counted(len(searcher.made), 'prompt')}, {prompts} asked everything; "
    text += f"best {made.name}: {score.quality:.4f}, {score.chars_per_s:,.0f} chars/s"
    prepared.output.say(text, event="generation", facts=facts)
    system = prepared.maker.cells[made.key].config.prompt.system or ""
    proposer.ask(made, system, run.answers.get(made.key, []), config.space.max_system_chars, searcher.generation)


def choose(prepared: Prepared, searcher: Searcher, selection: dict[str, Outcome]) -> Chosen:
    """The prompts that go to the end."""
    clusters = [question.digest for part in prepared.slices for question in part]
    return chosen(searcher, clusters, prepared.config.search.found, selection or None)


def prove(prepared: Prepared, found: Found) -> int:
    """The study of the end: the found prompts beside the shipped ones, in fresh engines, on questions that nobody has seen."""
    config, output, places = prepared.config, prepared.output, prepared.places
    folder = config.study.folder / "conf"
    final = outcome.write_questions(folder, prepared.journal.final_questions, config.dataset, prepared.splits.final)
    shipped, searcher = [cell.config.prompt.name for cell in prepared.cells], found.searcher
    for key in found.choice.keys:
        prepared.journal.name_found(key, shipped)
    rows, axes = [cell.config for cell in prepared.cells], [cell.axes for cell in prepared.cells]
    ends: dict[str, dict[str, str]] = {}  # the axes of the found prompts in the end, by their keys
    prompts = {sent_by(cell): cell.config.prompt for cell in prepared.cells}  # two with other max_tokens share their text
    for key, name in prepared.journal.found.items():
        cell = prepared.maker.cells[key]
        prompt = prompts.setdefault(sent_by(cell), replace(cell.config.prompt, name=name))
        file = outcome.write_prompt(folder, replace(prompt, name=name), f"Found by a search ({config.study.name}).")
        output.say(f"{name}: {searcher.made[key].name}, {file}", event="found", facts={"prompt": plain(asdict(prompt))})
        rows.append(replace(cell.config, prompt=prompt))
        ends[key] = {**cell.axes, "prompt": prompt.name}
    checks = CellChecks()
    configs = [replace(row, dataset=final) for row in rows]
    output.say(told_of(found, prepared.journal, len(places)), event="searched")
    cells = study.prepare(list(zip(configs, [*axes, *ends.values()], strict=True)), checks, prepared.environment)
    run_file = RunFile(command_line("search", *sys.argv[1:]), fingerprint.git_commit() or "", checks.sent_prompts)
    code = measure(cells, checks.summary(configs[0]), run_file, places, output)
    if code != INTERRUPTED:
        tell_end(config, found, ends, prepared.journal, output)
    return code


def sent_by(cell: Cell) -> tuple[object, str]:
    """What a cell's prompt makes of a question and its answer."""
    return digests_of(cell)["prompt_tokens"], repr(cell.config.prompt.postprocess)


if __name__ == "__main__":
    main()
