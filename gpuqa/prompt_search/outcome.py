"""What a search has found: the front, the family of a prompt with what each change brought, and the files of it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import yaml

from gpuqa.config import plain
from gpuqa.config.commands import SearchCommandConfig
from gpuqa.config.measurement import DatasetConfig
from gpuqa.config.pipeline import PromptConfig
from gpuqa.machine.files import make_folder, write_atomically
from gpuqa.measure.statistics import paired_interval
from gpuqa.prompt_search.objective import QUALITIES, Score, front_ranks
from gpuqa.prompt_search.searcher import Made, Searcher
from gpuqa.prompt_search.space import Genes, difference
from gpuqa.records import Interval, Question, Trial
from gpuqa.selection.comparison import Known, by_speed
from gpuqa.selection.pairing import Answers, paired, paired_test, scores_of


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt that answered all questions of the search."""

    prompt: str
    origin: str
    generation: int
    quality: float  # mean over its own answers
    expected: float  # the same by the answers of all prompts, which it was chosen by
    rouge_l_f1_judge: float
    chars_per_s: float
    speed: float  # of `search.against`, the more the better
    tokens: int
    on_front: bool
    changes: str  # against its first parent


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A step of a family: a prompt, what told it from its parent, and what that brought on the questions of the search."""

    prompt: str
    origin: str
    changes: list[str]
    quality: float | None  # None: it never answered all questions
    chars_per_s: float | None
    quality_brought: float | None
    quality_interval: Interval | None  # of that, 95 %, over the questions
    speed_brought: float | None  # share


@dataclass(frozen=True, slots=True)
class Lead:
    """A found prompt beside the best shipped one, on the questions of the end."""

    found: str
    shipped: str
    quality: float  # mean of the found one less that of the shipped one, over the same questions
    quality_interval: Interval | None
    quality_p: float | None
    speed_share: float
    speed_interval: Interval | None


def rows_of(searcher: Searcher) -> list[Row]:
    """The prompts, the best by the objective first."""
    scores = searcher.scores(searcher.complete())
    expected = searcher.expected(scores)
    ranks = front_ranks({key: (score.quality, score.speed) for key, score in scores.items()})
    return [
        row_of(searcher, scores[key], expected[key].quality, searcher.made[key], on_front=ranks[key][0] == 0)
        for key in searcher.aim().order(expected)
    ]


def row_of(searcher: Searcher, score: Score, expected: float, prompt: Made, on_front: bool) -> Row:
    """One prompt."""
    qualities = round(score.quality, 5), round(expected, 5), round(score.judge, 5)
    numbers = *qualities, round(score.chars_per_s, 1), score.speed
    changes = "; ".join(changes_of(searcher, prompt))
    return Row(prompt.name, prompt.origin, prompt.generation, *numbers, prompt.tokens, on_front, changes)


def changes_of(searcher: Searcher, prompt: Made) -> list[str]:
    """What tells a prompt from its first parent; from an empty one where it has none."""
    if prompt.genes is None:
        return []
    parent = searcher.made[prompt.parents[0]].genes if prompt.parents else None
    return difference(parent or Genes(), prompt.genes, searcher.setting.space.config)


def family_of(searcher: Searcher, key: str) -> list[Ancestor]:
    """A prompt and those that it came from, the oldest first; of two parents the first."""
    line = [searcher.made[key]]
    while line[0].parents:
        line.insert(0, searcher.made[line[0].parents[0]])
    scores = searcher.scores([prompt.key for prompt in line])
    steps, before = [], None
    for prompt in line:
        score = scores.get(prompt.key)
        both = score is not None and before is not None
        steps.append(
            Ancestor(
                prompt.name,
                prompt.origin,
                changes_of(searcher, prompt),
                score.quality if score else None,
                score.chars_per_s if score else None,
                score.quality - before.quality if both and score and before else None,
                interval_of(searcher, prompt.key, prompt.parents[0]) if both else None,
                score.chars_per_s / before.chars_per_s - 1 if both and score and before and before.chars_per_s else None,
            )
        )
        before = score
    return steps


def interval_of(searcher: Searcher, child: str, parent: str) -> Interval:
    """The 95 % interval of what a change brought in the quality that the search goes by."""
    name = QUALITIES[searcher.setting.config.quality]

    def values(key: str) -> list[float]:
        return [value for _, one in sorted(searcher.outcomes[key].items()) for value in getattr(one, name)]

    return paired_interval(values(child), values(parent))


def lead_of(found: Trial, shipped: Trial, config: SearchCommandConfig, answers: Answers) -> Lead:
    """How far a found prompt leads a shipped one in the end."""
    name, sure = config.search.quality.name, config.selection.confidence
    scores = scores_of(paired(answers.get(found.key, ()), answers.get(shipped.key, ())), name)
    interval, p_value = paired_test(scores, 1.0, sure) if len({pair.question for pair in scores}) > 1 else (None, None)
    lead = fmean([pair.first - pair.second for pair in scores]) if scores else 0.0
    speed = by_speed(found, shipped, config.selection, Known(answers))
    return Lead(found.name, shipped.name, lead, interval, p_value, speed.difference, speed.interval)


def table_of(rows: Sequence[Row]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Row.__dataclass_fields__))
    writer.writeheader()
    writer.writerows([asdict(row) for row in rows])
    return text.getvalue()


def write_prompt(folder: Path, prompt: PromptConfig, why: str) -> Path:
    """A prompt file as those of conf/prompt/ are; `--config-dir FOLDER` finds it.

    Raises:
        FileNotWritten: the disk is full, for example.
    """
    file = folder / "prompt" / f"{prompt.name}.yaml"
    make_folder(file.parent)
    content = {key: value for key, value in plain(asdict(prompt)).items() if value not in (None, [])}
    write_atomically(file, f"# {why}\n" + yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=1000))
    return file


def write_questions(folder: Path, file: Path, dataset: DatasetConfig, questions: Sequence[Question]) -> DatasetConfig:
    """The questions of the end as a file, and a dataset's option for it beside the prompt's."""
    rows = [
        {
            "id": question.id,
            "question": question.text,
            "answer": list(question.references) if question.other_references else question.reference,
        }
        for question in questions
    ]
    write_atomically(file, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
    final = DatasetConfig(f"{dataset.name}_final", str(file), references=dataset.references)
    option = {"name": final.name, "path": final.path} | ({"references": final.references.name} if final.references else {})
    make_folder(folder / "dataset")
    head = "# The questions that a search for prompts kept for the end.\n"
    write_atomically(
        folder / "dataset" / f"{final.name}.yaml", head + yaml.safe_dump(option, allow_unicode=True, sort_keys=False)
    )
    return final
