"""What number formats cost in quality: the answers of a study's trials beside those of its first, as a Markdown table.

    python experiments/formats/scores.py experiments/formats_h200/scores_weights [FOLDER ...]

For each trial: the share of answers that are not the same text, and both scores less the first trial's, with the 95 % bootstrap
interval of the mean difference over the questions. A trial that failed shows its error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from gpuqa.measure.statistics import paired_interval
from gpuqa.records import Answer
from gpuqa.study.journal import Journal


def main() -> None:
    """A table for each folder."""
    for folder in sys.argv[1:]:
        journal = Journal(Path(folder))
        trials = journal.read_study()
        first = journal.answers(trials[0].key)
        judge, plain = mean(first, "rouge_l_f1_judge"), mean(first, "rouge_l_f1")
        print(f"\n{folder}, beside {trials[0].name} (judge {judge:.4f}, ROUGE-L {plain:.4f}):\n")
        print("| trial | answers that differ | judge, less the first's | ROUGE-L, less the first's |")
        print("| --- | --- | --- | --- |")
        for trial in trials[1:]:
            answers = journal.answers(trial.key)
            cells = [trial.error, "", ""] if trial.error else compared(answers, first)
            print(f"| {trial.name} | {' | '.join(cells)} |")


def compared(answers: Sequence[Answer], first: Sequence[Answer]) -> list[str]:
    """The cells of a row; both trials were asked the same questions in the same order."""
    pairs = list(zip(answers, first, strict=True))
    different = sum(answer.answer != other.answer for answer, other in pairs)
    return [f"{different} of {len(pairs)}", *(change(answers, first, name) for name in ("rouge_l_f1_judge", "rouge_l_f1"))]


def change(answers: Sequence[Answer], first: Sequence[Answer], name: str) -> str:
    """The mean difference of a score, and its interval."""
    ours, others = ([getattr(answer, name) for answer in side] for side in (answers, first))
    interval = paired_interval(ours, others, 0.95, [answer.question for answer in answers])
    return f"{mean(answers, name) - mean(first, name):+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"


def mean(answers: Sequence[Answer], name: str) -> float:
    """Of a score over the questions."""
    return sum(getattr(answer, name) for answer in answers) / len(answers)


if __name__ == "__main__":
    main()
