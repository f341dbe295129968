"""What is refused before a search begins, and what tells one search from another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import fmean

from gpuqa.config import UserError, check, plain
from gpuqa.config.commands import SearchCommandConfig
from gpuqa.config.prompt_search import PromptSearchConfig, SpaceConfig
from gpuqa.measure.cell import Cell
from gpuqa.pipeline import dataset
from gpuqa.prompt_search.journal import SearchJournal
from gpuqa.prompt_search.objective import Objective
from gpuqa.records import Question
from gpuqa.selection.wording import counted
from gpuqa.study.journal import Journal
from gpuqa.study.study_file import refuse_another_study


def refuse_what_does_not_search(configs: Sequence[SearchCommandConfig]) -> None:
    """Raise a UserError for what cannot be searched with."""
    first = configs[0]
    for key in ("model", "quantization", "engine", "sampling", "workload", "space", "search", "proposer"):
        same = all(getattr(config, key) == getattr(first, key) for config in configs)
        check(same, key, "an axis", "one value in a search, whose only axis is prompt=A,B; run one search for each")
    check(not first.study.racing, "study.racing", True, "false in a search, which is a race already")
    check(not first.workload.searches, "workload.search.attainment", first.workload.search.attainment, "null in a search")
    check(not first.sampling.ignore_eos, "sampling.ignore_eos", True, "false in a search: its answers must be scored")
    Objective(first.selection, first.search)


def identity(cells: Sequence[Cell], space: SpaceConfig, search: PromptSearchConfig) -> dict[str, object]:
    """What tells a search from another one: with the same, the same command goes on. It may get more time."""
    config, digests = cells[0].config, digests_of(cells[0])
    values: dict[str, object] = plain(
        {
            "prompts": [cell.config.prompt.name for cell in cells],
            "space": asdict(space),
            "search": {key: value for key, value in asdict(search).items() if key not in ("minutes", "found")},
            "selection": asdict(config.selection),
            "questions": digests["dataset"],
            "weights": digests["weights"],
            "engine": cells[0].engine_key,
        }
    )
    return values


def refuse_other_questions(shipped: Cell, final: Sequence[Question], journal: Journal) -> None:
    """Raise a UserError where the folder has a study with other questions than those of this search's end: that would be
    refused when the search has ended, too."""
    digest = dataset.digest(final)
    known = {**shipped.fingerprint, "digests": {**digests_of(shipped), "dataset": digest}}
    cell = replace(shipped, questions=list(final), fingerprint=known)
    other = [trial for trial in journal.earlier() if trial.fingerprint["digests"]["dataset"] != digest]
    refuse_another_study([cell], other, shipped.config.study)


def digests_of(cell: Cell) -> dict[str, str]:
    """The digests of a cell's files."""
    digests = cell.fingerprint["digests"]
    assert isinstance(digests, dict), "prepare makes it"
    return digests


def too_little(search: PromptSearchConfig, slices: Sequence[Sequence[Question]], journal: SearchJournal) -> UserError:
    """About a time that was up before any prompt of the space had answered all questions."""
    passes, questions = list(journal.passes.values()), sum(map(len, slices))
    a_slice = fmean([one.measured.answered.seconds for one in passes]) if passes else 0.0
    took = f"a slice takes about {a_slice:.1f} s here" if passes else "no slice was measured"
    done = f"{counted(len(passes), 'pass', 'passes')} in {journal.spent_s:.0f} s; {took}"
    return UserError(
        f"search.minutes: got {search.minutes:g}, too little for one prompt of the space to answer the {questions} questions "
        f"of the search beside the shipped prompts ({done}); "
        f"give more, such as search.minutes={max(1, round(2 * search.minutes + 1))}: the same command goes on"
    )
